package faults_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	oneSeed = flag.Uint64("seed", 0, "run this seed alone; with -v its timeline is printed in any case")
	only    = flag.String("only", "", "with -seed: have only these of its faults happen, by number, such as 0,3,17")
	shrink  = flag.Bool("shrink", false, "with -seed: look for the least of its faults that still fail")
	seeds   = flag.Uint64("seeds", 10, "how many seeds to run")
	first   = flag.Uint64("first", 1, "the first of them")
	soak    = flag.Duration("soak", 0, "run seeds until so much time has passed, beginning at -first or, without it, anywhere")
	lanes   = flag.Int("lanes", 4, "how many seeds run at once: most of a run is waiting")
	pages   = flag.String("histories", "", "write pages that show histories without an explanation into this directory")
	logs    = flag.Bool("logs", false, "put the logs of all processes into the timelines")
)

func TestMain(m *testing.M) {
	flag.Parse()
	before := len(openFiles())
	goleak.VerifyTestMain(m, append(natstest.StoreLeaks(), natstest.ClientLeak(), goleak.Cleanup(func(status int) {
		if left := openFiles(); len(left) > before {
			_, _ = fmt.Fprintf(os.Stderr, "files are left open: %v\n", left)
			status = 1
		}
		os.Exit(status)
	}))...)
}

// openFiles are this process's sockets, its pipes, and the files of its tests that it has open, but for those of the NATS servers'
// streams: see natstest.StoreLeaks.
func openFiles() []string {
	names, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		return nil
	}
	var found []string
	for _, name := range names {
		target, err := os.Readlink(name)
		if err != nil || strings.Contains(target, "/jetstream/") {
			continue
		}
		if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "pipe:") || strings.Contains(target, "/TestFaults") {
			found = append(found, target)
		}
	}
	return found
}

// maxClusters is how many lanes have a cluster.
const maxClusters = 2

// runLimit bounds one run. Only a hang reaches it.
const runLimit = 6 * time.Minute

func TestFaults(t *testing.T) {
	t.Parallel()
	if *oneSeed != 0 {
		playOne(t, *oneSeed)
		return
	}
	queue := newSeeds()
	results := &results{t: t}
	var running sync.WaitGroup
	for lane := range *lanes {
		// Clusters cost much of the machine even while nothing happens, so there are few.
		servers, clusters := server(t), []faults.Server(nil)
		if lane < maxClusters {
			clusters = cluster(t)
		}
		running.Go(func() {
			for {
				schedule, more := queue.next(clusters != nil)
				if !more {
					return
				}
				on := servers
				if schedule.Servers > 1 {
					on = clusters
				}
				results.add(schedule, play(t, schedule, on))
			}
		})
	}
	running.Wait()
	results.print()
}

// seedQueue gives out seeds.
type seedQueue struct {
	mu       sync.Mutex
	seed     uint64
	last     uint64
	until    time.Time
	clusters []faults.Schedule // those that wait for a cluster
}

func newSeeds() *seedQueue {
	q := &seedQueue{seed: *first, last: *first + *seeds - 1}
	if *soak > 0 {
		q.until = time.Now().Add(*soak)
		if q.seed == 1 {
			q.seed = uint64(time.Now().Unix()) * 1_000_000 // another part of the seeds every time
		}
	}
	return q
}

// next is the next schedule; those on a cluster are for a lane that has one.
func (q *seedQueue) next(hasCluster bool) (faults.Schedule, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if hasCluster && len(q.clusters) > 0 {
		schedule := q.clusters[0]
		q.clusters = q.clusters[1:]
		return schedule, true
	}
	for {
		if q.until.IsZero() && q.seed > q.last || !q.until.IsZero() && time.Now().After(q.until) {
			return faults.Schedule{}, false
		}
		schedule := faults.NewSchedule(q.seed)
		q.seed++
		if schedule.Servers == 1 || hasCluster {
			return schedule, true
		}
		q.clusters = append(q.clusters, schedule)
	}
}

// results gathers the runs.
type results struct {
	t *testing.T

	mu      sync.Mutex
	summary faults.Summary
}

func (r *results) add(schedule faults.Schedule, outcome faults.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.summary.Add(schedule, outcome)
	if len(outcome.Violations) == 0 {
		return
	}
	// Printed at once: a soak goes on for hours.
	_, _ = fmt.Fprintf(os.Stdout, "seed %d:\n%s", schedule.Seed, outcome.Timeline)
	for _, violation := range outcome.Violations {
		r.t.Errorf("seed %d: %s", schedule.Seed, violation)
	}
}

func (r *results) print() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if testing.Verbose() {
		_, _ = fmt.Fprint(os.Stdout, r.summary.String())
	}
	require.NotZero(r.t, r.summary.Steps, "nothing was replicated at all")
	require.LessOrEqual(r.t, r.summary.Undecided, 1+r.summary.Seeds/50, "histories without a verdict show nothing")
}

func playOne(t *testing.T, seed uint64) {
	t.Helper()
	schedule := faults.NewSchedule(seed)
	if *only != "" {
		var chosen []faults.Fault
		for number := range strings.SplitSeq(*only, ",") {
			n, err := strconv.Atoi(number)
			require.NoError(t, err)
			chosen = append(chosen, schedule.Faults[n])
		}
		schedule.Faults = chosen
	}
	servers := server(t)
	if schedule.Servers > 1 {
		servers = cluster(t)
	}
	if *shrink {
		shrinkOne(t, schedule, servers)
		return
	}
	outcome := play(t, schedule, servers)
	if testing.Verbose() || len(outcome.Violations) > 0 {
		_, _ = fmt.Fprintf(os.Stdout, "%s\n%s", schedule, outcome.Timeline)
	}
	require.Empty(t, outcome.Violations)
}

// shrinkTries is how often a schedule may go well before it counts as one that does not fail.
const shrinkTries = 2

func shrinkOne(t *testing.T, schedule faults.Schedule, servers []faults.Server) {
	t.Helper()
	var last faults.Outcome
	fails := func(candidate faults.Schedule) bool {
		for range shrinkTries {
			outcome := play(t, candidate, servers)
			_, _ = fmt.Fprintf(os.Stdout, "%d faults: %d violations\n", len(candidate.Faults), len(outcome.Violations))
			if len(outcome.Violations) > 0 {
				last = outcome
				return true
			}
		}
		return false
	}
	require.True(t, fails(schedule), "seed %d does not fail", schedule.Seed)
	smallest := faults.Shrink(schedule, fails)
	_, _ = fmt.Fprintf(os.Stdout, "%s\n%s", smallest, last.Timeline)
	t.Fail()
}

func server(t *testing.T) []faults.Server {
	t.Helper()
	return []faults.Server{natstest.Start(t, natsserver.Options{})}
}

func cluster(t *testing.T) []faults.Server {
	t.Helper()
	var servers []faults.Server
	for _, node := range natstest.Cluster(t, 3) {
		servers = append(servers, node)
	}
	return servers
}

func play(t *testing.T, schedule faults.Schedule, servers []faults.Server) faults.Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runLimit)
	defer cancel()
	outcome, err := faults.Run(ctx, schedule, faults.Options{Servers: servers, Dir: t.TempDir(), Histories: *pages, Verbose: *logs})
	if err != nil {
		t.Errorf("seed %d: %v\n%s", schedule.Seed, err, outcome.Timeline)
	}
	return outcome
}

func TestAScheduleDependsOnItsSeedAlone(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		schedule, again := faults.NewSchedule(seed), faults.NewSchedule(seed)
		require.Equal(t, schedule, again)
		for _, job := range schedule.Jobs {
			require.NoError(t, job.Validate(), "seed %d", seed)
		}
	}
	require.NotEqual(t, faults.NewSchedule(1).Faults, faults.NewSchedule(2).Faults)
}

func TestShrinkFindsWhatFails(t *testing.T) {
	t.Parallel()
	whole := faults.NewSchedule(3)
	needed := []faults.Fault{whole.Faults[1], whole.Faults[7], whole.Faults[len(whole.Faults)-1]}
	smallest := faults.Shrink(whole, func(candidate faults.Schedule) bool {
		for _, fault := range needed {
			found := false
			for _, left := range candidate.Faults {
				found = found || left == fault
			}
			if !found {
				return false
			}
		}
		return true
	})
	require.Equal(t, needed, smallest.Faults)
}
