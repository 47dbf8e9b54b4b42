// The seam to the coordinator under test.

package model

// Coordinator is the code that decides: the coordinator's own transition functions for a plan with one task. It is a value of the
// state: whoever changes it has cloned it.
type Coordinator interface {
	Clone() Coordinator
	// Key appends all that the coordinator's future depends on.
	Key(to []byte) []byte

	// Advance starts what can start. Timeout does as well, when every deadline has passed; it returns nothing if none was running.
	Advance() []Command
	Timeout() []Command
	// Apply takes an event. Replay takes one from before this leader's time, just before it is applied.
	Apply(Event) []Command
	Replay(Event)
	// Recovered is called when a new leader has applied the events from before its time.
	Recovered() []Command
	// Looked takes what was found on both sides.
	Looked(Source, Target) []Command

	// Status says how far the task is, and Describe does for people.
	Status() Status
	Describe() string
}

// Record is what a coordinator has stored, and a later leader loads.
type Record interface {
	Key(to []byte) []byte
	// Load makes the coordinator of a new leader.
	Load() Coordinator
	Status() Status
	Describe() string
}

// Status is how far the task is.
type Status struct {
	Attempt int
	// UnderWay says that a try is; Ended that the task is finished, and Done that it is with success.
	UnderWay, Ended, Done bool
	// Planned is the newest version that the task's steps lead to.
	Planned Version
}

// Role is the side that an item is for.
type Role uint8

// The roles.
const (
	Sender Role = iota
	Receiver
)

func (r Role) String() string { return [...]string{"sender", "receiver"}[r] }

// Item is a work item.
type Item struct {
	Role          Role
	Step, Attempt uint8
	From, To      Version
	// FromBookmark says that from need not be a snapshot. Range says that the snapshots in between are sent as well.
	FromBookmark, Range bool
	// Resume says that the step was planned to go on with a partial state.
	Resume bool
	// Offer is the receiver's, in a sender's item.
	Offer Offer
}

// Offer is a receiver's: which claim made it (its secret), and what it has.
type Offer struct {
	Claim         uint16
	HasTo, Resume bool
}

// EventKind is what an event is about.
type EventKind uint8

// The kinds of event that the coordinator acts on.
const (
	EventClaimed EventKind = iota
	EventOffered
	EventDone
	EventFailed
)

func (k EventKind) String() string { return [...]string{"claimed", "offered", "done", "failed"}[k] }

// Event is what a worker told.
type Event struct {
	Kind          EventKind
	Role          Role
	Step, Attempt uint8
	To            Version
	Offer         Offer
	// Item and Delivery are the claim's.
	Item, Delivery uint8
	// Conflict says of a failure that no other try would help.
	Conflict bool
}

// Command is what the coordinator wants to have done. Commands are carried out in order, and a leader may die between any two.
type Command struct {
	// Save is the record to store; nil if there is none.
	Save Record
	// Publish is the item to publish; nil if there is none.
	Publish *Item
	// Withdraw says that the try is given up: its items are deleted unless they are claimed, and its workers told to stop.
	Withdraw bool
	Attempt  uint8
	Claimed  bool
	// Look asks for a new look at both sides.
	Look bool
}
