package main

import (
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// supervised is a supervisor of which systemd hears what heard has.
func supervised(t *testing.T, watchdog time.Duration) (s *supervisor, heard *safeBuffer) {
	t.Helper()
	heard = &safeBuffer{}
	s = startSupervisor(t.Context(), watchdog, slog.New(slog.DiscardHandler), func(state string) error {
		_, err := heard.Write([]byte(state + "\n"))
		return err
	})
	t.Cleanup(s.end)
	return s, heard
}

func TestTheWatchdogHearsNothingOfADaemonThatIsStuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, heard := supervised(t, time.Minute)
		var turned atomic.Pointer[time.Time]
		turn := func(at time.Time) { turned.Store(&at) }
		turn(time.Time{})
		idle := func() string { return "" }
		s.add(part{doing: idle, lastTurn: func() time.Time { return *turned.Load() }})
		s.add(part{doing: idle, lastTurn: time.Now})
		beats := func(during time.Duration) int {
			before := strings.Count(heard.String(), "WATCHDOG=1")
			time.Sleep(during)
			synctest.Wait()
			return strings.Count(heard.String(), "WATCHDOG=1") - before
		}
		require.Equal(t, 20, beats(10*time.Minute+time.Millisecond), "a part that has not begun needs to give no sign of life")
		turn(time.Now())
		require.Equal(t, int(stuckAfter/time.Minute)*2, beats(10*time.Minute), "until the part counts as stuck")
		require.Zero(t, beats(10*time.Minute))
		turn(time.Now())
		require.Equal(t, 2, beats(time.Minute), "it has gone on")
	})
}

func TestAMachineComesUpWhileNATSIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, heard := supervised(t, 0)
		s.awaits("waits for NATS at nats://alpha:4222")
		time.Sleep(readyWithin - time.Second)
		synctest.Wait()
		require.NotContains(t, heard.String(), "READY=1")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.Contains(t, heard.String(), "READY=1")
		require.Contains(t, heard.String(), "STATUS=waits for NATS at nats://alpha:4222\n", "and what it waits for is still said")
		s.add(part{doing: func() string { return "2 sending" }, lastTurn: time.Now})
		s.add(part{doing: func() string { return "leads" }, lastTurn: time.Now})
		s.ready()
		time.Sleep(2 * statusEvery)
		synctest.Wait()
		require.Equal(t, 1, strings.Count(heard.String(), "READY=1"))
		require.Equal(t, 1, strings.Count(heard.String(), "STATUS=2 sending; leads\n"), "said once, as it does not change:\n%s", heard)
	})
}

func TestAnEndIsNotPutOffForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, heard := supervised(t, 0)
		s.add(part{doing: func() string { return "1 receiving" }, lastTurn: time.Now})
		s.ready()
		time.Sleep(time.Hour)
		synctest.Wait()
		require.NotContains(t, heard.String(), "EXTEND_TIMEOUT_USEC")
		s.stops("stops", time.Minute)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Contains(t, heard.String(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000\n")
		require.Contains(t, heard.String(), "STATUS=stops: 1 receiving\n")
		times := strings.Count(heard.String(), "EXTEND_TIMEOUT_USEC=30000000\n")
		require.InDelta(t, 1+int(time.Minute/extendEvery), times, 1)
	})
}
