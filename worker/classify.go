// Classification: which errors of the pool are worth another try.

package worker

import (
	"context"
	"errors"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// failureOf is err as a failure of this host. What is not known is permanent: the operator has to look at it.
func (w *Worker) failureOf(err error) *protocol.Failure {
	if err == nil {
		return nil
	}
	failure := protocol.AsFailure(err, kindOfZFS(err))
	if failure.Host == "" {
		copied := *failure
		copied.Host = w.config.Host
		failure = &copied
	}
	return failure
}

func kindOfZFS(err error) protocol.FailureKind {
	var recv *zfs.RecvError
	if errors.As(err, &recv) {
		return kindOfRecv(recv)
	}
	var args *zfs.SendArgsError
	if errors.As(err, &args) {
		return kindOfSendArgs(args)
	}
	var backwards *abstractions.CursorBackwards
	var mismatch *abstractions.GUIDMismatch
	switch {
	case errors.As(err, &backwards):
		return protocol.Conflict
	case errors.As(err, &mismatch):
		// A version was replaced by another one of its name since the step was planned.
		return protocol.Transient
	case errors.Is(err, zfs.ErrDatasetDoesNotExist):
		// Something was destroyed since the step was planned; a new look at both sides tells what can be done now.
		return protocol.Transient
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return protocol.Transient
	}
	var command *zfs.CommandError
	if errors.As(err, &command) && command.ExitCode < 0 {
		return protocol.Transient // ended by a signal
	}
	return protocol.Permanent
}

func kindOfRecv(err *zfs.RecvError) protocol.FailureKind {
	switch err.Kind {
	case zfs.RecvBusy, zfs.RecvInterrupted, zfs.RecvPartialStatePresent, zfs.RecvChecksumMismatch, zfs.RecvNoSuchSnapshot,
		zfs.RecvDestinationMissing, zfs.RecvInvalidStream, zfs.RecvResumeMismatch:
		return protocol.Transient
	case zfs.RecvDestinationModified, zfs.RecvDestinationExists:
		return protocol.Conflict
	case zfs.RecvForceIntoEncrypted, zfs.RecvEncryption, zfs.RecvNoSpace, zfs.RecvIncompatibleFeatures,
		zfs.RecvLargeBlocksRequired, zfs.RecvEmbeddedIntoEncrypted:
		return protocol.Permanent
	case zfs.RecvOther:
	}
	if err.Stream != nil || err.Command != nil && err.Command.ExitCode < 0 {
		return protocol.Transient
	}
	return protocol.Permanent
}

func kindOfSendArgs(err *zfs.SendArgsError) protocol.FailureKind {
	switch err.Problem {
	case zfs.SendVersionMissing, zfs.SendVersionReplaced, zfs.SendToken:
		return protocol.Transient
	default:
		return protocol.Permanent
	}
}
