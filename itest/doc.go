// Package itest holds the tests of whole fleets: on fake pools in one process (package testfleet), and with the real
// program on real pools, in the virtual machine of itest/vm.
package itest
