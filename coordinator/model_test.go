// The model of the step protocol (itest/model), searched over this package's own machine and planner.

package coordinator

import (
	"encoding/binary"
	"flag"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/model"
	"github.com/zfleet/zfleet/protocol"
)

// The tests search the small scenarios; ./task model and the continuous integration search all of them.
var (
	all  = flag.Bool("model.all", false, "search all scenarios of the step protocol's model (half a minute)")
	deep = flag.Int("model.deep", 0, "search all of them with so many more faults (each takes a hundred times longer)")
)

// modelled is the machine as the model's coordinator. Its clock stands still but for Timeout: how long something takes is nothing
// that the protocol may depend on, so a back-off may be over at any time.
type modelled struct{ *machine }

// stored is a task's record.
type stored struct{ task protocol.Task }

const lateEnough = 1000 * time.Hour

func (c modelled) task() *task { return c.tasks[0] }

// Clone copies what the machine changes. Steps and offers are replaced and not changed. Stale claims are forgotten: nothing comes of
// them but that a worker is told to give up, which a worker of the model may do at any time.
func (c modelled) Clone() model.Coordinator {
	m, t := *c.machine, *c.task()
	m.stale = map[staleClaim]bool{}
	t.claims = make(map[protocol.Role]claim, len(c.task().claims))
	for role, newest := range c.task().claims {
		t.claims[role] = newest
	}
	m.tasks = []*task{&t}
	return modelled{&m}
}

// commands makes the model's commands, and sets all times back.
func (c modelled) commands(actions []action) []model.Command {
	t := c.task()
	times := []*time.Time{&c.latest, &t.seen, &t.begun, &t.offered, &t.unanswered, &t.NotBefore, &t.Updated}
	for _, at := range times {
		if !at.IsZero() {
			*at = start
		}
	}
	var commands []model.Command
	for _, next := range actions {
		switch a := next.(type) {
		case saveTask:
			commands = append(commands, model.Command{Save: stored{a.task.Task}})
		case publishItem:
			item := modelItem(a.item)
			commands = append(commands, model.Command{Publish: &item})
		case withdrawItems:
			commands = append(commands, model.Command{Withdraw: true, Attempt: uint8(a.task.Attempt), Claimed: a.task.claimed})
		case lookAgain:
			commands = append(commands, model.Command{Look: true})
		case dismiss: // see Clone
		case recordCursor, finishStep: // for people
		}
	}
	return commands
}

func (c modelled) Advance() []model.Command { return c.commands(c.advance(start)) }

func (c modelled) Timeout() []model.Command {
	if !c.task().underWay() {
		return nil
	}
	return c.commands(c.advance(start.Add(lateEnough)))
}

func (c modelled) Apply(e model.Event) []model.Command { return c.commands(c.apply(c.event(e), start)) }
func (c modelled) Replay(e model.Event)                { c.replayOffer(c.event(e)) }
func (c modelled) Recovered() []model.Command          { return c.commands(c.recovered(start)) }

func (c modelled) Looked(source model.Source, target model.Target) []model.Command {
	if !c.task().looking {
		return nil
	}
	return c.commands(c.looked(c.task(), modelLook(source, target), start))
}

func (c modelled) event(e model.Event) protocol.Event {
	t := c.task()
	event := protocol.Event{
		Ref:  protocol.StepRef{Plan: t.Plan, Task: 0, Step: int(e.Step), Attempt: int(e.Attempt)},
		Role: protocol.RoleSend, Host: c.plan.Spec.Source.Host, At: start, Item: uint64(e.Item), Delivery: uint64(e.Delivery),
	}
	if e.Role == model.Receiver {
		event.Role, event.Host = protocol.RoleRecv, t.TargetHost
	}
	switch e.Kind {
	case model.EventClaimed:
		event.Kind = protocol.EventClaimed
	case model.EventOffered:
		event.Kind = protocol.EventOffered
		event.Offer = &protocol.Offer{Secret: binary.BigEndian.AppendUint16(nil, e.Offer.Claim), HasTo: e.Offer.HasTo}
		if e.Offer.Resume {
			event.Offer.ResumeToken = "token"
		}
	case model.EventDone:
		to := snapshot(int(e.To))
		event.Kind, event.To = protocol.EventDone, &to
	case model.EventFailed:
		event.Kind = protocol.EventFailed
		event.Failure = &protocol.Failure{Kind: protocol.Transient, Message: "the model's"}
		if e.Conflict {
			event.Failure.Kind = protocol.Conflict
		}
	}
	return event
}

func modelOffer(offer *protocol.Offer) model.Offer {
	if offer == nil {
		return model.Offer{}
	}
	return model.Offer{
		Claim: binary.BigEndian.Uint16(offer.Secret), HasTo: offer.HasTo, Resume: offer.ResumeToken != "",
	}
}

func modelItem(item protocol.WorkItem) model.Item {
	m := model.Item{
		Role: model.Sender, Step: uint8(item.Ref.Step), Attempt: uint8(item.Ref.Attempt), To: model.Version(item.Step.To.GUID),
		Range: item.Step.Intermediates > 0, Resume: item.Step.Resume, Offer: modelOffer(item.Offer),
	}
	if item.Role == protocol.RoleRecv {
		m.Role = model.Receiver
	}
	if item.Step.From != nil {
		m.From, m.FromBookmark = model.Version(item.Step.From.GUID), !item.Step.From.IsSnapshot()
	}
	return m
}

// Key has everything that the machine's answers depend on, but for what is the same in all states;
// TestTheModelKnowsAllOfTheMachinesState sees to it that nothing is forgotten.
func (c modelled) Key(to []byte) []byte {
	t := c.task()
	to = keyOfTask(to, t.Task)
	offer := modelOffer(t.offer)
	sender, receiver := t.claims[protocol.RoleSend], t.claims[protocol.RoleRecv]
	return append(to, flagsOf(t.claimed, t.looking, t.offer != nil, offer.HasTo, offer.Resume),
		byte(offer.Claim>>8), byte(offer.Claim),
		byte(sender.item), byte(sender.delivery), byte(receiver.item), byte(receiver.delivery))
}

func keyOfTask(to []byte, t protocol.Task) []byte {
	to = append(to, byte(t.Next), byte(len(t.Steps)), byte(t.Attempt), byte(t.Failures))
	to = append(append(to, byte(len(t.State))), t.State...)
	for _, step := range t.Steps {
		from, bookmark := uint64(0), false
		if step.From != nil {
			from, bookmark = step.From.GUID, !step.From.IsSnapshot()
		}
		to = append(to, byte(from), byte(step.To.GUID), byte(step.Intermediates), flagsOf(bookmark, step.Resume, step.Initial))
	}
	return to
}

func flagsOf(values ...bool) byte {
	var flags byte
	for i, value := range values {
		if value {
			flags |= 1 << i
		}
	}
	return flags
}

func (c modelled) Status() model.Status { return statusOf(&c.task().Task) }
func (c modelled) Describe() string     { return describeTask(c.task().Task) }

func statusOf(t *protocol.Task) model.Status {
	status := model.Status{
		Attempt: t.Attempt, UnderWay: t.State == protocol.TaskOffering || t.State == protocol.TaskSending,
		Ended: t.State.Final(), Done: t.State == protocol.TaskDone,
	}
	for _, step := range t.Steps {
		status.Planned = max(status.Planned, model.Version(step.To.GUID))
	}
	return status
}

func describeTask(t protocol.Task) string {
	text := fmt.Sprintf("%s, step %d of %d, try %d", t.State, t.Next+1, len(t.Steps), t.Attempt)
	if t.Failure != nil {
		text += " (" + t.Failure.Message + ")"
	}
	return text
}

func (r stored) Key(to []byte) []byte { return keyOfTask(to, r.task) }
func (r stored) Status() model.Status { return statusOf(&r.task) }
func (r stored) Describe() string     { return describeTask(r.task) }

func (r stored) Load() model.Coordinator {
	job := modelJob()
	m := newMachine(modelPlan(job), []protocol.Task{r.task}, start, func() float64 { return 0 })
	return modelled{m}
}

func modelJob() protocol.Job {
	job := testJob(protocol.TransportTCP)
	job.Source.Filesystems = protocol.Filter{"tank": true}
	job.Replication.Initial = protocol.InitialAll
	// More tries in a row than what can go wrong: a task that has used them up has failed with nothing wrong.
	job.Replication.Attempts = 6
	return job
}

func modelPlan(job protocol.Job) protocol.Plan {
	return protocol.Plan{ID: "20261123t120000-model", Job: job.Name, Spec: job, State: protocol.PlanRunning}
}

// modelBegin plans as a runner does.
func modelBegin(source model.Source, target model.Target) (model.Coordinator, model.Record) {
	job := modelJob()
	p := modelPlan(job)
	task, _ := taskOf(p.ID, job, 0, modelLook(source, target).result)
	return modelled{newMachine(p, []protocol.Task{task}, start, func() float64 { return 0 })}, stored{task}
}

// modelLook is what a new look at both sides finds.
func modelLook(source model.Source, target model.Target) look {
	dataset := &protocol.Dataset{Name: "tank"}
	bookmark := func(format string, v model.Version) {
		version := snapshot(int(v))
		version.Type, version.Name = protocol.Bookmark, fmt.Sprintf(format, v)
		dataset.Versions = append(dataset.Versions, version)
	}
	for v := model.Version(1); v < 8; v++ {
		if source.StepBookmarks.Has(v) {
			bookmark("zrepl_STEP_G_%016x_J_prod.bravo", v)
		}
		if source.Tentative.Has(v) {
			bookmark("zrepl_CURSORTENTATIVE_G_%016x_J_prod.bravo", v)
		}
		if source.Cursors.Has(v) {
			bookmark("zrepl_CURSOR_G_%016x_J_prod.bravo", v)
		}
		if source.Snapshots.Has(v) {
			dataset.Versions = append(dataset.Versions, snapshot(int(v)))
		}
	}
	var received *protocol.Dataset
	if target.Exists {
		received = &protocol.Dataset{Name: "backup/tank"}
		for _, v := range target.Snapshots.Versions() {
			received.Versions = append(received.Versions, snapshot(int(v)))
		}
		if target.PartialTo != 0 {
			received.Resume = &protocol.ResumeState{
				ToGUID: uint64(target.PartialTo), FromGUID: uint64(target.PartialFrom), Token: "token",
			}
		}
	}
	job := modelJob()
	return lookOf(job, job.Targets[0], dataset.Name, dataset, received)
}

// scenario is a world to search: what is there at the begin, and what may go wrong.
type scenario struct {
	name string
	model.Options
	// small says that the search takes a second or so.
	small bool
}

// scenarios are searched in all their states. With three snapshots or more, a step may carry several (a range); those between its
// ends are not protected, which the model leaves out.
func scenarios() []scenario {
	fresh := model.Options{Source: model.Source{Snapshots: model.SetOf(1, 2)}, Plan: modelBegin, Slots: 1}
	begun := fresh
	begun.Source.Cursors = model.SetOf(1)
	begun.Target = model.Target{Exists: true, Snapshots: model.SetOf(1), Held: model.SetOf(1)}
	fromBookmark := begun
	fromBookmark.Source.Snapshots = model.SetOf(2)
	with := func(options model.Options, protection model.Protection, faults, prunes int) model.Options {
		options.Protection, options.Faults, options.Prunes = protection, faults+*deep, prunes
		return options
	}
	twoSlots := with(begun, model.Resumability, 1, 0)
	twoSlots.Slots = 2
	return []scenario{
		{"an increment, a fault, resumability", with(begun, model.Resumability, 1, 0), true},
		{"an increment, a fault, incremental", with(begun, model.Incremental, 1, 0), false},
		{"an increment, a fault and a prune, resumability", with(begun, model.Resumability, 1, 1), false},
		{"an increment, a fault and a prune, incremental", with(begun, model.Incremental, 1, 1), false},
		{"an increment from a bookmark, a fault", with(fromBookmark, model.Resumability, 1, 0), false},
		{"an increment, a fault, two claims in one process", twoSlots, false},
		{"a full step and an increment, a fault", with(fresh, model.Resumability, 1, 0), false},
		{"a full step and an increment, two prunes, resumability", with(fresh, model.Resumability, 0, 2), true},
		{"a full step and an increment, two prunes, incremental", with(fresh, model.Incremental, 0, 2), true},
	}
}

func search(t *testing.T, options model.Options) model.Result {
	t.Helper()
	began := time.Now()
	result, err := model.New(options).Search(t.Context())
	require.NoError(t, err)
	t.Logf("%d states, %d transitions, %d ends, %d steps deep, in %s", result.States, result.Transitions, result.Ends,
		result.Depth, time.Since(began).Round(time.Millisecond))
	return result
}

func TestNothingCanGoWrongInTheModel(t *testing.T) {
	t.Parallel()
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if !s.small && !*all && *deep == 0 {
				t.Skip("this is a larger search; ./task model does it")
			}
			result := search(t, s.Options)
			if result.Counterexample != nil {
				t.Fatal(result.Counterexample)
			}
			require.Positive(t, result.Ends, "some way must come to an end")
		})
	}
}

func TestTheModelFindsEveryBug(t *testing.T) {
	t.Parallel()
	for _, bug := range model.Bugs() {
		t.Run(string(bug), func(t *testing.T) {
			t.Parallel()
			options := scenarios()[0].Options
			if bug == model.LaterItemWins {
				options.Prunes = 1 // so that a try is given up, and another follows, before the fault
			}
			options.Faults, options.Bug = 1, bug
			result := search(t, options)
			require.NotNil(t, result.Counterexample, "a model that does not find it would find nothing")
			t.Logf("found after %d steps: %s", len(result.Counterexample.Steps), result.Counterexample.Wrong)
		})
	}
}

// A field that the key leaves out makes one of states that differ, and the search would pass over what follows from one of them.
func TestTheModelKnowsAllOfTheMachinesState(t *testing.T) {
	t.Parallel()
	for kind, known := range map[reflect.Type][]string{
		// One task of one plan; nothing is shared, so nobody is late; no other run waits, and times stand still. For stale, see Clone.
		reflect.TypeFor[machine](): {"plan", "tasks", "late", "stale", "hosts", "yielding", "latest", "jitter"},
		// In the key: claimed, claims, offer, looking. A task without others has no parent, and times stand still.
		reflect.TypeFor[task](): {
			"Task", "parent", "claimed", "claims", "seen", "begun", "offer", "offered", "looking", "unanswered",
		},
		// In the key: Steps, Next, State, Attempt, Failures. The rest is the same in all states, or for people.
		reflect.TypeFor[protocol.Task](): {
			"Plan", "Number", "Target", "TargetHost", "JobID", "Filesystem", "TargetFilesystem", "Common", "Partial", "Steps", "Next",
			"State", "Attempt", "Failures", "Group", "Alone", "Waiting", "WaitingSince", "NotBefore", "Bytes", "Note", "Failure",
			"Updated",
		},
	} {
		var fields []string
		for field := range kind.Fields() {
			fields = append(fields, field.Name)
		}
		require.Equal(t, known, fields, "%s has changed: put what is new into the model's key (modelled.Key) unless it is the same in all"+
			" states, and say so here", kind)
	}
}
