// Stream: the sender's side of one stream, to any number of receivers.

package object

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// StreamOptions say what a stream is like.
type StreamOptions struct {
	// Host is the sender's.
	Host protocol.Host
	// Refs are the steps of all receivers, the sender's own first. At least one.
	Refs []protocol.StepRef
	// Segment is how much of the stream is one object, and Window how much may be stored and not yet taken by every
	// receiver, in bytes. Zero are 8 MiB and eight segments; a window has room for two segments at least.
	Segment, Window int64
	// Lag is how long one receiver may hold back all others before it is dropped. Zero is for ever.
	Lag time.Duration
	// Stall is how long NATS or a receiver may give no sign of life. Zero is DefaultStall.
	Stall time.Duration
	// Logger is told what no caller is told. May be nil.
	Logger *slog.Logger
}

const (
	defaultSegment  = 8 << 20
	defaultSegments = 8   // of a window
	heard           = 256 // messages of receivers that wait to be looked at; more are lost, and repeated
)

var (
	errEarlyConfirmation = errors.New("the receiver confirmed a stream that had not ended")
	errNoReceiver        = errors.New("no receiver of the stream is left")
	errClosed            = errors.New("the sender closed the stream")
)

// Stream is a stream on its way into the object store. Goroutines of its own listen to the receivers, tell them what is
// stored, and remove what they have taken, until Close. Call, CopyFrom and Close are to be called one after another; what
// Call returns can be used concurrently with all of them.
type Stream struct {
	store     *Store
	bucket    jetstream.Stream
	publisher jetstream.JetStream
	name      protocol.StreamName
	subject   string
	lag       time.Duration
	stall     atomic.Int64
	logger    *slog.Logger
	segment   int64
	window    int64

	subscription *nats.Subscription
	messages     chan *nats.Msg
	news         chan struct{}   // something is to be told to the receivers
	closing      context.Context //nolint:containedctx // the stream's own life, not a caller's
	close        context.CancelFunc
	running      sync.WaitGroup
	closed       sync.Once
	meter        meter

	mu        sync.Mutex
	changed   chan struct{} // closed and made anew when anything below changes
	receivers []*Outgoing
	first     uint64                           // the number of the first of stored
	stored    []protocol.StoredSegment         // and not removed
	tries     map[protocol.ChunksName]struct{} // all that something may be stored of
	used      int64                            // bytes of the window: stored, or about to be
	blocked   bool                             // the copy waits for room in the window
	end       *protocol.StreamEnd
	holder    *Outgoing // holds back all others
	held      time.Time // since when
}

// Send begins a stream. The caller closes it.
func (s *Store) Send(ctx context.Context, options StreamOptions) (*Stream, error) {
	if len(options.Refs) == 0 {
		return nil, protocol.Usagef("a stream through the object store is for at least one step")
	}
	name := protocol.StreamName{Ref: options.Refs[0], ID: strings.ToLower(rand.Text())}
	doing := "beginning stream " + name.String()
	st := &Stream{
		store: s, name: name, subject: protocol.StreamSubject(options.Host, strings.ToLower(rand.Text())), lag: options.Lag,
		logger: loggerOr(options.Logger).With("stream", name.String()), segment: options.Segment, window: options.Window,
		messages: make(chan *nats.Msg, heard), news: make(chan struct{}, 1), changed: make(chan struct{}),
		tries: map[protocol.ChunksName]struct{}{},
	}
	st.stall.Store(int64(stallOr(options.Stall, DefaultStall)))
	if st.segment <= 0 {
		st.segment = defaultSegment
	}
	if st.window <= 0 {
		st.window = defaultSegments * st.segment
	}
	st.window = max(st.window, 2*st.segment)
	var err error
	if st.bucket, err = s.stream(ctx); err != nil {
		return nil, transport.Transient(doing, err)
	}
	chunks := int(st.segment)/max(s.chunkSize(), 1) + 2
	st.publisher, err = jetstream.New(s.conn,
		jetstream.WithPublishAsyncTimeout(st.stallTime()), jetstream.WithPublishAsyncMaxPending(3*chunks))
	if err != nil {
		return nil, transport.Transient(doing, err)
	}
	if err := st.begin(ctx, options.Refs); err != nil {
		return nil, transport.Transient(doing, err)
	}
	if st.subscription, err = s.conn.ChanSubscribe(st.subject, st.messages); err != nil {
		return nil, transport.Transient(doing, err)
	}
	st.closing, st.close = context.WithCancel(context.Background())
	st.running.Go(st.converse)
	st.running.Go(st.sweep)
	return st, nil
}

func (st *Stream) stallTime() time.Duration { return time.Duration(st.stall.Load()) }

// begin stores the object that stands for the stream, trying again within the stall time.
func (st *Stream) begin(ctx context.Context, refs []protocol.StepRef) error {
	ctx, cancel := context.WithTimeout(ctx, st.stallTime())
	defer cancel()
	for try := 0; ; try++ {
		asking, cancel := context.WithTimeout(ctx, st.store.patience(try, st.stallTime()))
		err := protocol.StoreStreamObject(asking, st.store.js, st.name, refs)
		cancel()
		if err == nil || protocol.KindOf(err, protocol.Transient) == protocol.Permanent || !pause(ctx, backoff(try)) {
			return err
		}
	}
}

// change wakes whoever waits for a change of the stream's state. The stream is locked.
func (st *Stream) change() {
	close(st.changed)
	st.changed = make(chan struct{})
}

// until waits until condition, which is called with the stream locked, is true.
func (st *Stream) until(ctx context.Context, condition func() bool) error {
	for {
		st.mu.Lock()
		if condition() {
			st.mu.Unlock()
			return nil
		}
		changed := st.changed
		st.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readError is an error of the reader that a stream is copied from.
type readError struct{ err error }

func (e *readError) Error() string { return e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

// CopyFrom sends what r gives as the stream to all receivers that were called so far, and returns the number of bytes.
// It is called once. When r is at its end and opts.Finish agrees, it waits until every receiver that is left has taken
// everything; Outgoing.Confirmation then waits for each. A receiver that fails is no error as long as another one is left.
// Otherwise the error is
//
//   - the receiver's own *protocol.Failure, if there was only one, and a *protocol.Failure with the last one's if there
//     were several;
//   - r's or Finish's error, wrapped: the receivers are told, and get it as their failure;
//   - a *protocol.Failure if NATS did not store a segment within the stall time, which says so where the bucket is full;
//   - a transient *protocol.Failure, if nothing moved for the idle time;
//   - a *protocol.Failure for ctx's cause, if ctx ended: the receivers are told.
//
// CopyFrom does not close r, unless it has to interrupt a Read and r has no read deadlines. Bytes are counted, and limited,
// as they are published for the first time.
func (st *Stream) CopyFrom(ctx context.Context, r io.Reader, opts transport.CopyOptions) (int64, error) {
	if opts.Stall > 0 {
		st.stall.Store(int64(stallOr(opts.Stall, 0)))
	}
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	st.meter.visible = opts.Bytes
	stopWatch := st.meter.watch(ctx, opts.IdleTime(st.stallTime()), cancel)
	var lonely sync.WaitGroup
	lonely.Go(func() {
		if st.until(ctx, st.deserted) == nil {
			cancel(errNoReceiver)
		}
	})
	stopInterrupt := onEnd(ctx, func() { transport.InterruptRead(r) })

	err := st.copy(ctx, r, opts, cancel)
	cause := context.Cause(ctx)
	stopInterrupt()
	cancel(nil)
	stopWatch()
	lonely.Wait()
	moved := st.meter.moved.Load()
	if err == nil {
		return moved, nil
	}
	if cause == nil && asked.Err() != nil {
		cause = context.Cause(asked)
	}
	return moved, st.giveUp(asked, err, cause)
}

// deserted tells whether there is nobody to send to.
func (st *Stream) deserted() bool {
	for _, o := range st.receivers {
		if !o.over || o.outcome() == nil {
			return false
		}
	}
	return true
}

// copy reads segments and hands them to be settled, while the next one is being read.
func (st *Stream) copy(ctx context.Context, r io.Reader, opts transport.CopyOptions, cancel context.CancelCauseFunc) error {
	filled := make(chan *segment)
	var settling sync.WaitGroup
	settling.Go(func() {
		for segment := range filled {
			if err := st.settle(ctx, segment); err != nil {
				cancel(err)
			}
		}
	})
	count, err := st.fill(ctx, r, opts, filled)
	close(filled)
	settling.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && opts.Finish != nil {
		if failure := opts.Finish(); failure != nil {
			err = &readError{err: failure}
		}
	}
	if err != nil {
		return err
	}
	st.mu.Lock()
	st.end = &protocol.StreamEnd{Segments: count, Bytes: uint64(st.meter.moved.Load())} //nolint:gosec // counted up from zero
	st.change()
	st.mu.Unlock()
	poke(st.news)
	return st.until(ctx, func() bool {
		for _, o := range st.receivers {
			if !o.over && o.taken < count {
				return false
			}
		}
		return !st.deserted()
	})
}

// fill reads r to its end, and returns the number of segments.
func (st *Stream) fill(ctx context.Context, r io.Reader, opts transport.CopyOptions, filled chan<- *segment) (uint64, error) {
	for number := uint64(0); ; number++ {
		if err := st.reserve(ctx); err != nil {
			return 0, err
		}
		segment := newSegment(st.name, number)
		st.begun(segment.name)
		end, err := st.fillSegment(ctx, r, opts, segment)
		if len(segment.blocks) == 0 {
			st.gone(segment.name)
			st.free(st.segment)
			return number, err
		}
		if err != nil {
			return 0, err
		}
		segment.seal(st.publisher)
		st.free(st.segment - segment.size)
		select {
		case filled <- segment:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if end {
			return number + 1, nil
		}
	}
}

// fillSegment publishes what r gives, until the segment is full or r at its end.
func (st *Stream) fillSegment(
	ctx context.Context, r io.Reader, opts transport.CopyOptions, segment *segment,
) (end bool, err error) {
	chunk := st.store.chunkSize()
	for segment.size < st.segment {
		b := st.store.block(int(min(int64(chunk), st.segment-segment.size)))
		n, err := readFull(ctx, r, b.bytes)
		if n > 0 {
			b.bytes = b.bytes[:n]
			if limited := st.meter.limit(ctx, opts.Limit, n); limited != nil {
				return false, limited
			}
			segment.add(st.publisher, b)
			st.meter.add(n)
		} else {
			st.store.blocks.Put(b)
		}
		switch {
		case err == io.EOF: //nolint:errorlint // readFull's own
			return true, nil
		case err != nil:
			return false, err
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		}
	}
	return false, nil
}

// reserve waits for room in the window for one segment.
func (st *Stream) reserve(ctx context.Context) error {
	return st.until(ctx, func() bool {
		full := st.used > 0 && st.used+st.segment > st.window
		if full != st.blocked {
			st.blocked = full
			st.weigh(time.Now())
		}
		if !full {
			st.used += st.segment
		}
		return !full
	})
}

// free gives room in the window back.
func (st *Stream) free(bytes int64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.used -= bytes
	st.change()
}

// begun notes that something may be stored under the name; gone, that nothing is.
func (st *Stream) begun(name protocol.ChunksName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.tries[name] = struct{}{}
}

func (st *Stream) gone(name protocol.ChunksName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	delete(st.tries, name)
}

// settle waits until the segment is stored, and has it announced.
func (st *Stream) settle(ctx context.Context, segment *segment) error {
	sequence, err := st.persist(ctx, segment)
	if err != nil {
		return err
	}
	stored := segment.stored(sequence)
	st.store.release(segment)
	st.meter.stirred.Add(1)
	st.mu.Lock()
	st.stored = append(st.stored, stored)
	st.weigh(time.Now())
	st.change()
	st.mu.Unlock()
	poke(st.news)
	return nil
}

// persist waits until the segment is stored, and stores it again as often as that fails within the stall time. It returns
// the sequence of the segment's first chunk.
func (st *Stream) persist(ctx context.Context, segment *segment) (uint64, error) {
	doing := "storing segment " + segment.name.Segment.String() + " in the bucket " + protocol.BucketStreams
	until := time.Now().Add(st.stallTime())
	for try := 0; ; try++ {
		sequence, err := segment.await(ctx)
		if err == nil {
			return sequence, nil
		}
		if ctx.Err() == nil && time.Now().Add(backoff(try)).After(until) {
			return 0, protocol.StreamsError(doing, err)
		}
		if !pause(ctx, backoff(try)) {
			return 0, transport.Transient(doing, context.Cause(ctx))
		}
		removing, cancel := context.WithTimeout(ctx, st.store.patience(try, st.stallTime()))
		if protocol.RemoveSegment(removing, st.bucket, segment.name) == nil {
			st.gone(segment.name) // else it is removed with the stream
		}
		cancel()
		segment.name.Try++
		st.begun(segment.name)
		segment.again(st.publisher)
	}
}

// giveUp tells the receivers why there will be no more of the stream, and finds the reason for the caller.
func (st *Stream) giveUp(ctx context.Context, err, cause error) error {
	if errors.Is(cause, errNoReceiver) || errors.Is(err, errNoReceiver) {
		return st.desertion()
	}
	var failure error
	var inner *readError
	switch {
	case cause != nil:
		failure = transport.Transient("sending the stream", cause)
	case errors.As(err, &inner):
		failure = fmt.Errorf("reading the stream to send: %w", inner.err)
	default:
		failure = transport.Transient("sending the stream", err)
	}
	// A copy that was cancelled has told the receivers so, and leaves them the time to hear it.
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(lastWords, st.stallTime()))
	defer cancel()
	var telling sync.WaitGroup
	for _, o := range st.all() {
		telling.Go(func() { o.Abort(patience, protocol.AsFailure(failure, protocol.Transient)) })
	}
	telling.Wait()
	return failure
}

// desertion is why no receiver is left.
func (st *Stream) desertion() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	switch len(st.receivers) {
	case 0:
		return protocol.Usagef("a stream for no receiver")
	case 1:
		return st.receivers[0].outcome()
	}
	last := st.receivers[0]
	for _, o := range st.receivers {
		if o.ended.After(last.ended) {
			last = o
		}
	}
	return transport.Transient(errNoReceiver.Error()+"; the last one failed", last.outcome())
}

func (st *Stream) all() []*Outgoing {
	st.mu.Lock()
	defer st.mu.Unlock()
	return append([]*Outgoing(nil), st.receivers...)
}

// sweep removes segments that every receiver has taken.
func (st *Stream) sweep() {
	for try := 0; ; {
		var next protocol.StoredSegment
		if st.until(st.closing, func() bool {
			taken := len(st.stored) > 0 && len(st.receivers) > 0 && st.first < st.taken()
			if taken {
				next = st.stored[0]
			}
			return taken
		}) != nil {
			return
		}
		if err := st.remove(next, try); err != nil {
			st.logger.Warn("a segment that was taken could not be removed; trying again", "segment", next.Chunks, "error", err)
			if !pause(st.closing, backoff(try)) {
				return
			}
			try++
			continue
		}
		try = 0
		st.mu.Lock()
		st.stored, st.first = st.stored[1:], st.first+1
		st.used -= int64(next.Size) //nolint:gosec // at most MaxSegment
		st.change()
		st.mu.Unlock()
	}
}

// taken is how many segments all receivers that are left have taken. The stream is locked.
func (st *Stream) taken() uint64 {
	least := st.first + uint64(len(st.stored))
	for _, o := range st.receivers {
		if !o.over {
			least = min(least, o.taken)
		}
	}
	return least
}

// remove removes a segment. try counts how often that was tried in vain.
func (st *Stream) remove(stored protocol.StoredSegment, try int) error {
	name, err := protocol.ParseChunksName(stored.Chunks)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(st.closing, st.store.patience(try, st.stallTime()))
	defer cancel()
	if err := protocol.RemoveSegment(ctx, st.bucket, name); err != nil {
		return err
	}
	st.gone(name)
	return nil
}

// Close ends what the receivers have not confirmed, and removes what is left of the stream from the object store. Its
// error says what could not be removed, which the leader collects later. It takes 5 seconds at most, or a stall time,
// whichever is less, for each of both. It is idempotent.
func (st *Stream) Close() error {
	var err error
	st.closed.Do(func() { err = st.finish() })
	return err
}

func (st *Stream) finish() error {
	for _, o := range st.all() {
		_ = o.Close() // gives no error
	}
	_ = st.subscription.Unsubscribe() // an error says that the connection is closed
	st.close()
	st.running.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), min(lastWords, st.stallTime()))
	defer cancel()
	select { // what is still to be stored would be stored after its removal
	case <-st.publisher.PublishAsyncComplete():
	case <-ctx.Done():
	}
	st.publisher.CleanupPublisher()
	st.mu.Lock()
	defer st.mu.Unlock()
	for name := range st.tries {
		if err := protocol.RemoveSegment(ctx, st.bucket, name); err != nil {
			return err
		}
		delete(st.tries, name)
	}
	return protocol.RemoveStreamObject(ctx, st.bucket, st.name)
}
