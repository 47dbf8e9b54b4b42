package broadcast_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/broadcast"
)

const never = 0 // a lag for which no reader is dropped

// noise are n bytes that do not repeat.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// endless gives bytes for ever, until it is closed.
type endless struct {
	closed chan struct{}
	once   sync.Once
	read   int
}

func newEndless() *endless { return &endless{closed: make(chan struct{})} }

func (e *endless) Read(p []byte) (int, error) {
	select {
	case <-e.closed:
		return 0, io.EOF // the worst that a source can say that was interrupted
	default:
		e.read += len(p)
		return len(p), nil
	}
}

func (e *endless) Close() error {
	e.once.Do(func() { close(e.closed) })
	return nil
}

// silent blocks in Read until it is closed.
type silent struct{ *endless }

func (s silent) Read([]byte) (int, error) {
	<-s.closed
	return 0, io.EOF
}

// limited has no Close, but read deadlines.
type limited struct{ silent silent }

func (l limited) Read(p []byte) (int, error) { return l.silent.Read(p) }

func (l limited) SetReadDeadline(time.Time) error { return l.silent.Close() }

func TestEveryReaderGetsTheWholeStream(t *testing.T) {
	t.Parallel()
	data := noise(5<<20 + 17)
	b := broadcast.New(bytes.NewReader(data), 1<<20, never)
	var readers sync.WaitGroup
	for range 3 {
		r := b.Reader()
		readers.Go(func() {
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(data, got) {
				t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
			}
			if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %d bytes, %v", n, err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	require.NoError(t, b.Run(t.Context()))
	readers.Wait()
}

// Whatever the sizes, the paces and the order, and whoever goes: who stays gets all, and an end is clean for all or none.
func TestReadersThatStayGetTheWholeStream(t *testing.T) {
	t.Parallel()
	failure := errors.New("zfs send has died")
	rapid.Check(t, func(t *rapid.T) {
		data := noise(rapid.IntRange(0, 20_000).Draw(t, "length"))
		var source io.Reader = bytes.NewReader(data)
		want := io.EOF
		if rapid.Bool().Draw(t, "the source fails") {
			source, want = io.MultiReader(source, iotest.ErrReader(failure)), failure
		}
		if rapid.Bool().Draw(t, "in halves") {
			source = iotest.HalfReader(source)
		}
		if rapid.Bool().Draw(t, "the end comes with bytes") {
			source = iotest.DataErrReader(source)
		}
		b := broadcast.New(source, rapid.IntRange(0, 5000).Draw(t, "window"), never)
		readers := make([]*broadcast.Reader, rapid.IntRange(1, 4).Draw(t, "readers"))
		read := make([][]byte, len(readers))
		errs := make([]error, len(readers))
		goes := make([]int, len(readers)) // after how many bytes each goes; -1 stays
		sizes := make([][]int, len(readers))
		for i := range readers {
			readers[i] = b.Reader()
			sizes[i] = rapid.SliceOfN(rapid.IntRange(1, 6000), 1, 5).Draw(t, "sizes")
			goes[i] = rapid.OneOf(rapid.Just(-1), rapid.IntRange(0, 20_000)).Draw(t, "goes")
		}
		var reading sync.WaitGroup
		for i, r := range readers {
			if rapid.Bool().Draw(t, "is closed by somebody else") {
				reading.Go(func() { _ = r.Close() })
			}
			reading.Go(func() {
				for turn := 0; errs[i] == nil; turn++ {
					if goes[i] >= 0 && len(read[i]) >= goes[i] {
						_ = r.Close()
					}
					buffer := make([]byte, sizes[i][turn%len(sizes[i])])
					var n int
					n, errs[i] = r.Read(buffer)
					read[i] = append(read[i], buffer[:n]...)
				}
			})
		}
		runErr := b.Run(context.Background())
		reading.Wait()
		stayed := false
		for i := range readers {
			require.True(t, bytes.Equal(data[:len(read[i])], read[i]), "reader %d", i)
			if errors.Is(errs[i], os.ErrClosed) {
				continue
			}
			stayed = true
			require.Equal(t, want, errs[i], "reader %d", i)
			require.Len(t, read[i], len(data), "reader %d", i)
		}
		switch {
		case stayed && want == io.EOF: //nolint:errorlint // not an error, but whether there is one
			require.NoError(t, runErr)
		case stayed:
			require.Equal(t, want, runErr)
		case runErr != nil && runErr != want: //nolint:errorlint // unwrapped
			require.Equal(t, broadcast.ErrNoReaders, runErr)
		}
	})
}

// The fastest is ahead of the slowest by no more than the window, and waits for it; and so does the source.
func TestTheSlowestHoldsTheStreamBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const window = 1 << 20
		source := newEndless()
		b := broadcast.New(source, window, never)
		fast, slow := b.Reader(), b.Reader()
		done := make(chan error)
		go func() { done <- b.Run(t.Context()) }()
		read := make(chan int64)
		go func() {
			n, _ := io.Copy(io.Discard, fast)
			read <- n
		}()
		synctest.Wait()
		require.Equal(t, window, source.read)
		time.Sleep(time.Hour)
		require.Equal(t, window, source.read)
		_, err := io.ReadFull(slow, make([]byte, window/2))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, window+window/2, source.read)
		require.NoError(t, slow.Close())
		require.NoError(t, fast.Close())
		require.ErrorIs(t, <-done, broadcast.ErrNoReaders)
		require.GreaterOrEqual(t, <-read, int64(window+window/2))
	})
}

// keepReading reads to the end, and says how it was.
func keepReading(r io.Reader) <-chan error {
	end := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, r)
		end <- err
	}()
	return end
}

func TestAReaderThatStandsStillIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := newEndless()
		b := broadcast.New(source, 1<<20, 30*time.Second)
		first, second, stuck := keepReading(b.Reader()), keepReading(b.Reader()), b.Reader()
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		time.Sleep(30*time.Second - time.Nanosecond)
		synctest.Wait()
		require.Equal(t, 1<<20, source.read)
		_, err := stuck.Read(make([]byte, 1))
		require.NoError(t, err)

		time.Sleep(time.Nanosecond)
		cancel(errors.New("enough")) // of what would go on for ever
		require.ErrorContains(t, <-done, "enough")
		require.ErrorContains(t, <-first, "enough")
		require.ErrorContains(t, <-second, "enough")
		_, err = stuck.Read(make([]byte, 1))
		require.ErrorIs(t, err, broadcast.ErrLagged)
		require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
		require.ErrorContains(t, err, "held back the others for 30s, so it goes on alone")
	})
}

// paced reads size bytes in every interval until an error.
func paced(r io.Reader, size int, interval time.Duration) (<-chan error, *time.Duration) {
	end, lasted := make(chan error, 1), new(time.Duration)
	go func() {
		begin := time.Now()
		for {
			time.Sleep(interval)
			if _, err := io.ReadFull(r, make([]byte, size)); err != nil {
				*lasted = time.Since(begin)
				end <- err
				return
			}
		}
	}()
	return end, lasted
}

// A reader that is slow but steady holds the others back as much as one that stands still.
func TestAReaderThatIsSlowIsDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := broadcast.New(bytes.NewReader(make([]byte, 64<<20)), 1<<20, 30*time.Second)
		fast := keepReading(b.Reader())
		slow, lasted := paced(b.Reader(), 128<<10, time.Second)
		require.NoError(t, b.Run(t.Context()))
		require.NoError(t, <-fast)
		require.ErrorIs(t, <-slow, broadcast.ErrLagged)
		require.InDelta(t, 30, lasted.Seconds(), 2)
	})
}

// Two that are equally slow hold back a third, but neither is the one.
func TestReadersThatAreEquallySlowAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := broadcast.New(bytes.NewReader(make([]byte, 16<<20)), 1<<20, 30*time.Second)
		fast := keepReading(b.Reader())
		slow, _ := paced(b.Reader(), 128<<10, time.Second)
		same, _ := paced(b.Reader(), 128<<10, time.Second)
		require.NoError(t, b.Run(t.Context()))
		require.NoError(t, <-fast)
		require.ErrorIs(t, <-slow, io.EOF)
		require.ErrorIs(t, <-same, io.EOF)
	})
}

// What was held back before a reader caught up does not count any more.
func TestAReaderThatCatchesUpIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const burst = 1<<20 + 128<<10 // more than the window
		from, to := io.Pipe()
		b := broadcast.New(from, 1<<20, 30*time.Second)
		fast := keepReading(b.Reader())
		catches, _ := paced(b.Reader(), burst, 20*time.Second)
		go func() {
			for range 6 {
				_, _ = to.Write(make([]byte, burst)) // returns when the reader has begun to read it
				time.Sleep(time.Second)
			}
			_ = to.Close()
		}()
		require.NoError(t, b.Run(t.Context()))
		require.NoError(t, <-fast)
		require.ErrorIs(t, <-catches, io.EOF)
	})
}

func TestTheLastReaderIsNeverDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := broadcast.New(bytes.NewReader(make([]byte, 4<<20)), 1<<20, time.Second)
		other := b.Reader()
		slow, _ := paced(b.Reader(), 64<<10, time.Hour)
		require.NoError(t, other.Close())
		require.NoError(t, b.Run(t.Context()))
		require.ErrorIs(t, <-slow, io.EOF)
	})
}

// A source that is slow is nobody's fault.
func TestASlowSourceDropsNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from, to := io.Pipe()
		b := broadcast.New(from, 1<<20, time.Second)
		first, second := keepReading(b.Reader()), keepReading(b.Reader())
		go func() {
			for range 5 {
				time.Sleep(time.Minute)
				_, _ = to.Write(make([]byte, 100<<10))
			}
			_ = to.Close()
		}()
		require.NoError(t, b.Run(t.Context()))
		require.NoError(t, <-first)
		require.NoError(t, <-second)
	})
}

func TestRunEndsWithItsReaders(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]io.Reader{
		"a source that gives":              newEndless(),
		"a source that blocks":             silent{newEndless()},
		"a source that has read deadlines": limited{silent{newEndless()}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := broadcast.New(source, 1<<20, never)
			reading, idle := b.Reader(), b.Reader()
			end := keepReading(reading)
			done := make(chan error)
			go func() { done <- b.Run(t.Context()) }()
			require.NoError(t, idle.Close())
			require.NoError(t, reading.Close())
			require.ErrorIs(t, <-end, os.ErrClosed)
			require.ErrorIs(t, <-done, broadcast.ErrNoReaders)
			require.NoError(t, reading.Close(), "again")
		})
	}
}

func TestRunWithoutReadersReadsNothing(t *testing.T) {
	t.Parallel()
	b := broadcast.New(iotest.ErrReader(errors.New("was read")), 1<<20, never)
	require.NoError(t, b.Reader().Close())
	require.Equal(t, broadcast.ErrNoReaders, b.Run(t.Context()))
	_, err := b.Reader().Read(make([]byte, 1))
	require.ErrorContains(t, err, "has begun already")
}

// An end that comes of an interruption is never a clean one.
func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	for name, newSource := range map[string]func() io.Reader{
		"while it waits for the source":  func() io.Reader { return silent{newEndless()} },
		"while it waits for the readers": func() io.Reader { return newEndless() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				cause := errors.New("the worker stops")
				ctx, cancel := context.WithCancelCause(context.Background())
				b := broadcast.New(newSource(), 1<<20, never)
				r := b.Reader()
				done := make(chan error)
				go func() { done <- b.Run(ctx) }()
				synctest.Wait()
				cancel(cause)
				require.Equal(t, cause, <-done)
				_, err := io.Copy(io.Discard, r)
				require.Equal(t, cause, err)
			})
		})
	}
}

func TestASmallStreamTakesLittleMemory(t *testing.T) { //nolint:paralleltest // it counts what is allocated
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b := broadcast.New(bytes.NewReader(make([]byte, 100)), 256<<20, never)
	end := keepReading(b.Reader())
	require.NoError(t, b.Run(t.Context()))
	require.NoError(t, <-end)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func BenchmarkBroadcast(b *testing.B) {
	const length = 64 << 20
	data := make([]byte, length)
	for _, count := range []int{1, 3} {
		b.Run(map[int]string{1: "alone", 3: "three"}[count], func(b *testing.B) {
			b.SetBytes(length)
			b.ReportAllocs()
			for b.Loop() {
				cast := broadcast.New(bytes.NewReader(data), 16<<20, time.Minute)
				var readers sync.WaitGroup
				for range count {
					r := cast.Reader()
					readers.Go(func() {
						buffer := make([]byte, 256<<10)
						for {
							if _, err := r.Read(buffer); err != nil {
								return
							}
						}
					})
				}
				if err := cast.Run(context.Background()); err != nil {
					b.Fatal(err)
				}
				readers.Wait()
			}
		})
	}
}
