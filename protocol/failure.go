// Failures: errors as they travel between processes and reach the operator.

package protocol

import (
	"context"
	"errors"
	"fmt"
)

// FailureKind says what can be done about a failure.
type FailureKind string

// The kinds of failure.
const (
	// Transient: the network, a dead worker, a busy dataset. Retried with back-off.
	Transient FailureKind = "transient"
	// Permanent: retrying cannot help until somebody changes something.
	Permanent FailureKind = "permanent"
	// Conflict: the versions on both sides do not allow an incremental send; the operator has to decide.
	Conflict FailureKind = "conflict"
	// Policy: a host's own policy file forbids it.
	Policy FailureKind = "policy"
	// Usage: the request itself is wrong.
	Usage FailureKind = "usage"
	// Cancelled: somebody asked to stop.
	Cancelled FailureKind = "cancelled"
)

// Failure is an error with a kind. It is a value that is sent in events and kept in plans, and an error that wraps its
// cause where it was made.
type Failure struct {
	Kind FailureKind `msgpack:"kind" json:"kind" yaml:"kind"`
	// Message says what failed, on which dataset, and what to do next.
	Message string `msgpack:"message" json:"message" yaml:"message"`
	// Host is where it failed; empty where that says nothing.
	Host Host `msgpack:"host,omitempty" json:"host,omitempty" yaml:"host,omitempty"`

	cause error
}

// Error is the message, with the host that it comes from.
func (f *Failure) Error() string {
	if f.Host != "" {
		return string(f.Host) + ": " + f.Message
	}
	return f.Message
}

// Unwrap is the error that the failure was made from; nil for one that came from another process.
func (f *Failure) Unwrap() error { return f.cause }

// Is makes two failures of one kind equal for errors.Is, when the target has no message.
func (f *Failure) Is(target error) bool {
	var other *Failure
	if !errors.As(target, &other) {
		return false
	}
	return other.Message == "" && other.Kind == f.Kind
}

// Failf makes a failure of the given kind; %w works as in fmt.Errorf.
func Failf(kind FailureKind, format string, args ...any) *Failure {
	err := fmt.Errorf(format, args...)
	return &Failure{Kind: kind, Message: err.Error(), cause: err}
}

// Usagef makes a failure of kind Usage.
func Usagef(format string, args ...any) error { return Failf(Usage, format, args...) }

// AsFailure is err as a failure: the outermost failure's kind if there is one in its chain, and otherwise Cancelled for a
// cancelled context, Transient for a deadline, and fallback for all else. The message is err's whole text. A nil error
// gives nil.
func AsFailure(err error, fallback FailureKind) *Failure {
	if err == nil {
		return nil
	}
	if direct, ok := err.(*Failure); ok { //nolint:errorlint // only an unwrapped failure can be returned as it is
		return direct
	}
	kind := fallback
	var inner *Failure
	switch {
	case errors.As(err, &inner):
		kind = inner.Kind
	case errors.Is(err, context.Canceled):
		kind = Cancelled
	case errors.Is(err, context.DeadlineExceeded):
		kind = Transient
	}
	failure := &Failure{Kind: kind, Message: err.Error(), cause: err}
	if inner != nil {
		failure.Host = inner.Host
	}
	return failure
}

// KindOf is the kind of the outermost failure in err's chain, or fallback if there is none.
func KindOf(err error, fallback FailureKind) FailureKind {
	if failure := AsFailure(err, fallback); failure != nil {
		return failure.Kind
	}
	return fallback
}
