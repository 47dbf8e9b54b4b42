package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

// fanOutJob has three targets.
func fanOutJob() protocol.Job {
	job := testJob(protocol.TransportAuto)
	job.Targets = append(job.Targets, protocol.JobTarget{Host: "charlie", Root: "dr"}, protocol.JobTarget{Host: "delta", Root: "far"})
	return job
}

// receivers are the hosts that a send item is for, in order.
func receivers(item protocol.WorkItem) []protocol.Host {
	var hosts []protocol.Host
	for _, one := range item.Each() {
		hosts = append(hosts, one.Target)
	}
	return hosts
}

// offer lets the task's receiver be ready, and returns the items that follow.
func (m *machine) offer(t *task, now time.Time) []protocol.WorkItem {
	return published(m.apply(m.event(t, protocol.EventOffered), now))
}

func TestOneSendServesAllTargetsThatNeedTheSame(t *testing.T) {
	t.Parallel()
	m := machineOf(fanOutJob(), 2, "tank", "zoo")
	m.plan.Spec.Replication.Concurrency.Steps = 1

	items := published(m.advance(start))
	require.Len(t, items, 3, "what one zfs send serves counts as one step: %v", items)
	require.Equal(t, 1, m.active())
	require.Empty(t, m.offer(m.tasks[1], start))
	require.Empty(t, m.offer(m.tasks[0], start))
	require.Empty(t, published(m.advance(start.Add(time.Second))), "the others are waited for")
	items = m.offer(m.tasks[2], start)
	require.Len(t, items, 1)
	require.Equal(t, []protocol.Host{"bravo", "charlie", "delta"}, receivers(items[0]))
	require.NoError(t, items[0].Validate())
	for i, one := range items[0].Each() {
		require.Equal(t, m.tasks[i].ref(), one.Ref)
		require.Equal(t, m.tasks[i].JobID, one.JobID)
		require.Equal(t, m.tasks[i].TargetFilesystem, one.Step.TargetFilesystem)
		require.Equal(t, protocol.TaskSending, m.tasks[i].State)
	}

	for _, task := range m.tasks[:2] {
		m.apply(m.event(task, protocol.EventDone), start)
	}
	require.Empty(t, published(m.advance(start)), "one of the three is still under way")
	m.apply(m.event(m.tasks[2], protocol.EventDone), start)
	require.Len(t, published(m.advance(start)), 3, "the next step is shared again")
}

func TestFanOutCanBeOff(t *testing.T) {
	t.Parallel()
	m := machineOf(fanOutJob(), 1, "tank")
	m.plan.Spec.Replication.FanOut.Enabled = false
	require.Len(t, published(m.advance(start)), 3)
	require.Equal(t, 3, m.active())
	require.Len(t, m.offer(m.tasks[0], start), 1)
}

func TestWhatDiffersGoesAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*protocol.Step){
		"another from":      func(s *protocol.Step) { from := snapshot(9); s.From = &from },
		"a bookmark":        func(s *protocol.Step) { from := *s.From; from.Type = protocol.Bookmark; s.From = &from },
		"a full step":       func(s *protocol.Step) { s.From = nil },
		"another to":        func(s *protocol.Step) { s.To = snapshot(9) },
		"a range":           func(s *protocol.Step) { s.Intermediates = 1 },
		"a partial state":   func(s *protocol.Step) { s.Resume = true },
		"other protections": func(s *protocol.Step) { s.Initial = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := machineOf(fanOutJob(), 2, "tank")
			for _, task := range m.tasks {
				task.Steps = task.Steps[1:]
			}
			change(&m.tasks[1].Steps[0])
			m.advance(start)
			require.Empty(t, m.offer(m.tasks[0], start))
			items := m.offer(m.tasks[1], start)
			require.Len(t, items, 1)
			require.Equal(t, []protocol.Host{"charlie"}, receivers(items[0]))
			items = m.offer(m.tasks[2], start)
			require.Len(t, items, 1)
			require.Equal(t, []protocol.Host{"bravo", "delta"}, receivers(items[0]))
		})
	}
}

func TestALateReceiverGoesAlone(t *testing.T) {
	t.Parallel()
	m := machineOf(fanOutJob(), 1, "tank")
	m.advance(start)
	m.offer(m.tasks[1], start)
	m.offer(m.tasks[2], start.Add(time.Second))
	wait := m.plan.Spec.Replication.FanOut.Wait.Std()
	require.Equal(t, start.Add(wait), m.wake())
	items := published(m.advance(start.Add(wait)))
	require.Len(t, items, 1)
	require.Equal(t, []protocol.Host{"charlie", "delta"}, receivers(items[0]))
	items = m.offer(m.tasks[0], start.Add(2*wait))
	require.Len(t, items, 1)
	require.Equal(t, []protocol.Host{"bravo"}, receivers(items[0]))
}

func TestNobodyWaitsTwiceForATargetThatIsLate(t *testing.T) {
	t.Parallel()
	m := machineOf(fanOutJob(), 3, "tank")
	wait := m.plan.Spec.Replication.FanOut.Wait.Std()
	now := start
	// next lets the next step of all three begin, and all but bravo be ready at once.
	next := func() []protocol.WorkItem {
		m.advance(now)
		items := append(m.offer(m.tasks[1], now), m.offer(m.tasks[2], now)...)
		now = now.Add(wait)
		return append(items, published(m.advance(now))...)
	}
	finish := func() {
		for _, task := range m.tasks {
			m.apply(m.event(task, protocol.EventDone), now)
		}
	}
	require.Len(t, next(), 1)
	require.Len(t, m.offer(m.tasks[0], now), 1, "late, and alone")
	finish()

	m.advance(now)
	m.offer(m.tasks[1], now)
	items := m.offer(m.tasks[2], now)
	require.Len(t, items, 1, "the two do not wait")
	require.Equal(t, []protocol.Host{"charlie", "delta"}, receivers(items[0]))
	require.Len(t, m.offer(m.tasks[0], now.Add(time.Second)), 1, "in time, but not expected to be")
	finish()

	m.advance(now)
	m.offer(m.tasks[1], now)
	require.Empty(t, m.offer(m.tasks[2], now), "bravo was quick the last time, and is waited for again")
}

func TestAReceiverThatIsNotAtTheBeginningGoesAlone(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*protocol.Offer){
		"it has everything":        func(o *protocol.Offer) { o.HasTo = true },
		"it has a part of it":      func(o *protocol.Offer) { o.ResumeToken = "1-abc" },
		"it has everything, twice": func(o *protocol.Offer) { o.HasTo, o.ResumeToken = true, "1-abc" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := machineOf(fanOutJob(), 1, "tank")
			m.advance(start)
			m.offer(m.tasks[0], start)
			m.offer(m.tasks[2], start)
			offer := m.event(m.tasks[1], protocol.EventOffered)
			change(offer.Offer)
			items := published(m.apply(offer, start))
			require.Len(t, items, 2)
			require.Equal(t, []protocol.Host{"bravo", "delta"}, receivers(items[0]), "nobody is left to wait for")
			require.Equal(t, []protocol.Host{"charlie"}, receivers(items[1]))
		})
	}
}

func TestOneThatFailsBeforeTheStreamIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	m := machineOf(fanOutJob(), 1, "tank")
	m.advance(start)
	m.offer(m.tasks[0], start)
	m.offer(m.tasks[2], start)
	failed := m.event(m.tasks[1], protocol.EventFailed)
	failed.Role, failed.Host = protocol.RoleRecv, "charlie"
	items := published(m.apply(failed, start))
	require.Len(t, items, 1)
	require.Equal(t, []protocol.Host{"bravo", "delta"}, receivers(items[0]))
	require.False(t, m.tasks[1].Alone, "it was no burden to the others")
}

func TestOneThatFailsGoesOnAloneAndTheOthersWithoutIt(t *testing.T) {
	t.Parallel()
	m := machineOf(fanOutJob(), 2, "tank")
	m.advance(start)
	for _, task := range m.tasks {
		m.offer(task, start)
	}
	actions := m.apply(m.event(m.tasks[0], protocol.EventFailed), start)
	require.Contains(t, actions, withdrawItems{task: m.tasks[0], shared: true}, "the item is the others' too")
	require.True(t, m.tasks[0].Alone)
	require.Equal(t, protocol.TaskSending, m.tasks[1].State)
	m.apply(m.event(m.tasks[1], protocol.EventDone), start)
	m.apply(m.event(m.tasks[2], protocol.EventDone), start)

	now := m.tasks[0].NotBefore
	m.advance(now)
	m.looked(m.tasks[0], look{result: plan.Result{Steps: m.tasks[0].Steps}}, now)
	m.advance(now)
	items := m.offer(m.tasks[0], now)
	require.Len(t, items, 1)
	require.Equal(t, []protocol.Host{"bravo"}, receivers(items[0]))
	m.apply(m.event(m.tasks[0], protocol.EventDone), now)
	require.False(t, m.tasks[0].Alone, "its next step can be shared again")
}

func TestANewLeaderPublishesAGroupOnceMore(t *testing.T) {
	t.Parallel()
	m := machineOf(fanOutJob(), 1, "tank")
	m.advance(start)
	var first protocol.WorkItem
	var events []protocol.Event
	for _, task := range m.tasks {
		events = append(events, m.event(task, protocol.EventOffered))
		for _, item := range m.offer(task, start) {
			first = item
		}
	}
	takeOver := func(also ...protocol.Event) []protocol.WorkItem {
		var records []protocol.Task
		for _, task := range m.tasks {
			records = append(records, task.Task)
		}
		next := newMachine(m.plan, records, start, m.jitter)
		var actions []action
		for _, e := range append(events, also...) {
			next.replayOffer(e)
			actions = append(actions, next.apply(e, start)...)
		}
		return published(append(actions, next.recovered(start)...))
	}
	items := takeOver()
	require.Equal(t, []protocol.WorkItem{first}, items, "the very item, which the stream drops if it has it")
	require.Empty(t, takeOver(claimedBy(m, m.tasks[2], protocol.RoleSend)), "one claim is the whole item's")
}
