// Receiving: the receiver's side of a step.

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/bandwidth"
	"github.com/zfleet/zfleet/worker/transport/zstream"
	"github.com/zfleet/zfleet/zfs"
)

// receiving is a step that the receiver is ready for.
type receiving struct {
	args zfs.RecvArgs
	// hasTo says that the step's to is there already.
	hasTo bool
	// resumeToken is that of the partial state, if it is one of this step.
	resumeToken string
	// placeholder says that the filesystem was one.
	placeholder bool
	// missing says that there is no such filesystem yet, so that its ancestors may have to be created.
	missing bool
	// common is the target's copy of the step's from: a snapshot's full name; empty for a full send.
	common string
}

// denyPlaceholder has the received filesystem say of itself that it is no placeholder. Otherwise it would inherit that from
// one above it, and every listing would need a second command to tell the two apart.
func (r *receiving) denyPlaceholder() {
	override := map[string]string{zfs.PlaceholderProperty: "off"}
	maps.Copy(override, r.args.Override)
	r.args.Override = override
}

// prepareReceive compares the step with this host's policy and pool. It abandons a partial state that is of no use, and
// otherwise changes nothing: the sender may refuse the step yet.
func (t *try) prepareReceive(ctx context.Context) (*receiving, error) {
	w, target := t.worker, t.item.Step.TargetFilesystem
	if err := w.config.Policy.allowRecv(w.config.Host, t.item.Job, t.item.TargetRoot, target); err != nil {
		return nil, err
	}
	properties := t.item.Recv.Properties.For(t.item.Step.Volume)
	if t.item.Step.From != nil {
		// They are decided when a filesystem is made, and zfs recv refuses them for increments.
		for _, property := range []string{"encryption", "keyformat", "keylocation", "pbkdf2iters"} {
			delete(properties.Override, property)
		}
	}
	r := &receiving{args: zfs.RecvArgs{
		Dataset: target, Resumable: true, Rollback: t.item.Recv.ForceRollback,
		Override: properties.Override, Inherit: properties.Inherit,
	}}
	dataset, err := w.keeper.Dataset(ctx, target)
	if errors.Is(err, zfs.ErrDatasetDoesNotExist) {
		r.missing = true
		r.denyPlaceholder()
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", target, err)
	}
	r.placeholder = dataset.Placeholder
	if to, found := snapshotByGUID(dataset, t.item.Step.To.GUID); found {
		r.hasTo = true
		return r, t.protectReceived(ctx, r, to, &dataset)
	}
	if t.item.Step.From == nil && !r.placeholder {
		if dataset.ReceiveResumeToken == "" {
			// With -F, a full stream would replace it. The plan does not ask for that, but pools change, and items can be forged.
			return nil, protocol.Failf(protocol.Conflict, "%s exists, and is neither a placeholder nor partially received, so it is"+
				" somebody else's: rename or destroy it, or replicate to another root", target)
		}
		r.denyPlaceholder()
	}
	if t.item.Step.From != nil {
		if from, found := snapshotByGUID(dataset, t.item.Step.From.GUID); found {
			r.common = target + "@" + from.Name
		}
	}
	// A placeholder holds no data of anybody's, and a full stream replaces it only with -F.
	r.args.Rollback = r.args.Rollback || r.placeholder && len(dataset.Versions) == 0
	r.resumeToken, err = t.usableToken(ctx, dataset)
	return r, err
}

// usableToken is the dataset's resume token if it encodes a send of this step. A partial state of something else is
// abandoned where the coordinator has seen it and planned without it.
func (t *try) usableToken(ctx context.Context, dataset zfs.Dataset) (string, error) {
	step, token := t.item.Step, dataset.ReceiveResumeToken
	if token == "" {
		if step.Resume {
			return "", protocol.Failf(protocol.Transient, "%s: the partial state that the step was to resume is gone", dataset.Name)
		}
		return "", nil
	}
	decoded, err := t.worker.config.ZFS.DecodeResumeToken(ctx, token)
	if err != nil && !unreadableToken(err) {
		return "", protocol.AsFailure(fmt.Errorf("%s: %w", dataset.Name, err), protocol.Transient)
	}
	fits := err == nil && decoded.ToGUID == step.To.GUID && step.Intermediates == 0 &&
		(step.From == nil && !decoded.HasFromGUID || step.From != nil && decoded.FromGUID == step.From.GUID)
	if fits {
		return token, nil
	}
	if step.Resume || t.claim.token.Delivery > 1 {
		// The partial state came, or changed, after the step was planned; it is for a new plan to say what it is good for.
		return "", protocol.Failf(protocol.Transient, "%s: its partial state is another one than when the step was planned",
			dataset.Name)
	}
	t.logger.InfoContext(ctx, "abandoning a partial state that is of no use to the step", slog.String("target", dataset.Name),
		slog.Any("token", decoded), slog.Any("error", err))
	return "", t.abandon(ctx)
}

// abandon gives up the partial state of the step's target. While a receive is still running there, perhaps one whose worker
// has just died, that fails, and is worth another try.
func (t *try) abandon(ctx context.Context) error {
	err := t.worker.durably(ctx, pointAbandon, func() error {
		return t.worker.config.ZFS.AbortRecv(ctx, t.item.Step.TargetFilesystem)
	})
	if err != nil {
		return protocol.AsFailure(fmt.Errorf("abandon the partial state: %w", err), protocol.Transient)
	}
	return nil
}

// makeRoom creates what is missing between the target's root, which must exist, and the step's filesystem.
func (t *try) makeRoom(ctx context.Context, r *receiving) error {
	if !r.missing {
		return nil
	}
	root := t.item.TargetRoot
	var missing []string
	var above zfs.Dataset
	for parent := parentOf(t.item.Step.TargetFilesystem); ; parent = parentOf(parent) {
		found, err := t.worker.config.ZFS.List(ctx, zfs.ListQuery{Datasets: []string{parent}})
		if err == nil && len(found) == 1 {
			above = found[0]
			break
		}
		if err != nil && !errors.Is(err, zfs.ErrDatasetDoesNotExist) {
			return fmt.Errorf("look at %s: %w", parent, err)
		}
		if parent == root {
			return protocol.Failf(protocol.Permanent, "the target's root %s does not exist; create it (zfs create -p %s), or correct"+
				" the job's targets[].root", root, root)
		}
		missing = append([]string{parent}, missing...)
	}
	args := zfs.PlaceholderArgs{Encryption: zfs.PlaceholderInherit}
	switch encryption := t.item.Recv.Placeholder.Encryption; {
	case encryption == protocol.PlaceholderOff:
		args.Encryption = zfs.PlaceholderOff
	case len(missing) == 0 || !above.Encrypted():
	case encryption != protocol.PlaceholderInherit:
		return protocol.Failf(protocol.Permanent, "%s has to be created to hold %s, below %s, which is encrypted: say in the job whether"+
			" it shall be encrypted too (recv.placeholder.encryption: inherit) or not (off)",
			missing[0], t.item.Step.TargetFilesystem, above.Name)
	case above.KeyStatus != "available":
		return protocol.Failf(protocol.Permanent, "%s has to be created to hold %s, encrypted like %s above it (recv.placeholder.encryption:"+
			" inherit), but the key is not loaded: load it (zfs load-key %s), or say in the job that placeholders are not encrypted"+
			" (recv.placeholder.encryption: off)", missing[0], t.item.Step.TargetFilesystem, above.Name, above.EncryptionRoot)
	}
	for _, name := range missing {
		err := t.worker.durably(ctx, pointPlaceholder, func() error { return t.worker.config.ZFS.CreatePlaceholder(ctx, name, args) })
		if err != nil {
			return fmt.Errorf("create the placeholder %s: %w", name, err)
		}
	}
	return nil
}

func parentOf(dataset string) string { return dataset[:strings.LastIndexByte(dataset, '/')] }

func (t *try) receiveStep(to zfs.Version, dataset *zfs.Dataset) abstractions.ReceiveStep {
	step := abstractions.ReceiveStep{
		Filesystem: t.item.Step.TargetFilesystem, JobID: t.item.JobID, Protection: t.item.ProtectionOfStep(),
		To: to, Dataset: dataset,
	}
	if t.item.Step.From != nil {
		from := fromProtocol(*t.item.Step.From)
		step.From = &from
	}
	return step
}

// settleReceive looks whether to has really arrived, and protects it. Only then may it be confirmed.
func (t *try) settleReceive(ctx context.Context, r *receiving) (zfs.Version, error) {
	target := t.item.Step.TargetFilesystem
	dataset, err := t.worker.keeper.Dataset(ctx, target)
	if err != nil {
		return zfs.Version{}, fmt.Errorf("look at what was received: %w", err)
	}
	to, found := snapshotByGUID(dataset, t.item.Step.To.GUID)
	if !found {
		return zfs.Version{}, protocol.Failf(protocol.Permanent,
			"%s: zfs recv succeeded, but there is no snapshot with the guid of %s: another stream was received", target,
			t.item.Step.To)
	}
	return to, t.protectReceived(ctx, r, to, &dataset)
}

// protectReceived sets the last-received hold. What was a placeholder is none any more: it was not marked so before to
// arrived, because an interrupted receive leaves an empty placeholder, and an empty filesystem that is none would be somebody
// else's.
func (t *try) protectReceived(ctx context.Context, r *receiving, to zfs.Version, dataset *zfs.Dataset) error {
	if r.placeholder {
		err := t.worker.durably(ctx, pointUnmark, func() error { return t.worker.config.ZFS.SetPlaceholder(ctx, dataset.Name, false) })
		if err != nil {
			return err
		}
	}
	return t.worker.keeper.AfterReceive(ctx, t.receiveStep(to, dataset))
}

// receive does the receiver's side of a step.
func (t *try) receive(ctx context.Context) error {
	r, err := t.prepareReceive(ctx)
	if err != nil {
		return err
	}
	if r.hasTo {
		return t.offer(ctx, protocol.Offer{HasTo: true})
	}
	bell, err := t.listen()
	if err != nil {
		return err
	}
	defer bell.close(ctx)
	bell.offer.ResumeToken = r.resumeToken
	if err := t.offer(ctx, bell.offer); err != nil {
		return err
	}
	// Others may be waited for, and the sender's item may lie until one of its slots is free.
	wait := t.item.Deadlines.Claim.Std() + t.item.Deadlines.Offer.Std() + t.item.Delivery.FanOut.Wait.Std()
	answerContext, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	way, err := bell.answer(answerContext)
	if err != nil {
		if ctx.Err() == nil && answerContext.Err() != nil {
			err = protocol.Failf(protocol.Transient, "no sender connected within %s", wait)
		}
		return protocol.AsFailure(fmt.Errorf("wait for the sender %s: %w", t.item.Source, err), protocol.Transient)
	}
	defer func() { t.closed(ctx, "way from the sender", way.Close()) }()
	return t.receiveFrom(ctx, r, way)
}

func (t *try) offer(ctx context.Context, offer protocol.Offer) error {
	event := t.reporter.event(protocol.EventOffered)
	event.Offer = &offer
	return t.tell(ctx, event)
}

// receiveFrom takes the stream from the sender, and confirms it or says why not.
func (t *try) receiveFrom(ctx context.Context, r *receiving, way incoming) error {
	header := way.Header()
	started := time.Now()
	var to zfs.Version
	var bytes int64
	err := t.checkHeader(header)
	switch {
	case err != nil:
	case header.RefusedToken != "":
		err = t.abandonRefused(ctx, header)
	default:
		if err = t.makeRoom(ctx, r); err == nil {
			err = t.worker.durably(ctx, pointStream, func() (err error) {
				bytes, err = t.copyToPool(ctx, r, way)
				return err
			})
		}
		if err == nil {
			to, err = t.settleReceive(ctx, r)
		}
		if err == nil {
			err = t.fence()
		}
	}
	confirmation := protocol.Confirmation{
		ToGUID: to.GUID, Bytes: uint64(max(bytes, 0)), Elapsed: time.Since(started), Failure: t.worker.failureOf(err),
	}
	if err != nil && context.Cause(ctx) != nil {
		confirmation.Failure = &protocol.Failure{
			Kind: protocol.Transient, Host: t.worker.config.Host,
			Message: fmt.Sprintf("receive %s: %v", t.item.Step.TargetFilesystem, context.Cause(ctx)),
		}
	}
	confirmContext, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.item.Deadlines.Stall.Std())
	defer cancel()
	confirmError := t.worker.durably(ctx, pointConfirm, func() error { return way.Confirm(confirmContext, confirmation) })
	if confirmError != nil && err == nil {
		// The sender did not learn of it. The step is tried again, and finds that nothing has to be sent.
		err = protocol.AsFailure(fmt.Errorf("confirm %s to %s: %w", t.item.Step.To, t.item.Source, confirmError), protocol.Transient)
	}
	if err != nil {
		return err
	}
	event := t.reporter.event(protocol.EventReceived)
	version := toProtocol(to)
	event.To = &version
	event.Progress = &protocol.Progress{
		Bytes: confirmation.Bytes, Expected: header.Expected, Resumed: header.Resumed, Elapsed: confirmation.Elapsed,
	}
	return t.tell(ctx, event)
}

// checkHeader compares what the sender is about to send with the step.
func (t *try) checkHeader(header protocol.StreamHeader) error {
	var from uint64
	if t.item.Step.From != nil {
		from = t.item.Step.From.GUID
	}
	if header.Ref != t.item.Ref || header.JobID != t.item.JobID || header.ToGUID != t.item.Step.To.GUID || header.FromGUID != from {
		return protocol.Failf(protocol.Transient, "the sender connected for step %s (from guid %d to guid %d), not for %s",
			header.Ref, header.FromGUID, header.ToGUID, t.item.Ref)
	}
	if header.Compression.Algorithm() != protocol.CompressionNone && header.Compression != protocol.CompressionZstd {
		return protocol.Failf(protocol.Permanent, "the sender compresses with %q, which was not offered", header.Compression)
	}
	return nil
}

func (t *try) abandonRefused(ctx context.Context, header protocol.StreamHeader) error {
	if err := t.abandon(ctx); err != nil {
		return err
	}
	return protocol.Failf(protocol.Transient, "%s: the partial state was abandoned: %s", t.item.Step.TargetFilesystem,
		header.RefusedToken)
}

// copyToPool feeds the stream to zfs recv, and counts its bytes. When the stream breaks off, zfs recv sees its end there and
// keeps what it has.
func (t *try) copyToPool(ctx context.Context, r *receiving, way incoming) (int64, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make a pipe: %w", err)
	}
	limit := t.worker.limitOf(bandwidth.Recv, t.item)
	defer limit.Release()
	options := transport.CopyOptions{Stall: t.item.Deadlines.Stall.Std(), Limit: limit}
	var bytes int64
	var copyError, recvError error
	group := errgroup.Group{}
	group.Go(func() error {
		recvError = t.worker.config.ZFS.Recv(ctx, r.args, reader)
		return nil
	})
	group.Go(func() error {
		if way.Header().Compression == protocol.CompressionZstd {
			bytes, copyError = decompress(ctx, way, writer, options)
		} else {
			bytes, copyError = way.CopyTo(ctx, writer, options)
		}
		if closeError := writer.Close(); copyError == nil {
			copyError = closeError
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return bytes, err
	}
	return bytes, receiveError(copyError, t.explain(r, recvError))
}

// decompress copies a compressed stream, and counts what came out of it. Only its own end mark says that it is whole.
func decompress(ctx context.Context, way incoming, writer *os.File, options transport.CopyOptions) (int64, error) {
	expanded := zstream.NewWriter(writer)
	_, copyError := way.CopyTo(ctx, expanded, options)
	closeError := expanded.Close()
	if copyError == nil && closeError != nil {
		copyError = protocol.AsFailure(fmt.Errorf("decompressing the stream: %w", closeError), protocol.Transient)
	}
	return expanded.Statistics().Content, copyError
}

// explain adds to what zfs recv complains of what the operator can do about it in the job or on this host.
func (t *try) explain(r *receiving, err error) error {
	var typed *zfs.RecvError
	if !errors.As(err, &typed) {
		return err
	}
	target := t.item.Step.TargetFilesystem
	switch {
	case typed.Kind == zfs.RecvDestinationModified && r.common != "":
		return protocol.Failf(protocol.Conflict, "%s was written to since %s, the last version that both sides have, and an increment"+
			" can only be received on top of that: %w. To give up what was written, on %s: zfs rollback -r '%s'. To let the job do that"+
			" whenever it is needed, set recv.force_rollback: true in it", target, r.common, err, t.worker.config.Host, r.common)
	case typed.Kind == zfs.RecvForceIntoEncrypted && r.placeholder:
		return protocol.Failf(protocol.Permanent, "%s is a placeholder, and OpenZFS replaces no filesystem where the old or the new one"+
			" is encrypted: %w. If nothing is below it, on %s: zfs destroy '%s'. Otherwise move it aside with what is below it"+
			" (zfs rename '%s' '%s_placeholder'), run the job for this filesystem alone, and move what was below it back (zfs rename)",
			target, err, t.worker.config.Host, target, target, target)
	case typed.Kind == zfs.RecvLargeBlocksRequired:
		return protocol.Failf(protocol.Permanent, "%s was received with large blocks, and OpenZFS then takes no increments without them: %w."+
			" Set send.large_blocks: true in the job again, or keep the target under another name (zfs rename) and replicate it anew",
			target, err)
	case typed.Kind == zfs.RecvEmbeddedIntoEncrypted:
		return protocol.Failf(protocol.Permanent, "%s is encrypted on the target, and OpenZFS receives no embedded data there: %w. Set"+
			" send.embedded_data: false in the job", target, err)
	}
	return err
}

// receiveError is the error that says most: what zfs recv complains of, unless that is only that the stream broke off.
func receiveError(copyError, recvError error) error {
	var typed *zfs.RecvError
	if errors.As(recvError, &typed) && copyError != nil &&
		(typed.Kind == zfs.RecvInterrupted || typed.Kind == zfs.RecvInvalidStream || typed.Kind == zfs.RecvChecksumMismatch) {
		return protocol.AsFailure(fmt.Errorf("the stream broke off: %w", copyError), protocol.Transient)
	}
	if recvError != nil {
		return recvError
	}
	return copyError
}
