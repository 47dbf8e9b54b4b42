// Groups: tasks of several targets that need the same stream, so that one zfs send serves them all.
//
// A group is formed when its tasks start. Each receiver makes its offer; once all have, or the first has waited for the
// others as long as the job says, the send item is published with the offers that are there. From then on the group only
// says which tasks the same item is for: each is confirmed, fails and is tried again by itself.

package coordinator

import (
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// takeGroup takes the first of the ready tasks, and all those that one zfs send can serve together with it. It returns the
// tasks that are left as well, in order.
func (m *machine) takeGroup(ready []*task) (group, left []*task) {
	first := ready[0]
	group = []*task{first}
	for _, t := range ready[1:] {
		if m.shareable(first) && m.shareable(t) && t.Target != first.Target &&
			sameStream(first.Steps[first.Next], t.Steps[t.Next]) {
			group = append(group, t)
		} else {
			left = append(left, t)
		}
	}
	return group, left
}

// shareable tells whether the task's next step may be one of a group's: it begins at the beginning of its stream, has not
// failed in a group, and its target is not one that groups have to go without.
func (m *machine) shareable(t *task) bool {
	step := t.Steps[t.Next]
	return m.plan.Spec.Replication.FanOut.Enabled && !t.Alone && !m.late[t.Target] && !step.Resume &&
		m.item(t).Transport != protocol.TransportLocal
}

// sameStream tells whether the same zfs send makes both steps.
func sameStream(a, b protocol.Step) bool {
	sameFrom := a.From == nil && b.From == nil ||
		a.From != nil && b.From != nil && a.From.GUID == b.From.GUID && a.From.Type == b.From.Type
	return sameFrom && a.Filesystem == b.Filesystem && a.To.GUID == b.To.GUID && a.Intermediates == b.Intermediates &&
		a.Initial == b.Initial
}

// gathering tells whether the task's receiver is ready and waits for others.
func (t *task) gathering() bool {
	return t.State == protocol.TaskOffering && t.Group != "" && t.offer != nil
}

// gather publishes the group's send item if every receiver is ready, or the first has waited long enough. Those that are not
// ready then go on alone.
func (m *machine) gather(group string, now time.Time) []action {
	var ready, late []*task
	var first time.Time
	for _, t := range m.tasks {
		switch {
		case t.Group != group || t.State != protocol.TaskOffering:
		case t.offer == nil:
			late = append(late, t)
		default:
			if ready = append(ready, t); first.IsZero() || t.offered.Before(first) {
				first = t.offered
			}
		}
	}
	if len(ready) == 0 || len(late) > 0 && now.Before(first.Add(m.plan.Spec.Replication.FanOut.Wait.Std())) {
		return nil
	}
	var actions []action
	for _, t := range late {
		t.Group, m.late[t.Target] = "", true
		actions = append(actions, saveTask{t})
	}
	return append(actions, m.send(ready, now)...)
}

// leaveGroup takes the task out of its group. If the others were only waiting for it, they go on.
func (m *machine) leaveGroup(t *task, now time.Time) []action {
	group := t.Group
	t.Group = ""
	if group == "" {
		return nil
	}
	return m.gather(group, now)
}

// send publishes the send item for tasks whose receivers are ready. The first one leads: its name is the item's.
func (m *machine) send(group []*task, now time.Time) []action {
	name := ""
	if len(group) > 1 {
		name = group[0].ref().String()
	}
	var actions []action
	for _, t := range group {
		t.State, t.Group, t.claimed, t.seen, t.Updated = protocol.TaskSending, name, false, now, now
		actions = append(actions, saveTask{t})
	}
	return append(actions, publishItem{group[0], m.sendItem(group)})
}

// sendItem is the send item of tasks whose offers are there.
func (m *machine) sendItem(group []*task) protocol.WorkItem {
	var item protocol.WorkItem
	for i, t := range group {
		one := m.item(t)
		one.Role, one.Offer = protocol.RoleSend, t.offer
		if i == 0 {
			item = one
		} else {
			item.Others = append(item.Others, one.Receiver())
		}
	}
	return item
}

// republish publishes the send item of the task, or of its group if the task is the first in it, once more, unless it has been
// claimed.
func (m *machine) republish(t *task) []action {
	group := []*task{t}
	for _, other := range m.tasks {
		if t.Group == "" || other == t || other.Group != t.Group || other.State != protocol.TaskSending {
			continue
		}
		if other.claimed || other.Number < t.Number {
			return nil
		}
		if other.offer != nil {
			group = append(group, other)
		}
	}
	return []action{publishItem{group[0], m.sendItem(group)}}
}
