// What is under way: nothing of ours bounds it. The kernel's part is measured by BenchmarkLink.

package tcp

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// longLink carries what is read from one connection to another at a rate in bytes per second and with a delay, until the one
// is at its end. Any number of bytes may be under way.
func longLink(to io.WriteCloser, from io.Reader, rate int, delay time.Duration) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	underWay := make(chan piece, 1<<16)
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for p := range underWay {
			time.Sleep(time.Until(p.due)) // synthetic time
			_, _ = to.Write(p.bytes)      // a closed end takes nothing
		}
		_ = to.Close() // as the other end
	})
	buffer := make([]byte, 64<<10)
	free := time.Now()
	for {
		n, err := from.Read(buffer)
		if err != nil {
			break
		}
		if now := time.Now(); free.Before(now) {
			free = now
		}
		free = free.Add(time.Duration(n) * time.Second / time.Duration(rate))
		underWay <- piece{bytes: bytes.Clone(buffer[:n]), due: free.Add(delay)}
	}
	close(underWay)
	carrying.Wait()
}

// TestLongRoundTripsAreFilled sends 64 MiB over 1 Gbit/s with a round trip of 100 ms, the confirmation included.
func TestLongRoundTripsAreFilled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, rate, oneWay = 64 << 20, 125_000_000, 50 * time.Millisecond
		here, near := net.Pipe()
		far, there := net.Pipe()
		var links sync.WaitGroup
		links.Go(func() { longLink(far, near, rate, oneWay) })
		links.Go(func() { longLink(near, far, rate, oneWay) })
		outgoing, incoming := pipeOutgoing(here, time.Minute), pipeIncoming(there, time.Minute)
		var receiving sync.WaitGroup
		receiving.Go(func() {
			if _, err := incoming.CopyTo(t.Context(), io.Discard, transport.CopyOptions{}); err != nil {
				t.Error(err)
			}
			if err := incoming.Confirm(t.Context(), protocol.Confirmation{ToGUID: 2}); err != nil {
				t.Error(err)
			}
		})
		start := time.Now()
		_, err := outgoing.CopyFrom(t.Context(), io.LimitReader(neverEnding{}, size), transport.CopyOptions{})
		require.NoError(t, err)
		_, err = outgoing.Confirmation(t.Context())
		require.NoError(t, err)
		elapsed := time.Since(start)
		receiving.Wait()
		require.NoError(t, outgoing.Close())
		require.NoError(t, incoming.Close())
		links.Wait()
		require.GreaterOrEqual(t, float64(size)/elapsed.Seconds(), 0.8*rate, "%s in synthetic time", elapsed)
	})
}
