// Local steps: sender and receiver are one host, and one worker does both sides of the step, joined by a pipe.

package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/bandwidth"
	"github.com/zfleet/zfleet/zfs"
)

// sendLocally does a whole step. There is no offer: what the receiver's side finds is used at once.
func (t *try) sendLocally(ctx context.Context) error {
	r, err := t.prepareReceive(ctx)
	if err != nil {
		return err
	}
	if r.hasTo {
		return t.settleOnly(ctx)
	}
	s, err := t.prepareSend(ctx, r.resumeToken)
	var refused *tokenRefused
	if errors.As(err, &refused) {
		if err := t.abandon(ctx); err != nil {
			return err
		}
		return protocol.Failf(protocol.Transient, "%s: the partial state was abandoned, and the step is tried anew: %w",
			t.item.Step.TargetFilesystem, refused)
	}
	if err != nil {
		return err
	}
	if err := t.makeRoom(ctx, r); err != nil {
		return err
	}
	if err := t.worker.keeper.BeforeSend(ctx, s.step); err != nil {
		return err
	}
	var progress *protocol.Progress
	err = t.worker.durably(ctx, pointStream, func() (err error) {
		progress, err = t.pipe(ctx, r, s)
		return err
	})
	if err != nil {
		return err
	}
	if _, err := t.settleReceive(ctx, r); err != nil {
		return err
	}
	return t.settleSend(ctx, s, progress, &protocol.Path{Transport: protocol.TransportLocal, Receivers: 1}, "")
}

// pipe runs zfs send into zfs recv: directly, or where a limit applies, through this process.
func (t *try) pipe(ctx context.Context, r *receiving, s *sending) (*protocol.Progress, error) {
	sendLimit, recvLimit := t.worker.limitOf(bandwidth.Send, t.item), t.worker.limitOf(bandwidth.Recv, t.item)
	defer sendLimit.Release()
	defer recvLimit.Release()
	var progress *protocol.Progress
	var err error
	if sendLimit.Limited() || recvLimit.Limited() {
		progress, err = t.limitedPipe(ctx, r, s, sendLimit, recvLimit)
	} else {
		progress, err = t.directPipe(ctx, r, s)
	}
	if err == nil {
		return progress, nil
	}
	var received *zfs.RecvError
	if errors.As(err, &received) && received.Kind != zfs.RecvInterrupted {
		return nil, fmt.Errorf("receive %s: %w", t.item.Step.TargetFilesystem, t.explain(r, err))
	}
	// A zfs send that fails in the middle may have lost its snapshot, or met a pool in trouble; the next try shows.
	return nil, protocol.AsFailure(fmt.Errorf("send %s: %w", t.item.Step.To.Full(t.item.Step.Filesystem), err), protocol.Transient)
}

// directPipe joins both commands by a pipe of the kernel's. What is known of the bytes is what zfs send says itself.
func (t *try) directPipe(ctx context.Context, r *receiving, s *sending) (*protocol.Progress, error) {
	var m *meter
	_, err := t.worker.config.ZFS.Pipe(ctx, s.valid, r.args, zfs.PipeOptions{Watch: func(sent func() zfs.Progress) {
		m = t.reporter.newMeter(ctx, meterOptions{
			Bytes:    func() int64 { return int64(sent().Sent) }, //nolint:gosec // no stream is that long
			Expected: func() uint64 { return max(sent().Expected, t.item.Step.Estimate) },
			Resumed:  s.resumed,
		})
	}})
	if m == nil {
		return nil, err
	}
	m.stop()
	return m.progress(), err
}

// limitedPipe copies, as fast as both limits allow.
func (t *try) limitedPipe(ctx context.Context, r *receiving, s *sending, limits ...*bandwidth.Bucket) (*protocol.Progress, error) {
	stream, err := t.worker.config.ZFS.Send(ctx, s.valid)
	if err != nil {
		return nil, err
	}
	limited := &limitedReader{ctx: ctx, stream: stream, limits: limits}
	m := t.reporter.newMeter(ctx, meterOptions{
		Bytes:    limited.bytes.Load,
		Expected: func() uint64 { return max(stream.Progress().Expected, t.item.Step.Estimate) },
		Resumed:  s.resumed,
	})
	recvError := t.worker.config.ZFS.Recv(ctx, r.args, limited)
	sendError := stream.Close()
	m.stop()
	if recvError != nil {
		// Closing a stream that zfs recv did not read to its end is no failure of the sender's.
		return nil, recvError
	}
	return m.progress(), sendError
}

// limitedReader counts what is read through it, and waits for the limits.
type limitedReader struct {
	ctx    context.Context //nolint:containedctx // the step's, for what is read within it
	stream *zfs.SendStream
	limits []*bandwidth.Bucket
	bytes  atomic.Int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.stream.Read(p)
	for _, limit := range r.limits {
		if waitError := limit.Wait(r.ctx, n); waitError != nil {
			return n, waitError
		}
	}
	r.bytes.Add(int64(n))
	return n, err
}

// Close ends a Read that is blocked.
func (r *limitedReader) Close() error { return r.stream.Close() }
