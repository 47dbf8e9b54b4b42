// Converse: what the sender of a stream hears from its receivers, and tells them.

package object

import (
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
)

// converse listens to the receivers and tells them what is stored, until the stream is closed.
func (st *Stream) converse() {
	stall := st.stallTime()
	life := time.NewTicker(st.store.lifeOf(stall))
	defer life.Stop()
	lag := st.store.lifeOf(stall)
	if st.lag > 0 {
		lag = max(min(lag, st.lag/4), time.Millisecond)
	}
	check := time.NewTicker(lag)
	defer check.Stop()
	for {
		select {
		case <-st.closing.Done():
			return
		case message := <-st.messages:
			st.hear(message)
		case <-st.news:
			st.tell()
		case <-life.C:
			st.tell()
		case now := <-check.C:
			st.check(now)
		}
	}
}

// tell tells every receiver that does not know everything.
func (st *Stream) tell() {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, o := range st.receivers {
		if o.called && (!o.over || (o.failure != nil && !o.told)) {
			o.tell()
		}
	}
}

// hear takes in what a receiver says.
func (st *Stream) hear(message *nats.Msg) {
	var said protocol.SegmentsTaken
	if err := protocol.ReadMessage(message.Header, message.Data, &said); err != nil {
		st.logger.Warn("what a receiver said cannot be read", "error", err)
		return
	}
	if said.Stream != st.name.String() {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, o := range st.receivers {
		if o.ref == said.Ref {
			o.hear(said, time.Now())
			return
		}
	}
}

// hear takes in what the receiver says. The stream is locked.
func (o *Outgoing) hear(said protocol.SegmentsTaken, now time.Time) {
	st := o.stream
	o.life = now
	if (said.Heard || said.Confirmation != nil) && o.failure != nil && !o.told {
		o.told = true
		close(o.known)
	}
	if o.over {
		if said.Confirmation != nil {
			o.tell() // it goes on until it knows that it was heard
		}
		return
	}
	all := st.first + uint64(len(st.stored))
	if said.Taken > o.taken && said.Taken <= all {
		o.taken = said.Taken
		if o.taken == all {
			o.heldBack = 0
		}
		st.meter.stirred.Add(1)
		st.weigh(now)
		st.change()
	}
	if said.Confirmation == nil {
		return
	}
	o.heard, o.confirmation = true, *said.Confirmation
	if o.confirmation.Failure == nil && (st.end == nil || o.taken < st.end.Segments) {
		o.failure = protocol.Failf(protocol.Transient, "%w", errEarlyConfirmation)
	}
	o.conclude()
	o.tell()
}

// check drops receivers that are silent, or hold back the others.
func (st *Stream) check(now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	stall := st.stallTime()
	st.weigh(now)
	for _, o := range st.receivers {
		switch {
		case o.over || !o.called:
		case now.Sub(o.life) > stall:
			o.drop(protocol.Failf(protocol.Transient, "the receiver gave no sign of life through NATS for %s", stall))
		case st.lag > 0 && o.heldBack > st.lag:
			o.drop(protocol.Failf(protocol.Transient,
				"the receiver was dropped from the stream, and goes on alone: it has held back all other receivers for %s", st.lag))
		}
	}
}

// drop ends a receiver's part. The stream is locked.
func (o *Outgoing) drop(failure *protocol.Failure) {
	o.failure = failure
	o.conclude()
}

// weigh adds up for how long one receiver has held back all others: while the sender waits for room in the window, that
// one has not taken everything, and each other one has. The stream is locked.
func (st *Stream) weigh(now time.Time) {
	if st.holder != nil {
		st.holder.heldBack += now.Sub(st.held)
	}
	st.holder, st.held = nil, now
	if !st.blocked {
		return
	}
	var behind *Outgoing
	others := 0
	all := st.first + uint64(len(st.stored))
	for _, o := range st.receivers {
		switch {
		case o.over:
		case o.taken == all:
			others++
		case behind != nil:
			return
		default:
			behind = o
		}
	}
	if others > 0 {
		st.holder = behind
	}
}
