// Jobs: what the fleets of the harness replicate.

package faults

import (
	"math/rand/v2"
	"strings"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// Every host has the pools sourcePool, of which jobs send, and targetPool, with a root for each job.
const (
	sourcePool = "tank"
	targetPool = "backup"
)

func hostNames() []protocol.Host { return []protocol.Host{"alpha", "bravo", "charlie", "delta"} }

// layout is what a job can be: its source, how many filesystems, and its targets.
type layout struct {
	name        string
	source      protocol.Host
	filesystems []string
	targets     []protocol.Host
	transport   protocol.Transport // empty is drawn
}

func layouts() []layout {
	return []layout{
		{"tree", "alpha", []string{"tree", "tree/x", "tree/y"}, []protocol.Host{"bravo"}, ""},
		{"fan", "bravo", []string{"fan", "fan/x"}, []protocol.Host{"charlie", "delta"}, ""},
		{"wide", "charlie", []string{"wide"}, []protocol.Host{"alpha", "bravo", "delta"}, ""},
		{"here", "charlie", []string{"here", "here/x"}, []protocol.Host{"charlie"}, protocol.TransportLocal},
		{"objects", "delta", []string{"objects", "objects/x"}, []protocol.Host{"alpha"}, protocol.TransportObject},
		{"back", "bravo", []string{"back"}, []protocol.Host{"alpha"}, protocol.TransportTCP},
	}
}

// filesystemsOf are the source filesystems of a job that drawJobs has drawn.
func filesystemsOf(job protocol.Job) []string {
	for _, l := range layouts() {
		if l.name == job.Name {
			names := make([]string, 0, len(l.filesystems))
			for _, name := range l.filesystems {
				names = append(names, sourcePool+"/"+name)
			}
			return names
		}
	}
	return nil
}

// drawJobs draws two or three jobs.
func drawJobs(random *rand.Rand) []protocol.Job {
	all := layouts()
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	var jobs []protocol.Job
	for _, l := range all[:2+random.IntN(2)] {
		jobs = append(jobs, drawJob(random, l))
	}
	return jobs
}

func drawJob(random *rand.Rand, l layout) protocol.Job {
	job := protocol.DefaultJob()
	job.Name = l.name
	job.Source = protocol.JobSource{Host: l.source, Filesystems: protocol.Filter{sourcePool + "/" + l.name + "<": true}}
	for _, target := range l.targets {
		job.Targets = append(job.Targets, protocol.JobTarget{Host: target, Root: targetPool + "/" + l.name})
	}
	// Children need no placeholders, since their parents are replicated, and a snapshot called other is not.
	job.Snapshots.Include = "^s"
	protection := pick(random, protocol.GuaranteeResumability, protocol.GuaranteeResumability, protocol.GuaranteeResumability,
		protocol.GuaranteeIncremental, protocol.GuaranteeIncremental, protocol.GuaranteeNothing)
	r := &job.Replication
	r.Protection = protocol.ProtectionPolicy{Initial: protection, Incremental: protection}
	r.Initial = pick(random, protocol.InitialAll, protocol.InitialAll, protocol.InitialMostRecent)
	r.Transport = pick(random, protocol.TransportAuto, protocol.TransportTCP, protocol.TransportObject)
	if l.transport != "" {
		r.Transport = l.transport
	}
	r.Compression = pick(random, protocol.CompressionNone, protocol.CompressionNone, protocol.CompressionZstd)
	r.Concurrency.Steps = 1 + random.IntN(4)
	r.FanOut.Wait, r.FanOut.Lag = protocol.Duration(300*time.Millisecond), protocol.Duration(time.Second)
	r.Objects = protocol.Objects{Segment: protocol.MinSegment, Window: 4 * protocol.MinSegment}
	r.Attempts = 4
	r.Deadlines = protocol.Deadlines{
		Inventory: protocol.Duration(3 * time.Second),
		Claim:     protocol.Duration(4 * time.Second),
		Offer:     protocol.Duration(3 * time.Second),
		Stall:     protocol.Duration(2 * time.Second),
		Confirm:   protocol.Duration(3 * time.Second),
		Absent:    protocol.Duration(time.Minute),
	}
	return job
}

// changed is the job with another option: what an operator changes while it runs.
func changed(job protocol.Job, number int) protocol.Job {
	r := &job.Replication
	switch number % 6 {
	case 0:
		r.Concurrency.Steps = 1 + (r.Concurrency.Steps+1)%5
	case 1:
		r.FanOut.Enabled = !r.FanOut.Enabled
	case 2:
		job.Send.Compressed = !job.Send.Compressed // a partial state is of the old option, and of no use any more
	case 3:
		if r.Transport != protocol.TransportLocal {
			r.Transport = map[protocol.Transport]protocol.Transport{
				protocol.TransportAuto: protocol.TransportObject, protocol.TransportObject: protocol.TransportTCP,
				protocol.TransportTCP: protocol.TransportAuto,
			}[r.Transport]
		}
	case 4:
		if len(job.Targets) > 1 {
			job.Targets = job.Targets[1:]
		}
	case 5:
		r.Compression = protocol.CompressionNone
	}
	return job
}

func pick[T any](random *rand.Rand, choices ...T) T { return choices[random.IntN(len(choices))] }

// isWanted tells whether the jobs replicate a snapshot of that name.
func isWanted(snapshot string) bool { return strings.HasPrefix(snapshot, "s") }
