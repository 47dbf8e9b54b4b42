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
	"github.com/zfleet/zfleet/worker/transport/tcp"
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
func (c *claim) prepareReceive(ctx context.Context) (*receiving, error) {
	w, target := c.worker, c.item.Step.TargetFilesystem
	if err := w.config.Policy.allowRecv(w.config.Host, c.item.Job, c.item.TargetRoot, target); err != nil {
		return nil, err
	}
	properties := c.item.Recv.Properties.For(c.item.Step.Volume)
	if c.item.Step.From != nil {
		// They are decided when a filesystem is made, and zfs recv refuses them for increments.
		for _, property := range []string{"encryption", "keyformat", "keylocation", "pbkdf2iters"} {
			delete(properties.Override, property)
		}
	}
	r := &receiving{args: zfs.RecvArgs{
		Dataset: target, Resumable: true, Rollback: c.item.Recv.ForceRollback,
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
	if to, found := snapshotByGUID(dataset, c.item.Step.To.GUID); found {
		r.hasTo = true
		return r, c.protectReceived(ctx, r, to, &dataset)
	}
	if c.item.Step.From == nil && !r.placeholder {
		if dataset.ReceiveResumeToken == "" {
			// With -F, a full stream would replace it. The plan does not ask for that, but pools change, and items can be forged.
			return nil, protocol.Failf(protocol.Conflict, "%s exists, and is neither a placeholder nor partially received, so it is"+
				" somebody else's: rename or destroy it, or replicate to another root", target)
		}
		r.denyPlaceholder()
	}
	if c.item.Step.From != nil {
		if from, found := snapshotByGUID(dataset, c.item.Step.From.GUID); found {
			r.common = target + "@" + from.Name
		}
	}
	// A placeholder holds no data of anybody's, and a full stream replaces it only with -F.
	r.args.Rollback = r.args.Rollback || r.placeholder && len(dataset.Versions) == 0
	r.resumeToken, err = c.usableToken(ctx, dataset)
	return r, err
}

// usableToken is the dataset's resume token if it encodes a send of this step. A partial state of something else is
// abandoned where the coordinator has seen it and planned without it.
func (c *claim) usableToken(ctx context.Context, dataset zfs.Dataset) (string, error) {
	step, token := c.item.Step, dataset.ReceiveResumeToken
	if token == "" {
		if step.Resume {
			return "", protocol.Failf(protocol.Transient, "%s: the partial state that the step was to resume is gone", dataset.Name)
		}
		return "", nil
	}
	decoded, err := c.worker.config.ZFS.DecodeResumeToken(ctx, token)
	if err != nil && !unreadableToken(err) {
		return "", protocol.AsFailure(fmt.Errorf("%s: %w", dataset.Name, err), protocol.Transient)
	}
	fits := err == nil && decoded.ToGUID == step.To.GUID && step.Intermediates == 0 &&
		(step.From == nil && !decoded.HasFromGUID || step.From != nil && decoded.FromGUID == step.From.GUID)
	if fits {
		return token, nil
	}
	if step.Resume || c.delivery > 1 {
		// The partial state came, or changed, after the step was planned; it is for a new plan to say what it is good for.
		return "", protocol.Failf(protocol.Transient, "%s: its partial state is another one than when the step was planned",
			dataset.Name)
	}
	c.logger.InfoContext(ctx, "abandoning a partial state that is of no use to the step", slog.String("target", dataset.Name),
		slog.Any("token", decoded), slog.Any("error", err))
	return "", c.abandon(ctx)
}

// abandon gives up the partial state of the step's target. While a receive is still running there, perhaps one whose worker
// has just died, that fails, and is worth another try.
func (c *claim) abandon(ctx context.Context) error {
	if err := c.worker.config.ZFS.AbortRecv(ctx, c.item.Step.TargetFilesystem); err != nil {
		return protocol.AsFailure(fmt.Errorf("abandon the partial state: %w", err), protocol.Transient)
	}
	return nil
}

// makeRoom creates what is missing between the target's root, which must exist, and the step's filesystem.
func (c *claim) makeRoom(ctx context.Context, r *receiving) error {
	if !r.missing {
		return nil
	}
	root := c.item.TargetRoot
	var missing []string
	var above zfs.Dataset
	for parent := parentOf(c.item.Step.TargetFilesystem); ; parent = parentOf(parent) {
		found, err := c.worker.config.ZFS.List(ctx, zfs.ListQuery{Datasets: []string{parent}})
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
	switch encryption := c.item.Recv.Placeholder.Encryption; {
	case encryption == protocol.PlaceholderOff:
		args.Encryption = zfs.PlaceholderOff
	case len(missing) == 0 || !above.Encrypted():
	case encryption != protocol.PlaceholderInherit:
		return protocol.Failf(protocol.Permanent, "%s has to be created to hold %s, below %s, which is encrypted: say in the job whether"+
			" it shall be encrypted too (recv.placeholder.encryption: inherit) or not (off)",
			missing[0], c.item.Step.TargetFilesystem, above.Name)
	case above.KeyStatus != "available":
		return protocol.Failf(protocol.Permanent, "%s has to be created to hold %s, encrypted like %s above it (recv.placeholder.encryption:"+
			" inherit), but the key is not loaded: load it (zfs load-key %s), or say in the job that placeholders are not encrypted"+
			" (recv.placeholder.encryption: off)", missing[0], c.item.Step.TargetFilesystem, above.Name, above.EncryptionRoot)
	}
	for _, name := range missing {
		if err := c.worker.config.ZFS.CreatePlaceholder(ctx, name, args); err != nil {
			return fmt.Errorf("create the placeholder %s: %w", name, err)
		}
	}
	return nil
}

func parentOf(dataset string) string { return dataset[:strings.LastIndexByte(dataset, '/')] }

func (c *claim) receiveStep(to zfs.Version, dataset *zfs.Dataset) abstractions.ReceiveStep {
	step := abstractions.ReceiveStep{
		Filesystem: c.item.Step.TargetFilesystem, JobID: c.item.JobID, Protection: c.item.ProtectionOfStep(),
		To: to, Dataset: dataset,
	}
	if c.item.Step.From != nil {
		from := fromProtocol(*c.item.Step.From)
		step.From = &from
	}
	return step
}

// settleReceive looks whether to has really arrived, and protects it. Only then may it be confirmed.
func (c *claim) settleReceive(ctx context.Context, r *receiving) (zfs.Version, error) {
	target := c.item.Step.TargetFilesystem
	dataset, err := c.worker.keeper.Dataset(ctx, target)
	if err != nil {
		return zfs.Version{}, fmt.Errorf("look at what was received: %w", err)
	}
	to, found := snapshotByGUID(dataset, c.item.Step.To.GUID)
	if !found {
		return zfs.Version{}, protocol.Failf(protocol.Permanent,
			"%s: zfs recv succeeded, but there is no snapshot with the guid of %s: another stream was received", target,
			c.item.Step.To)
	}
	return to, c.protectReceived(ctx, r, to, &dataset)
}

// protectReceived sets the last-received hold. What was a placeholder is none any more: it was not marked so before to
// arrived, because an interrupted receive leaves an empty placeholder, and an empty filesystem that is none would be somebody
// else's.
func (c *claim) protectReceived(ctx context.Context, r *receiving, to zfs.Version, dataset *zfs.Dataset) error {
	if r.placeholder {
		if err := c.worker.config.ZFS.SetPlaceholder(ctx, dataset.Name, false); err != nil {
			return err
		}
	}
	return c.worker.keeper.AfterReceive(ctx, c.receiveStep(to, dataset))
}

// receive does the receiver's side of a step over TCP.
func (c *claim) receive(ctx context.Context) error {
	r, err := c.prepareReceive(ctx)
	if err != nil {
		return err
	}
	if r.hasTo {
		return c.offer(ctx, protocol.Offer{HasTo: true})
	}
	expectation := c.worker.listener.Expect(c.item.Ref)
	defer expectation.Close()
	offer := expectation.Offer()
	offer.ResumeToken = r.resumeToken
	if err := c.offer(ctx, offer); err != nil {
		return err
	}
	// The sender's item may lie until one of its slots is free.
	wait := c.item.Deadlines.Claim.Std() + c.item.Deadlines.Offer.Std()
	acceptContext, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	connection, err := expectation.Accept(acceptContext)
	if err != nil {
		if ctx.Err() == nil && acceptContext.Err() != nil {
			err = protocol.Failf(protocol.Transient, "no sender connected within %s", wait)
		}
		return protocol.AsFailure(fmt.Errorf("wait for the sender %s: %w", c.item.Source, err), protocol.Transient)
	}
	defer func() { c.closed(ctx, "connection", connection.Close()) }()
	return c.receiveFrom(ctx, r, connection)
}

func (c *claim) offer(ctx context.Context, offer protocol.Offer) error {
	event := c.reporter.event(protocol.EventOffered)
	event.Offer = &offer
	return c.reporter.tell(ctx, event)
}

// receiveFrom takes the stream from the connection, and confirms it or says why not.
func (c *claim) receiveFrom(ctx context.Context, r *receiving, connection *tcp.Incoming) error {
	header := connection.Header()
	started := time.Now()
	var to zfs.Version
	var bytes int64
	err := c.checkHeader(header)
	switch {
	case err != nil:
	case header.RefusedToken != "":
		err = c.abandonRefused(ctx, header)
	default:
		if err = c.makeRoom(ctx, r); err == nil {
			bytes, err = c.copyToPool(ctx, r, connection)
		}
		if err == nil {
			to, err = c.settleReceive(ctx, r)
		}
	}
	confirmation := protocol.Confirmation{
		ToGUID: to.GUID, Bytes: uint64(max(bytes, 0)), Elapsed: time.Since(started), Failure: c.worker.failureOf(err),
	}
	if err != nil && context.Cause(ctx) != nil {
		confirmation.Failure = &protocol.Failure{
			Kind: protocol.Transient, Host: c.worker.config.Host,
			Message: fmt.Sprintf("receive %s: %v", c.item.Step.TargetFilesystem, context.Cause(ctx)),
		}
	}
	confirmContext, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.item.Deadlines.Stall.Std())
	defer cancel()
	if confirmError := connection.Confirm(confirmContext, confirmation); confirmError != nil && err == nil {
		// The sender did not learn of it. The step is tried again, and finds that nothing has to be sent.
		err = protocol.AsFailure(fmt.Errorf("confirm %s to %s: %w", c.item.Step.To, c.item.Source, confirmError), protocol.Transient)
	}
	if err != nil {
		return err
	}
	event := c.reporter.event(protocol.EventReceived)
	version := toProtocol(to)
	event.To = &version
	event.Progress = &protocol.Progress{
		Bytes: confirmation.Bytes, Expected: header.Expected, Resumed: header.Resumed, Elapsed: confirmation.Elapsed,
	}
	return c.reporter.tell(ctx, event)
}

// checkHeader compares what the sender is about to send with the step.
func (c *claim) checkHeader(header protocol.StreamHeader) error {
	var from uint64
	if c.item.Step.From != nil {
		from = c.item.Step.From.GUID
	}
	if header.Ref != c.item.Ref || header.JobID != c.item.JobID || header.ToGUID != c.item.Step.To.GUID || header.FromGUID != from {
		return protocol.Failf(protocol.Transient, "the sender connected for step %s (from guid %d to guid %d), not for %s",
			header.Ref, header.FromGUID, header.ToGUID, c.item.Ref)
	}
	return nil
}

func (c *claim) abandonRefused(ctx context.Context, header protocol.StreamHeader) error {
	if err := c.abandon(ctx); err != nil {
		return err
	}
	return protocol.Failf(protocol.Transient, "%s: the partial state was abandoned: %s", c.item.Step.TargetFilesystem,
		header.RefusedToken)
}

// copyToPool feeds the connection's stream to zfs recv. When the stream breaks off, zfs recv sees its end there and keeps
// what it has.
func (c *claim) copyToPool(ctx context.Context, r *receiving, connection *tcp.Incoming) (int64, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make a pipe: %w", err)
	}
	var bytes int64
	var copyError, recvError error
	group := errgroup.Group{}
	group.Go(func() error {
		recvError = c.worker.config.ZFS.Recv(ctx, r.args, reader)
		return nil
	})
	group.Go(func() error {
		bytes, copyError = connection.CopyTo(ctx, writer, transport.CopyOptions{Stall: c.item.Deadlines.Stall.Std()})
		if closeError := writer.Close(); copyError == nil {
			copyError = closeError
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return bytes, err
	}
	return bytes, receiveError(copyError, c.explain(r, recvError))
}

// explain adds to what zfs recv complains of what the operator can do about it in the job or on this host.
func (c *claim) explain(r *receiving, err error) error {
	var typed *zfs.RecvError
	if !errors.As(err, &typed) {
		return err
	}
	target := c.item.Step.TargetFilesystem
	switch {
	case typed.Kind == zfs.RecvDestinationModified && r.common != "":
		return protocol.Failf(protocol.Conflict, "%s was written to since %s, the last version that both sides have, and an increment"+
			" can only be received on top of that: %w. To give up what was written, on %s: zfs rollback -r '%s'. To let the job do that"+
			" whenever it is needed, set recv.force_rollback: true in it", target, r.common, err, c.worker.config.Host, r.common)
	case typed.Kind == zfs.RecvForceIntoEncrypted && r.placeholder:
		return protocol.Failf(protocol.Permanent, "%s is a placeholder, and OpenZFS replaces no filesystem where the old or the new one"+
			" is encrypted: %w. If nothing is below it, on %s: zfs destroy '%s'. Otherwise move it aside with what is below it"+
			" (zfs rename '%s' '%s_placeholder'), run the job for this filesystem alone, and move what was below it back (zfs rename)",
			target, err, c.worker.config.Host, target, target, target)
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
