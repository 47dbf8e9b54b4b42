// Streams: one zfs send, and all receivers that need what it sends.

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/bandwidth"
	"github.com/zfleet/zfleet/worker/transport/broadcast"
	"github.com/zfleet/zfleet/worker/transport/zstream"
	"github.com/zfleet/zfleet/zfs"
)

// delivery is a stream's way to one receiver, and what is known of both.
type delivery struct {
	*try
	*route
	sending *sending
}

// send does the sender's side of a step for the receivers of all tries. Each try ends as soon as its receiver's part is over.
// ctx is the worker's.
func (c *claim) send(ctx context.Context, tries []*try) {
	objects := &sharedObjects{claim: c}
	defer func() { c.closed(ctx, "stream in the object store", objects.close()) }()
	compression := c.compression()
	ready := make([]*delivery, len(tries))
	var preparing sync.WaitGroup
	for i, t := range tries {
		preparing.Go(func() {
			d, err := t.prepareDelivery(t.step.ctx, compression, objects)
			if d == nil {
				t.end(ctx, err)
			}
			ready[i] = d
		})
	}
	preparing.Wait()
	var deliveries []*delivery
	for _, d := range ready {
		if d != nil {
			deliveries = append(deliveries, d)
		}
	}
	if len(deliveries) > 0 {
		c.stream(ctx, deliveries, compression)
	}
}

// compression is what is done to the claim's stream: what the job asks for, if every receiver can undo it.
func (c *claim) compression() protocol.Compression {
	asked := c.item.Delivery.Compression
	for _, item := range c.item.Each() {
		if !slices.Contains(item.Offer.Compressions, asked.Algorithm()) {
			return protocol.CompressionNone
		}
	}
	return asked
}

// prepareDelivery protects the step and finds a way to its receiver. It returns nil where nothing is to be streamed: because of
// the error, or because the receiver has everything, and the step is done.
func (t *try) prepareDelivery(
	ctx context.Context, compression protocol.Compression, objects *sharedObjects,
) (*delivery, error) {
	offer := t.item.Offer
	if offer.HasTo || t.confirmed {
		return nil, t.settleOnly(ctx)
	}
	header := protocol.StreamHeader{Ref: t.item.Ref, JobID: t.item.JobID, ToGUID: t.item.Step.To.GUID, Expected: t.item.Step.Estimate}
	if t.item.Step.From != nil {
		header.FromGUID = t.item.Step.From.GUID
	}
	if algorithm := compression.Algorithm(); algorithm != protocol.CompressionNone {
		header.Compression = algorithm
	}
	header.Traceparent, header.Tracestate = protocol.InjectTrace(ctx)
	t.ahead = t.dialAhead(ctx)
	defer t.ahead.end()
	s, err := t.prepareSend(ctx, offer.ResumeToken)
	var refused *tokenRefused
	if errors.As(err, &refused) {
		header.RefusedToken = refused.Error()
		return nil, t.refuseToken(ctx, header, objects)
	}
	if err != nil {
		return nil, err
	}
	header.Resumed = s.resumed

	// Holds cost a transaction group's sync, and a connection some round trips: neither waits for the other.
	var found *route
	var connectError, protectError error
	var both sync.WaitGroup
	both.Go(func() { found, connectError = t.connect(ctx, header, objects) })
	both.Go(func() { protectError = t.worker.keeper.BeforeSend(ctx, s.step) })
	both.Wait()
	switch {
	case protectError != nil && connectError == nil:
		found.way.Abort(ctx, t.worker.failureOf(protectError))
		t.closed(ctx, "way to the receiver", found.way.Close())
		return nil, protectError
	case protectError != nil:
		return nil, protectError
	case connectError != nil:
		return nil, connectError
	}
	found.path.Compression, found.path.Receivers = header.Compression, len(objects.claim.item.Each())
	t.tellPath(ctx, found.path)
	return &delivery{try: t, route: found, sending: s}, nil
}

// refuseToken tells the receiver that its partial state is of no use, so that it abandons it.
func (t *try) refuseToken(ctx context.Context, header protocol.StreamHeader, objects *sharedObjects) error {
	found, err := t.connect(ctx, header, objects)
	if err != nil {
		return err
	}
	defer func() { t.closed(ctx, "way to the receiver", found.way.Close()) }()
	confirmContext, cancel := context.WithTimeout(ctx, t.item.Deadlines.Confirm.Std())
	defer cancel()
	if _, err := found.way.Confirmation(confirmContext); err != nil {
		return protocol.AsFailure(fmt.Errorf("refuse the resume token of %s: %w", t.item.Target, err), protocol.Transient)
	}
	return protocol.Failf(protocol.Transient, "%s: %s; the receiver has abandoned its partial state, and the step is tried anew",
		t.item.Step.TargetFilesystem, header.RefusedToken)
}

// stream runs zfs send and ends each delivery's try.
func (c *claim) stream(ctx context.Context, deliveries []*delivery, compression protocol.Compression) {
	// A single try's end is that of zfs send; several tries end one by one, and zfs send with the last.
	sendContext, stop := context.WithCancel(ctx)
	defer stop()
	if len(deliveries) == 1 {
		sendContext = deliveries[0].step.ctx
	}
	stream, err := c.worker.config.ZFS.Send(sendContext, deliveries[0].sending.valid)
	if err != nil {
		for _, d := range deliveries {
			d.way.Abort(d.step.ctx, c.worker.failureOf(err))
			c.closed(ctx, "way to the receiver", d.way.Close())
			d.end(ctx, err)
		}
		return
	}
	s := &sharedStream{claim: c, stream: stream, source: stream}
	if compression.Algorithm() == protocol.CompressionZstd {
		s.compressed = zstream.NewReader(stream, zstream.Options{Level: compression.Level(), Threads: c.worker.config.CompressionThreads})
		s.source = s.compressed
	}
	s.limit = c.worker.limitOf(bandwidth.Send, c.item)
	defer s.limit.Release()
	copies := s.start(sendContext, deliveries)
	var delivering sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(len(deliveries)))
	for _, d := range deliveries {
		delivering.Go(func() {
			progress, err := s.deliver(d, copies[d.sink])
			if err == nil {
				err = d.settleSend(d.step.ctx, d.sending, progress, &d.path, s.note())
			}
			c.closed(ctx, "way to the receiver", d.way.Close())
			if left.Add(-1) == 0 {
				stop()
				s.close(ctx) // before its place is free for others
			}
			d.end(ctx, err)
		})
	}
	delivering.Wait()
}

// close ends zfs send, and waits until nothing reads it any more.
func (s *sharedStream) close(ctx context.Context) {
	if s.compressed != nil {
		s.claim.closed(ctx, "compressor", s.compressed.Close())
	}
	if err := s.stream.Close(); !errors.Is(err, os.ErrClosed) {
		s.claim.closed(ctx, "zfs send", err)
	}
	s.copying.Wait()
}

// sharedStream is the output of one zfs send on its way to all its receivers.
type sharedStream struct {
	claim  *claim
	stream *zfs.SendStream
	// compressed is nil where nothing is compressed; source is what is sent: it, or the stream.
	compressed *zstream.Reader
	source     io.Reader
	limit      *bandwidth.Bucket

	// copying ends when nothing reads the source any more.
	copying sync.WaitGroup
}

// copying is a copy into one sink.
type copying struct {
	ctx   context.Context //nolint:containedctx // that of the receiver, where the sink has one, and of all otherwise
	moved atomic.Int64
	ended chan struct{}
	err   error // set before ended is closed
}

// start begins to copy the stream into each sink.
func (s *sharedStream) start(ctx context.Context, deliveries []*delivery) map[sink]*copying {
	copies := map[sink]*copying{}
	for _, d := range deliveries {
		switch {
		case d.over == nil:
			copies[d.sink] = &copying{ctx: d.step.ctx, ended: make(chan struct{})}
		case copies[d.sink] == nil:
			copies[d.sink] = &copying{ctx: ctx, ended: make(chan struct{})}
		}
	}
	if len(copies) == 1 {
		for to, c := range copies {
			s.copying.Go(func() { c.run(to, s.source, s.options()) })
		}
		return copies
	}
	shared := broadcast.New(s.source, s.claim.worker.config.ShareWindow, s.claim.item.Delivery.FanOut.Lag.Std())
	for to, c := range copies {
		reader := shared.Reader()
		s.copying.Go(func() {
			c.run(to, reader, s.options())
			s.claim.closed(ctx, "reader of the stream", reader.Close())
		})
	}
	s.copying.Go(func() {
		// Each reader tells why the stream ended.
		if err := shared.Run(ctx); err != nil {
			s.claim.logger.DebugContext(ctx, "the stream was not sent to its end", slog.Any("error", err))
		}
	})
	return copies
}

func (s *sharedStream) options() transport.CopyOptions {
	return transport.CopyOptions{Stall: s.claim.item.Deadlines.Stall.Std(), Limit: s.limit}
}

func (c *copying) run(to sink, from io.Reader, options transport.CopyOptions) {
	defer close(c.ended)
	options.Bytes = &c.moved
	_, c.err = to.CopyFrom(c.ctx, from, options)
}

// deliver waits until the stream has arrived at the delivery's receiver, and is confirmed.
func (s *sharedStream) deliver(d *delivery, c *copying) (*protocol.Progress, error) {
	meter := d.reporter.newMeter(d.step.ctx, meterOptions{
		Bytes:    func() int64 { return s.bytes(c) },
		Expected: func() uint64 { return max(s.stream.Progress().Expected, d.item.Step.Estimate) },
		Resumed:  d.sending.resumed,
	})
	defer meter.stop()
	select {
	case <-c.ended:
		if c.err != nil {
			// A zfs send that fails in the middle may have lost its snapshot, or met a pool in trouble; the next try shows.
			return nil, protocol.AsFailure(fmt.Errorf("send %s: %w", d.item.Step.To.Full(d.item.Step.Filesystem), c.err),
				protocol.Transient)
		}
	case <-d.over:
	case <-d.step.ctx.Done():
		// Where sink and way are one, the copy's context has ended too, and the copy tells the receiver.
		if d.over != nil {
			d.way.Abort(d.step.ctx, d.worker.failureOf(context.Cause(d.step.ctx)))
		} else {
			<-c.ended
		}
		return nil, context.Cause(d.step.ctx)
	}
	confirmContext, cancel := context.WithTimeout(d.step.ctx, d.item.Deadlines.Confirm.Std())
	defer cancel()
	confirmation, err := d.way.Confirmation(confirmContext)
	if err != nil {
		return nil, protocol.AsFailure(fmt.Errorf("replicate to %s: %w", d.item.Target, err), protocol.Transient)
	}
	if confirmation.Failure != nil {
		return nil, confirmation.Failure
	}
	if confirmation.ToGUID != d.sending.to.GUID {
		return nil, protocol.Failf(protocol.Permanent, "%s confirmed guid %d, but guid %d was sent: the cursor stays where it is",
			d.item.Target, confirmation.ToGUID, d.sending.to.GUID)
	}
	return meter.progress(), nil
}

// bytes is how much of what zfs send gave has been taken for the copy.
func (s *sharedStream) bytes(c *copying) int64 {
	if s.compressed != nil {
		return s.compressed.Statistics().Content
	}
	return c.moved.Load()
}

// note is what an operator should know of the stream.
func (s *sharedStream) note() string {
	if s.compressed == nil {
		return ""
	}
	return s.compressed.Note()
}
