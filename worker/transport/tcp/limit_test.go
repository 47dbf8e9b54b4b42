// Limits, with synthetic time.

package tcp

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/worker/transport"
)

// TestWaitingForBandwidthIsNoStandstill has one side wait for an hour before each piece, far longer than its idle time.
func TestWaitingForBandwidthIsNoStandstill(t *testing.T) {
	t.Parallel()
	hourly := func(ctx context.Context, _ int) error {
		select {
		case <-time.After(time.Hour):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for name, sender := range map[string]bool{"sender": true, "receiver": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				sent := bytes.Repeat([]byte("x"), 3*limitedPiece+1)
				here, there := net.Pipe()
				outgoing, incoming := pipeOutgoing(here, time.Minute), pipeIncoming(there, time.Minute)
				limited := transport.CopyOptions{Stall: time.Minute, Idle: 10 * time.Minute, Limit: transport.LimitFunc(hourly)}
				patient := transport.CopyOptions{Stall: time.Minute, Idle: 24 * time.Hour}
				sending, receiving := patient, limited
				if sender {
					sending, receiving = limited, patient
				}
				var received bytes.Buffer
				var recvErr error
				var running sync.WaitGroup
				running.Go(func() { _, recvErr = incoming.CopyTo(t.Context(), &received, receiving) })
				start := time.Now()
				_, err := outgoing.CopyFrom(t.Context(), bytes.NewReader(sent), sending)
				running.Wait()
				require.NoError(t, err)
				require.NoError(t, recvErr)
				require.Equal(t, len(sent), received.Len())
				require.GreaterOrEqual(t, time.Since(start), 4*time.Hour)
				require.NoError(t, outgoing.Close())
				require.NoError(t, incoming.Close())
			})
		})
	}
}

// TestWaitForBandwidthEndsWithTheCopy has a limit that lets nothing through until its context ends.
func TestWaitForBandwidthEndsWithTheCopy(t *testing.T) {
	t.Parallel()
	never := func(ctx context.Context, _ int) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		outgoing := pipeOutgoing(here, time.Minute)
		_, err := outgoing.CopyFrom(t.Context(), neverEnding{}, transport.CopyOptions{Limit: transport.LimitFunc(never)})
		requireTransient(t, err, "no sign of life for 1m0s")
		require.NoError(t, there.Close())
	})
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		outgoing, incoming := pipeOutgoing(here, time.Minute), pipeIncoming(there, time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var sending sync.WaitGroup
		sending.Go(func() { _, _ = outgoing.CopyFrom(ctx, neverEnding{}, transport.CopyOptions{}) })
		_, err := incoming.CopyTo(ctx, &bytes.Buffer{}, transport.CopyOptions{Idle: time.Minute, Limit: transport.LimitFunc(never)})
		requireTransient(t, err, "receiving the stream")
		require.NoError(t, incoming.Close())
		sending.Wait()
	})
}
