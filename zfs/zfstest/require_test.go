package zfstest_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/zfs/zfstest"
)

// TestRequireReal changes the environment, hence runs by itself.
func TestRequireReal(t *testing.T) {
	t.Run("skips and says how to run the test", func(t *testing.T) {
		t.Setenv("ZFLEET_TEST_ZFS", "")
		outcome := requireReal(t)
		require.Contains(t, outcome.skipped, "needs real ZFS")
		require.Contains(t, outcome.skipped, "task vm:test")
		require.Empty(t, outcome.failed)
	})
	t.Run("refuses a value it does not know", func(t *testing.T) {
		t.Setenv("ZFLEET_TEST_ZFS", "fake")
		outcome := requireReal(t)
		require.Contains(t, outcome.failed, `ZFLEET_TEST_ZFS="fake"`)
		require.Empty(t, outcome.skipped)
	})
	t.Run("fails where ZFS was promised and is missing", func(t *testing.T) {
		t.Setenv("ZFLEET_TEST_ZFS", "real")
		t.Setenv("PATH", t.TempDir())
		outcome := requireReal(t)
		require.Contains(t, outcome.failed, "ZFLEET_TEST_ZFS=real, but")
		require.Empty(t, outcome.skipped)
	})
}

// recorder is a test whose end is observed instead of taking effect.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func requireReal(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		zfstest.RequireReal(r)
	}()
	<-done
	return r
}
