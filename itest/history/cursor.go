// Cursors: registers that move forward only.

package history

import (
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"
)

// Position is where a cursor is: the guid and createtxg of a version on the sender.
type Position struct{ GUID, CreateTXG uint64 }

func (p Position) String() string { return fmt.Sprintf("%d@%d", p.GUID, p.CreateTXG) }

// Cursor is the history of replication cursors. Each has a name of the caller's choice, such as "prod.bravo tank/data on
// disk"; a view of a cursor is a register of its own.
type Cursor struct{ recorder *recorder }

// NewCursor makes an empty history. No cursor is there at its begin.
func NewCursor() *Cursor { return &Cursor{newRecorder()} }

// The operations on a cursor.
type (
	moveCursor   struct{ to Position }
	readCursor   struct{ maybeStale bool }
	removeCursor struct{}
)

func (m moveCursor) String() string { return "move to " + m.to.String() }
func (removeCursor) String() string { return "remove" }
func (r readCursor) String() string {
	if r.maybeStale {
		return "read a copy"
	}
	return "read"
}

// Change is an operation on a cursor or the lease that has begun. It has one end; one that never ends is unknown.
type Change struct {
	recorder *recorder
	record   *record
}

// End ends the operation: it was done, or it was refused and changed nothing.
func (c *Change) End(done bool) {
	how := refused
	if done {
		how = succeeded
	}
	c.recorder.end(c.record, how, nil)
}

// Unknown ends the operation where its process cannot know whether it had its effect, or still will.
func (c *Change) Unknown() { c.recorder.end(c.record, unknown, nil) }

// Reading is a read that has begun. It has one end.
type Reading struct {
	recorder *recorder
	record   *record
}

// At ends the read: the cursor is there.
func (r *Reading) At(position Position) { r.recorder.end(r.record, succeeded, position) }

// None ends the read: there is no cursor.
func (r *Reading) None() { r.recorder.end(r.record, succeeded, nil) }

// Failed ends the read without a result.
func (r *Reading) Failed() { r.recorder.drop(r.record) }

// Move begins to move the cursor. Its end says whether it was moved (or was there already).
func (c *Cursor) Move(process, cursor string, to Position) *Change {
	return &Change{c.recorder, c.recorder.begin(process, cursor, moveCursor{to})}
}

// Remove begins to remove the cursor, as an operator does who gives up a job.
func (c *Cursor) Remove(process, cursor string) *Change {
	return &Change{c.recorder, c.recorder.begin(process, cursor, removeCursor{})}
}

// Read begins to read the cursor where it is kept.
func (c *Cursor) Read(process, cursor string) *Reading {
	return &Reading{c.recorder, c.recorder.begin(process, cursor, readCursor{})}
}

// ReadCopy begins to read a copy of the cursor that may be behind, such as one of a NATS server that is not the stream's leader: it
// may show any position that the cursor has had, or none.
func (c *Cursor) ReadCopy(process, cursor string) *Reading {
	return &Reading{c.recorder, c.recorder.begin(process, cursor, readCursor{maybeStale: true})}
}

// Check looks for an explanation of every cursor's history. The error joins a *Violation for each that has none; a page that
// shows it is written into the directory, unless that is empty. Call it when nothing is under way any more.
func (c *Cursor) Check(directory string) error {
	return c.recorder.check(cursorModel(), "a cursor moves only forward, and a reader sees its last move", directory)
}

// cursorState are the positions that the cursor has had since it was made, in order; empty where there is none.
type cursorState []Position

func (s cursorState) current() (Position, bool) {
	if len(s) == 0 {
		return Position{}, false
	}
	return s[len(s)-1], true
}

// forward tells whether the cursor may be moved to a position, or is there already.
func (s cursorState) forward(to Position) bool {
	now, found := s.current()
	return !found || now.CreateTXG < to.CreateTXG || now == to
}

func (s cursorState) moved(to Position) cursorState {
	if now, found := s.current(); found && now == to {
		return s
	}
	return append(slices.Clone(s), to)
}

func cursorModel() porcupine.Model {
	return porcupine.Model{
		Init:  func() any { return cursorState(nil) },
		Equal: func(a, b any) bool { return slices.Equal(as[cursorState](a), as[cursorState](b)) },
		Step: func(state, input, _ any) (bool, any) {
			s, one := as[cursorState](state), as[*record](input)
			switch operation := one.input.(type) {
			case moveCursor:
				return stepMove(s, operation.to, one.outcome)
			case removeCursor:
				if one.outcome == refused {
					return true, s
				}
				return true, cursorState(nil)
			case readCursor:
				return stepRead(s, operation, one), s
			}
			return false, s
		},
		DescribeOperation: func(input, _ any) string { return describe(as[*record](input)) },
		DescribeState:     func(state any) string { return fmt.Sprint(state) },
	}
}

// stepMove lets any move be refused, since there are other reasons than its direction.
func stepMove(s cursorState, to Position, how outcome) (bool, any) {
	switch {
	case how == refused:
		return true, s
	case s.forward(to):
		return true, s.moved(to)
	}
	return how == unknown, s // one that may have been refused
}

func stepRead(s cursorState, operation readCursor, one *record) bool {
	if one.outcome == unknown {
		return true
	}
	seen, found := one.output.(Position)
	if operation.maybeStale {
		return !found || slices.Contains(s, seen)
	}
	now, exists := s.current()
	return found == exists && seen == now
}
