// Progress: how far a plan is, and how fast it goes. Nothing here waits or asks; it is what Watch computes with.

package fleet

import (
	"math"
	"slices"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// Snapshot is a plan at one moment.
type Snapshot struct {
	Plan protocol.Plan `json:"plan"`
	// Tasks are in order of number.
	Tasks []TaskProgress `json:"tasks"`
	// Waiting says what keeps the plan from going on, for people; empty while it goes on.
	Waiting string `json:"waiting,omitempty"`
	// At is when the snapshot was made.
	At time.Time `json:"at"`
}

// Final tells whether this is the plan's last snapshot.
func (s Snapshot) Final() bool { return s.Plan.State.Final() }

// Sent is what all tasks have sent so far, in bytes.
func (s Snapshot) Sent() uint64 {
	var sum uint64
	for _, task := range s.Tasks {
		sum += task.Sent
	}
	return sum
}

// Expected is the size of all that the plan sends, in bytes; 0 while that of any task that is to be done is unknown.
func (s Snapshot) Expected() uint64 {
	var sum uint64
	for _, task := range s.Tasks {
		switch {
		case task.Expected > 0:
			sum += task.Expected
		case !task.State.Final():
			return 0
		}
	}
	return sum
}

// Rate is that of all tasks together, in bytes per second.
func (s Snapshot) Rate() float64 {
	var sum float64
	for _, task := range s.Tasks {
		sum += task.Rate
	}
	return sum
}

// Remaining is how long the plan takes yet, as far as that can be told; 0 where it cannot.
func (s Snapshot) Remaining() time.Duration { return remaining(s.Sent(), s.Expected(), s.Rate()) }

// Count is how many tasks are in one of the states.
func (s Snapshot) Count(states ...protocol.TaskState) int {
	count := 0
	for _, task := range s.Tasks {
		for _, state := range states {
			if task.State == state {
				count++
			}
		}
	}
	return count
}

// TaskProgress is a task at one moment.
type TaskProgress struct {
	protocol.Task
	// Sent is what the task has sent: its finished steps, and the try that is under way.
	Sent uint64 `json:"sent"`
	// Expected is the size of all its steps in bytes; 0 where it is not known.
	Expected uint64 `json:"expected"`
	// StepSent and StepExpected are of the try that is under way alone; 0 where none is, or the size is not known. The sizes
	// of later steps are mostly not known before they begin, and Expected is 0 then.
	StepSent     uint64 `json:"step_sent,omitempty"`
	StepExpected uint64 `json:"step_expected,omitempty"`
	// Rate is in bytes per second, smoothed; 0 while nothing moves.
	Rate float64 `json:"rate"`
	// StepRemaining is how long the try that is under way takes yet, as the sender sees it; 0 where it does not know.
	StepRemaining time.Duration `json:"step_remaining_ns,omitempty"`
	// Path is the way that the try's stream takes; nil before it is found.
	Path *protocol.Path `json:"path,omitempty"`
	// StepNotes are what the try's workers have to say that is no failure, in the order in which it was heard.
	StepNotes []string `json:"step_notes,omitempty"`
	// Resumed says that the try that is under way went on from a partial state, which Sent does not count.
	Resumed bool `json:"resumed,omitempty"`
}

// Remaining is how long the task takes yet, or its step where the sizes of later ones are not known; 0 where nothing can be
// told.
func (p TaskProgress) Remaining() time.Duration {
	switch {
	case p.State.Final():
		return 0
	case p.StepRemaining > 0 && (p.Expected == 0 || p.Next == len(p.Steps)-1):
		return p.StepRemaining
	case p.Expected == 0:
		return remaining(p.StepSent, p.StepExpected, p.Rate)
	}
	return remaining(p.Sent, p.Expected, p.Rate)
}

func remaining(sent, expected uint64, rate float64) time.Duration {
	if expected <= sent || rate < 1 {
		return 0
	}
	seconds := float64(expected-sent) / rate
	if seconds > float64(math.MaxInt64)/float64(time.Second) {
		return 0
	}
	return time.Duration(seconds * float64(time.Second))
}

// smoothing is the time after which an old rate counts for little.
const smoothing = 5 * time.Second

// silence is the time without news after which nothing is taken to move.
const silence = 5 * time.Second

// shortest is the shortest time over which a rate is measured: the first bytes of a stream only fill buffers.
const shortest = 200 * time.Millisecond

// maxNotes bounds the notes of one try that are kept.
const maxNotes = 16

// meter follows the progress of one task's tries.
type meter struct {
	ref      protocol.StepRef
	path     *protocol.Path
	notes    []string
	progress protocol.Progress
	// base is the progress up to which rate was measured.
	base  protocol.Progress
	rate  float64
	heard time.Time
}

// observe takes in an event that was heard of at the given time: which way the stream takes, what there is to note, and how
// far it is. Only the sender's progress counts; what belongs to an older try than the newest is left out.
func (m *meter) observe(event protocol.Event, heard time.Time) {
	progress := event.Kind == protocol.EventProgress && event.Progress != nil && event.Role != protocol.RoleRecv
	if event.Ref.Attempt < m.ref.Attempt || !progress && event.Path == nil && event.Note == "" {
		return
	}
	if event.Ref != m.ref {
		*m = meter{ref: event.Ref}
	}
	if event.Path != nil {
		m.path = event.Path
	}
	if event.Note != "" && !slices.Contains(m.notes, event.Note) && len(m.notes) < maxNotes {
		m.notes = append(slices.Clip(m.notes), event.Note) // snapshots share what was there before
	}
	if progress {
		m.move(*event.Progress, heard)
	}
}

// move takes in how far the stream is. The rate is the sender's own; where it tells none, it comes from what it has moved.
func (m *meter) move(next protocol.Progress, heard time.Time) {
	switch took := next.Elapsed - m.base.Elapsed; {
	case next.Bytes < m.base.Bytes || took < 0: // the same try was delivered once more and has begun anew
		m.base, m.rate = protocol.Progress{}, 0
	case took >= shortest:
		weight := 1.0
		if m.rate > 0 {
			weight = 1 - math.Exp(-took.Seconds()/smoothing.Seconds())
		}
		m.rate += weight * (float64(next.Bytes-m.base.Bytes)/took.Seconds() - m.rate)
		m.base = next
	}
	if next.Rate > 0 {
		m.rate = float64(next.Rate)
	}
	m.progress, m.heard = next, heard
}

// measure is the task at the given moment. The meter may be nil.
func (m *meter) measure(task protocol.Task, now time.Time) TaskProgress {
	measured := TaskProgress{Task: task, Sent: task.Bytes}
	if task.State.Final() {
		if task.State == protocol.TaskDone {
			measured.Expected = task.Bytes
		}
		return measured
	}
	live := m != nil && m.ref.Step == task.Next && m.ref.Attempt == task.Attempt && task.State == protocol.TaskSending
	known := true
	measured.Expected = task.Bytes
	for i := task.Next; i < len(task.Steps); i++ {
		expected := task.Steps[i].Estimate
		if i == task.Next && live {
			if m.progress.Expected > 0 {
				expected = m.progress.Expected
			}
			if expected > 0 {
				// An estimate is one: what is there already is the least that it can have been.
				expected = max(expected, m.progress.Bytes)
			}
			measured.StepExpected = expected
		}
		known = known && expected > 0
		measured.Expected += expected
	}
	if !known {
		measured.Expected = 0
	}
	if live {
		measured.Sent += m.progress.Bytes
		measured.StepSent = m.progress.Bytes
		measured.Resumed = m.progress.Resumed
		measured.Path, measured.StepNotes = m.path, m.notes
		if since := now.Sub(m.heard); since < silence {
			measured.Rate = m.rate
			measured.StepRemaining = max(m.progress.Remaining-since, 0)
		}
	}
	return measured
}
