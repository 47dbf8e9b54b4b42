// Local steps: sender and receiver are one host, and one worker does both sides of the step, joined by a pipe.

package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// sendLocally does a whole step. There is no offer: what the receiver's side finds is used at once.
func (c *claim) sendLocally(ctx context.Context) error {
	r, err := c.prepareReceive(ctx)
	if err != nil {
		return err
	}
	if r.hasTo {
		return c.settleOnly(ctx)
	}
	s, err := c.prepareSend(ctx, r.resumeToken)
	var refused *tokenRefused
	if errors.As(err, &refused) {
		if err := c.abandon(ctx); err != nil {
			return err
		}
		return protocol.Failf(protocol.Transient, "%s: the partial state was abandoned, and the step is tried anew: %w",
			c.item.Step.TargetFilesystem, refused)
	}
	if err != nil {
		return err
	}
	if err := c.makeRoom(ctx, r); err != nil {
		return err
	}
	c.estimate(ctx, s)
	if err := c.worker.keeper.BeforeSend(ctx, s.step); err != nil {
		return err
	}
	progress, err := c.pipe(ctx, r, s)
	if err != nil {
		return err
	}
	if _, err := c.settleReceive(ctx, r); err != nil {
		return err
	}
	return c.settleSend(ctx, s, progress)
}

// pipe runs zfs send into zfs recv.
func (c *claim) pipe(ctx context.Context, r *receiving, s *sending) (*protocol.Progress, error) {
	stream, err := c.worker.config.ZFS.Send(ctx, s.valid)
	if err != nil {
		return nil, err
	}
	meter := c.reporter.newMeter(ctx, s.expected, s.resumed)
	recvError := c.worker.config.ZFS.Recv(ctx, r.args, &countingReader{stream, &meter.bytes})
	sendError := stream.Close()
	meter.stop()
	if recvError != nil {
		// Closing a stream that zfs recv did not read to its end is no failure of the sender's.
		return nil, fmt.Errorf("receive %s: %w", c.item.Step.TargetFilesystem, c.explain(r, recvError))
	}
	if sendError != nil {
		return nil, protocol.AsFailure(fmt.Errorf("send %s: %w", c.item.Step.To.Full(c.item.Step.Filesystem), sendError),
			protocol.Transient)
	}
	return meter.progress(), nil
}

// countingReader counts what is read through it.
type countingReader struct {
	stream *zfs.SendStream
	bytes  *atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.stream.Read(p)
	r.bytes.Add(int64(n))
	return n, err
}

// Close ends a Read that is blocked.
func (r *countingReader) Close() error { return r.stream.Close() }
