// The state of the world between two transitions.

package model

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// state is everything: the pools, the queue, the events, the workers, the leader, and what may still happen.
type state struct {
	source Source
	target Target
	newest Version

	queue []queued
	// archive are all items ever published, by the sequence of their first publication; the stream drops what it has seen.
	archive []Item
	// sequence is the queue's last.
	sequence uint8

	slots []slot
	// locks are the places' of both roles, registries those of the worker processes.
	locks      [2]lock
	registries []registry

	events []Event
	leader leader
	record Record

	// What may still happen.
	faults, prunes, snapshots int8

	// What has happened, for the properties only: versions that the receiver has found by guid, the newest cursor that ever was,
	// tries whose end was told by each role, and whether a last-received hold was ever put.
	checked Set
	cursor  Version
	told    [2]uint32
	held    bool
	broken  string
}

// queued is an item in the queue.
type queued struct {
	Item
	sequence uint8
	// deliveries counts them. A delivered item is claimed until it is acknowledged, or given to another.
	deliveries uint8
	claimed    bool
	// holder is the slot that it was delivered to last.
	holder int8
}

// slot is one of a worker process's: it works on one claim at a time.
type slot struct {
	busy               bool
	item               Item
	sequence, delivery uint8

	program Program
	pc      int8
	// begun says that a receive has a part.
	begun bool
	// peer is the slot at the other end of the connection; -1 is none.
	peer int8
	// confirmed says that the receiver's confirmation has arrived, and stopped that the try is to stop.
	confirmed, stopped bool
	// locked says that the slot holds the lock of its place, conflict that its failure is one.
	locked, conflict bool
	// listing is the sender's pool as it was when the step was validated.
	listing Source
}

// lock is the file that the workers of a host share for a place.
type lock struct {
	// holder is the slot that holds it; -1 is none.
	holder int8
	// attempt, sequence and delivery are those of the claim that held it last; confirmed says that its receiver has confirmed, and
	// ended that the end of its try was told.
	attempt, sequence, delivery uint8
	confirmed, ended            bool
}

// registry is what a worker process remembers of the task.
type registry struct {
	attempt uint8
	ended   bool
}

// leader is the coordinator that leads.
type leader struct {
	// down says that there is none; the other fields are then empty.
	down        bool
	coordinator Coordinator
	// read is how many events were applied.
	read uint8
	// published are the sequences of the items of the current try.
	published []uint8
	// looking is how far a new look is; found is what it has seen.
	looking     looking
	foundSource Source
	foundTarget Target
}

type looking uint8

const (
	notLooking looking = iota
	lookAtSource
	lookAtTarget
	lookedAtBoth
)

// clone copies the state. The coordinator is copied when it is given something (take).
func (s *state) clone() *state {
	c := *s
	c.queue = slices.Clone(s.queue)
	c.archive = slices.Clip(s.archive)
	c.slots = slices.Clone(s.slots)
	c.registries = slices.Clone(s.registries)
	c.events = slices.Clip(s.events)
	c.leader.published = slices.Clip(s.leader.published)
	return &c
}

// key appends all that the future depends on.
func (s *state) key(to []byte) []byte {
	flags := func(values ...bool) byte {
		var b byte
		for i, value := range values {
			if value {
				b |= 1 << i
			}
		}
		return b
	}
	source := func(to []byte, p Source) []byte {
		return append(to, byte(p.Snapshots), byte(p.Held), byte(p.StepBookmarks), byte(p.Tentative), byte(p.Cursors))
	}
	target := func(to []byte, p Target) []byte {
		return append(to, flags(p.Exists), byte(p.Snapshots), byte(p.Held), byte(p.PartialTo), byte(p.PartialFrom))
	}
	item := func(to []byte, i Item) []byte {
		to = append(to, byte(i.Role), i.Step, i.Attempt, byte(i.From), byte(i.To),
			flags(i.FromBookmark, i.Range, i.Resume, i.Offer.HasTo, i.Offer.Resume))
		return binary.BigEndian.AppendUint16(to, i.Offer.Claim)
	}
	to = target(source(to, s.source), s.target)
	to = append(to, byte(s.newest), byte(s.faults), byte(s.prunes), byte(s.snapshots), s.sequence)
	to = append(to, byte(s.checked), byte(s.cursor), flags(s.held))
	to = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(to, s.told[0]), s.told[1])
	to = append(to, byte(len(s.queue)), byte(len(s.archive)), byte(len(s.events)))
	for _, q := range s.queue {
		to = append(item(to, q.Item), q.sequence, q.deliveries, flags(q.claimed), byte(q.holder))
	}
	for _, i := range s.archive {
		to = item(to, i)
	}
	for _, one := range s.slots {
		to = append(to, flags(one.busy, one.begun, one.confirmed, one.stopped, one.locked, one.conflict))
		if !one.busy {
			continue
		}
		to = source(item(to, one.item), one.listing)
		to = append(to, one.sequence, one.delivery, byte(one.program), byte(one.pc), byte(one.peer))
	}
	for _, l := range s.locks {
		to = append(to, byte(l.holder), l.attempt, l.sequence, l.delivery, flags(l.confirmed, l.ended))
	}
	for _, r := range s.registries {
		to = append(to, r.attempt, flags(r.ended))
	}
	for _, e := range s.events {
		to = append(to, byte(e.Kind), byte(e.Role), e.Step, e.Attempt, byte(e.To), e.Item, e.Delivery,
			flags(e.Offer.HasTo, e.Offer.Resume, e.Conflict))
		to = binary.BigEndian.AppendUint16(to, e.Offer.Claim)
	}
	l := s.leader
	to = append(to, l.read, flags(l.down), byte(l.looking), byte(len(l.published)))
	to = append(to, l.published...)
	if l.looking != notLooking {
		to = target(source(to, l.foundSource), l.foundTarget)
	}
	if !l.down {
		to = l.coordinator.Key(to)
	}
	return s.record.Key(to)
}

// status is what the coordinator says of the task, or the record where there is none.
func (s *state) status() Status {
	if s.leader.down {
		return s.record.Status()
	}
	return s.leader.coordinator.Status()
}

func (s *state) describe() string {
	if s.leader.down {
		return s.record.Describe() + ", with no coordinator"
	}
	return s.leader.coordinator.Describe()
}

// String is the state for people who read a counterexample.
func (s *state) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "source has %v, held %v, step bookmarks %v, tentative cursors %v, cursors %v",
		s.source.Snapshots, s.source.Held, s.source.StepBookmarks, s.source.Tentative, s.source.Cursors)
	fmt.Fprintf(&b, "; target has %v, held %v", s.target.Snapshots, s.target.Held)
	if s.target.PartialTo != 0 {
		fmt.Fprintf(&b, ", a part of %d→%d", s.target.PartialFrom, s.target.PartialTo)
	}
	fmt.Fprintf(&b, "; task %s", s.describe())
	for _, q := range s.queue {
		fmt.Fprintf(&b, "; item %d for the %v (try %d, deliveries %d)", q.sequence, q.Role, q.Attempt, q.deliveries)
	}
	return b.String()
}
