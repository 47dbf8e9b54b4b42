package object

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// endless gives the same block again and again, as fast as it is read.
type endless struct{ block []byte }

func (e *endless) Read(p []byte) (int, error) { return copy(p, e.block), nil }

// cpu is what the process, which is the server, the sender and the receiver, has used so far.
func cpu() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkStream sends one stream of b.N MiB to one receiver and to two, with the server in the same process.
func BenchmarkStream(b *testing.B) {
	for _, storage := range []jetstream.StorageType{jetstream.MemoryStorage, jetstream.FileStorage} {
		for _, chunk := range []int{128 << 10, 256 << 10, 512 << 10, 1<<20 - chunkRoom} {
			for _, receivers := range []int{1, 2} {
				if receivers > 1 && chunk != standardChunk {
					continue
				}
				b.Run(fmt.Sprintf("storage=%s/chunk=%dK/receivers=%d", storage, chunk>>10, receivers), func(b *testing.B) {
					benchmarkStream(b, storage, chunk, receivers)
				})
			}
		}
	}
}

func benchmarkStream(b *testing.B, storage jetstream.StorageType, chunk, receivers int) {
	b.Helper()
	s := newStand(b, protocol.ResourceOptions{StreamsMaxBytes: 256 << 20, StreamsStorage: storage})
	sender := s.store()
	sender.chunk = chunk
	options := s.options(receivers)
	options.Segment, options.Window, options.Stall = 8<<20, 64<<20, time.Minute
	stream := s.send(sender, options)
	var results []<-chan *received
	for task := range receivers {
		r := s.receiver(s.store(), task)
		results = append(results, r.taking(b.Context(), io.Discard, transport.CopyOptions{}))
		s.call(stream, r)
	}
	block := content(1 << 20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	runtime.GC()
	before := cpu()
	b.ResetTimer()
	n, err := stream.CopyFrom(b.Context(), io.LimitReader(&endless{block: block}, int64(b.N)<<20), transport.CopyOptions{})
	require.NoError(b, err)
	for _, results := range results {
		got := <-results
		require.NoError(b, got.copied)
		require.NoError(b, got.confirmed)
	}
	b.StopTimer()
	b.ReportMetric((cpu()-before).Seconds()/(float64(n)/(1<<30)), "cpu-s/GiB")
	require.NoError(b, stream.Close())
}

// BenchmarkSmallStream sends streams of one KiB, one after another: what a step costs however little it carries.
func BenchmarkSmallStream(b *testing.B) {
	s := newStand(b, protocol.ResourceOptions{})
	sender, receiving := s.store(), s.store()
	sent := content(1 << 10)
	for b.Loop() {
		stream, err := sender.Send(b.Context(), s.options(1))
		require.NoError(b, err)
		r := s.receiver(receiving, 0)
		results := r.taking(b.Context(), io.Discard, transport.CopyOptions{})
		outgoing := s.call(stream, r)
		_, err = stream.CopyFrom(b.Context(), bytes.NewReader(sent), transport.CopyOptions{})
		require.NoError(b, err)
		_, err = outgoing.Confirmation(b.Context())
		require.NoError(b, err)
		require.NoError(b, stream.Close())
		require.NoError(b, (<-results).confirmed)
	}
}
