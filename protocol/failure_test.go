package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func TestFailureIsAnErrorWithItsCause(t *testing.T) {
	t.Parallel()
	failure := protocol.Failf(protocol.Transient, "reading tank: %w", io.ErrUnexpectedEOF)
	require.Equal(t, "reading tank: unexpected EOF", failure.Error())
	require.ErrorIs(t, failure, io.ErrUnexpectedEOF)
	failure.Host = "alpha"
	require.Equal(t, "alpha: reading tank: unexpected EOF", failure.Error())
}

func TestFailureIsComparedByKind(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("outer: %w", protocol.Failf(protocol.Conflict, "diverged"))
	require.ErrorIs(t, err, &protocol.Failure{Kind: protocol.Conflict})
	require.NotErrorIs(t, err, &protocol.Failure{Kind: protocol.Policy})
	require.NotErrorIs(t, err, &protocol.Failure{Kind: protocol.Conflict, Message: "another"})
}

func TestAsFailure(t *testing.T) {
	t.Parallel()
	inner := protocol.Failf(protocol.Policy, "not allowed")
	inner.Host = "bravo"
	for name, test := range map[string]struct {
		err  error
		kind protocol.FailureKind
		text string
	}{
		"a failure":         {inner, protocol.Policy, "bravo: not allowed"},
		"a wrapped failure": {fmt.Errorf("step: %w", inner), protocol.Policy, "bravo: step: bravo: not allowed"},
		"the outermost":     {protocol.Failf(protocol.Permanent, "x: %w", inner), protocol.Permanent, "x: bravo: not allowed"},
		"cancelled":         {fmt.Errorf("x: %w", context.Canceled), protocol.Cancelled, "x: context canceled"},
		"a deadline":        {fmt.Errorf("x: %w", context.DeadlineExceeded), protocol.Transient, "x: context deadline exceeded"},
		"another error":     {errors.New("x"), protocol.Usage, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			failure := protocol.AsFailure(test.err, protocol.Usage)
			require.Equal(t, test.kind, failure.Kind)
			require.Equal(t, test.text, failure.Error())
			require.ErrorIs(t, failure, test.err)
			require.Equal(t, test.kind, protocol.KindOf(test.err, protocol.Usage))
		})
	}
	require.Nil(t, protocol.AsFailure(nil, protocol.Usage))
	require.Equal(t, protocol.Transient, protocol.KindOf(nil, protocol.Transient))
}

func TestFailureTravels(t *testing.T) {
	t.Parallel()
	data, err := protocol.Encode(protocol.Failf(protocol.Transient, "reading: %w", io.EOF))
	require.NoError(t, err)
	var failure protocol.Failure
	require.NoError(t, protocol.Decode(data, &failure))
	require.Equal(t, protocol.Failure{Kind: protocol.Transient, Message: "reading: EOF"}, failure)
	require.NoError(t, failure.Unwrap(), "the cause does not travel")
}
