package zstream_test

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/zfleet/zfleet/worker/transport/zstream"
)

// pages are n bytes of lines with numbers, and now and then something else.
func pages(n int) []byte {
	data := make([]byte, 0, n+8192)
	for i := 0; len(data) < n; i++ {
		data = fmt.Appendf(data, "%08d: the quick brown fox no %d jumps over dog %x\n", i*7919%100_003, i%977, i*i)
		if i%64 == 0 {
			data = append(data, noise(2048)...)
		}
	}
	return data[:n]
}

// BenchmarkReader gives the CPU time for a GiB of content, and to how many percent it shrinks.
func BenchmarkReader(b *testing.B) {
	const length = 32 << 20
	for name, content := range map[string][]byte{"pages": pages(length), "noise": noise(length)} {
		for _, level := range []int{1, 3, 9, 19} {
			if name == "noise" && level != 3 {
				continue
			}
			b.Run(fmt.Sprintf("%s/level=%d", name, level), func(b *testing.B) {
				b.SetBytes(length)
				before := cpuTime(b)
				var carried int64
				for b.Loop() {
					r := zstream.NewReader(bytes.NewReader(content), zstream.Options{Level: level})
					carried, _ = io.Copy(io.Discard, r)
					_ = r.Close()
				}
				report(b, before, length)
				b.ReportMetric(100*float64(carried)/length, "%")
			})
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	const length = 32 << 20
	for name, content := range map[string][]byte{"pages": pages(length), "noise": noise(length)} {
		b.Run(name, func(b *testing.B) {
			carried := compressed(b, content, zstream.Options{Level: 3})
			b.SetBytes(length)
			before := cpuTime(b)
			for b.Loop() {
				w := zstream.NewWriter(io.Discard)
				_, _ = io.Copy(w, bytes.NewReader(carried))
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
			report(b, before, length)
		})
	}
}

// BenchmarkMemory gives the memory that one Reader with one thread takes: an encoder, and three chunks in flight.
func BenchmarkMemory(b *testing.B) {
	content := pages(16 << 20)
	for _, level := range []int{1, 3, 9, 19} {
		b.Run(fmt.Sprintf("level=%d", level), func(b *testing.B) {
			for b.Loop() {
				runtime.GC()
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				r := zstream.NewReader(bytes.NewReader(content), zstream.Options{Level: level, Threads: 1})
				_, _ = io.CopyN(io.Discard, r, 2<<20)
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
				_ = r.Close()
			}
		})
	}
}

func report(b *testing.B, before time.Duration, length float64) {
	b.Helper()
	b.ReportMetric((cpuTime(b)-before).Seconds()/float64(b.N)/length*(1<<30), "cpu-s/GiB")
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
