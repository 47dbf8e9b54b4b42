// Events: what workers say about steps. They are the coordinator's input, zctl events' output, and the audit trail.

package protocol

import (
	"fmt"
	"time"
)

// EventKind is what happened. It is the last token of the event's subject.
type EventKind string

// The kinds of event, in the order in which a step that goes well sees them.
const (
	// EventClaimed: a worker has taken a work item.
	EventClaimed EventKind = "claimed"
	// EventOffered: the receiver is ready; the event carries its offer.
	EventOffered EventKind = "offered"
	// EventProgress: bytes so far. At most two a second for each step and side.
	EventProgress EventKind = "progress"
	// EventReceived: the receiver has To, checked and protected, and has confirmed it to the sender.
	EventReceived EventKind = "received"
	// EventDone: the sender has moved the cursor and released the step's protection; the step is finished.
	EventDone EventKind = "done"
	// EventFailed: this try of the step failed; the event carries the failure.
	EventFailed EventKind = "failed"
	// EventDropped: a claimed item was superseded by a newer try and was dropped without effect.
	EventDropped EventKind = "dropped"
)

// Event is one thing that happened to one try of a step, or to the plan as a whole.
type Event struct {
	Ref  StepRef   `msgpack:"ref" json:"ref"`
	Kind EventKind `msgpack:"kind" json:"kind"`
	Role Role      `msgpack:"role,omitempty" json:"role,omitempty"`
	Host Host      `msgpack:"host" json:"host"`
	// Worker names the worker process.
	Worker string `msgpack:"worker,omitempty" json:"worker,omitempty"`
	// Delivery is how often the work item had been delivered when this happened, from 1.
	Delivery uint64    `msgpack:"delivery,omitempty" json:"delivery,omitempty"`
	At       time.Time `msgpack:"at" json:"at"`

	Job        string `msgpack:"job" json:"job"`
	JobID      JobID  `msgpack:"job_id" json:"job_id"`
	Filesystem string `msgpack:"fs" json:"filesystem"`
	Target     Host   `msgpack:"target" json:"target"`

	Offer    *Offer    `msgpack:"offer,omitempty" json:"-"`
	Failure  *Failure  `msgpack:"failure,omitempty" json:"failure,omitempty"`
	Progress *Progress `msgpack:"progress,omitempty" json:"progress,omitempty"`
	// To is the version that a received or done event is about.
	To *Version `msgpack:"to,omitempty" json:"to,omitempty"`
	// Note is what an operator should know and that is no failure, such as a partial state that was abandoned.
	Note string `msgpack:"note,omitempty" json:"note,omitempty"`
}

// Progress is how far a step's stream is.
type Progress struct {
	// Bytes is what this try has moved.
	Bytes uint64 `msgpack:"bytes" json:"bytes"`
	// Expected is the stream's expected size in this try; 0 where it is not known.
	Expected uint64 `msgpack:"expected,omitempty" json:"expected,omitempty"`
	// Resumed says that this try went on from a partial state.
	Resumed bool `msgpack:"resumed,omitempty" json:"resumed,omitempty"`
	// Elapsed is the time since the stream began.
	Elapsed time.Duration `msgpack:"elapsed,omitempty" json:"elapsed_ns,omitempty"`
}

// MessageID de-duplicates the event in its stream. Progress is never de-duplicated.
func (e Event) MessageID() string {
	if e.Kind == EventProgress {
		return ""
	}
	return fmt.Sprintf("%s.%s.%d.%s.%s.%s.%d", e.Ref.Plan, e.Ref.StepToken(), e.Ref.Attempt, e.Role, e.Kind, e.Worker, e.Delivery)
}

// Validate tells whether the coordinator can act on the event.
func (e Event) Validate() error {
	if err := e.Ref.Validate(); err != nil {
		return err
	}
	if err := e.Host.Validate(); err != nil {
		return Usagef("event of %s: %w", e.Ref, err)
	}
	switch e.Kind {
	case EventClaimed, EventDropped, EventProgress:
	case EventReceived, EventDone:
		if e.To == nil {
			return Usagef("event %s of %s has no version", e.Kind, e.Ref)
		}
	case EventOffered:
		if e.Offer == nil {
			return Usagef("event %s of %s has no offer", e.Kind, e.Ref)
		}
	case EventFailed:
		if e.Failure == nil {
			return Usagef("event %s of %s has no failure", e.Kind, e.Ref)
		}
	default:
		return Usagef("event of %s: unknown kind %q", e.Ref, e.Kind)
	}
	return nil
}
