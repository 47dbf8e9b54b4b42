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

// waitsQuietly tells whether nothing is to be heard of the task for as long as its host is away. Where another run of the job
// waits, the silence of a step under way counts even so.
func (t *task) waitsQuietly(yielding bool) bool {
	return !t.WaitingSince.IsZero() && !t.State.Final() && (!yielding || !t.underWay())
}

// yield ends the plan if another run of the job waits for it, and all that is left to do is to wait for hosts: the other run does
// that as well, and has something to do for the hosts that are there.
func (m *machine) yield(now time.Time) []action {
	if !m.yielding {
		return nil
	}
	for _, t := range m.tasks {
		begun := t.underWay() && (t.claimed || t.offer != nil)
		if !t.State.Final() && (t.WaitingSince.IsZero() || begun) {
			return nil
		}
	}
	var actions []action
	for _, t := range m.tasks {
		if !t.State.Final() {
			actions = append(actions, m.giveUp(t, &protocol.Failure{
				Kind:    protocol.Transient,
				Message: t.Filesystem + ": given up " + t.Waiting + ", because another run of the job was asked for, which goes on with that",
			}, now)...)
		}
	}
	return actions
}
