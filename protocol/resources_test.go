package protocol_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func ensured(t *testing.T) (*natsserver.Server, *nats.Conn, *protocol.Resources) {
	t.Helper()
	server, connection, js := natstest.Run(t)
	resources, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)
	return server, connection, resources
}

func TestEnsureResourcesIsIdempotent(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	_, err := resources.Jobs.Put(t.Context(), "a", []byte("1"))
	require.NoError(t, err)
	again, err := protocol.EnsureResources(t.Context(), resources.JetStream, protocol.ResourceOptions{})
	require.NoError(t, err)
	entry, err := again.Jobs.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "1", string(entry.Value()))

	for stream, want := range map[jetstream.Stream]jetstream.RetentionPolicy{
		again.Work: jetstream.WorkQueuePolicy, again.Events: jetstream.LimitsPolicy, again.DeadLetters: jetstream.LimitsPolicy,
	} {
		config := stream.CachedInfo().Config
		require.Equal(t, want, config.Retention, config.Name)
		require.Equal(t, jetstream.FileStorage, config.Storage, config.Name)
		require.Positive(t, config.MaxAge, config.Name)
		require.Equal(t, 1, config.Replicas, config.Name)
	}
	for bucket, history := range map[jetstream.KeyValue]int64{
		again.Jobs: 10, again.Plans: 1, again.Cursors: 1, again.Hosts: 1, again.Leader: 1,
	} {
		status, err := bucket.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, history, status.History(), bucket.Bucket())
		require.Positive(t, status.LimitMarkerTTL(), bucket.Bucket())
	}
}

func TestTheBucketForStreamsHasAQuota(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	for _, options := range []struct {
		given   protocol.ResourceOptions
		quota   int64
		storage jetstream.StorageType
	}{
		{
			given: protocol.ResourceOptions{StreamsStorage: jetstream.MemoryStorage, StreamsMaxBytes: 1 << 20},
			quota: 1 << 20, storage: jetstream.MemoryStorage,
		},
		{given: protocol.ResourceOptions{StreamsMaxBytes: 5 << 20}, quota: 5 << 20, storage: jetstream.MemoryStorage},
	} {
		_, err := protocol.EnsureResources(t.Context(), js, options.given)
		require.NoError(t, err)
		stream, err := js.Stream(t.Context(), "OBJ_"+protocol.BucketStreams)
		require.NoError(t, err)
		config := stream.CachedInfo().Config
		require.Equal(t, options.quota, config.MaxBytes)
		require.Equal(t, options.storage, config.Storage)
		require.Equal(t, jetstream.DiscardNew, config.Discard)
		require.True(t, config.AllowDirect, "segments are read by direct gets")
	}
}

func TestAQuotaThatNATSHasNoRoomFor(t *testing.T) {
	t.Parallel()
	_, js := natstest.Connect(t, natstest.Start(t, natsserver.Options{MaxStore: 100 << 20}))
	_, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{StreamsMaxBytes: 200 << 20})
	require.ErrorContains(t, err, "creating the bucket zfleet-streams: NATS has no room for its quota of 200.0 MiB")
	require.ErrorContains(t, err, "coordinator.streams.max_bytes")
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
	_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{StreamsMaxBytes: 50 << 20})
	require.NoError(t, err)
}

func TestEnsureResourcesInSeveralCoordinatorsAtOnce(t *testing.T) {
	t.Parallel()
	server, _, js := natstest.Run(t)
	group, ctx := errgroup.WithContext(t.Context())
	for range 6 {
		_, js := natstest.Connect(t, server)
		group.Go(func() error {
			_, err := protocol.EnsureResources(ctx, js, protocol.ResourceOptions{})
			return err
		})
	}
	require.NoError(t, group.Wait())
	_, err := protocol.OpenResources(t.Context(), js)
	require.NoError(t, err)
}

func TestEnsureResourcesUpgradesWhatIsThere(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: protocol.StreamEvents, Subjects: []string{"zfleet.event.old.>"}, MaxAge: time.Hour,
	})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "zfleet.event.old.1-1.done", []byte("kept"))
	require.NoError(t, err)
	old, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: protocol.BucketHosts})
	require.NoError(t, err)
	_, err = old.Put(t.Context(), "a", []byte("kept"))
	require.NoError(t, err)

	resources, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{EventsMaxAge: 48 * time.Hour})
	require.NoError(t, err)
	config := resources.Events.CachedInfo().Config
	require.Equal(t, []string{protocol.EventSubjects}, config.Subjects)
	require.Equal(t, 48*time.Hour, config.MaxAge)
	require.Positive(t, config.MaxMsgsPerSubject)
	message, err := resources.Events.GetMsg(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, "kept", string(message.Data))
	entry, err := resources.Hosts.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "kept", string(entry.Value()))
	_, err = protocol.PutTTL(t.Context(), js, protocol.BucketHosts, "b", nil, time.Hour, nil)
	require.NoError(t, err, "the upgraded bucket has a time to live for each key")
}

func TestEnsureResourcesThatCannotBe(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	_, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{Replicas: 3})
	require.ErrorContains(t, err, "creating the stream ZFLEET_WORK")
	require.ErrorContains(t, err, "replicas > 1 not supported in non-clustered mode")

	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: protocol.StreamWork, Subjects: []string{"other"}})
	require.NoError(t, err)
	_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.ErrorContains(t, err, "can not change retention policy")
}

func TestOpenResourcesNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	_, err := protocol.OpenResources(t.Context(), js)
	var missing *protocol.MissingResources
	require.ErrorAs(t, err, &missing)
	require.Equal(t, []string{
		"bucket zfleet-cursors", "bucket zfleet-hosts", "bucket zfleet-jobs", "bucket zfleet-leader", "bucket zfleet-plans",
		"bucket zfleet-streams", "stream ZFLEET_DEADLETTERS", "stream ZFLEET_EVENTS", "stream ZFLEET_WORK",
	}, missing.Names)
	require.ErrorContains(t, err, "start a coordinator first")

	_, err = protocol.EnsureWorkConsumer(t.Context(), js, "alpha", protocol.RoleSend, 0)
	require.ErrorAs(t, err, &missing)
	require.Equal(t, []string{"stream ZFLEET_WORK"}, missing.Names)

	resources, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)
	require.NoError(t, js.DeleteKeyValue(t.Context(), protocol.BucketJobs))
	_, err = protocol.OpenResources(t.Context(), js)
	require.ErrorAs(t, err, &missing)
	require.Equal(t, []string{"bucket zfleet-jobs"}, missing.Names)
	require.NotNil(t, resources)
}

func TestWorkGoesToOneWorkerUntilItIsAcknowledged(t *testing.T) {
	t.Parallel()
	server, _, resources := ensured(t)
	ctx := t.Context()
	item := soundItem(t, protocol.RoleSend)
	sequence, err := protocol.PublishWork(ctx, resources.JetStream, item)
	require.NoError(t, err)
	again, err := protocol.PublishWork(ctx, resources.JetStream, item)
	require.NoError(t, err)
	require.Equal(t, sequence, again, "the same try of the same step is published once")
	item.Ref.Attempt++
	_, err = protocol.PublishWork(ctx, resources.JetStream, item)
	require.NoError(t, err)

	consumer, err := protocol.EnsureWorkConsumer(ctx, resources.JetStream, "alpha", protocol.RoleSend, 0)
	require.NoError(t, err)
	_, otherJS := natstest.Connect(t, server)
	other, err := protocol.EnsureWorkConsumer(ctx, otherJS, "alpha", protocol.RoleSend, 0)
	require.NoError(t, err, "the workers of a host share the consumer")
	elsewhere, err := protocol.EnsureWorkConsumer(ctx, resources.JetStream, "bravo", protocol.RoleSend, 0)
	require.NoError(t, err)

	first, second := next(t, consumer), next(t, other)
	var a, b protocol.WorkItem
	require.NoError(t, protocol.ReadMessage(first.Headers(), first.Data(), &a))
	require.NoError(t, protocol.ReadMessage(second.Headers(), second.Data(), &b))
	require.Equal(t, []int{2, 3}, []int{a.Ref.Attempt, b.Ref.Attempt}, "each item goes to one worker, in order")
	_, err = consumer.Next(jetstream.FetchMaxWait(100 * time.Millisecond))
	require.Error(t, err, "nothing is left")
	_, err = elsewhere.Next(jetstream.FetchMaxWait(100 * time.Millisecond))
	require.Error(t, err, "the items are not for bravo")

	require.NoError(t, second.Nak())
	back := next(t, consumer)
	metadata, err := back.Metadata()
	require.NoError(t, err)
	require.Equal(t, uint64(2), metadata.NumDelivered, "what one worker gives back goes to another")

	require.NoError(t, first.DoubleAck(ctx))
	require.NoError(t, back.DoubleAck(ctx))
	info, err := resources.Work.Info(ctx)
	require.NoError(t, err)
	require.Zero(t, info.State.Msgs, "acknowledged items are gone")
}

func next(t *testing.T, consumer jetstream.Consumer) jetstream.Msg {
	t.Helper()
	message, err := consumer.Next(jetstream.FetchMaxWait(10 * time.Second))
	require.NoError(t, err)
	return message
}

func TestWorkOfADeadWorkerComesBack(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	_, err := protocol.PublishWork(t.Context(), resources.JetStream, soundItem(t, protocol.RoleRecv))
	require.NoError(t, err)
	consumer, err := protocol.EnsureWorkConsumer(t.Context(), resources.JetStream, "bravo", protocol.RoleRecv, 500*time.Millisecond)
	require.NoError(t, err)
	dead := next(t, consumer)
	again := next(t, consumer)
	require.Equal(t, dead.Data(), again.Data())
	require.NoError(t, again.Term())
}

func TestEnsureWorkConsumerChangesTheAckWait(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	for _, wait := range []time.Duration{0, time.Minute} {
		consumer, err := protocol.EnsureWorkConsumer(t.Context(), resources.JetStream, "alpha", protocol.RoleSend, wait)
		require.NoError(t, err)
		want := wait
		if want == 0 {
			want = protocol.DefaultAckWait
		}
		config := consumer.CachedInfo().Config
		require.Equal(t, want, config.AckWait)
		require.Equal(t, "alpha-send", config.Durable)
		require.Equal(t, "zfleet.work.alpha.send", config.FilterSubject)
	}
	_, err := protocol.EnsureWorkConsumer(t.Context(), resources.JetStream, "a.*", protocol.RoleSend, 0)
	require.ErrorContains(t, err, "host name")
}

func TestEventsAreDeduplicatedAndProgressIsBounded(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	ctx := t.Context()
	event := protocol.Event{
		Ref: protocol.StepRef{Plan: "p", Attempt: 1}, Kind: protocol.EventClaimed, Role: protocol.RoleSend, Host: "alpha",
	}
	first, err := protocol.PublishEvent(ctx, resources.JetStream, event)
	require.NoError(t, err)
	second, err := protocol.PublishEvent(ctx, resources.JetStream, event)
	require.NoError(t, err)
	require.Equal(t, first, second)

	event.Kind, event.Progress = protocol.EventProgress, &protocol.Progress{}
	for i := range 300 {
		event.Progress.Bytes = uint64(i)
		_, err = protocol.PublishEvent(ctx, resources.JetStream, event)
		require.NoError(t, err)
	}
	info, err := resources.Events.Info(ctx, jetstream.WithSubjectFilter(protocol.EventSubjectOfPlan("p")))
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{
		"zfleet.event.alpha.p.0-0.claimed": 1, "zfleet.event.alpha.p.0-0.progress": 256,
	}, info.State.Subjects)
	last, err := resources.Events.GetLastMsgForSubject(ctx, protocol.EventSubject(event))
	require.NoError(t, err)
	var latest protocol.Event
	require.NoError(t, protocol.ReadMessage(protocol.FromDirectGet(last.Header), last.Data, &latest))
	require.Equal(t, uint64(299), latest.Progress.Bytes)
}

func TestDeadLettersAreKeptWithinBounds(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	ctx := t.Context()
	huge := strings.Repeat("ä", 1<<20)
	headers := map[string][]string{"Zfleet-Protocol": {"7"}}
	for i := range 40 {
		headers[strings.Repeat("H", i+1)] = []string{huge[:8<<10], "x"}
	}
	letter := protocol.NewDeadLetter(huge, headers, []byte(huge), errors.New(huge), "alpha", 3)
	letter.Headers = headers // as from one who does not use NewDeadLetter
	require.NoError(t, protocol.PublishDeadLetter(ctx, resources.JetStream, letter))
	message, err := resources.DeadLetters.GetLastMsgForSubject(ctx, protocol.DeadLetterSubject("alpha"))
	require.NoError(t, err)
	var kept protocol.DeadLetter
	require.NoError(t, protocol.ReadMessage(protocol.FromDirectGet(message.Header), message.Data, &kept))
	require.Equal(t, 2<<20, kept.Size)
	require.Equal(t, huge[:protocol.MaxDeadLetterPayload], string(kept.Payload))
	require.Equal(t, uint64(3), kept.Deliveries)
	require.True(t, strings.HasSuffix(kept.Reason, "ä…"), "cut between letters: %q", kept.Reason[len(kept.Reason)-8:])

	small := protocol.NewDeadLetter("zfleet.work.alpha.send", nats.Header{"A": {"b"}}, []byte("garbage"), errors.New("no msgpack"), "a.b", 1)
	require.NoError(t, protocol.PublishDeadLetter(ctx, resources.JetStream, small))
	message, err = resources.DeadLetters.GetLastMsgForSubject(ctx, "zfleet.deadletter.a=2Eb")
	require.NoError(t, err)
	kept = protocol.DeadLetter{}
	require.NoError(t, protocol.ReadMessage(protocol.FromDirectGet(message.Header), message.Data, &kept))
	require.True(t, small.At.Equal(kept.At))
	kept.At = small.At
	require.Equal(t, small, kept)
}

func TestPutTTLFencesByRevision(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	ctx := t.Context()
	put := func(value string, last *uint64) (uint64, error) {
		return protocol.PutTTL(ctx, resources.JetStream, protocol.BucketLeader, protocol.LeaderKey, []byte(value), time.Hour, last)
	}
	none := uint64(0)
	created, err := put("a", &none)
	require.NoError(t, err)
	_, err = put("b", &none)
	require.ErrorIs(t, err, protocol.ErrRevision, "it exists")
	renewed, err := put("a", &created)
	require.NoError(t, err)
	_, err = put("b", &created)
	require.ErrorIs(t, err, protocol.ErrRevision, "somebody was faster")
	entry, err := resources.Leader.Get(ctx, protocol.LeaderKey)
	require.NoError(t, err)
	require.Equal(t, "a", string(entry.Value()))
	require.Equal(t, renewed, entry.Revision())

	require.NoError(t, resources.Leader.Delete(ctx, protocol.LeaderKey))
	_, err = put("a", &renewed)
	require.ErrorIs(t, err, protocol.ErrRevision, "it was deleted")
	_, err = put("c", &none)
	require.NoError(t, err, "what was deleted does not exist")
	_, err = put("d", nil)
	require.NoError(t, err, "unconditionally")

	_, err = protocol.PutTTL(ctx, resources.JetStream, protocol.BucketLeader, "x", nil, 0, nil)
	require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
}

func TestPutTTLExpires(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	ctx := t.Context()
	watcher, err := resources.Hosts.Watch(ctx, "alpha.>", jetstream.UpdatesOnly())
	require.NoError(t, err)
	defer func() { require.NoError(t, watcher.Stop()) }()
	update := func() jetstream.KeyValueEntry {
		select {
		case entry := <-watcher.Updates():
			return entry
		case <-time.After(30 * time.Second):
			require.FailNow(t, "the watcher is told nothing")
			return nil
		}
	}
	key, none := protocol.HostKey("alpha", "w 1"), uint64(0)
	// A part of a second is rounded up, since the server would refuse it.
	revision, err := protocol.PutTTL(ctx, resources.JetStream, protocol.BucketHosts, key, []byte("here"), 10*time.Millisecond, &none)
	require.NoError(t, err)
	require.Equal(t, jetstream.KeyValuePut, update().Operation())
	gone := update()
	require.NotEqual(t, jetstream.KeyValuePut, gone.Operation(), "watchers see that the key has expired")
	require.Equal(t, key, gone.Key())
	_, err = resources.Hosts.Get(ctx, key)
	require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
	_, err = protocol.PutTTL(ctx, resources.JetStream, protocol.BucketHosts, key, []byte("late"), time.Hour, &revision)
	require.ErrorIs(t, err, protocol.ErrRevision, "a lease that has expired cannot be renewed")
	_, err = protocol.PutTTL(ctx, resources.JetStream, protocol.BucketHosts, key, []byte("again"), time.Hour, &none)
	require.NoError(t, err, "what has expired does not exist")
}

func TestOneOfManyTakesTheLease(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	won := make(chan byte, 8)
	group, ctx := errgroup.WithContext(t.Context())
	for i := range 8 {
		group.Go(func() error {
			none, name := uint64(0), byte('a'+i)
			_, err := protocol.PutTTL(ctx, resources.JetStream, protocol.BucketLeader, protocol.LeaderKey, []byte{name}, time.Hour, &none)
			if err == nil {
				won <- name
			} else if !errors.Is(err, protocol.ErrRevision) {
				return err
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.Len(t, won, 1)
	entry, err := resources.Leader.Get(t.Context(), protocol.LeaderKey)
	require.NoError(t, err)
	require.Equal(t, []byte{<-won}, entry.Value())
}

func TestEveryNameIsAValidKey(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	for i, name := range []string{"", "_kv", "a b", "a.b", "*", ">", "ä/ö", "$KV", "=", "\x00\xff", strings.Repeat("%", 255)} {
		key := protocol.CursorKey(name, protocol.JobID(name), name)
		value := binary.BigEndian.AppendUint32(nil, uint32(i))
		_, err := resources.Cursors.Put(t.Context(), key, value)
		require.NoError(t, err, "key %q", key)
		entry, err := resources.Cursors.Get(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, value, entry.Value())
	}
}

func TestARestartOfTheServerKeepsEverything(t *testing.T) {
	t.Parallel()
	server, connection, resources := ensured(t)
	ctx := t.Context()
	item := soundItem(t, protocol.RoleSend)
	_, err := protocol.PublishWork(ctx, resources.JetStream, item)
	require.NoError(t, err)
	consumer, err := protocol.EnsureWorkConsumer(ctx, resources.JetStream, "alpha", protocol.RoleSend, time.Second)
	require.NoError(t, err)
	underWay := next(t, consumer)
	revision, err := resources.Plans.Put(ctx, protocol.PlanKey("p"), []byte("plan"))
	require.NoError(t, err)
	_, err = protocol.PutTTL(ctx, resources.JetStream, protocol.BucketHosts, "alpha.w", []byte("here"), time.Hour, nil)
	require.NoError(t, err)

	natstest.Restart(t, server)
	require.Eventually(t, connection.IsConnected, 10*time.Second, 10*time.Millisecond, "the client reconnects by itself")

	resources, err = protocol.OpenResources(ctx, resources.JetStream)
	require.NoError(t, err)
	entry, err := resources.Plans.Get(ctx, protocol.PlanKey("p"))
	require.NoError(t, err)
	require.Equal(t, revision, entry.Revision())
	_, err = resources.Plans.Update(ctx, protocol.PlanKey("p"), []byte("plan"), revision)
	require.NoError(t, err)
	_, err = resources.Hosts.Get(ctx, "alpha.w")
	require.NoError(t, err)
	again, err := protocol.PublishWork(ctx, resources.JetStream, item)
	require.NoError(t, err)
	require.Equal(t, uint64(1), again, "de-duplication outlives the server")
	redelivered := next(t, consumer)
	require.Equal(t, underWay.Data(), redelivered.Data())
	require.NoError(t, redelivered.DoubleAck(ctx))
}

func TestPublishSaysWhatItCouldNotDo(t *testing.T) {
	t.Parallel()
	_, connection, js := natstest.Run(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := protocol.PublishEvent(ctx, js, protocol.Event{Ref: protocol.StepRef{Plan: "p"}, Kind: protocol.EventDone})
	require.ErrorContains(t, err, "publishing to zfleet.event.=.p.0-0.done")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Usage))

	cancelled, stop := context.WithCancel(t.Context())
	stop()
	_, err = protocol.Publish(cancelled, js, nats.NewMsg("x"), "")
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, protocol.Cancelled, protocol.KindOf(err, protocol.Usage))

	connection.Close()
	_, err = protocol.OpenResources(ctx, js)
	require.ErrorIs(t, err, nats.ErrConnectionClosed)
	_, err = protocol.PutTTL(ctx, js, protocol.BucketHosts, "a", nil, time.Hour, nil)
	require.ErrorContains(t, err, "setting a in the bucket zfleet-hosts")
}

// forgetfulJetStream loses the answer to the first request about each stream and bucket.
type forgetfulJetStream struct {
	jetstream.JetStream

	mu   sync.Mutex
	lost map[string]bool
}

func (f *forgetfulJetStream) loses(request string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost[request] {
		return nil
	}
	f.lost[request] = true
	return context.DeadlineExceeded
}

func (f *forgetfulJetStream) Stream(ctx context.Context, name string) (jetstream.Stream, error) {
	if err := f.loses("stream " + name); err != nil {
		return nil, err
	}
	return f.JetStream.Stream(ctx, name)
}

func (f *forgetfulJetStream) CreateStream(ctx context.Context, config jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := f.JetStream.CreateStream(ctx, config)
	return stream, errors.Join(err, f.loses("create stream "+config.Name))
}

func (f *forgetfulJetStream) CreateKeyValue(ctx context.Context, config jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	bucket, err := f.JetStream.CreateKeyValue(ctx, config)
	return bucket, errors.Join(err, f.loses("create bucket "+config.Bucket))
}

func (f *forgetfulJetStream) KeyValue(ctx context.Context, name string) (jetstream.KeyValue, error) {
	if err := f.loses("bucket " + name); err != nil {
		return nil, err
	}
	return f.JetStream.KeyValue(ctx, name)
}

func (f *forgetfulJetStream) ObjectStore(ctx context.Context, name string) (jetstream.ObjectStore, error) {
	if err := f.loses("objects " + name); err != nil {
		return nil, err
	}
	return f.JetStream.ObjectStore(ctx, name)
}

func TestResourcesAreAskedForAgainWhenNobodyAnswers(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	forgetful := &forgetfulJetStream{JetStream: js, lost: map[string]bool{}}
	resources, err := protocol.EnsureResources(t.Context(), forgetful, protocol.ResourceOptions{})
	require.NoError(t, err)
	require.NotNil(t, resources.Streams)
	require.Greater(t, len(forgetful.lost), 20, "%v", forgetful.lost)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	clear(forgetful.lost)
	_, err = protocol.OpenResources(ended, forgetful)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, forgetful.lost, 1, "who has given up asks no more")
}

func TestGettingAKey(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	get := func(key string) ([]byte, uint64, error) {
		return protocol.GetKey(t.Context(), resources.JetStream, protocol.BucketJobs, key)
	}
	_, _, err := get("a")
	require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
	large := bytes.Repeat([]byte{0, 0xff}, 500<<10)
	for _, value := range [][]byte{[]byte("1"), {}, large} {
		put, err := resources.Jobs.Put(t.Context(), "a", value)
		require.NoError(t, err)
		got, revision, err := get("a")
		require.NoError(t, err)
		require.Equal(t, put, revision)
		require.True(t, bytes.Equal(value, got), "%d bytes, and not %d", len(got), len(value))
	}
	require.NoError(t, resources.Jobs.Delete(t.Context(), "a"))
	_, _, err = get("a")
	require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
	_, err = resources.Jobs.Put(t.Context(), "b", []byte("2"))
	require.NoError(t, err)
	require.NoError(t, resources.Jobs.Purge(t.Context(), "b"))
	_, _, err = get("b")
	require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
	_, _, err = protocol.GetKey(t.Context(), resources.JetStream, "nothing", "a")
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}
