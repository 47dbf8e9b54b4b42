// Package docs holds the tests of the documentation: that its examples of host and job files are valid, and that its links
// within the repository lead somewhere.
package docs
