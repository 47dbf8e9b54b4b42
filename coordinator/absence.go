// Absence: tasks whose source or target has no worker running wait, without taking a place, and go on when it is back.
//
// What has not been begun is in the state waiting until then, and is planned anew when it ends. What is under way stays as it
// is: the host may only be cut off, with a step that goes on and whose end is told later, so nothing is given up for its
// silence; and if its workers are dead, the work item that waits in the queue is taken up by the next one.

package coordinator

import (
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// attend lets the task wait if one of its hosts is away, and ends its waiting if none is.
func (m *machine) attend(t *task, now time.Time) []action {
	if t.State.Final() {
		return nil
	}
	away := m.awaitedHost(t)
	if away == "" {
		if t.WaitingSince.IsZero() && t.State != protocol.TaskWaiting {
			return nil
		}
		t.Waiting, t.WaitingSince, t.Updated, t.seen = "", time.Time{}, now, now
		if t.State == protocol.TaskWaiting {
			t.State, t.NotBefore = protocol.TaskBackoff, now
		}
		return []action{saveTask{t}}
	}
	text := m.hosts.waitingFor(away)
	if text == t.Waiting && (t.underWay() || t.State == protocol.TaskWaiting) {
		return nil
	}
	t.Waiting, t.Updated = text, now
	if t.WaitingSince.IsZero() {
		t.WaitingSince = now
	}
	if !t.underWay() {
		t.State = protocol.TaskWaiting
	}
	return []action{saveTask{t}}
}

// awaitedHost is the host of the task that is away; empty if none is.
func (m *machine) awaitedHost(t *task) protocol.Host {
	for _, host := range []protocol.Host{m.plan.Spec.Source.Host, t.TargetHost} {
		if m.hosts.absent(host) {
			return host
		}
	}
	return ""
}
