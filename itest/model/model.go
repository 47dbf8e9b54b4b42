// The model: what can happen next, and what must never be the case.

package model

import (
	"fmt"
	"slices"
)

// Options say what is searched.
type Options struct {
	Protection Protection
	// Source and Target are the pools at the begin, Plan makes the coordinator of a plan for them, and its record.
	Source Source
	Target Target
	Plan   func(Source, Target) (Coordinator, Record)

	// Slots are each worker process's, for each role. Every host has two processes.
	Slots int
	// Faults bounds how often something goes wrong: a process dies, a claim is given to another although its worker runs, an
	// acknowledgement is lost, a connection breaks, an item is published twice, a deadline passes while everybody is alive.
	Faults int
	// Prunes bounds the snapshots that somebody destroys, on either side, and Snapshots those that are made.
	Prunes, Snapshots int

	Bug Bug
}

// Model is a world whose states can be searched.
type Model struct {
	options  Options
	programs [programs][]Action
}

// New makes a model.
func New(options Options) *Model {
	m := &Model{options: options}
	for p := range programs {
		m.programs[p] = options.Bug.order(p)
	}
	return m
}

const processes = 2 // of each host

func (m *Model) initial() *state {
	s := &state{
		source: m.options.Source, target: m.options.Target, newest: m.options.Source.Snapshots.Newest(),
		faults: int8(m.options.Faults), prunes: int8(m.options.Prunes), snapshots: int8(m.options.Snapshots),
		locks:   [2]lock{{holder: -1}, {holder: -1}},
		checked: m.options.Target.Snapshots, cursor: m.options.Source.Cursors.Newest(), held: m.options.Target.Held != 0,
		slots:      make([]slot, 2*processes*m.options.Slots),
		registries: make([]registry, 2*processes),
	}
	coordinator, record := m.options.Plan(s.source, s.target)
	s.record = record
	s.leader = leader{coordinator: coordinator}
	m.take(s, input{take: func(*state, func([]Command) bool) {}}, -1)
	return s
}

// role is the side that a slot serves, and process its worker process.
func (m *Model) role(i int) Role   { return Role(i / (processes * m.options.Slots)) }
func (m *Model) process(i int) int { return i / m.options.Slots }

// Label names a transition.
type Label struct {
	Who, What string
	Number    int
}

func (l Label) String() string {
	if l.Number != 0 {
		return fmt.Sprintf("%s: %s %d", l.Who, l.What, l.Number)
	}
	return l.Who + ": " + l.What
}

var workers = [...]string{"worker alpha-1", "worker alpha-2", "worker bravo-1", "worker bravo-2"}

// successors calls yield with every state that can follow. Deadlines pass only where nothing else can happen, unless that is one of
// the faults. It tells whether there was any that is no fault.
func (m *Model) successors(s *state, yield func(Label, *state)) (alive bool) {
	normal := func(l Label, next *state) {
		alive = true
		m.settle(next)
		yield(l, next)
	}
	m.workerSteps(s, normal)
	m.deliveries(s, normal)
	m.leaderSteps(s, normal)
	if !alive {
		m.deadlines(s, normal)
	}
	if s.faults > 0 {
		m.faults(s, alive, func(l Label, next *state) {
			next.faults--
			m.settle(next)
			yield(l, next)
		})
	}
	m.operators(s, func(l Label, next *state) {
		m.settle(next)
		yield(l, next)
	})
	return alive
}

// deliveries gives items to workers, and takes claims away from workers that are dead.
func (m *Model) deliveries(s *state, yield func(Label, *state)) {
	for n, q := range s.queue {
		if q.claimed {
			if !m.worksOn(s, q) {
				next := s.clone()
				next.queue[n].claimed = false
				yield(Label{"queue", "the claim ends, since its worker does not extend it: item", int(q.sequence)}, next)
			}
			continue
		}
		for process := range processes {
			process += int(q.Role) * processes
			if process%processes == 1 && m.alike(s, process-1, process) {
				continue
			}
			i := m.freeSlot(s, process)
			if i < 0 {
				continue
			}
			next := s.clone()
			item := &next.queue[n]
			item.claimed, item.deliveries, item.holder = true, item.deliveries+1, int8(i)
			program := ReceiveStep
			switch {
			case q.Role == Sender && q.Offer.HasTo:
				program = Settle
			case q.Role == Sender:
				program = Send
			}
			next.slots[i] = slot{
				busy: true, item: q.Item, sequence: q.sequence, delivery: item.deliveries, program: program, peer: -1,
			}
			yield(Label{workers[process], "claims item", int(q.sequence)}, next)
		}
	}
}

// worksOn tells whether the slot that the item was delivered to last still works on that delivery.
func (m *Model) worksOn(s *state, q queued) bool {
	one := s.slots[q.holder]
	return one.busy && one.sequence == q.sequence && one.delivery == q.deliveries
}

func (m *Model) freeSlot(s *state, process int) int {
	for i := process * m.options.Slots; i < (process+1)*m.options.Slots; i++ {
		if !s.slots[i].busy {
			return i
		}
	}
	return -1
}

// alike tells whether nothing distinguishes two processes: both are idle and remember the same.
func (m *Model) alike(s *state, a, b int) bool {
	if s.registries[a] != s.registries[b] {
		return false
	}
	for k := range m.options.Slots {
		if s.slots[a*m.options.Slots+k].busy || s.slots[b*m.options.Slots+k].busy {
			return false
		}
	}
	return true
}

// faults are what goes wrong.
func (m *Model) faults(s *state, alive bool, yield func(Label, *state)) {
	for process := range 2 * processes {
		if m.busyProcess(s, process) || s.registries[process] != (registry{}) {
			next := s.clone()
			m.kill(next, process)
			yield(Label{workers[process], "dies, and is started again", 0}, next)
		}
	}
	m.leaderDeaths(s, yield)
	for n, q := range s.queue {
		if q.claimed && m.worksOn(s, q) {
			next := s.clone()
			next.queue[n].claimed = false
			yield(Label{"queue", "the claim ends although its worker runs: item", int(q.sequence)}, next)
		}
	}
	for i, one := range s.slots {
		if !one.busy {
			continue
		}
		if one.peer >= 0 && m.role(i) == Sender {
			next := s.clone()
			m.disconnect(next, i)
			yield(Label{"network", "the connection breaks", 0}, next)
		}
		if m.at(one) == Acknowledge && slices.ContainsFunc(s.queue, func(q queued) bool { return q.sequence == one.sequence }) {
			next := s.clone()
			m.advance(next, i)
			yield(Label{"network", "an acknowledgement is lost: item", int(one.sequence)}, next)
		}
	}
	for _, item := range s.archive {
		if slices.ContainsFunc(s.queue, func(q queued) bool { return q.Item == item }) {
			continue
		}
		next := s.clone()
		next.sequence++
		next.queue = append(next.queue, queued{Item: item, sequence: next.sequence, holder: -1})
		yield(Label{"coordinator", "one that was deposed publishes its item late: try", int(item.Attempt)}, next)
	}
	if alive {
		m.deadlines(s, yield)
	}
}

func (m *Model) busyProcess(s *state, process int) bool {
	for k := range m.options.Slots {
		if s.slots[process*m.options.Slots+k].busy {
			return true
		}
	}
	return false
}

// kill ends a process: the kernel frees its locks, and its connections break.
func (m *Model) kill(s *state, process int) {
	for k := range m.options.Slots {
		i := process*m.options.Slots + k
		m.disconnect(s, i)
		m.unlock(s, i)
		s.slots[i] = slot{}
	}
	s.registries[process] = registry{}
}

// deadlines are those of everybody who waits.
func (m *Model) deadlines(s *state, yield func(Label, *state)) {
	for i, one := range s.slots {
		if one.busy && m.at(one) == Accept {
			next := s.clone()
			m.fail(next, i, false)
			yield(Label{workers[m.process(i)], "no sender has come", 0}, next)
		}
	}
	if s.leader.down {
		return
	}
	next := s.clone()
	passed := false
	m.take(next, input{take: func(s *state, do func([]Command) bool) {
		commands := s.leader.coordinator.Timeout()
		passed = len(commands) > 0
		do(commands)
	}}, -1)
	if passed {
		yield(Label{"coordinator", "a deadline passes", 0}, next)
	}
}

// operators destroy what nobody holds, and make snapshots.
func (m *Model) operators(s *state, yield func(Label, *state)) {
	if s.prunes > 0 {
		for _, v := range (s.source.Snapshots &^ s.source.Held &^ m.beingSent(s)).Versions() {
			next := s.clone()
			next.prunes--
			next.source.Snapshots &^= SetOf(v)
			yield(Label{"pruner on alpha", "destroys", int(v)}, next)
		}
		// A pruner keeps the newest.
		for _, v := range (s.target.Snapshots &^ s.target.Held &^ SetOf(s.target.Snapshots.Newest())).Versions() {
			next := s.clone()
			next.prunes--
			next.target.Snapshots &^= SetOf(v)
			yield(Label{"pruner on bravo", "destroys", int(v)}, next)
		}
	}
	if s.snapshots > 0 {
		next := s.clone()
		next.snapshots--
		next.newest++
		next.source.Snapshots |= SetOf(next.newest)
		yield(Label{"operator", "takes snapshot", int(next.newest)}, next)
	}
}

// beingSent are the snapshots that a running zfs send keeps from being destroyed.
func (m *Model) beingSent(s *state) Set {
	var busy Set
	for _, one := range s.slots {
		if one.busy && one.program == Send && one.peer >= 0 {
			busy |= SetOf(one.item.From, one.item.To)
		}
	}
	return busy
}

// settle takes out of the state what nothing can depend on any more, so that states that differ in nothing else are one.
func (m *Model) settle(s *state) {
	for i := range s.slots {
		if one := &s.slots[i]; one.program >= Failed {
			one.listing = Source{}
		}
	}
	now := s.record.Status()
	for role := range s.told {
		s.told[role] &^= 1<<now.Attempt - 1
	}
	if s.faults > 0 || s.leader.down {
		return
	}
	// No other leader will read the events, and nobody publishes an old item any more.
	s.events, s.leader.read = s.events[s.leader.read:], 0
	s.archive = slices.DeleteFunc(slices.Clone(s.archive), func(one Item) bool { return int(one.Attempt) < now.Attempt })
	for role := range Receiver + 1 {
		oldest := uint8(now.Attempt)
		for _, q := range s.queue {
			if q.Role == role {
				oldest = min(oldest, q.Attempt)
			}
		}
		for i, one := range s.slots {
			if one.busy && m.role(i) == role {
				oldest = min(oldest, one.item.Attempt)
			}
		}
		for process := int(role) * processes; process < int(role+1)*processes; process++ {
			if s.registries[process].attempt < oldest {
				s.registries[process] = registry{}
			}
		}
		if l := &s.locks[role]; l.attempt < oldest && l.holder < 0 {
			*l = lock{holder: -1}
		}
	}
}
