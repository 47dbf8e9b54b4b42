// Sending: the sender's side of a step.

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/tcp"
	"github.com/zfleet/zfleet/zfs"
)

// sending is a step that the sender has found fit to send.
type sending struct {
	valid    zfs.ValidSend
	step     abstractions.SendStep
	from     *zfs.Version
	to       zfs.Version
	resumed  bool
	expected uint64
}

// source looks at the step's filesystem, if this host's policy allows to send it.
func (c *claim) source(ctx context.Context) (zfs.Dataset, error) {
	filesystem, w := c.item.Step.Filesystem, c.worker
	if err := w.config.Policy.allowSend(w.config.Host, filesystem); err != nil {
		return zfs.Dataset{}, err
	}
	dataset, err := w.keeper.Dataset(ctx, filesystem)
	if err != nil {
		return zfs.Dataset{}, fmt.Errorf("look at %s: %w", filesystem, err)
	}
	return dataset, nil
}

// prepareSend compares the step with this host's policy and pool. A resume token that is not one of this very send gives a
// *tokenRefused.
func (c *claim) prepareSend(ctx context.Context, token string) (*sending, error) {
	dataset, err := c.source(ctx)
	if err != nil {
		return nil, err
	}
	return c.validateSend(ctx, dataset, token)
}

// validateSend compares the step with the dataset as it was listed.
func (c *claim) validateSend(ctx context.Context, dataset zfs.Dataset, token string) (*sending, error) {
	step, w := c.item.Step, c.worker
	to, found := snapshotByGUID(dataset, step.To.GUID)
	if !found {
		return nil, protocol.Failf(protocol.Transient, "%s: %s is gone since the step was planned", step.Filesystem, step.To)
	}
	s := &sending{to: to, resumed: token != ""}
	s.step = abstractions.SendStep{
		Filesystem: step.Filesystem, JobID: c.item.JobID, Protection: c.item.ProtectionOfStep(), To: to, Dataset: &dataset,
	}
	if step.From != nil {
		from, found := versionByGUID(dataset, *step.From, step.Intermediates > 0)
		if !found {
			return nil, protocol.Failf(protocol.Transient, "%s: %s is gone since the step was planned", step.Filesystem, step.From)
		}
		s.from, s.step.From = &from, &from
	}
	features, err := w.config.ZFS.Features(ctx)
	if err != nil {
		return nil, err
	}
	if c.item.Send.Saved && !features.SavedSend {
		return nil, protocol.Failf(protocol.Permanent, "OpenZFS %s of this host cannot send saved state (2.0 can): upgrade it, or set"+
			" send.saved: false in the job", features.Version)
	}
	args := c.sendArgs(s, token)
	var decoded *zfs.ResumeToken
	if token != "" {
		t, err := w.config.ZFS.DecodeResumeToken(ctx, token)
		if unreadableToken(err) {
			return nil, &tokenRefused{reason: err}
		}
		if err != nil {
			return nil, protocol.AsFailure(err, protocol.Transient)
		}
		decoded = &t
	}
	s.valid, err = zfs.ValidateSend(args, dataset, decoded, features)
	var unfit *zfs.SendArgsError
	if errors.As(err, &unfit) && unfit.Problem == zfs.SendToken {
		return nil, &tokenRefused{reason: err}
	}
	return s, err
}

// unreadableToken tells whether err says that a resume token itself is of no use, and not that it could not be looked at.
func unreadableToken(err error) bool {
	var output *zfs.OutputError
	return errors.Is(err, zfs.ErrResumeTokenCorrupt) || errors.As(err, &output)
}

// sendArgs is the send of the step. Saved state is never among it: steps are of whole snapshots.
func (c *claim) sendArgs(s *sending, token string) zfs.SendArgs {
	options := c.item.Send
	args := zfs.SendArgs{
		Dataset: c.item.Step.Filesystem, To: reference(s.to), ResumeToken: token,
		Intermediate: c.item.Step.Intermediates > 0,
		Flags: zfs.SendFlags{
			Raw: options.Raw || options.Encrypted, Properties: options.Properties, BackupProperties: options.BackupProperties,
			Compressed: options.Compressed, LargeBlocks: options.LargeBlocks, EmbeddedData: options.EmbeddedData,
		},
	}
	if s.from != nil {
		from := reference(*s.from)
		args.From = &from
	}
	if options.Encrypted || !options.Raw {
		args.Encrypted = &options.Encrypted
	}
	return args
}

// tokenRefused says that the receiver's resume token is of another send than this step's.
type tokenRefused struct{ reason error }

func (t *tokenRefused) Error() string {
	return "the receiver's resume token is refused: " + t.reason.Error()
}

func (t *tokenRefused) Unwrap() error { return t.reason }

// estimate asks zfs for the stream's size where that is worth a command: for streams that may take long.
func (c *claim) estimate(ctx context.Context, s *sending) {
	if !c.item.Step.Initial && !s.resumed {
		return
	}
	size, err := c.worker.config.ZFS.EstimateSend(ctx, s.valid)
	if err != nil {
		c.logger.DebugContext(ctx, "the stream's size is not known", slog.Any("error", err))
		return
	}
	s.expected = size
}

// send does the sender's side of a step over TCP.
func (c *claim) send(ctx context.Context) error {
	offer := *c.item.Offer
	if offer.HasTo {
		return c.settleOnly(ctx)
	}
	header := protocol.StreamHeader{Ref: c.item.Ref, JobID: c.item.JobID, ToGUID: c.item.Step.To.GUID}
	if c.item.Step.From != nil {
		header.FromGUID = c.item.Step.From.GUID
	}
	header.Traceparent, header.Tracestate = protocol.InjectTrace(ctx)

	s, err := c.prepareSend(ctx, offer.ResumeToken)
	var refused *tokenRefused
	if errors.As(err, &refused) {
		header.RefusedToken = refused.Error()
		return c.refuseToken(ctx, offer, header)
	}
	if err != nil {
		return err
	}
	c.estimate(ctx, s)
	header.Resumed, header.Expected = s.resumed, s.expected
	if err := c.worker.keeper.BeforeSend(ctx, s.step); err != nil {
		return err
	}
	progress, err := c.stream(ctx, offer, header, s)
	if err != nil {
		return err
	}
	return c.settleSend(ctx, s, progress)
}

// stream sends the stream and waits for the receiver's confirmation.
func (c *claim) stream(
	ctx context.Context, offer protocol.Offer, header protocol.StreamHeader, s *sending,
) (progress *protocol.Progress, err error) {
	deadlines := c.item.Deadlines
	connection, err := tcp.Dial(ctx, offer, header, tcp.DialOptions{Stall: deadlines.Stall.Std(), Logger: c.logger})
	if err != nil {
		return nil, protocol.AsFailure(fmt.Errorf("connect to %s: %w", c.item.Target, err), protocol.Transient)
	}
	defer func() { c.closed(ctx, "connection", connection.Close()) }()
	stream, err := c.worker.config.ZFS.Send(ctx, s.valid)
	if err != nil {
		connection.Abort(ctx, c.worker.failureOf(err))
		return nil, err
	}
	defer func() {
		if closeError := stream.Close(); err == nil && !errors.Is(closeError, os.ErrClosed) {
			err = closeError
		}
	}()
	meter := c.reporter.newMeter(ctx, s.expected, s.resumed)
	defer meter.stop()
	if _, err := connection.CopyFrom(ctx, stream, transport.CopyOptions{Stall: deadlines.Stall.Std(), Bytes: &meter.bytes}); err != nil {
		// A zfs send that fails in the middle may have lost its snapshot, or met a pool in trouble; the next try shows.
		return nil, protocol.AsFailure(fmt.Errorf("send %s: %w", c.item.Step.To.Full(c.item.Step.Filesystem), err),
			protocol.Transient)
	}
	confirmContext, cancel := context.WithTimeout(ctx, deadlines.Confirm.Std())
	defer cancel()
	confirmation, err := connection.Confirmation(confirmContext)
	if err != nil {
		return nil, protocol.AsFailure(fmt.Errorf("wait for the confirmation of %s: %w", c.item.Target, err), protocol.Transient)
	}
	if confirmation.Failure != nil {
		return nil, confirmation.Failure
	}
	if confirmation.ToGUID != s.to.GUID {
		return nil, protocol.Failf(protocol.Permanent, "%s confirmed guid %d, but guid %d was sent: the cursor stays where it is",
			c.item.Target, confirmation.ToGUID, s.to.GUID)
	}
	return meter.progress(), nil
}

// closed notes a failure of closing something whose work is done.
func (c *claim) closed(ctx context.Context, what string, err error) {
	if err != nil {
		c.logger.DebugContext(ctx, "closing failed", slog.String("what", what), slog.Any("error", err))
	}
}

// refuseToken tells the receiver that its partial state is of no use, so that it abandons it.
func (c *claim) refuseToken(ctx context.Context, offer protocol.Offer, header protocol.StreamHeader) error {
	connection, err := tcp.Dial(ctx, offer, header, tcp.DialOptions{Stall: c.item.Deadlines.Stall.Std(), Logger: c.logger})
	if err != nil {
		return protocol.AsFailure(fmt.Errorf("connect to %s: %w", c.item.Target, err), protocol.Transient)
	}
	defer func() { c.closed(ctx, "connection", connection.Close()) }()
	confirmContext, cancel := context.WithTimeout(ctx, c.item.Deadlines.Confirm.Std())
	defer cancel()
	if _, err := connection.Confirmation(confirmContext); err != nil {
		return protocol.AsFailure(fmt.Errorf("refuse the resume token of %s: %w", c.item.Target, err), protocol.Transient)
	}
	return protocol.Failf(protocol.Transient, "%s: %s; the receiver has abandoned its partial state, and the step is tried anew",
		c.item.Step.TargetFilesystem, header.RefusedToken)
}

// settleOnly does what is left of a step whose stream the receiver has already: its offer says so, and is its confirmation.
// Its snapshot may be gone by now, where nothing held it; a bookmark of it does as well.
func (c *claim) settleOnly(ctx context.Context) error {
	step := c.item.Step
	dataset, err := c.source(ctx)
	if err != nil {
		return err
	}
	to, found := versionByGUID(dataset, step.To, false)
	if !found {
		return protocol.Failf(protocol.Transient, "%s: %s is gone since the step was planned, and no bookmark of it is left",
			step.Filesystem, step.To)
	}
	if to.Type == zfs.Bookmark {
		to.Type, to.Name = zfs.Snapshot, step.To.Name
	}
	s := &sending{to: to, step: abstractions.SendStep{
		Filesystem: step.Filesystem, JobID: c.item.JobID, Protection: c.item.ProtectionOfStep(), To: to, Dataset: &dataset,
	}}
	if step.From != nil {
		if from, found := versionByGUID(dataset, *step.From, false); found {
			s.step.From = &from
		}
	}
	return c.settleSend(ctx, s, &protocol.Progress{})
}

// settleSend moves the cursor and releases the step's protection, after the receiver's confirmation, and tells that the
// step is done.
func (c *claim) settleSend(ctx context.Context, s *sending, progress *protocol.Progress) error {
	if _, err := c.worker.keeper.AfterConfirmation(ctx, s.step); err != nil {
		return err
	}
	event := c.reporter.event(protocol.EventDone)
	to := toProtocol(s.to)
	event.To, event.Progress = &to, progress
	return c.reporter.tell(ctx, event)
}
