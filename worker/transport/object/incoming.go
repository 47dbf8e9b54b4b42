// Incoming: the receiver's side of one stream.

package object

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// ReceiveOptions say how to receive a stream.
type ReceiveOptions struct {
	// Logger is told what no caller is told. May be nil.
	Logger *slog.Logger
}

// Incoming is the receiver's side of one stream. From Receive until Confirm or Close it gives the sender signs of life,
// whatever its user is doing. Its methods are to be called one after another, except Confirm and Close, which may be
// called at any time.
type Incoming struct {
	store    *Store
	header   protocol.StreamHeader
	objects  protocol.ObjectsStream
	name     protocol.StreamName
	stall    time.Duration // until the sender is taken for dead
	logger   *slog.Logger
	messages <-chan *nats.Msg
	news     chan struct{}   // something is to be told to the sender
	known    chan struct{}   // closed when the sender has the confirmation
	closing  context.Context //nolint:containedctx // the stream's own life, not a caller's
	close    context.CancelFunc
	running  sync.WaitGroup
	closed   sync.Once
	complete atomic.Bool
	// sender ends when the sender gives up; its cause is an abortError.
	sender context.Context //nolint:containedctx // as closing
	abort  context.CancelCauseFunc

	mu           sync.Mutex
	changed      chan struct{} // closed and made anew when anything below changes
	life         time.Time
	taken        uint64                   // segments
	announced    []protocol.StoredSegment // from taken on
	end          *protocol.StreamEnd
	failure      *protocol.Failure // the sender's
	confirmation *protocol.Confirmation
	acknowledged bool // known is closed
}

// Receive begins to receive the stream that the sender's call is about. The caller has checked the call's secret, answers
// the call once Receive has returned, and subscribes to the subject of its offer: messages are what comes there from then
// on, and must have room for some (64, say). It may drop messages when there is no more room. It ends the subscription
// after the Incoming is closed. A call that is repeated, because its answer was lost, is answered by the Incoming.
func (s *Store) Receive(
	ctx context.Context, call protocol.Call, messages <-chan *nats.Msg, options ReceiveOptions,
) (*Incoming, error) {
	if err := call.Validate(); err != nil {
		return nil, err
	}
	if call.Objects == nil {
		return nil, protocol.Usagef("step %s: the call is not about the object store", call.Header.Ref)
	}
	name, err := protocol.ParseStreamName(call.Objects.Name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, transport.Transient("receiving stream "+name.String(), context.Cause(ctx))
	}
	in := &Incoming{
		store: s, header: call.Header, objects: *call.Objects, name: name, stall: stallOr(call.Objects.Stall, 0),
		logger: loggerOr(options.Logger).With("stream", name.String()), messages: messages, news: make(chan struct{}, 1),
		known: make(chan struct{}), changed: make(chan struct{}), life: time.Now(),
	}
	in.closing, in.close = context.WithCancel(context.Background())
	in.sender, in.abort = context.WithCancelCause(context.Background())
	in.running.Go(in.converse)
	return in, nil
}

// Header is what the sender said before the stream.
func (in *Incoming) Header() protocol.StreamHeader { return in.header }

// converse listens to the sender, and tells it what was taken, until the Incoming is closed.
func (in *Incoming) converse() {
	life := time.NewTicker(in.store.lifeOf(stallOr(in.objects.Stall, 0)))
	defer life.Stop()
	messages := in.messages
	for {
		select {
		case <-in.closing.Done():
			return
		case message, open := <-messages:
			if !open {
				messages = nil // the caller has ended the subscription; silence says the rest
				continue
			}
			in.hear(message)
		case <-in.news:
			in.tell()
		case <-life.C:
			in.tell()
		}
	}
}

// tell says to the sender all that it may not know.
func (in *Incoming) tell() {
	in.mu.Lock()
	message := protocol.SegmentsTaken{
		Stream: in.objects.Name, Ref: in.header.Ref, Taken: in.taken, Confirmation: in.confirmation, Heard: in.failure != nil,
	}
	silent := in.acknowledged
	in.mu.Unlock()
	if !silent {
		in.store.say(in.objects.Subject, message, in.logger)
	}
}

// hear takes in what the sender says.
func (in *Incoming) hear(message *nats.Msg) {
	if message.Reply != "" {
		in.answer(message)
		return
	}
	var said protocol.SegmentsStored
	if err := protocol.ReadMessage(message.Header, message.Data, &said); err != nil {
		in.logger.Warn("what the sender said cannot be read", "error", err)
		return
	}
	if said.Stream != in.objects.Name {
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.life = time.Now()
	for i, segment := range said.Segments {
		number := said.First + uint64(i)
		if number == in.taken+uint64(len(in.announced)) && len(in.announced) < protocol.MaxAnnounced {
			in.announced = append(in.announced, segment)
		}
	}
	if in.end == nil {
		in.end = said.End
	}
	if in.failure == nil && said.Failure != nil {
		in.failure = said.Failure
		in.abort(&abortError{failure: said.Failure})
		poke(in.news)
	}
	if said.Confirmed && in.confirmation != nil && !in.acknowledged {
		in.acknowledged = true
		close(in.known)
	}
	close(in.changed)
	in.changed = make(chan struct{})
}

// answer answers the call once more.
func (in *Incoming) answer(message *nats.Msg) {
	var call protocol.Call
	if err := protocol.ReadMessage(message.Header, message.Data, &call); err != nil {
		in.logger.Warn("a call cannot be read", "error", err)
		return
	}
	if call.Objects == nil || *call.Objects != in.objects {
		in.store.say(message.Reply, protocol.CallAnswer{Failure: protocol.Failf(protocol.Transient,
			"step %s: another call was answered already", in.header.Ref)}, in.logger)
		return
	}
	in.store.say(message.Reply, protocol.CallAnswer{}, in.logger)
}

// writeError is an error of the writer that a stream is copied to.
type writeError struct{ err error }

func (e *writeError) Error() string { return e.err.Error() }
func (e *writeError) Unwrap() error { return e.err }

// abortError is the sender's failure.
type abortError struct{ failure *protocol.Failure }

func (e *abortError) Error() string { return e.failure.Error() }

// CopyTo writes the stream into w and returns the number of bytes that w took. The error is nil only if the sender said
// that the stream was complete, and its segments and length were those of what arrived. Otherwise it is
//
//   - the sender's own *protocol.Failure, if the sender gave up;
//   - a transient *protocol.Failure, if a segment is damaged or does not come, the sender gave no sign of life for the stall
//     time, or no byte moved for the idle time;
//   - w's error, wrapped, if w failed: zfs recv has ended, and its own exit says why;
//   - a *protocol.Failure for ctx's cause, if ctx ended.
//
// All bytes that were written to w are the stream's. After any error the Incoming is good for a Confirm with a failure.
// CopyTo does not close w, unless it has to interrupt a Write and w has no write deadlines.
func (in *Incoming) CopyTo(ctx context.Context, w io.Writer, opts transport.CopyOptions) (int64, error) {
	stall := stallOr(opts.Stall, in.stall)
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := &meter{visible: opts.Bytes}
	in.mu.Lock()
	in.life = time.Now()
	in.mu.Unlock()
	stopWatch := m.watch(ctx, opts.IdleTime(stall), cancel)
	stopInterrupt := onEnd(ctx, func() { transport.InterruptWrite(w) })
	fetched := make(chan [][]byte)
	var fetching sync.WaitGroup
	var fetchError error
	fetching.Go(func() {
		defer close(fetched)
		fetchError = in.fetch(ctx, stall, opts, m, fetched)
	})
	err := in.write(ctx, w, m, fetched)
	if err != nil {
		cancel(err)
	}
	fetching.Wait()
	if err == nil {
		err = fetchError
	}
	cause := context.Cause(ctx)
	stopInterrupt()
	cancel(nil)
	stopWatch()
	moved := m.moved.Load()
	if err == nil {
		in.complete.Store(true)
		return moved, nil
	}
	var inner *writeError
	var said *abortError
	if asked.Err() != nil {
		cause, err = nil, context.Cause(asked)
	}
	if cause != nil {
		err = cause
	}
	switch {
	case errors.As(err, &inner):
		return moved, fmt.Errorf("writing the received stream: %w", inner.err)
	case errors.As(err, &said):
		return moved, said.failure
	default:
		return moved, transport.Transient("receiving the stream", err)
	}
}

// write writes what is fetched into w, until there is no more.
func (in *Incoming) write(ctx context.Context, w io.Writer, m *meter, fetched <-chan [][]byte) error {
	for chunks := range fetched {
		for _, chunk := range chunks {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := w.Write(chunk)
			m.add(n)
			if err == nil && n < len(chunk) {
				err = io.ErrShortWrite
			}
			if err != nil {
				return &writeError{err: err}
			}
		}
	}
	return nil
}

// fetch hands on the segments of the stream, one after another, until its end.
func (in *Incoming) fetch(
	ctx context.Context, stall time.Duration, opts transport.CopyOptions, m *meter, fetched chan<- [][]byte,
) error {
	fetcher, err := in.store.newFetcher(stall, opts.Limit, m)
	if err != nil {
		return err
	}
	defer fetcher.close()
	fetching, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer onEnd(in.sender, func() { cancel(in.givenUp()) })() //nolint:contextcheck // the sender's
	total := uint64(0)
	for {
		number, segment, err := in.await(fetching, stall)
		if err != nil {
			return err
		}
		if segment == nil {
			return in.checkEnd(number, total)
		}
		name := protocol.SegmentName{Stream: in.name, Number: number}
		chunks, err := in.fetchSegment(fetching, fetcher, name, *segment)
		if err != nil {
			return err
		}
		total += segment.Size
		m.stirred.Add(1)
		in.take()
		select {
		case fetched <- chunks:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// givenUp is the sender's failure.
func (in *Incoming) givenUp() error { return context.Cause(in.sender) }

// fetchSegment fetches one segment.
func (in *Incoming) fetchSegment(
	ctx context.Context, fetcher *fetcher, name protocol.SegmentName, segment protocol.StoredSegment,
) ([][]byte, error) {
	if chunks, err := protocol.ParseChunksName(segment.Chunks); err != nil || chunks.Segment != name {
		return nil, fmt.Errorf("segment %s: the sender announced chunks %s", name, segment.Chunks)
	}
	chunks, err := fetcher.fetch(ctx, name, segment)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("segment %s: %w", name, err)
	}
	return chunks, nil
}

// checkEnd tells whether what arrived is the whole stream.
func (in *Incoming) checkEnd(segments, bytes uint64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.end.Segments != segments || in.end.Bytes != bytes {
		return fmt.Errorf("the sender sent %d segments with %d bytes, and %d with %d bytes arrived",
			in.end.Segments, in.end.Bytes, segments, bytes)
	}
	return nil
}

// await waits for the next segment to be announced, and returns it with its number; nil at the end of the stream.
func (in *Incoming) await(ctx context.Context, stall time.Duration) (uint64, *protocol.StoredSegment, error) {
	silence := time.NewTimer(stall)
	defer silence.Stop()
	for ctx.Err() == nil {
		number, next, ended, changed := in.next()
		if next != nil || ended {
			return number, next, nil
		}
		quiet := in.quiet()
		if quiet > stall {
			return 0, nil, protocol.Failf(protocol.Transient,
				"the sender gave no sign of life through NATS for %s, before the stream was complete", stall)
		}
		silence.Reset(stall - quiet + time.Millisecond)
		select {
		case <-changed:
		case <-silence.C:
		case <-ctx.Done():
		}
	}
	return 0, nil, context.Cause(ctx)
}

// next is the next segment, if it is announced; ended says that there is none. changed is closed when that may have changed.
func (in *Incoming) next() (number uint64, next *protocol.StoredSegment, ended bool, changed <-chan struct{}) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.announced) > 0 {
		segment := in.announced[0]
		next = &segment
	}
	return in.taken, next, next == nil && in.end != nil && in.taken >= in.end.Segments, in.changed
}

// quiet is how long nothing was heard of the sender.
func (in *Incoming) quiet() time.Duration {
	in.mu.Lock()
	defer in.mu.Unlock()
	return time.Since(in.life)
}

// take notes that the next segment was taken.
func (in *Incoming) take() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.taken++
	in.announced = slices.Delete(in.announced, 0, 1)
	poke(in.news)
}

// Confirm tells the sender how the step ended for the receiver: that To is there and protected, or the failure. It can be
// called once, at any time after Receive, also while the sender is still sending. It returns when the sender has said that
// it knows, or with a transient failure when ctx ends before that, or the stall time has passed (for a failure, 5 seconds
// if that is less). A confirmation without a failure is refused unless CopyTo has received the whole stream.
func (in *Incoming) Confirm(ctx context.Context, conf protocol.Confirmation) error {
	if conf.Failure == nil && !in.complete.Load() {
		return protocol.Failf(protocol.Permanent,
			"step %s: a stream that was not completely received cannot be confirmed", in.header.Ref)
	}
	conf.Failure = transport.CutFailure(conf.Failure)
	in.mu.Lock()
	if in.confirmation != nil {
		in.mu.Unlock()
		return protocol.Failf(protocol.Permanent, "step %s: it was confirmed already", in.header.Ref)
	}
	in.confirmation = &conf
	in.mu.Unlock()
	poke(in.news)
	bound, good := in.stall, conf.Failure == nil
	if !good {
		bound = min(bound, lastWords)
	}
	patience := time.NewTimer(bound)
	defer patience.Stop()
	doing := "confirming step " + in.header.Ref.String()
	select {
	case <-in.known:
		return nil
	case <-in.sender.Done():
		var err error // none where both have failed
		if good {
			err = transport.Transient(doing, in.givenUp())
		}
		return err
	case <-patience.C:
		return protocol.Failf(protocol.Transient, "%s: the sender did not say within %s that it knows", doing, bound)
	case <-in.closing.Done():
		return protocol.Failf(protocol.Transient, "%s: closed before the sender said that it knows", doing)
	case <-ctx.Done():
		return transport.Transient(doing, context.Cause(ctx))
	}
}

// Close ends the receiver's part. Without a Confirm before, the sender sees a transient failure. It is idempotent.
func (in *Incoming) Close() error {
	in.closed.Do(in.finish)
	return nil
}

func (in *Incoming) finish() {
	in.close()
	in.abort(nil)
	in.running.Wait()
	in.mu.Lock()
	if in.confirmation == nil {
		in.confirmation = &protocol.Confirmation{Failure: protocol.Failf(protocol.Transient,
			"the receiver of step %s closed the stream without a confirmation", in.header.Ref)}
	}
	in.mu.Unlock()
	in.tell()
}
