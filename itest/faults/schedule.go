// Schedules: what a seed makes of a fleet, and what happens to it.

package faults

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/zfleet/zfleet/coordinator"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
)

// Schedule is all that a seed says.
type Schedule struct {
	Seed uint64
	// Servers is how many NATS servers there are: one, or a cluster of three.
	Servers int
	Jobs    []protocol.Job
	// Snapshots is how many each filesystem has at the beginning, in the order of filesystems.
	Snapshots int
	// Faults are in order of their time.
	Faults []Fault
}

// Fault is something that happens to the fleet.
type Fault struct {
	// At is when, since the fleet is up.
	At   time.Duration
	Kind Kind
	// Host and Process are whom it happens to: a worker is one of a host's, 0 or 1; a coordinator or NATS server has no host.
	Host    protocol.Host
	Process int
	// For is how long it lasts.
	For time.Duration
	// Command is the zfs command, or the class of messages.
	Command string
	// Number tells which of several things: how many commands or messages pass first, which snapshot, at which byte.
	Number int
	// Job is the job's index, and Filesystem that of one of its filesystems.
	Job, Filesystem int
}

// Kind is what happens.
type Kind string

// The kinds of faults.
const (
	RunJob         Kind = "run job"
	CancelPlan     Kind = "cancel plan"
	ChangeJob      Kind = "change job"
	TakeSnapshot   Kind = "take snapshot"
	PruneSource    Kind = "prune source"
	PruneTarget    Kind = "prune target"
	ForeignHold    Kind = "foreign hold"
	KillWorker     Kind = "kill worker"
	KillCommand    Kind = "kill worker at zfs command"
	KillAtPoint    Kind = "kill worker at fail point"
	KillLeader     Kind = "kill coordinator"
	KillLeaderAt   Kind = "kill coordinator at fail point"
	KillServer     Kind = "kill NATS server"
	PauseWorker    Kind = "pause worker"
	PauseLeader    Kind = "pause coordinator"
	CutWorker      Kind = "cut worker off NATS"
	CutLeader      Kind = "cut coordinator off NATS"
	HoldWorker     Kind = "hold worker's messages"
	HoldLeader     Kind = "hold coordinator's messages"
	CutData        Kind = "cut data port"
	HoldData       Kind = "hold data port"
	FailBefore     Kind = "fail zfs before"
	FailAfter      Kind = "fail zfs after"
	HangBefore     Kind = "hang zfs before"
	HangAfter      Kind = "hang zfs after"
	TruncateStream Kind = "truncate stream"
	HangStream     Kind = "hang stream"
	CorruptStream  Kind = "corrupt stream"
	DropMessage    Kind = "drop message"
	DoubleMessage  Kind = "double message"
	DelayMessage   Kind = "delay message"
	JumpClock      Kind = "jump clock"
)

// chances are how often each kind happens, out of their sum.
func chances() []chance {
	return []chance{
		{RunJob, 10},
		{CancelPlan, 3},
		{ChangeJob, 3},
		{TakeSnapshot, 10},
		{PruneSource, 6},
		{PruneTarget, 4},
		{ForeignHold, 2},
		{KillWorker, 8},
		{KillCommand, 10},
		{KillAtPoint, 14},
		{KillLeader, 6},
		{KillLeaderAt, 8},
		{KillServer, 5},
		{PauseWorker, 5},
		{PauseLeader, 3},
		{CutWorker, 5},
		{CutLeader, 3},
		{HoldWorker, 5},
		{HoldLeader, 3},
		{CutData, 4},
		{HoldData, 3},
		{FailBefore, 6},
		{FailAfter, 6},
		{HangBefore, 3},
		{HangAfter, 3},
		{TruncateStream, 5},
		{HangStream, 3},
		{CorruptStream, 2},
		{DropMessage, 6},
		{DoubleMessage, 6},
		{DelayMessage, 6},
		{JumpClock, 2},
	}
}

type chance struct {
	kind   Kind
	weight int
}

const (
	// storm is how long things happen.
	storm = 5 * time.Second
	// clusterEvery is how many seeds there are for each that has a cluster of NATS servers.
	clusterEvery = 5
)

// NewSchedule is the schedule of the seed. It depends on nothing else.
func NewSchedule(seed uint64) Schedule {
	random := rand.New(rand.NewPCG(seed, 0x5eed))
	s := Schedule{Seed: seed, Servers: 1, Jobs: drawJobs(random), Snapshots: 1 + random.IntN(4)}
	if seed%clusterEvery == 0 {
		s.Servers = 3
	}
	for job := range s.Jobs {
		s.Faults = append(s.Faults, Fault{Kind: RunJob, Job: job, At: time.Duration(random.IntN(300)) * time.Millisecond})
	}
	total := 0
	for _, c := range chances() {
		total += c.weight
	}
	for range 16 + random.IntN(24) {
		kind := drawKind(random, total)
		s.Faults = append(s.Faults, drawFault(random, kind, s.Jobs, s.Servers))
	}
	slices.SortStableFunc(s.Faults, func(a, b Fault) int { return int(a.At - b.At) })
	return s
}

func drawKind(random *rand.Rand, total int) Kind {
	at := random.IntN(total)
	for _, c := range chances() {
		if at < c.weight {
			return c.kind
		}
		at -= c.weight
	}
	return RunJob
}

// drawFault draws everything that any kind needs, in one order, so that kinds can change without changing others.
func drawFault(random *rand.Rand, kind Kind, jobs []protocol.Job, servers int) Fault {
	f := Fault{
		Kind:       kind,
		At:         time.Duration(random.IntN(int(storm/time.Millisecond))) * time.Millisecond,
		For:        time.Duration(100+random.IntN(1900)) * time.Millisecond,
		Job:        random.IntN(len(jobs)),
		Filesystem: random.IntN(8),
		Process:    random.IntN(2),
		Number:     random.IntN(1 << 20),
	}
	job := jobs[f.Job]
	// Half of what happens to hosts happens to the source, and the rest to the targets.
	f.Host = job.Source.Host
	if target := random.IntN(2 * len(job.Targets)); target < len(job.Targets) {
		f.Host = job.Targets[target].Host
	}
	choice := random.IntN(1 << 20)
	switch kind {
	case KillServer:
		f.Process = choice % servers
	case FailBefore, FailAfter, HangBefore, HangAfter, KillCommand:
		commands := []string{"send", "recv", "hold", "release", "bookmark", "destroy", "list", "holds", "get", "create", "set", "send -n"}
		if kind == KillCommand {
			commands = []string{"send", "recv", "hold", "release", "bookmark", "destroy"}
		}
		f.Command, f.Number = commands[choice%len(commands)], f.Number%8
	case TruncateStream, HangStream, CorruptStream:
		f.Command, f.Number = []string{"send", "recv"}[choice%2], 1+f.Number%(200<<10)
	case DropMessage, DoubleMessage, DelayMessage:
		classes := messageClasses()
		f.Command, f.Number = classes[choice%len(classes)], f.Number%4
	case KillAtPoint:
		points := slices.Sorted(slices.Values(worker.FailPoints()))
		f.Command, f.Number = points[choice%len(points)], f.Number%4
	case KillLeaderAt:
		points := slices.Sorted(slices.Values(coordinator.FailPoints()))
		f.Command, f.Number = points[choice%len(points)], f.Number%4
	case JumpClock:
		f.For = []time.Duration{-2 * time.Hour, -5 * time.Second, 3 * time.Second, time.Minute, 2 * time.Hour}[choice%5]
	case RunJob, CancelPlan, ChangeJob, TakeSnapshot, PruneSource, PruneTarget, ForeignHold, KillWorker, KillLeader,
		PauseWorker, PauseLeader, CutWorker, CutLeader, HoldWorker, HoldLeader, CutData, HoldData:
	}
	return f
}

func (f Fault) String() string {
	text := fmt.Sprintf("%6.3fs %s", f.At.Seconds(), f.Kind)
	switch f.Kind {
	case RunJob, CancelPlan, ChangeJob:
		return fmt.Sprintf("%s %d", text, f.Job)
	case TakeSnapshot, PruneSource, PruneTarget, ForeignHold:
		return fmt.Sprintf("%s: job %d, filesystem %d, number %d", text, f.Job, f.Filesystem, f.Number)
	case KillLeader, KillServer, PauseLeader, CutLeader, HoldLeader:
		return fmt.Sprintf("%s %d for %s", text, f.Process, f.For)
	case JumpClock:
		return fmt.Sprintf("%s of coordinator %d by %s", text, f.Process, f.For)
	case KillLeaderAt:
		return fmt.Sprintf("%s: %q of coordinator %d, number %d, for %s", text, f.Command, f.Process, f.Number, f.For)
	case KillCommand, FailBefore, FailAfter, HangBefore, HangAfter, TruncateStream, HangStream, CorruptStream:
		return fmt.Sprintf("%s: %q on %s, number %d, %s", text, f.Command, f.Host, f.Number, f.For)
	case KillAtPoint, DropMessage, DoubleMessage, DelayMessage:
		return fmt.Sprintf("%s: %q of %s-%d, number %d, %s", text, f.Command, f.Host, f.Process, f.Number, f.For)
	case KillWorker, PauseWorker, CutWorker, HoldWorker, CutData, HoldData:
	}
	return fmt.Sprintf("%s %s-%d for %s", text, f.Host, f.Process, f.For)
}

// String lists the jobs and the faults, with the numbers that -only takes.
func (s Schedule) String() string {
	var text strings.Builder
	fmt.Fprintf(&text, "seed %d, %d NATS server(s), %d snapshot(s) of each filesystem\n", s.Seed, s.Servers, s.Snapshots)
	for i, job := range s.Jobs {
		fmt.Fprintf(&text, "  job %d: %s from %s by %s, %s, initially %s\n", i, job.Name, job.Source.Host, job.Replication.Transport,
			job.Replication.Protection.Incremental, job.Replication.Initial)
	}
	for i, fault := range s.Faults {
		fmt.Fprintf(&text, "  %2d: %s\n", i, fault)
	}
	return text.String()
}
