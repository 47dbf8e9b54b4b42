package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/bandwidth"
)

func TestWhatDoesNotWorkIsRememberedForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		u := newUnreachable()
		_, found := u.recall("to bravo")
		require.False(t, found)
		u.remember("to bravo", "connection refused")
		reason, found := u.recall("to bravo")
		require.True(t, found)
		require.Contains(t, reason, "connection refused (found at ")
		_, found = u.recall("from bravo")
		require.False(t, found, "the other direction is another matter")

		time.Sleep(unreachableFor + time.Second)
		_, found = u.recall("to bravo")
		require.False(t, found)
		u.remember("to charlie", "no route")
		require.Len(t, u.failed, 1, "what is over is not kept")
		u.forget("to charlie")
		require.Empty(t, u.failed)
		u.remember("", "the object store")
		require.Empty(t, u.failed, "what has no key is tried every time")
	})
}

func TestDirectionsOfATransport(t *testing.T) {
	t.Parallel()
	offer := &protocol.Offer{Addresses: []string{"bravo:8410"}, Subject: "zfleet.stream.bravo.x"}
	count := func(transport protocol.Transport, offer *protocol.Offer) int {
		return len((&try{item: protocol.WorkItem{Target: "bravo", Transport: transport, Offer: offer}}).directions())
	}
	require.Equal(t, 3, count(protocol.TransportAuto, offer))
	require.Equal(t, 2, count(protocol.TransportTCP, offer))
	require.Equal(t, 1, count(protocol.TransportObject, offer))
	require.Equal(t, 1, count(protocol.TransportAuto, &protocol.Offer{Addresses: offer.Addresses}), "it takes no calls")

	again := &protocol.Offer{Addresses: []string{"bravo:9999"}, Subject: offer.Subject}
	key := func(offer *protocol.Offer) string {
		return (&try{item: protocol.WorkItem{Target: "bravo", Transport: protocol.TransportAuto, Offer: offer}}).directions()[0].key
	}
	require.NotEqual(t, key(offer), key(again), "a worker that was restarted is tried again")
}

func TestRateForgets(t *testing.T) {
	t.Parallel()
	var r rate
	require.Zero(t, r.after(0, 0))
	require.EqualValues(t, 1000, r.after(500, 500*time.Millisecond))
	require.EqualValues(t, 1000, r.after(500, 500*time.Millisecond), "no time has passed")
	require.EqualValues(t, 750, r.after(750, time.Second), "at first it is the plain average")
	elapsed := time.Second
	for range 200 {
		elapsed += 500 * time.Millisecond
		r.after(750+uint64(elapsed/time.Millisecond), elapsed)
	}
	require.InDelta(t, 1000, r.after(750+uint64(elapsed/time.Millisecond)+500, elapsed+500*time.Millisecond), 20)
	for range 20 {
		elapsed += 500 * time.Millisecond
		r.after(r.bytes, elapsed)
	}
	require.Less(t, r.average, 200.0, "it has stood still for 10 seconds")
}

func TestProgressSaysHowLongTheRestWillTake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &meter{started: time.Now(), meterOptions: meterOptions{
			Bytes: func() int64 { return 3000 }, Expected: func() uint64 { return 9000 },
		}}
		time.Sleep(3 * time.Second)
		p := m.progress()
		require.Equal(t, &protocol.Progress{
			Bytes: 3000, Expected: 9000, Elapsed: 3 * time.Second, Rate: 1000, Remaining: 6 * time.Second,
		}, p)
		m.Expected = func() uint64 { return 0 }
		require.Zero(t, m.progress().Remaining, "nobody knows")
	})
}

func TestALimitFollowsTheJobAsItIsNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, err := New(Config{Host: "alpha", Name: "alpha-1", ClaimsDir: "/not/used"})
		require.NoError(t, err)
		item := protocol.WorkItem{Job: "prod", Send: protocol.SendOptions{BandwidthLimit: protocol.BandwidthLimit{Default: 1 << 10}}}
		bucket := w.limitOf(bandwidth.Send, item)
		defer bucket.Release()
		require.True(t, bucket.Limited())

		waiting := make(chan error, 1)
		go func() { waiting <- bucket.Wait(context.Background(), 1<<30) }()
		synctest.Wait()
		select {
		case <-waiting:
			t.Fatal("1 GiB at 1 KiB/s takes a while")
		default:
		}
		w.limitJob(protocol.Job{Name: "prod"})
		require.NoError(t, <-waiting)
		later := w.limitOf(bandwidth.Send, item)
		defer later.Release()
		require.False(t, later.Limited(), "a plan carries its job as it was; the job as submitted counts")
	})
}
