// The workers' transitions: one action of one claim each.

package model

import "slices"

// at is the action that the slot does next.
func (m *Model) at(one slot) Action { return m.action(one.program, int(one.pc)) }

func (m *Model) action(p Program, pc int) Action { return m.programs[p][pc] }

// workerSteps are the next actions of all claims.
func (m *Model) workerSteps(s *state, yield func(Label, *state)) {
	for i := range s.slots {
		one := &s.slots[i]
		if !one.busy {
			continue
		}
		who := workers[m.process(i)]
		if m.canStop(one) {
			next := s.clone()
			m.end(next, i, Dropped)
			yield(Label{who, "stops, as it was told to", 0}, next)
		}
		if next := m.act(s, i); next != nil {
			first := m.at(*one)
			m.goOn(next, i, first)
			yield(Label{who, string(first), 0}, next)
		}
	}
}

// goOn does the actions after the one just done that nothing else can come in between of with any effect: what frees the place
// may as well be at once, and so may what follows on taking it. Where nothing can go wrong any more, neither can anything that
// only the holder of the place touches.
func (m *Model) goOn(s *state, i int, last Action) {
	for one := &s.slots[i]; one.busy; {
		next := m.at(*one)
		calm := s.faults == 0 && s.prunes == 0 && !one.stopped
		switch {
		case next == Unlock, last == Lock && next == TellClaimed:
		case last == TellClaimed && (next == Validate || next == Prepare) && calm:
		case calm && slices.Contains(calmly, [2]Action{last, next}):
		default:
			return
		}
		if wrong := m.violation(s); wrong != "" {
			s.broken = wrong
			return
		}
		m.do(s, i)
		last = next
	}
}

// calmly are actions that follow on each other, and touch only what the place's holder does.
var calmly = [][2]Action{
	{Validate, Protect},
	{Protect, Tidy},
	{MoveCursor, Release},
	{Release, TellDone},
	{Prepare, TellOffered},
	{CheckGUID, Hold},
	{Hold, ReleaseOlder},
	{ReleaseOlder, Confirm},
}

// canStop tells whether the claim may end because its try was given up: the worker may hear of that at any time, or too late.
func (m *Model) canStop(one *slot) bool {
	if !one.stopped || one.program >= Failed {
		return false
	}
	switch m.at(*one) { //nolint:exhaustive // the others can be stopped
	case Unlock, Acknowledge, TellDone, TellReceived:
		return false
	}
	return true
}

// act does the slot's next action in a copy; nil where it has to wait.
func (m *Model) act(s *state, i int) *state {
	one := &s.slots[i]
	switch m.at(*one) { //nolint:exhaustive // the others never wait
	case Lock:
		return m.actLock(s, i)
	case Connect:
		return m.actConnect(s, i)
	case Accept:
		return nil // the sender's action is both
	case Stream:
		if !one.confirmed && one.peer >= 0 {
			return nil
		}
	}
	next := s.clone()
	m.do(next, i)
	return next
}

// actLock takes the place, waits for it, or finds that a newer claim has had it.
func (m *Model) actLock(s *state, i int) *state {
	one := &s.slots[i]
	l := &s.locks[m.role(i)]
	fenced := m.options.Bug != NoFencing
	known := s.registries[m.process(i)]
	if known.attempt > one.item.Attempt || known.attempt == one.item.Attempt && known.ended {
		next := s.clone()
		m.end(next, i, Dropped)
		return next
	}
	if fenced {
		switch fate := m.standing(*l, one); {
		case fate != one.program:
			next := s.clone()
			m.end(next, i, fate)
			return next
		case l.holder >= 0:
			holder := &s.slots[l.holder]
			if holder.stopped || holder.item.Attempt >= one.item.Attempt {
				return nil
			}
			next := s.clone()
			next.slots[l.holder].stopped = true // an older try has to make room
			return next
		}
	}
	next := s.clone()
	if fenced {
		taken := lock{holder: int8(i), attempt: one.item.Attempt, sequence: one.sequence, delivery: one.delivery}
		taken.confirmed = l.confirmed && l.attempt == one.item.Attempt && m.options.Bug != ForgottenEnd
		if taken.confirmed && one.program == Send {
			next.slots[i].program = Settle // the streaming is over
		}
		next.locks[m.role(i)] = taken
		next.slots[i].locked = true
	}
	next.registries[m.process(i)] = registry{attempt: one.item.Attempt}
	m.advance(next, i)
	return next
}

// standing is how a claim goes on, going by the one that had the place last: a newer try, or the end of this one, leaves nothing
// to do, and a later delivery of the same item has taken the item over. A later item does not have to be of a newer try: a
// coordinator that was deposed and does not know it may publish an old one at any time.
func (m *Model) standing(l lock, one *slot) Program {
	switch {
	case l.attempt > one.item.Attempt:
		return Dropped
	case l.attempt < one.item.Attempt && m.options.Bug != LaterItemWins:
		return one.program
	case l.ended && l.attempt == one.item.Attempt && m.options.Bug != ForgottenEnd, l.sequence > one.sequence:
		return Dropped
	case l.sequence == one.sequence && l.delivery > one.delivery:
		return Overtaken
	}
	return one.program
}

// actConnect finds the receiver that made the offer.
func (m *Model) actConnect(s *state, i int) *state {
	next := s.clone()
	for j, other := range s.slots {
		if other.busy && m.role(j) == Receiver && m.at(other) == Accept && claimOf(other) == s.slots[i].item.Offer.Claim {
			next.slots[i].peer, next.slots[j].peer = int8(j), int8(i)
			m.advance(next, i)
			m.advance(next, j)
			return next
		}
	}
	m.fail(next, i, false)
	return next
}

// claimOf names the claim, as an offer's secret does.
func claimOf(one slot) uint16 { return uint16(one.sequence)<<8 | uint16(one.delivery) }

// advance goes on to the next action; after the last one, the slot is free.
func (m *Model) advance(s *state, i int) {
	one := &s.slots[i]
	one.pc++
	if int(one.pc) == len(m.programs[one.program]) {
		s.slots[i] = slot{}
	}
}

// do does an action that never waits.
func (m *Model) do(s *state, i int) {
	one := &s.slots[i]
	switch m.at(*one) {
	case TellClaimed:
		m.tell(s, i, EventClaimed, Offer{})
	case TellOffered:
		m.tell(s, i, EventOffered, Offer{Claim: claimOf(*one), HasTo: one.program == HaveIt, Resume: s.resumes(one.item)})
		if one.program == HaveIt {
			m.ended(s, i)
		}
	case TellReceived:
		m.ended(s, i)
	case TellDone:
		m.tell(s, i, EventDone, Offer{})
		m.ended(s, i)
	case TellFailed:
		m.tell(s, i, EventFailed, Offer{})
		m.ended(s, i)
	case TellDropped:
	case Unlock:
		m.unlock(s, i)
	case Acknowledge:
		m.acknowledge(s, i)
	case Validate:
		if !m.validate(s, one) {
			m.fail(s, i, false)
			return
		}
	case Protect:
		if !m.protect(s, one) {
			m.fail(s, i, s.backwards(one))
			return
		}
	case Tidy:
		m.tidy(s, one)
	case Stream:
		if !one.confirmed {
			m.fail(s, i, false)
			return
		}
		if one.locked {
			s.locks[Sender].confirmed = true
		}
		m.disconnect(s, i)
	case MoveCursor:
		if !m.moveCursor(s, one) {
			m.fail(s, i, s.backwards(one))
			return
		}
	case Release:
		m.release(s, one)
	default:
		m.doReceiving(s, i)
		return
	}
	m.advance(s, i)
}

// doReceiving does an action of the receiver's.
func (m *Model) doReceiving(s *state, i int) {
	one := &s.slots[i]
	target := &s.target
	switch m.at(*one) { //nolint:exhaustive // the others are the sender's, or of both (do)
	case Prepare:
		switch usable, conflict := m.prepare(s, one); {
		case target.Snapshots.Has(one.item.To):
			s.checked |= SetOf(one.item.To)
			one.program = HaveIt
			one.pc = int8(slices.Index(m.programs[HaveIt], Prepare))
		case !usable:
			m.fail(s, i, conflict)
			return
		}
	case Receive:
		switch {
		case one.peer < 0:
			m.fail(s, i, false)
			return
		case !m.receive(s, one):
			m.fail(s, i, true)
			return
		case !target.Snapshots.Has(one.item.To):
			return // more is to come
		}
	case CheckGUID:
		if !target.Snapshots.Has(one.item.To) {
			m.fail(s, i, false)
			return
		}
		s.checked |= SetOf(one.item.To)
	case Hold:
		newer := target.Held &^ (2<<one.item.To - 1)
		if !target.Snapshots.Has(one.item.To) {
			m.fail(s, i, false)
			return
		}
		if newer == 0 {
			target.Held |= SetOf(one.item.To)
			s.held = true
		}
	case ReleaseOlder:
		target.Held &^= SetOf(one.item.To) - 1
	case Confirm:
		if one.peer < 0 {
			m.fail(s, i, false)
			return
		}
		s.slots[one.peer].confirmed = true
	}
	m.advance(s, i)
}

func (m *Model) tell(s *state, i int, kind EventKind, offer Offer) {
	one := s.slots[i]
	s.events = append(s.events, Event{
		Kind: kind, Role: m.role(i), Step: one.item.Step, Attempt: one.item.Attempt, To: one.item.To, Offer: offer,
		Item: one.sequence, Delivery: one.delivery, Conflict: one.conflict,
	})
}

// ended notes that the end of the claim's try was told.
func (m *Model) ended(s *state, i int) {
	one := s.slots[i]
	s.told[m.role(i)] |= 1 << one.item.Attempt
	if known := &s.registries[m.process(i)]; known.attempt == one.item.Attempt {
		known.ended = true
	}
	if l := &s.locks[m.role(i)]; one.locked && l.attempt == one.item.Attempt {
		l.ended = true
	}
}

func (m *Model) unlock(s *state, i int) {
	if s.slots[i].locked {
		s.locks[m.role(i)].holder = -1
		s.slots[i].locked = false
	}
}

// acknowledge removes the item, whoever has it now: the server takes the acknowledgement of any delivery.
func (m *Model) acknowledge(s *state, i int) {
	one := s.slots[i]
	at := slices.IndexFunc(s.queue, func(q queued) bool { return q.sequence == one.sequence })
	if at < 0 {
		return
	}
	s.queue = slices.Delete(s.queue, at, at+1)
	now := s.record.Status()
	again := slices.ContainsFunc(s.queue, func(q queued) bool { return q.Role == m.role(i) && q.Attempt == one.item.Attempt })
	if !again && s.told[m.role(i)]>>one.item.Attempt&1 == 0 && now.Attempt == int(one.item.Attempt) && now.UnderWay {
		s.broken = "an item was removed from the queue, and nobody has told how its try ended"
	}
}

// fail ends the claim with a failure.
func (m *Model) fail(s *state, i int, conflict bool) {
	s.slots[i].conflict = conflict
	m.end(s, i, Failed)
}

// end has the claim go on with what ends it.
func (m *Model) end(s *state, i int, with Program) {
	m.disconnect(s, i)
	s.slots[i].program, s.slots[i].pc = with, 0
}

// disconnect breaks the connection for both. A confirmation that was sent arrives yet.
func (m *Model) disconnect(s *state, i int) {
	if peer := s.slots[i].peer; s.slots[i].busy && peer >= 0 {
		s.slots[i].peer, s.slots[peer].peer = -1, -1
	}
}

// validate compares the step with the sender's pool.
func (m *Model) validate(s *state, one *slot) bool {
	one.listing = s.source
	if one.program == Settle {
		return (s.source.Snapshots | s.source.Bookmarks()).Has(one.item.To)
	}
	from := s.source.Snapshots
	if !one.item.Range {
		from |= s.source.Bookmarks()
	}
	return s.source.Snapshots.Has(one.item.To) && (one.item.From == 0 || from.Has(one.item.From))
}

// needed is what the step's protection creates: holds, step bookmarks, tentative cursors.
func (m *Model) needed(one *slot) (hold, step, tentative Set) {
	from := SetOf(one.item.From)
	if m.options.Protection == Incremental {
		return 0, 0, from | SetOf(one.item.To)
	}
	if one.listing.Snapshots&from != 0 {
		return from | SetOf(one.item.To), 0, 0
	}
	return SetOf(one.item.To), from, 0
}

// backwards tells whether the cursor has passed the step's to, as far as the claim knows.
func (s *state) backwards(one *slot) bool { return one.listing.Cursors.Newest() > one.item.To }

func (m *Model) protect(s *state, one *slot) bool {
	if s.backwards(one) {
		return false
	}
	hold, step, tentative := m.needed(one)
	s.source.Held |= hold & s.source.Snapshots
	there := s.source.Snapshots | s.source.Bookmarks()
	s.source.StepBookmarks |= step & there
	s.source.Tentative |= tentative & there
	return hold&^s.source.Snapshots == 0 && (step|tentative)&^there == 0
}

func (m *Model) tidy(s *state, one *slot) {
	if one.item.From != 0 && one.listing.Cursors.Newest() > one.item.From {
		return
	}
	ofStep := SetOf(one.item.From, one.item.To)
	if m.options.Protection == Resumability {
		s.source.Held &^= one.listing.Held &^ ofStep
	} else {
		s.source.Held &^= one.listing.Held
	}
	s.source.StepBookmarks &^= one.listing.StepBookmarks &^ ofStep
	s.source.Tentative &^= one.listing.Tentative &^ ofStep
}

func (m *Model) moveCursor(s *state, one *slot) bool {
	to := SetOf(one.item.To)
	if s.backwards(one) || (s.source.Snapshots|s.source.Bookmarks())&to == 0 {
		return false
	}
	s.source.Cursors |= to
	switch {
	case !s.checked.Has(one.item.To):
		s.broken = "the cursor was moved to what the receiver has not confirmed"
	case one.item.To < s.cursor:
		s.broken = "the cursor was moved back"
	}
	s.cursor = max(s.cursor, one.item.To)
	return true
}

func (m *Model) release(s *state, one *slot) {
	hold, step, tentative := m.needed(one)
	if one.program == Settle {
		hold, step, tentative = hold&one.listing.Snapshots, step&one.listing.Bookmarks(), tentative&one.listing.Bookmarks()
	}
	s.source.Held &^= one.listing.Held | hold
	s.source.StepBookmarks &^= one.listing.StepBookmarks | step
	s.source.Tentative &^= one.listing.Tentative | tentative
	s.source.Cursors &^= one.listing.Cursors &^ SetOf(one.item.To)
}

// resumes tells whether the target's partial state is of the item's step.
func (s *state) resumes(item Item) bool {
	return s.target.PartialTo == item.To && s.target.PartialFrom == item.From && !item.Range && item.To != 0
}

// prepare compares the step with the receiver's pool, and abandons a partial state that is of no use.
func (m *Model) prepare(s *state, one *slot) (usable, conflict bool) {
	t := &s.target
	switch {
	case !t.Exists:
		return !one.item.Resume, false
	case one.item.From == 0 && t.PartialTo == 0:
		return false, true // it is somebody else's
	case t.PartialTo == 0:
		return !one.item.Resume, false
	case s.resumes(one.item):
		return true, false
	case one.item.Resume || one.delivery > 1 || s.receiving():
		return false, false
	}
	if t.PartialTo, t.PartialFrom = 0, 0; t.Snapshots == 0 {
		t.Exists = false
	}
	return true, false
}

// receiving tells whether a zfs recv runs.
func (s *state) receiving() bool {
	return slices.ContainsFunc(s.slots, func(one slot) bool { return one.busy && one.begun })
}

// receive takes a part of the next snapshot, or the rest of it; false is a stream that does not fit.
func (m *Model) receive(s *state, one *slot) bool {
	t := &s.target
	from := t.Snapshots.Newest()
	next := one.item.To
	if one.item.Range {
		for v := from + 1; v < next; v++ {
			if s.source.Snapshots.Has(v) {
				next = v
			}
		}
	} else if from != one.item.From {
		return false
	}
	if t.PartialTo != next || t.PartialFrom != from {
		t.Exists, t.PartialTo, t.PartialFrom, one.begun = true, next, from, true
		return true
	}
	t.Snapshots |= SetOf(next)
	t.PartialTo, t.PartialFrom, one.begun = 0, 0, false
	return true
}
