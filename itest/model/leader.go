// The leader's transitions: taking events, looking at both sides, and taking over from one that has died.

package model

import "slices"

// input is something that the leader learns. It hands the commands that follow to do, which tells whether the leader lives.
type input struct {
	label Label
	take  func(s *state, do func([]Command) bool)
}

// leaderSteps are what the leader can do next. Nobody sees what it does between an input and the next one, but a leader that
// takes over: that one may have died at any command is among the faults.
func (m *Model) leaderSteps(s *state, yield func(Label, *state)) {
	for _, in := range m.inputs(s) {
		next := s.clone()
		m.take(next, in, -1)
		yield(in.label, next)
	}
}

// leaderDeaths are the leader's deaths: at rest, and between the commands that follow from an input.
func (m *Model) leaderDeaths(s *state, yield func(Label, *state)) {
	if s.leader.down {
		return
	}
	next := s.clone()
	next.leader = leader{down: true}
	yield(Label{"coordinator", "dies", 0}, next)
	for _, in := range m.inputs(s) {
		for limit := 1; ; limit++ {
			next := s.clone()
			if m.take(next, in, limit) {
				break
			}
			next.leader = leader{down: true}
			yield(Label{in.label.Who, in.label.What + " (and dies, when so many commands were carried out:)", limit}, next)
		}
	}
}

// take gives the leader an input and carries out what follows, but at most so many commands; it returns false when the leader
// died of that.
func (m *Model) take(s *state, in input, limit int) (lives bool) {
	lives = true
	if !s.leader.down {
		s.leader.coordinator = s.leader.coordinator.Clone()
	}
	do := func(commands []Command) bool {
		for _, command := range commands {
			if limit == 0 || !lives {
				lives = false
				return false
			}
			limit--
			m.carryOut(s, command)
		}
		return lives
	}
	in.take(s, do)
	if lives {
		do(s.leader.coordinator.Advance())
	}
	return lives
}

func (m *Model) inputs(s *state) []input {
	l := &s.leader
	if l.down {
		return []input{{Label{"coordinator", "another one takes over", 0}, m.takeOver}}
	}
	var inputs []input
	if int(l.read) < len(s.events) {
		e := s.events[l.read]
		inputs = append(inputs, input{Label{"coordinator", readings[e.Kind], int(e.Attempt)}, func(s *state, do func([]Command) bool) {
			s.leader.read++
			do(s.leader.coordinator.Apply(e))
		}})
	}
	switch l.looking {
	case lookAtSource:
		inputs = append(inputs, input{Label{"coordinator", "looks at the source", 0}, func(s *state, _ func([]Command) bool) {
			s.leader.looking, s.leader.foundSource = lookAtTarget, s.source
		}})
	case lookAtTarget:
		inputs = append(inputs, input{Label{"coordinator", "looks at the target", 0}, func(s *state, _ func([]Command) bool) {
			s.leader.looking, s.leader.foundTarget = lookedAtBoth, s.target
		}})
	case lookedAtBoth:
		inputs = append(inputs, input{Label{"coordinator", "plans anew", 0}, func(s *state, do func([]Command) bool) {
			source, target := s.leader.foundSource, s.leader.foundTarget
			s.leader.looking, s.leader.foundSource, s.leader.foundTarget = notLooking, Source{}, Target{}
			do(s.leader.coordinator.Looked(source, target))
		}})
	case notLooking:
	}
	return inputs
}

var readings = [...]string{
	EventClaimed: "reads that it is claimed: try", EventOffered: "reads the offer: try", EventDone: "reads that it is done: try",
	EventFailed: "reads that it failed: try",
}

// takeOver has a new leader load what is stored, and apply the events from before its time.
func (m *Model) takeOver(s *state, do func([]Command) bool) {
	s.leader = leader{coordinator: s.record.Load()}
	for _, e := range s.events {
		s.leader.read++
		s.leader.coordinator.Replay(e)
		if !do(s.leader.coordinator.Apply(e)) {
			return
		}
	}
	do(s.leader.coordinator.Recovered())
}

func (m *Model) carryOut(s *state, command Command) {
	switch {
	case command.Save != nil:
		s.record = command.Save
	case command.Publish != nil:
		m.publish(s, *command.Publish)
	case command.Withdraw:
		m.withdraw(s, command)
	case command.Look:
		s.leader.looking = lookAtSource
	}
}

// publish puts the item into the queue, unless it was there before.
func (m *Model) publish(s *state, item Item) {
	same := func(other Item) bool {
		return other.Role == item.Role && other.Step == item.Step && other.Attempt == item.Attempt
	}
	if slices.ContainsFunc(s.archive, same) {
		for _, q := range s.queue {
			if same(q.Item) {
				s.leader.published = append(s.leader.published, q.sequence)
			}
		}
		return
	}
	s.sequence++
	s.archive = append(s.archive, item)
	s.queue = append(s.queue, queued{Item: item, sequence: s.sequence, holder: -1})
	s.leader.published = append(s.leader.published, s.sequence)
}

// withdraw tells the try's workers to stop, and removes its items unless they are claimed.
func (m *Model) withdraw(s *state, command Command) {
	for i := range s.slots {
		one := &s.slots[i]
		if one.busy && one.item.Attempt <= command.Attempt {
			one.stopped = true
		}
	}
	published := s.leader.published
	s.leader.published = nil
	if command.Claimed {
		return
	}
	s.queue = slices.DeleteFunc(s.queue, func(q queued) bool { return slices.Contains(published, q.sequence) })
}
