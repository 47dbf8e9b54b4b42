// Fail points: the names of a worker's durable actions, at which tests kill it.

package worker

import (
	"context"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
)

// The durable actions of either role; those that are events have the names of their kinds.
const (
	actionAcknowledge = "ack"
	actionTerminate   = "term"
	actionGiveBack    = "nak"
	actionDeadLetter  = "deadletter"
)

// The durable actions of the receiving side alone, beside those on its abstractions. In a step within one host, the worker with
// the item of the sender's role does them.
const (
	pointAbandon     = "recv.abandon"
	pointPlaceholder = "recv.placeholder"
	pointStream      = "recv.stream"
	pointUnmark      = "recv.unmark"
	pointConfirm     = "recv.confirm"
)

// FailPoints are the names that Config.FailPoint is called with: each durable action's, before and after it. They begin with
// the side of the step that acts.
func FailPoints() []string {
	var points []string
	add := func(point string) { points = append(points, before(point), after(point)) }
	for role, kinds := range map[protocol.Role][]protocol.EventKind{
		protocol.RoleSend: {protocol.EventClaimed, protocol.EventDone, protocol.EventFailed, protocol.EventDropped},
		protocol.RoleRecv: {
			protocol.EventClaimed, protocol.EventOffered, protocol.EventReceived, protocol.EventFailed, protocol.EventDropped,
		},
	} {
		for _, kind := range kinds {
			add(pointOf(role, string(kind)))
		}
		for _, action := range []string{actionAcknowledge, actionTerminate, actionGiveBack, actionDeadLetter} {
			add(pointOf(role, action))
		}
	}
	for _, change := range []abstractions.Change{
		abstractions.ChangeProtect, abstractions.ChangeTidy, abstractions.ChangeCursor, abstractions.ChangeRelease,
		abstractions.ChangeLastReceived, abstractions.ChangeReleaseReceived,
	} {
		add(pointOfChange(change))
	}
	for _, point := range []string{pointAbandon, pointPlaceholder, pointStream, pointUnmark, pointConfirm} {
		add(point)
	}
	return points
}

func pointOf(role protocol.Role, action string) string { return string(role) + "." + action }

func pointOfChange(change abstractions.Change) string {
	if change == abstractions.ChangeLastReceived || change == abstractions.ChangeReleaseReceived {
		return pointOf(protocol.RoleRecv, string(change))
	}
	return pointOf(protocol.RoleSend, string(change))
}

func before(point string) string { return point + ".before" }
func after(point string) string  { return point + ".after" }

// durably does a durable action between its two fail points. ctx is that of the step or the worker, and not one that is made
// to outlive them: what is killed at a fail point waits for its end.
func (w *Worker) durably(ctx context.Context, point string, do func() error) error {
	w.config.FailPoint(ctx, before(point))
	defer w.config.FailPoint(ctx, after(point))
	return do()
}
