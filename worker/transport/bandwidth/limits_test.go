package bandwidth_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/bandwidth"
)

const mib = 1 << 20

var unlimited protocol.BandwidthLimit

func limit(bytes protocol.ByteSize) protocol.BandwidthLimit {
	return protocol.BandwidthLimit{Default: bytes}
}

// move waits for so many bytes in pieces as the ways have them, and gives the seconds that it took.
func move(t require.TestingT, b *bandwidth.Bucket, bytes int) float64 {
	begin := time.Now()
	for bytes > 0 {
		piece := min(bytes, 256<<10)
		require.NoError(t, b.Wait(context.Background(), piece))
		bytes -= piece
	}
	return time.Since(begin).Seconds()
}

func TestWaitKeepsTheLimit(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		host, job protocol.BandwidthLimit
		bytes     int
		seconds   float64
	}{
		"none":                     {unlimited, unlimited, 1000 * mib, 0},
		"of the job":               {unlimited, limit(10 * mib), 100 * mib, 10},
		"of the host":              {limit(10 * mib), unlimited, 100 * mib, 10},
		"of both, the job's lower": {limit(20 * mib), limit(10 * mib), 100 * mib, 10},
		"of both, the host's":      {limit(10 * mib), limit(20 * mib), 100 * mib, 10},
		"of both, equal":           {limit(10 * mib), limit(10 * mib), 100 * mib, 10},
		"far below a piece":        {unlimited, limit(1024), 256 << 10, 256},
		"far above":                {unlimited, limit(100 << 30), 1000 * mib, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for _, direction := range []bandwidth.Direction{bandwidth.Send, bandwidth.Recv} {
					b := bandwidth.New(test.host, test.host).Of(direction, "job", test.job)
					// At the beginning an eighth of a second's worth is there.
					require.InDelta(t, test.seconds, move(t, b, test.bytes), 0.26)
					require.Equal(t, !test.host.Unlimited() || !test.job.Unlimited(), b.Limited())
					b.Release()
				}
			})
		})
	}
}

func TestAnySequenceOfWaitsKeepsTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		perSecond := rapid.Uint64Range(1, 1<<40).Draw(rt, "limit")
		sizes := rapid.SliceOfN(rapid.IntRange(0, 1<<22), 1, 20).Draw(rt, "sizes")
		synctest.Test(t, func(t *testing.T) {
			b := bandwidth.New(unlimited, unlimited).Of(bandwidth.Send, "job", limit(protocol.ByteSize(perSecond)))
			begin, total := time.Now(), 0.0
			for _, size := range sizes {
				total += float64(size)
				if total/float64(perSecond) > 100 {
					break // of seconds
				}
				require.NoError(t, b.Wait(t.Context(), size))
				lasted, ideal := time.Since(begin).Seconds(), total/float64(perSecond)
				require.GreaterOrEqual(t, lasted, ideal-0.126-1/float64(perSecond))
				require.LessOrEqual(t, lasted, ideal+1e-3)
			}
		})
	})
}

func TestStepsShareTheLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := bandwidth.New(limit(30*mib), limit(1*mib))
		seconds := make([]float64, 4)
		var steps sync.WaitGroup
		for i, job := range []string{"a", "a", "a", "b"} {
			b := limits.Of(bandwidth.Send, job, limit(15*mib))
			steps.Go(func() {
				defer b.Release()
				seconds[i] = move(t, b, 50*mib)
			})
		}
		steps.Wait()
		require.InDeltaSlice(t, []float64{10, 10, 10, 50. / 15}, seconds, 0.6)
	})
}

func TestTheHostIsSharedByItsJobs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := bandwidth.New(limit(10*mib), unlimited)
		seconds := make([]float64, 2)
		var steps sync.WaitGroup
		for i, job := range []string{"a", "b"} {
			b := limits.Of(bandwidth.Send, job, unlimited)
			steps.Go(func() { seconds[i] = move(t, b, 50*mib) })
		}
		steps.Wait()
		require.InDeltaSlice(t, []float64{10, 10}, seconds, 0.3)
	})
}

// One who asks for much at once does not shut out one who asks for little.
func TestPiecesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := bandwidth.New(unlimited, unlimited)
		large, small := limits.Of(bandwidth.Recv, "job", limit(mib)), limits.Of(bandwidth.Recv, "job", limit(mib))
		var seconds float64
		var steps sync.WaitGroup
		steps.Go(func() {
			if err := large.Wait(t.Context(), 100*mib); err != nil {
				t.Error(err)
			}
		})
		steps.Go(func() {
			time.Sleep(time.Second)
			seconds = move(t, small, 128<<10)
		})
		steps.Wait()
		require.Less(t, seconds, 0.5)
	})
}

// The old limit would have had the wait last for a month.
func TestSetTakesEffectOnWaitsUnderWay(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		to      protocol.BandwidthLimit
		seconds float64
	}{
		"none":   {unlimited, 0},
		"higher": {limit(100 * mib), 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				limits := bandwidth.New(unlimited, unlimited)
				var steps sync.WaitGroup
				seconds := make([]float64, 2)
				for i := range seconds {
					b := limits.Of(bandwidth.Send, "job", limit(1024))
					steps.Go(func() {
						defer b.Release()
						begin := time.Now()
						if err := b.Wait(t.Context(), 500*mib); err != nil {
							t.Error(err)
						}
						seconds[i] = time.Since(begin).Seconds()
					})
				}
				time.Sleep(1000*time.Second + 7*time.Millisecond)
				limits.Set(bandwidth.Recv, "job", limit(1))
				limits.Set(bandwidth.Send, "other", limit(1))
				limits.Set(bandwidth.Send, "job", test.to)
				steps.Wait()
				require.InDelta(t, 1000+test.seconds, seconds[0], 0.6)
				require.InDelta(t, 1000+test.seconds, seconds[1], 0.6)
			})
		})
	}
}

func TestSetLowersTheLimitToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := bandwidth.New(unlimited, unlimited)
		b := limits.Of(bandwidth.Send, "job", unlimited)
		require.False(t, b.Limited())
		require.Zero(t, move(t, b, 100*mib))
		limits.Set(bandwidth.Send, "job", limit(mib))
		require.True(t, b.Limited())
		require.InDelta(t, 10, move(t, b, 10*mib), 0.2)
		limits.Set(bandwidth.Send, "job", limit(mib))
		require.InDelta(t, 10, move(t, b, 10*mib), 0.001, "the same again gives nothing for free")
	})
}

func TestTheScheduleIsFollowed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		midnight := time.Date(now.Year(), now.Month(), now.Day()+1, 0, 0, 0, 0, time.Local)
		time.Sleep(midnight.Add(7*time.Hour + 59*time.Minute + 50*time.Second).Sub(now))
		limits := bandwidth.New(unlimited, unlimited)
		b := limits.Of(bandwidth.Send, "job", protocol.BandwidthLimit{Default: 10 * mib, Intervals: []protocol.BandwidthInterval{
			{Days: protocol.EveryDay, From: 8 * 60, To: 8*60 + 1, Limit: mib},
			{Days: protocol.EveryDay, From: 8*60 + 1, To: 9 * 60, Limit: 0},
		}})
		require.True(t, b.Limited())
		// What passes at once at the beginning, of the higher limit, is more than a second's worth of the lower one.
		require.InDelta(t, 30, move(t, b, 120*mib), 1.5, "10 seconds at 10 MiB, 20 at 1 MiB")
		require.InDelta(t, 40, move(t, b, 100_000*mib), 1.5, "40 seconds at 1 MiB, and then no limit")
		require.Zero(t, move(t, b, 100_000*mib))
		require.True(t, b.Limited(), "later it is")
		time.Sleep(time.Hour)
		require.InDelta(t, 10, move(t, b, 100*mib), 0.3)
	})
}

// A wait that would outlast the interval goes on with what holds after it.
func TestAScheduleTakesEffectOnWaitsUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		from := uint16(now.Hour()*60 + now.Minute())
		host := protocol.BandwidthLimit{Intervals: []protocol.BandwidthInterval{
			{Days: protocol.EveryDay, From: from, To: (from + 30) % 1440, Limit: 1024},
		}}
		b := bandwidth.New(host, unlimited).Of(bandwidth.Send, "job", unlimited)
		begin := time.Now()
		require.NoError(t, b.Wait(t.Context(), 1000*mib))
		require.InDelta(t, 30*60, time.Since(begin).Seconds(), 60)
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := bandwidth.New(unlimited, unlimited).Of(bandwidth.Send, "job", limit(1024))
		enough := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error)
		go func() { done <- b.Wait(ctx, mib) }()
		synctest.Wait()
		cancel(enough)
		require.Equal(t, enough, <-done)
		require.Equal(t, enough, b.Wait(ctx, 1))
		require.Less(t, move(t, b, 128), 0.3, "what was not moved was not counted")
	})
}

func TestTheFirstStepBringsTheLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		limits := bandwidth.New(unlimited, unlimited)
		limits.Set(bandwidth.Send, "job", limit(1)) // there is nothing to change
		first := limits.Of(bandwidth.Send, "job", limit(mib))
		second := limits.Of(bandwidth.Send, "job", unlimited)
		first.Release()
		first.Release()
		require.InDelta(t, 10, move(t, second, 10*mib), 0.2)
		second.Release()
		third := limits.Of(bandwidth.Send, "job", unlimited)
		require.Zero(t, move(t, third, 10*mib))
		require.False(t, third.Limited())
	})
}

func TestNoLimitCostsNothing(t *testing.T) { //nolint:paralleltest // it counts what is allocated
	b := bandwidth.New(unlimited, unlimited).Of(bandwidth.Send, "job", unlimited)
	ctx := context.Background()
	require.Zero(t, testing.AllocsPerRun(1000, func() { _ = b.Wait(ctx, mib) }))
}

func BenchmarkWaitWithoutLimit(b *testing.B) {
	bucket := bandwidth.New(unlimited, unlimited).Of(bandwidth.Send, "job", unlimited)
	ctx := context.Background()
	for b.Loop() {
		if err := bucket.Wait(ctx, mib); err != nil {
			b.Fatal(err)
		}
	}
}
