// Events: what workers say about steps. They are the coordinator's input, zctl events' output, and the audit trail.

package protocol

import (
	"fmt"
	"strings"
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
	// EventConnected: the sender has found a way to the receiver; the event says which, and why that one.
	EventConnected EventKind = "connected"
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
	// Item is the work item's sequence in its stream, and Delivery how often it had been delivered when this happened, from 1.
	// Of two claims on one try, the one with the higher Item, and then the higher Delivery, supersedes the other.
	Item     uint64    `msgpack:"item,omitempty" json:"item,omitempty"`
	Delivery uint64    `msgpack:"delivery,omitempty" json:"delivery,omitempty"`
	At       time.Time `msgpack:"at" json:"at"`

	Job        string `msgpack:"job" json:"job"`
	JobID      JobID  `msgpack:"job_id" json:"job_id"`
	Filesystem string `msgpack:"fs" json:"filesystem"`
	Target     Host   `msgpack:"target" json:"target"`

	Offer    *Offer    `msgpack:"offer,omitempty" json:"-"`
	Failure  *Failure  `msgpack:"failure,omitempty" json:"failure,omitempty"`
	Progress *Progress `msgpack:"progress,omitempty" json:"progress,omitempty"`
	Path     *Path     `msgpack:"path,omitempty" json:"path,omitempty"`
	// To is the version that a received or done event is about.
	To *Version `msgpack:"to,omitempty" json:"to,omitempty"`
	// Note is what an operator should know and that is no failure, such as a partial state that was abandoned.
	Note string `msgpack:"note,omitempty" json:"note,omitempty"`
}

// Path is the way that a step's stream takes.
type Path struct {
	// Transport is tcp or object.
	Transport Transport `msgpack:"transport" json:"transport"`
	// Reverse says that the receiver connected to the sender.
	Reverse bool `msgpack:"reverse,omitempty" json:"reverse,omitempty"`
	// Address is the peer's that was connected to.
	Address string `msgpack:"address,omitempty" json:"address,omitempty"`
	// TLS says that the connection is encrypted.
	TLS bool `msgpack:"tls,omitempty" json:"tls,omitempty"`
	// Reused says that the connection was there from an earlier step.
	Reused bool `msgpack:"reused,omitempty" json:"reused,omitempty"`
	// Compression is what is done to the stream on its way; empty is nothing.
	Compression Compression `msgpack:"compression,omitempty" json:"compression,omitempty"`
	// Receivers is how many receivers the same zfs send serves.
	Receivers int `msgpack:"receivers" json:"receivers"`
	// Reason is why it is this way and no better one: what was tried before, and what became of it.
	Reason string `msgpack:"reason,omitempty" json:"reason,omitempty"`
}

// String is for people: "tcp to 10.0.0.2:8410 (TLS)".
func (p Path) String() string {
	text := string(p.Transport)
	switch {
	case p.Reverse:
		text += " from the receiver"
	case p.Address != "":
		text += " to " + p.Address
	}
	var notes []string
	if p.TLS {
		notes = append(notes, "TLS")
	}
	if p.Reused {
		notes = append(notes, "reused")
	}
	if p.Compression != "" && p.Compression != CompressionNone {
		notes = append(notes, string(p.Compression))
	}
	if p.Receivers > 1 {
		notes = append(notes, fmt.Sprintf("%d receivers", p.Receivers))
	}
	if len(notes) > 0 {
		text += " (" + strings.Join(notes, ", ") + ")"
	}
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text
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
	// Rate is in bytes a second, as of late: an exponentially weighted average.
	Rate uint64 `msgpack:"rate,omitempty" json:"rate,omitempty"`
	// Remaining is how long the rest will take at that rate; 0 where that is not known.
	Remaining time.Duration `msgpack:"remaining,omitempty" json:"remaining_ns,omitempty"`
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
	case EventConnected:
		if e.Path == nil {
			return Usagef("event %s of %s has no path", e.Kind, e.Ref)
		}
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
