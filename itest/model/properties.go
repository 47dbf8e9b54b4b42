// What must hold in every state, and at the end.

package model

import "slices"

// violation says what is wrong with the state; empty is nothing. The numbers are those of the invariants in docs/architecture.md.
func (m *Model) violation(s *state) string {
	if s.broken != "" {
		return s.broken // 1 and 4
	}
	if newest := s.target.Snapshots.Newest(); newest != 0 && !m.within(s, newest) && !s.source.Protected().Has(newest) {
		return "2: nothing on the sender protects the last version that the receiver has"
	}
	if s.held && s.target.Held&s.target.Snapshots&s.source.Protected() == 0 {
		return "2: no version is both held on the receiver and protected on the sender"
	}
	if s.held && s.source.Cursors == 0 && s.cursor != 0 {
		return "1: there is no cursor any more"
	}
	if m.options.Protection == Resumability && s.target.PartialTo != 0 && !m.within(s, s.target.PartialTo) {
		from := s.target.PartialFrom
		if !s.source.Held.Has(s.target.PartialTo) {
			return "3: nothing holds the snapshot of which the receiver has a part"
		}
		if from != 0 && !s.source.Protected().Has(from) {
			return "3: nothing protects what the half received step begins from"
		}
	}
	var running [2]int
	for i, one := range s.slots {
		if one.busy && one.peer >= 0 {
			running[m.role(i)]++
		}
	}
	if running[Sender] > 1 || running[Receiver] > 1 {
		return "4: two claims on the same place run at the same time"
	}
	if now := s.status(); now.Ended && !now.Done {
		return "6: the task has ended with a failure: " + s.describe()
	}
	return ""
}

// within tells whether the version is one in the middle of a range that was to be sent. Those are not held: a range goes on from
// what has arrived of it.
func (m *Model) within(s *state, v Version) bool {
	return slices.ContainsFunc(s.archive, func(one Item) bool { return one.Range && one.From < v && v < one.To })
}

// unfinished says what is missing where nothing more happens.
func (m *Model) unfinished(s *state) string {
	now := s.status()
	newest := s.target.Snapshots.Newest()
	wanted := s.source.Snapshots & (2<<now.Planned - 1)
	switch {
	case !now.Done:
		return "6: nothing more happens, and the task is " + s.describe()
	case len(s.queue) > 0:
		return "4: nothing more happens, and an item is still in the queue"
	case wanted.Newest() > newest:
		return "6: the target has not all that was planned"
	case m.pruned(s) && m.protected(s, newest):
		// The job's next step sets the rest right.
	case s.source.Cursors != SetOf(newest):
		return "1: the only cursor is not that of the last version that the receiver has"
	case s.target.Held != SetOf(newest):
		return "2: the only last-received hold is not that of the last version"
	case m.left(s)&^m.harmless(s) != 0:
		return "the step's protection was left behind"
	case s.target.PartialTo != 0 && (m.options.Protection == Resumability || s.source.Snapshots.Has(s.target.PartialTo)):
		return "the target was left with a partial state"
	}
	return ""
}

func (m *Model) pruned(s *state) bool { return int(s.prunes) < m.options.Prunes }

// protected tells whether the next step can begin from the version, whatever anybody destroys.
func (m *Model) protected(s *state, v Version) bool {
	return s.source.Protected().Has(v) && s.target.Held&s.source.Protected() != 0 && m.left(s)&^m.harmless(s) == 0
}

// left is what is still protected for a step, though there is none.
func (m *Model) left(s *state) Set {
	return s.source.Held | s.source.StepBookmarks | s.source.Tentative
}

// harmless are the versions that may stay protected until the job's next step, where the snapshot that was to be sent was
// destroyed: that which both sides have, which the cursor protects anyway, and those of which there are only bookmarks left.
func (m *Model) harmless(s *state) Set {
	if !m.pruned(s) {
		return 0
	}
	return s.source.Cursors | ^s.source.Snapshots
}
