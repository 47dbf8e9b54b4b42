// Sending: the sender's side of a step.

package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// sending is a step that the sender has found fit to send.
type sending struct {
	valid   zfs.ValidSend
	step    abstractions.SendStep
	from    *zfs.Version
	to      zfs.Version
	resumed bool
}

// source looks at the step's filesystem, if this host's policy allows to send it.
func (t *try) source(ctx context.Context) (zfs.Dataset, error) {
	filesystem, w := t.item.Step.Filesystem, t.worker
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
func (t *try) prepareSend(ctx context.Context, token string) (*sending, error) {
	dataset, err := t.source(ctx)
	if err != nil {
		return nil, err
	}
	return t.validateSend(ctx, dataset, token)
}

// validateSend compares the step with the dataset as it was listed.
func (t *try) validateSend(ctx context.Context, dataset zfs.Dataset, token string) (*sending, error) {
	step, w := t.item.Step, t.worker
	to, found := snapshotByGUID(dataset, step.To.GUID)
	if !found {
		return nil, protocol.Failf(protocol.Transient, "%s: %s is gone since the step was planned", step.Filesystem, step.To)
	}
	s := &sending{to: to, resumed: token != ""}
	s.step = abstractions.SendStep{
		Filesystem: step.Filesystem, JobID: t.item.JobID, Protection: t.item.ProtectionOfStep(), To: to, Dataset: &dataset,
		Intermediate: step.Intermediates > 0,
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
	if t.item.Send.Saved && !features.SavedSend {
		return nil, protocol.Failf(protocol.Permanent, "OpenZFS %s of this host cannot send saved state (2.0 can): upgrade it, or set"+
			" send.saved: false in the job", features.Version)
	}
	args := t.sendArgs(s, token)
	var decoded *zfs.ResumeToken
	if token != "" {
		d, err := w.config.ZFS.DecodeResumeToken(ctx, token)
		if unreadableToken(err) {
			return nil, &tokenRefused{reason: err}
		}
		if err != nil {
			return nil, protocol.AsFailure(err, protocol.Transient)
		}
		decoded = &d
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
func (t *try) sendArgs(s *sending, token string) zfs.SendArgs {
	options := t.item.Send
	args := zfs.SendArgs{
		Dataset: t.item.Step.Filesystem, To: reference(s.to), ResumeToken: token,
		Intermediate: t.item.Step.Intermediates > 0,
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

// settleOnly does what is left of a step whose stream the receiver has already: its offer says so, and is its confirmation.
// Its snapshot may be gone by now, where nothing held it; a bookmark of it does as well.
func (t *try) settleOnly(ctx context.Context) error {
	step := t.item.Step
	dataset, err := t.source(ctx)
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
		Filesystem: step.Filesystem, JobID: t.item.JobID, Protection: t.item.ProtectionOfStep(), To: to, Dataset: &dataset,
	}}
	if step.From != nil {
		if from, found := versionByGUID(dataset, *step.From, false); found {
			s.step.From = &from
		}
	}
	return t.settleSend(ctx, s, &protocol.Progress{}, nil, "")
}

// settleSend moves the cursor and releases the step's protection, after the receiver's confirmation, and tells that the
// step is done: how the stream went, which way it took, and what an operator should know of it.
func (t *try) settleSend(ctx context.Context, s *sending, progress *protocol.Progress, path *protocol.Path, note string) error {
	if err := t.fence(); err != nil {
		return err
	}
	for _, lock := range t.places {
		// Should this worker die before the end, the next claim on the item only settles.
		err := lock.change(func(record *claimRecord) { record.Confirmed = true })
		t.closed(ctx, "record of a claim", err)
	}
	if _, err := t.worker.keeper.AfterConfirmation(ctx, s.step); err != nil {
		return err
	}
	event := t.reporter.event(protocol.EventDone)
	to := toProtocol(s.to)
	event.To, event.Progress, event.Path, event.Note = &to, progress, path, note
	return t.tell(ctx, event)
}
