package coordinator

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/coordinator/plan"
	"github.com/zfleet/zfleet/protocol"
)

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func snapshot(n int) protocol.Version {
	return protocol.Version{
		Type: protocol.Snapshot, Name: fmt.Sprintf("s%d", n), GUID: uint64(n), CreateTXG: uint64(n),
		Creation: start.Add(time.Duration(n) * time.Minute),
	}
}

// stepTo is an increment from the snapshot before, or a full step for the first.
func stepTo(filesystem string, n int) protocol.Step {
	step := protocol.Step{Filesystem: filesystem, TargetFilesystem: "backup/" + filesystem, To: snapshot(n), Initial: n == 1}
	if n > 1 {
		from := snapshot(n - 1)
		step.From = &from
	}
	return step
}

func testJob(transport protocol.Transport) protocol.Job {
	job := protocol.DefaultJob()
	job.Name = "prod"
	job.Source = protocol.JobSource{Host: "alpha", Filesystems: protocol.Filter{"tank<": true}}
	job.Targets = []protocol.JobTarget{{Host: "bravo", Root: "backup"}}
	job.Replication.Transport = transport
	job.Replication.Attempts = 3
	if transport == protocol.TransportLocal {
		job.Targets[0].Host = "alpha"
	}
	return job
}

// testMachine has a task for each filesystem, with the given number of steps each.
func testMachine(transport protocol.Transport, steps int, filesystems ...string) *machine {
	return machineOf(testJob(transport), steps, filesystems...)
}

// machineOf has a task for each filesystem and target of the job, with the given number of steps each.
func machineOf(job protocol.Job, steps int, filesystems ...string) *machine {
	p := protocol.Plan{ID: "20261123t120000-test", Job: job.Name, Spec: job, State: protocol.PlanRunning}
	var tasks []protocol.Task
	for _, name := range filesystems {
		for i, target := range job.Targets {
			task := protocol.Task{
				Plan: p.ID, Number: len(tasks), Target: i, TargetHost: target.Host, JobID: target.JobIDOf(job.Name), Filesystem: name,
				TargetFilesystem: target.Filesystem(name), State: protocol.TaskReady,
			}
			for n := range steps {
				step := stepTo(name, n+1)
				step.TargetFilesystem = task.TargetFilesystem
				task.Steps = append(task.Steps, step)
			}
			tasks = append(tasks, task)
		}
	}
	return newMachine(p, tasks, start, func() float64 { return 0 })
}

func (m *machine) event(t *task, kind protocol.EventKind) protocol.Event {
	e := protocol.Event{Ref: t.ref(), Kind: kind, Role: protocol.RoleSend, Host: m.plan.Spec.Source.Host, At: start}
	switch kind {
	case protocol.EventOffered:
		e.Role, e.Host = protocol.RoleRecv, t.TargetHost
		e.Offer = &protocol.Offer{
			Addresses: []string{string(t.TargetHost) + ":8410"}, Secret: []byte(fmt.Sprint("secret of the try ", t.Attempt)),
		}
	case protocol.EventDone, protocol.EventReceived:
		to := t.Steps[t.Next].To
		e.To, e.Progress = &to, &protocol.Progress{Bytes: 100}
	case protocol.EventFailed:
		e.Failure = &protocol.Failure{Kind: protocol.Transient, Message: "the network"}
	case protocol.EventClaimed, protocol.EventConnected, protocol.EventProgress, protocol.EventDropped:
	}
	return e
}

// published are the work items among the actions.
func published(actions []action) []protocol.WorkItem {
	var items []protocol.WorkItem
	for _, a := range actions {
		if publish, ok := a.(publishItem); ok {
			items = append(items, publish.item)
		}
	}
	return items
}

func TestAStepGoesFromReceiverToSenderToDone(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 2, "tank")
	task := m.tasks[0]

	items := published(m.advance(start))
	require.Len(t, items, 1)
	require.Equal(t, protocol.RoleRecv, items[0].Role, "the receiver goes first")
	require.NoError(t, items[0].Validate())
	require.Equal(t, protocol.TaskOffering, task.State)
	require.Empty(t, published(m.advance(start)), "nothing is published twice")

	offer := m.event(task, protocol.EventOffered)
	offer.Offer.Addresses = []string{"bravo:8410"}
	offer.Offer.Secret = make([]byte, 32)
	items = published(m.apply(offer, start))
	require.Len(t, items, 1)
	require.Equal(t, protocol.RoleSend, items[0].Role)
	require.Equal(t, offer.Offer, items[0].Offer)
	require.NoError(t, items[0].Validate())
	require.Equal(t, protocol.TaskSending, task.State)

	actions := m.apply(m.event(task, protocol.EventDone), start)
	require.Equal(t, recordCursor{protocol.Cursor{
		Job: "prod", JobID: "prod.bravo", Source: "alpha", Target: "bravo", Filesystem: "tank", Version: snapshot(1), At: start,
		Plan: m.plan.ID,
	}}, actions[0], "the cursor is recorded first")
	require.Equal(t, 1, task.Next)
	require.Equal(t, protocol.TaskReady, task.State)
	require.False(t, m.finished())
}

func TestLocalStepsAreOneItem(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportAuto, 1, "tank")
	m.plan.Spec.Targets[0].Host = "alpha"
	items := published(m.advance(start))
	require.Len(t, items, 1)
	require.Equal(t, protocol.RoleSend, items[0].Role)
	require.Equal(t, protocol.TransportLocal, items[0].Transport)
	require.NoError(t, items[0].Validate())
}

func TestParentsGoFirstAndTheirFailureFailsTheChildren(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank", "tank/a", "tank/a/b", "other")
	items := published(m.advance(start))
	var begun []string
	for _, item := range items {
		begun = append(begun, item.Step.Filesystem)
	}
	require.ElementsMatch(t, []string{"tank", "other"}, begun, "children wait for their parents")

	failed := m.event(m.tasks[0], protocol.EventFailed)
	failed.Failure = &protocol.Failure{Kind: protocol.Policy, Message: "not allowed"}
	m.apply(failed, start)
	m.advance(start)
	m.advance(start)
	require.Equal(t, protocol.TaskFailed, m.tasks[0].State)
	require.Equal(t, protocol.TaskFailed, m.tasks[1].State)
	require.Contains(t, m.tasks[1].Failure.Message, "its parent tank could not be created")
	require.Equal(t, protocol.TaskFailed, m.tasks[2].State)
	require.Equal(t, protocol.TaskOffering, m.tasks[3].State, "the others go on")
}

func TestAChildOfACreatedParentDoesNotWait(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 2, "tank", "tank/a")
	m.tasks[0].Next = 1
	require.Len(t, published(m.advance(start)), 2)
}

func TestConcurrencyIsBoundedAndTheOldestGoesFirst(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "a", "b", "c", "d", "e")
	m.plan.Spec.Replication.Concurrency.Steps = 2
	m.tasks[3].Steps[0].To.Creation = start.Add(-2 * time.Hour)
	m.tasks[1].Steps[0].To.Creation = start.Add(-time.Hour)
	items := published(m.advance(start))
	require.Len(t, items, 2)
	require.Equal(t, "d", items[0].Step.Filesystem)
	require.Equal(t, "b", items[1].Step.Filesystem)
}

func TestTransientFailuresAreRetriedAfterANewLookAndOthersAreFinal(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 2, "tank")
	task := m.tasks[0]
	m.advance(start)
	m.apply(m.event(task, protocol.EventFailed), start)
	require.Equal(t, protocol.TaskBackoff, task.State)
	require.Equal(t, start.Add(firstBackoff), task.NotBefore)
	require.Equal(t, task.NotBefore, m.wake())
	require.Empty(t, m.advance(start), "the back-off is kept")

	later := start.Add(firstBackoff)
	looks := m.advance(later)
	require.Len(t, looks, 1)
	require.Same(t, task, looks[0].(lookAgain).tasks[0])
	require.Empty(t, m.advance(later), "one look at a time")
	resume := stepTo("tank", 1)
	resume.Resume = true
	m.looked(task, look{result: plan.Result{Steps: []protocol.Step{resume, stepTo("tank", 2)}}}, later)
	items := published(m.advance(later))
	require.Len(t, items, 1)
	require.True(t, items[0].Step.Resume, "the new plan counts")
	require.Equal(t, 2, items[0].Ref.Attempt)

	m.apply(m.event(task, protocol.EventFailed), later)
	m.advance(later.Add(time.Hour))
	m.looked(task, look{result: plan.Result{Steps: []protocol.Step{stepTo("tank", 1)}}}, later)
	m.advance(later)
	m.apply(m.event(task, protocol.EventFailed), later)
	require.Equal(t, protocol.TaskFailed, task.State, "the attempts are used up")
	require.Contains(t, task.Failure.Message, "given up after 3 tries")
	require.True(t, m.finished())
}

func TestAStepWhoseStreamArrivedIsSettledAndNotSkipped(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	task := m.tasks[0]
	m.advance(start)
	m.apply(m.event(task, protocol.EventFailed), start)
	m.advance(start.Add(time.Minute))
	both := map[uint64]bool{1: true}
	m.looked(task, look{receiverHas: both, sourceHas: both}, start)
	require.Equal(t, protocol.TaskReady, task.State, "the sender's cursor and holds are still to be set right")
	require.Len(t, published(m.advance(start)), 1)
}

func TestEventsOfOtherTriesAndStrangersChangeNothing(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 2, "tank")
	task := m.tasks[0]
	m.advance(start)
	valid := m.event(task, protocol.EventOffered)
	for what, change := range map[string]func(*protocol.Event){
		"an older try":       func(e *protocol.Event) { e.Ref.Attempt-- },
		"a later try":        func(e *protocol.Event) { e.Ref.Attempt++ },
		"another step":       func(e *protocol.Event) { e.Ref.Step++ },
		"an unknown task":    func(e *protocol.Event) { e.Ref.Task = 99 },
		"another host":       func(e *protocol.Event) { e.Host = "mallory" },
		"the sender's offer": func(e *protocol.Event) { e.Role, e.Host = protocol.RoleSend, "alpha" },
	} {
		e := valid
		change(&e)
		require.Empty(t, m.apply(e, start), "offer of %s", what)
		require.Equal(t, protocol.TaskOffering, task.State, "offer of %s", what)
	}
	require.Empty(t, m.apply(m.event(task, protocol.EventDone), start), "nothing is done before it is sent")

	m.apply(valid, start)
	wrong := m.event(task, protocol.EventDone)
	to := snapshot(99)
	wrong.To = &to
	require.Empty(t, m.apply(wrong, start), "another version")
	fromReceiver := m.event(task, protocol.EventDone)
	fromReceiver.Role, fromReceiver.Host = protocol.RoleRecv, "bravo"
	require.Empty(t, m.apply(fromReceiver, start), "only the sender finishes a step")
	require.Equal(t, 0, task.Next)
}

func TestAClaimThatDropsItsItemSupersedesNothing(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	task := m.tasks[0]
	m.advance(start)
	m.apply(m.event(task, protocol.EventOffered), start)
	say := func(kind protocol.EventKind, delivery uint64) {
		e := m.event(task, kind)
		e.Item, e.Delivery = 7, delivery
		m.apply(e, start)
	}
	say(protocol.EventClaimed, 1)
	say(protocol.EventDropped, 2) // the first is still at work, and could not extend its claim in time
	say(protocol.EventDone, 1)
	require.Equal(t, protocol.TaskDone, task.State, "what the first has done counts")
}

func TestAClaimOnATryThatIsOverIsDismissed(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	task := m.tasks[0]
	m.advance(start)
	first := task.ref()
	m.apply(m.event(task, protocol.EventFailed), start)
	claim := protocol.Event{Ref: first, Kind: protocol.EventClaimed, Role: protocol.RoleRecv, Host: "bravo", At: start}
	dismissed := func(events ...protocol.Event) []action {
		for _, e := range events {
			require.Empty(t, m.apply(e, start))
		}
		var found []action
		for _, a := range m.advance(start) {
			if d, ok := a.(dismiss); ok {
				found = append(found, d)
			}
		}
		return found
	}
	require.Equal(t, []action{dismiss{first}}, dismissed(claim), "while the next try waits")
	require.Empty(t, dismissed(), "once is enough")
	ended := claim
	ended.Kind = protocol.EventDropped
	require.Empty(t, dismissed(claim, ended), "it is over by itself")

	task.State = protocol.TaskReady
	m.advance(start)
	require.Equal(t, 2, task.Attempt)
	require.Equal(t, []action{dismiss{first}}, dismissed(claim), "while the next try is under way")
	later := claim
	later.Ref.Attempt = 3
	stranger := claim
	stranger.Host = "mallory"
	require.Empty(t, dismissed(later, stranger), "others are not listened to")
}

func TestASecondOfferEndsTheTry(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	task := m.tasks[0]
	m.advance(start)
	offer := m.event(task, protocol.EventOffered)
	m.apply(offer, start)
	require.Empty(t, m.apply(offer, start), "the same offer again is a duplicate")
	second := m.event(task, protocol.EventOffered)
	second.Offer.Secret = []byte("of a restarted worker")
	m.apply(second, start)
	require.Equal(t, protocol.TaskBackoff, task.State)
}

func TestEveryWaitHasADeadline(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		until func(m *machine, task *task)
		limit time.Duration
	}{
		"for a claim":    {func(*machine, *task) {}, 10 * time.Minute},
		"for an offer":   {func(m *machine, task *task) { m.apply(claimedBy(m, task, protocol.RoleRecv), start) }, time.Minute + livenessGrace},
		"for the sender": {func(m *machine, task *task) { m.apply(m.event(task, protocol.EventOffered), start) }, 10 * time.Minute},
		"for the stream's progress": {func(m *machine, task *task) {
			m.apply(m.event(task, protocol.EventOffered), start)
			m.apply(claimedBy(m, task, protocol.RoleSend), start)
		}, time.Minute + livenessGrace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := testMachine(protocol.TransportTCP, 1, "tank")
			task := m.tasks[0]
			m.advance(start)
			c.until(m, task)
			require.Equal(t, start.Add(c.limit), m.wake())
			m.advance(start.Add(c.limit - time.Millisecond))
			require.NotEqual(t, protocol.TaskBackoff, task.State)
			m.advance(start.Add(c.limit))
			require.Equal(t, protocol.TaskBackoff, task.State)
			require.Contains(t, task.Failure.Message, "tank")
		})
	}
}

func claimedBy(m *machine, t *task, role protocol.Role) protocol.Event {
	e := m.event(t, protocol.EventClaimed)
	e.Role, e.Host = role, m.hostOf(t, role)
	return e
}

func TestAHostThatDoesNotAnswerIsWaitedForAndThenGivenUp(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank")
	task := m.tasks[0]
	m.advance(start)
	m.apply(m.event(task, protocol.EventFailed), start)
	var now time.Time
	silent := look{failure: &protocol.Failure{Kind: protocol.Transient, Message: "no worker of bravo answers"}}
	for range 5 {
		now = m.wake()
		m.advance(now)
		m.looked(task, silent, now)
		require.Equal(t, protocol.TaskBackoff, task.State)
		require.Equal(t, 1, task.Failures, "a host that does not answer is no failed try")
	}
	m.advance(m.wake())
	m.looked(task, silent, start.Add(time.Hour))
	require.Equal(t, protocol.TaskFailed, task.State)
	require.Contains(t, task.Failure.Message, "waited 10m")
}

func TestAClockThatIsPutBackHoldsNothingUp(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "tank", "pool")
	inBackoff, silent := m.tasks[0], m.tasks[1]
	m.advance(start)
	m.apply(m.event(inBackoff, protocol.EventFailed), start)
	m.apply(claimedBy(m, silent, protocol.RoleRecv), start)
	back := start.Add(-4 * time.Hour)
	m.advance(back)
	require.Less(t, m.wake().Sub(back), time.Minute)
	m.advance(back.Add(10 * time.Minute))
	require.True(t, inBackoff.looking)
	require.Equal(t, protocol.TaskBackoff, silent.State, "it was given up")

	t.Run("nor does that of another leader", func(t *testing.T) {
		again := newMachine(m.plan, []protocol.Task{inBackoff.Task}, start.Add(-10*time.Hour), m.jitter)
		require.LessOrEqual(t, again.wake().Sub(start.Add(-10*time.Hour)), maxBackoff)
	})
}

func TestCancelEndsEverythingThatIsNotFinished(t *testing.T) {
	t.Parallel()
	m := testMachine(protocol.TransportTCP, 1, "a", "b")
	m.advance(start)
	m.tasks[1].State = protocol.TaskDone
	m.cancel(start)
	require.True(t, m.finished())
	state, done, failed, _ := m.outcome()
	require.Equal(t, protocol.PlanCancelled, state)
	require.Equal(t, 1, done)
	require.Zero(t, failed)
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		states   []protocol.TaskState
		upToDate int
		want     protocol.PlanState
	}{
		{nil, 3, protocol.PlanDone},
		{[]protocol.TaskState{protocol.TaskDone}, 0, protocol.PlanDone},
		{[]protocol.TaskState{protocol.TaskDone, protocol.TaskConflict}, 0, protocol.PlanPartial},
		{[]protocol.TaskState{protocol.TaskConflict}, 1, protocol.PlanPartial},
		{[]protocol.TaskState{protocol.TaskConflict, protocol.TaskFailed}, 0, protocol.PlanFailed},
		{[]protocol.TaskState{protocol.TaskDone, protocol.TaskCancelled}, 0, protocol.PlanCancelled},
	} {
		m := testMachine(protocol.TransportTCP, 1)
		m.plan.UpToDate = c.upToDate
		for _, state := range c.states {
			m.tasks = append(m.tasks, &task{Task: protocol.Task{State: state}})
		}
		got, _, _, _ := m.outcome()
		require.Equal(t, c.want, got, "%v and %d up to date", c.states, c.upToDate)
	}
}

// TestANewLeaderGoesOn stops a machine at any point, makes another from its stored records, replays the events, and lets it
// finish: every step is done once, in order, and items of the old leader that are published again are the same.
func TestANewLeaderGoesOn(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		world := &simulation{
			machine: testMachine(protocol.TransportTCP, rapid.IntRange(1, 3).Draw(t, "steps"), "tank", "tank/a", "other"),
			now:     start, items: map[string]protocol.WorkItem{},
		}
		if rapid.Bool().Draw(t, "fan-out") {
			world.machine = machineOf(fanOutJob(), rapid.IntRange(1, 3).Draw(t, "steps"), "tank", "tank/a")
		}
		for range 400 {
			if world.machine.finished() {
				break
			}
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				world.takeOver()
			case 1:
				world.someFailure(t)
			case 2:
				world.duplicate(t)
			case 3:
				world.comeOrGo(t)
			default:
				world.progress(t)
			}
			world.check(t)
		}
		world.machine.hosts = nil
		for range 400 {
			if world.machine.finished() {
				break
			}
			world.progress(t)
			world.check(t)
		}
		require.True(t, world.machine.finished(), "the plan ends")
	})
}

// simulation is a world of workers that do what the items say, around a machine.
type simulation struct {
	machine *machine
	now     time.Time
	// events are all that happened, in order; items all that were published, by message id.
	events []protocol.Event
	items  map[string]protocol.WorkItem
	looks  []*task
	done   []protocol.StepRef
	// someoneWasAway says that a host was away at some time.
	someoneWasAway bool
}

func (s *simulation) carryOut(actions []action) {
	for _, a := range actions {
		switch a := a.(type) {
		case publishItem:
			s.items[a.item.MessageID()] = a.item
		case lookAgain:
			s.looks = append(s.looks, a.tasks...)
		case recordCursor:
			t := s.machine.tasks[0]
			for _, other := range s.machine.tasks {
				if other.Filesystem == a.cursor.Filesystem && other.JobID == a.cursor.JobID {
					t = other
				}
			}
			s.done = append(s.done, protocol.StepRef{Task: t.Number, Step: int(a.cursor.Version.GUID)})
		}
	}
}

func (s *simulation) happen(e protocol.Event) {
	s.events = append(s.events, e)
	s.carryOut(s.machine.apply(e, s.now))
}

// progress lets one thing happen that takes the plan on.
func (s *simulation) progress(t *rapid.T) {
	s.carryOut(s.machine.advance(s.now))
	for _, task := range s.looks {
		var rest []protocol.Step
		if task.Next < len(task.Steps) {
			rest = task.Steps[task.Next:]
		}
		s.carryOut(s.machine.looked(task, look{result: plan.Result{Steps: rest}}, s.now))
	}
	s.looks = nil
	var open []*task
	for _, task := range s.machine.tasks {
		if task.State == protocol.TaskOffering || task.State == protocol.TaskSending {
			open = append(open, task)
		}
	}
	if len(open) == 0 {
		if wake := s.machine.wake(); !wake.IsZero() {
			s.now = wake
		}
		return
	}
	task := rapid.SampledFrom(open).Draw(t, "task")
	switch {
	case task.State == protocol.TaskOffering:
		s.happen(s.machine.event(task, protocol.EventOffered))
	case task.State == protocol.TaskSending:
		s.happen(s.machine.event(task, protocol.EventDone))
	}
}

// comeOrGo lets one host come, or go.
func (s *simulation) comeOrGo(t *rapid.T) {
	host := rapid.SampledFrom([]protocol.Host{"alpha", "bravo", "charlie", "delta"}).Draw(t, "host")
	known := maps.Clone(s.machine.hosts)
	if known == nil {
		known = hosts{"alpha": {here: true}, "bravo": {here: true}, "charlie": {here: true}, "delta": {here: true}}
	}
	s.someoneWasAway = true
	known[host] = presence{here: !known[host].here, seen: s.now}
	s.machine.hosts = known
	s.carryOut(s.machine.advance(s.now))
}

func (s *simulation) someFailure(t *rapid.T) {
	task := rapid.SampledFrom(s.machine.tasks).Draw(t, "task")
	if task.State == protocol.TaskOffering || task.State == protocol.TaskSending {
		s.happen(s.machine.event(task, protocol.EventFailed))
	}
}

// duplicate lets an event be told again.
func (s *simulation) duplicate(t *rapid.T) {
	if len(s.events) > 0 {
		s.carryOut(s.machine.apply(rapid.SampledFrom(s.events).Draw(t, "event"), s.now))
	}
}

// takeOver replaces the machine by one made from its records and the events, as a new leader does.
func (s *simulation) takeOver() {
	var records []protocol.Task
	for _, task := range s.machine.tasks {
		records = append(records, task.Task)
	}
	here := s.machine.hosts
	s.machine = newMachine(s.machine.plan, records, s.now, func() float64 { return 0 })
	s.machine.hosts = here
	s.looks = nil
	for _, e := range s.events {
		s.machine.replayOffer(e)
		s.carryOut(s.machine.apply(e, s.now))
	}
	before := maps.Clone(s.items)
	s.carryOut(s.machine.recovered(s.now))
	for id, item := range s.items {
		// What is left of a group whose first task is gone gets an item of its own; the workers drop what they have already.
		if _, found := before[id]; !found && s.machine.tasks[item.Ref.Task].Group == "" {
			panic("a new leader published item " + id + ", which its predecessor had not")
		}
	}
}

func (s *simulation) check(t *rapid.T) {
	seen := map[protocol.StepRef]bool{}
	last := map[int]int{}
	for _, ref := range s.done {
		require.False(t, seen[ref], "step %v was recorded twice", ref)
		seen[ref] = true
		require.Equal(t, last[ref.Task]+1, ref.Step, "the steps of a task are done in order")
		last[ref.Task] = ref.Step
	}
	sent := map[protocol.StepRef]bool{}
	for _, item := range s.items {
		require.NoError(t, item.Validate())
		for _, one := range item.Each() {
			sent[one.Ref] = sent[one.Ref] || item.Role == protocol.RoleSend
		}
	}
	for _, task := range s.machine.tasks {
		require.Equal(t, task.State == protocol.TaskSending, task.underWay() && sent[task.ref()],
			"task %d is %s", task.Number, task.State)
	}
	if !s.someoneWasAway { // what went on meanwhile comes on top
		require.LessOrEqual(t, s.machine.active(), s.machine.plan.Spec.Replication.Concurrency.Steps)
	}
}
