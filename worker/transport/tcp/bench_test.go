// Throughput and processor time of whole transfers.

//go:build unix

package tcp_test

import (
	"bytes"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
	"github.com/zfleet/zfleet/worker/transport/tcp"
)

const (
	// benchmarkSize is the length of one benchmarked stream.
	benchmarkSize = 1 << 30
	// linkSize is that of one over a link whose rate is the bound.
	linkSize = 128 << 20
)

// feed writes a stream of the given size into w, as zfs send does: in records of 128 KiB.
func feed(b *testing.B, w *os.File, size int) {
	b.Helper()
	record := content(1, 128<<10)
	for range size / len(record) {
		if _, err := w.Write(record); err != nil {
			b.Error(err)
			return
		}
	}
	if err := w.Close(); err != nil {
		b.Error(err)
	}
}

// swallow reads a stream to its end, as zfs recv does.
func swallow(b *testing.B, r io.Reader, size int) {
	b.Helper()
	buffer := make([]byte, 128<<10)
	total := 0
	for {
		n, err := r.Read(buffer)
		total += n
		if err == io.EOF {
			break
		}
		if err != nil {
			b.Error(err)
			return
		}
	}
	if total != size {
		b.Errorf("%d bytes arrived", total)
	}
}

// readerOnly and writerOnly hide that there is a pipe.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)

// cpuPerGiB reports the processor time that the process took for each GiB, user and system, both ends and the pipes'
// writer and reader included.
func cpuPerGiB(b *testing.B, before time.Duration, size int) {
	b.Helper()
	gibibytes := float64(b.N) * float64(size) / (1 << 30)
	b.ReportMetric((cpuTime(b)-before).Seconds()/gibibytes, "cpu-s/GiB")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkTransfer moves 1 GiB from a pipe to a pipe; "pipe" is the two ends of one pipe, the most there can be.
func BenchmarkTransfer(b *testing.B) {
	b.Run("pipe", func(b *testing.B) {
		b.SetBytes(benchmarkSize)
		before := cpuTime(b)
		for b.Loop() {
			r, w, err := os.Pipe()
			require.NoError(b, err)
			var feeding sync.WaitGroup
			feeding.Go(func() { feed(b, w, benchmarkSize) })
			swallow(b, r, benchmarkSize)
			feeding.Wait()
			require.NoError(b, r.Close())
		}
		cpuPerGiB(b, before, benchmarkSize)
	})
	for _, mode := range []struct {
		name           string
		secure, splice bool
	}{{"plain-splice", false, true}, {"plain-copy", false, false}, {"tls", true, false}} {
		b.Run(mode.name, func(b *testing.B) {
			b.SetBytes(benchmarkSize)
			before := cpuTime(b)
			for b.Loop() {
				outgoing, incoming := pair(b, mode.secure, time.Minute)
				benchmarkOne(b, outgoing, incoming, mode.splice, benchmarkSize)
			}
			cpuPerGiB(b, before, benchmarkSize)
		})
	}
}

// BenchmarkLink moves 128 MiB from pipe to pipe over one connection that is reused, so that all but the first stream begin
// with an open window. It is for links with a long round trip: testdata/link makes loopback one.
func BenchmarkLink(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tls"}[secure], func(b *testing.B) {
			w := way{dialer: newDialer(b), listener: listen(b, secure)}
			b.SetBytes(linkSize)
			before := cpuTime(b)
			for b.Loop() {
				outgoing, incoming, err := w.forward(b.Context(), 1)
				require.NoError(b, err)
				benchmarkOne(b, outgoing, incoming, true, linkSize)
			}
			cpuPerGiB(b, before, linkSize)
		})
	}
}

func benchmarkOne(b *testing.B, outgoing *tcp.Outgoing, incoming *tcp.Incoming, splice bool, size int) {
	b.Helper()
	ctx := b.Context()
	sendR, sendW, err := os.Pipe()
	require.NoError(b, err)
	recvR, recvW, err := os.Pipe()
	require.NoError(b, err)
	var reader io.Reader = sendR
	var writer io.Writer = recvW
	if !splice {
		reader, writer = readerOnly{sendR}, writerOnly{recvW}
	}
	var running sync.WaitGroup
	running.Go(func() { feed(b, sendW, size) })
	running.Go(func() { swallow(b, recvR, size) })
	running.Go(func() {
		_, err := incoming.CopyTo(ctx, writer, transport.CopyOptions{})
		if err != nil {
			b.Error(err)
		}
		_ = recvW.Close()
		if err := incoming.Confirm(ctx, protocol.Confirmation{ToGUID: 2}); err != nil {
			b.Error(err)
		}
	})
	_, err = outgoing.CopyFrom(ctx, reader, transport.CopyOptions{})
	require.NoError(b, err)
	_, err = outgoing.Confirmation(ctx)
	require.NoError(b, err)
	running.Wait()
	require.NoError(b, sendR.Close())
	require.NoError(b, recvR.Close())
}

// BenchmarkStep is what a step with next to nothing to send costs from the hello to the confirmation, with connecting and the
// handshake, and over a connection that is there.
func BenchmarkStep(b *testing.B) {
	for _, secure := range []bool{false, true} {
		for _, reuse := range []bool{false, true} {
			name := map[bool]string{false: "plain", true: "tls"}[secure] + map[bool]string{false: "-new", true: "-reused"}[reuse]
			b.Run(name, func(b *testing.B) {
				dialer := tcp.NewDialer(tcp.DialerOptions{MaxIdle: map[bool]int{false: -1, true: 1}[reuse]})
				b.Cleanup(dialer.Close)
				w := way{dialer: dialer, listener: listen(b, secure)}
				ctx := b.Context()
				for b.Loop() {
					outgoing, incoming, err := w.forward(ctx, 1)
					require.NoError(b, err)
					var receiving sync.WaitGroup
					receiving.Go(func() {
						_, _ = incoming.CopyTo(ctx, io.Discard, transport.CopyOptions{})
						_ = incoming.Confirm(ctx, protocol.Confirmation{ToGUID: 2})
						_ = incoming.Close()
					})
					_, err = outgoing.CopyFrom(ctx, bytes.NewReader(make([]byte, 1000)), transport.CopyOptions{})
					require.NoError(b, err)
					_, err = outgoing.Confirmation(ctx)
					require.NoError(b, err)
					receiving.Wait()
				}
			})
		}
	}
}
