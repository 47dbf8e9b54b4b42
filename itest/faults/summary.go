// The summary: what many runs came to.

package faults

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Summary counts over runs. It is not safe for concurrent use.
type Summary struct {
	Seeds, Clusters, Failed            int
	Steps, Snapshots, Plans, Violation int
	Streams, Resumed, Abandoned        int
	Undecided                          int
	Injected                           map[Kind]int
	// Running is how long all runs took together.
	Running time.Duration
}

// Add counts a run.
func (s *Summary) Add(schedule Schedule, outcome Outcome) {
	if s.Injected == nil {
		s.Injected = map[Kind]int{}
	}
	s.Seeds++
	if schedule.Servers > 1 {
		s.Clusters++
	}
	if len(outcome.Violations) > 0 {
		s.Failed++
	}
	s.Steps += outcome.Steps
	s.Snapshots += outcome.Snapshots
	s.Plans += outcome.Plans
	s.Violation += len(outcome.Violations)
	s.Streams += outcome.Streams
	s.Resumed += outcome.Resumed
	s.Abandoned += outcome.Abandoned
	s.Undecided += outcome.Undecided
	s.Running += outcome.Elapsed
	for kind, count := range outcome.Injected {
		s.Injected[kind] += count
	}
}

// String is the summary for people.
func (s *Summary) String() string {
	var text strings.Builder
	faults := 0
	for _, kind := range slices.Sorted(maps.Keys(s.Injected)) {
		faults += s.Injected[kind]
	}
	fmt.Fprintf(&text, "%d seeds run, %d of them on a cluster of three NATS servers, %s each on average\n", s.Seeds, s.Clusters,
		(s.Running / time.Duration(max(1, s.Seeds))).Round(100*time.Millisecond))
	fmt.Fprintf(&text, "%d faults injected:\n", faults)
	for _, kind := range slices.Sorted(maps.Keys(s.Injected)) {
		fmt.Fprintf(&text, "  %6d  %s\n", s.Injected[kind], kind)
	}
	fmt.Fprintf(&text, "%d plans, %d steps completed, %d snapshots received\n", s.Plans, s.Steps, s.Snapshots)
	fmt.Fprintf(&text, "%d streams sent, %d of them resumed; %d partial states given up\n", s.Streams, s.Resumed, s.Abandoned)
	fmt.Fprintf(&text, "%d of %d histories of cursors and of the lease were too involved for a verdict\n", s.Undecided, 2*s.Seeds)
	fmt.Fprintf(&text, "%d invariant violations, in %d seeds\n", s.Violation, s.Failed)
	return text.String()
}
