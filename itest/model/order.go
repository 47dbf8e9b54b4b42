// The order of a worker's actions: the one place that says it. The model runs these programs, and a test compares them with what
// real workers do.

package model

import "slices"

// Action is one thing that a worker does within a claim. What two workers, or a worker and a crash, can see of each other
// happens between actions, never in one.
type Action string

// The actions.
const (
	// Lock waits for the place (JobID and filesystem) to be free, and refuses a claim that a newer one has followed.
	Lock Action = "lock the place"
	// TellClaimed, TellOffered, TellReceived, TellDone, TellFailed and TellDropped publish an event.
	TellClaimed  Action = "tell claimed"
	TellOffered  Action = "tell offered"
	TellReceived Action = "tell received"
	TellDone     Action = "tell done"
	TellFailed   Action = "tell failed"
	TellDropped  Action = "tell dropped"
	// Unlock frees the place.
	Unlock Action = "unlock the place"
	// Acknowledge removes the item from the queue.
	Acknowledge Action = "acknowledge the item"

	// Validate looks at the sender's pool, and compares it with the step.
	Validate Action = "validate the step"
	// Protect puts the step's holds or tentative cursors.
	Protect Action = "protect the step"
	// Tidy removes what earlier tries have left.
	Tidy Action = "remove what earlier tries left"
	// Connect connects to the receiver that made the offer.
	Connect Action = "connect"
	// Stream runs until the receiver has confirmed.
	Stream Action = "wait for the confirmation"
	// MoveCursor makes the bookmark of to.
	MoveCursor Action = "make the cursor"
	// Release removes the step's protection and the cursor before.
	Release Action = "release the step's protection"

	// Prepare looks at the receiver's pool, and abandons a partial state that is of no use.
	Prepare Action = "look at the target"
	// Accept waits for the sender.
	Accept Action = "wait for the sender"
	// Receive is zfs recv: it has a part of each snapshot before it has all of it.
	Receive Action = "receive"
	// CheckGUID looks whether the snapshot that was to come is there.
	CheckGUID Action = "check the guid"
	// Hold puts the last-received hold.
	Hold Action = "hold what was received"
	// ReleaseOlder releases the last-received hold of earlier snapshots.
	ReleaseOlder Action = "release what was received before"
	// Confirm tells the sender.
	Confirm Action = "confirm"
)

// Program is what a worker does in one kind of claim, in order.
type Program int

// The programs. A claim that fails goes on with Failed, and one that must not be worked on with Dropped.
const (
	Send        Program = iota // a step whose stream is sent
	Settle                     // a step whose receiver has everything: its offer says so, and is the confirmation
	ReceiveStep                // a step whose stream is received
	HaveIt                     // a step that has been received already
	Failed
	Dropped
	Overtaken // a claim on an item that was delivered again, and whose later claim has begun: the item is not this one's any more
	programs
)

func (p Program) String() string {
	return [...]string{"send", "settle", "receive", "have it", "fail", "drop", "leave"}[p]
}

// Order is the worker's, as it should be.
func Order(p Program) []Action {
	switch p {
	case Send:
		return []Action{
			Lock, TellClaimed, Validate, Protect, Tidy, Connect, Stream, MoveCursor, Release, TellDone, Unlock, Acknowledge,
		}
	case Settle:
		return []Action{Lock, TellClaimed, Validate, MoveCursor, Release, TellDone, Unlock, Acknowledge}
	case ReceiveStep:
		return []Action{
			Lock, TellClaimed, Prepare, TellOffered, Accept, Receive, CheckGUID, Hold, ReleaseOlder, Confirm, TellReceived,
			Unlock, Acknowledge,
		}
	case HaveIt:
		return []Action{Lock, TellClaimed, Prepare, Hold, ReleaseOlder, TellOffered, Unlock, Acknowledge}
	case Failed:
		return []Action{TellFailed, Unlock, Acknowledge}
	case Dropped:
		return []Action{TellDropped, Unlock, Acknowledge}
	case Overtaken:
		return []Action{TellDropped, Unlock}
	case programs:
	}
	return nil
}

// Role is the side that does the program; of what ends a claim, either does.
func (p Program) Role() Role {
	if p == ReceiveStep || p == HaveIt {
		return Receiver
	}
	return Sender
}

// FailPoint names the action as a worker's fail points do (worker.FailPoints), without the moment; empty for one that changes
// nothing that another process could see.
func (a Action) FailPoint(role Role) string {
	name := map[Action]string{
		TellClaimed: "claimed", TellOffered: "offered", TellReceived: "received", TellDone: "done", TellFailed: "failed",
		TellDropped: "dropped", Acknowledge: "ack",
		Protect: "protect", Tidy: "tidy", MoveCursor: "cursor", Release: "release",
		Receive: "stream", Hold: "last-received", ReleaseOlder: "release-received", Confirm: "confirm",
	}[a]
	if name == "" {
		return ""
	}
	return map[Role]string{Sender: "send.", Receiver: "recv."}[role] + name
}

// Bug is a mistake that can be switched on, to see that the model finds it.
type Bug string

// The bugs.
const (
	None                     Bug = ""
	CursorBeforeConfirmation Bug = "the cursor is moved before the receiver has confirmed"
	NoFencing                Bug = "two claims on the same place run at the same time"
	NoProtection             Bug = "the step is not protected"
	NoLastReceivedHold       Bug = "what was received is not held"
	AckBeforeCursor          Bug = "the item is acknowledged before the cursor is moved"
	ConfirmBeforeCheck       Bug = "the receiver confirms before it has looked at the guid"
	ReleaseBeforeCursor      Bug = "the step's protection is released before the cursor is there"
	ForgottenEnd             Bug = "a claim does not know what became of its try before, and begins it again"
	LaterItemWins            Bug = "of two claims, the one on the later item counts, whatever try it is of"
	AckOfTheOvertaken        Bug = "a claim that a later one on the same item has followed acknowledges the item"
)

// Bugs are all of them.
func Bugs() []Bug {
	return []Bug{
		CursorBeforeConfirmation, NoFencing, NoProtection, NoLastReceivedHold, AckBeforeCursor, ConfirmBeforeCheck,
		ReleaseBeforeCursor, ForgottenEnd, AckOfTheOvertaken, LaterItemWins,
	}
}

// order is the worker's with the bug.
func (b Bug) order(p Program) []Action {
	actions := Order(p)
	switch b {
	case CursorBeforeConfirmation:
		return moved(actions, MoveCursor, Stream)
	case AckBeforeCursor:
		if p == Send {
			return moved(actions, Acknowledge, MoveCursor)
		}
	case ConfirmBeforeCheck:
		return moved(actions, Confirm, CheckGUID)
	case ReleaseBeforeCursor:
		return moved(actions, Release, MoveCursor)
	case NoProtection:
		return without(actions, Protect)
	case NoLastReceivedHold:
		return without(actions, Hold)
	case AckOfTheOvertaken:
		if p == Overtaken {
			return Order(Dropped)
		}
	case None, NoFencing, ForgottenEnd, LaterItemWins:
	}
	return actions
}

// moved has the action just before another one.
func moved(actions []Action, one, before Action) []Action {
	if !slices.Contains(actions, before) {
		return actions
	}
	actions = without(actions, one)
	return slices.Insert(actions, slices.Index(actions, before), one)
}

func without(actions []Action, one Action) []Action {
	return slices.DeleteFunc(slices.Clone(actions), func(a Action) bool { return a == one })
}
