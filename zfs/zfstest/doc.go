// Package zfstest gives tests pools of real OpenZFS.
//
// A test that needs them is named TestReal… (or TestConformance…, where it compares the fake pool with a real one),
// starts with [RequireReal], and makes its pools with [NewPool]:
//
//	func TestRealSendReceive(t *testing.T) {
//		zfstest.RequireReal(t)
//		source := zfstest.NewPool(t)
//		target := zfstest.NewPool(t, zfstest.Size(1<<30))
//		…
//	}
//
// Such tests run in the virtual machine of itest/vm, by "task vm:test", which sets ZFLEET_TEST_ZFS=real and fails when one
// of them is skipped. Anywhere else they are skipped, and say so. They may be run directly as root on a machine with
// OpenZFS by setting the variable; they touch no pools but their own, whose names begin with zfleet_test_.
//
// The package runs zpool itself and imports nothing else of the module, so that the tests of any package can use it.
package zfstest
