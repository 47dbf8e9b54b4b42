package faults_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/itest/faults"
	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
)

//nolint:gochecknoglobals // flags are what a test binary is told
var (
	oneSeed  = flag.Uint64("seed", 0, "run this seed alone, and print its timeline if it fails (with -v: in any case)")
	seeds    = flag.Int("seeds", 10, "how many seeds to run, from 1")
	parallel = flag.Int("lanes", 4, "how many seeds run at once: most of a run is waiting")
	logs     = flag.Bool("logs", false, "put the logs of all processes into the timeline")
)

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	if *oneSeed != 0 {
		outcome := play(t, *oneSeed, server(t))
		if testing.Verbose() || len(outcome.Violations) > 0 {
			_, _ = fmt.Fprint(os.Stdout, outcome.Timeline)
		}
		require.Empty(t, outcome.Violations)
		return
	}
	var mu sync.Mutex
	next := uint64(1)
	take := func() (uint64, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next - 1, next-1 <= uint64(*seeds)
	}
	var lanes sync.WaitGroup
	for range *parallel {
		servers := server(t)
		lanes.Go(func() {
			for seed, more := take(); more; seed, more = take() {
				outcome := play(t, seed, servers)
				for _, violation := range outcome.Violations {
					t.Errorf("seed %d: %s", seed, violation)
				}
				if len(outcome.Violations) > 0 {
					t.Logf("seed %d:\n%s", seed, outcome.Timeline)
				}
			}
		})
	}
	lanes.Wait()
}

func server(t *testing.T) []faults.Server {
	t.Helper()
	return []faults.Server{natstest.Start(t, natsserver.Options{})}
}

func play(t *testing.T, seed uint64, servers []faults.Server) faults.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	outcome, err := faults.Run(ctx, faults.NewSchedule(seed, len(servers)), faults.Options{Servers: servers, Dir: t.TempDir(), Verbose: *logs})
	if err != nil {
		t.Errorf("seed %d: %v\n%s", seed, err, outcome.Timeline)
	}
	return outcome
}
