// Package tcp carries send streams over direct TCP connections between two workers.
package tcp
