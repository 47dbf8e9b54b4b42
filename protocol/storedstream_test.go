package protocol_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func TestStoredStreamsTellWhoseTheyAreAndCanBeRemoved(t *testing.T) {
	t.Parallel()
	_, _, resources := ensured(t)
	ctx, js := t.Context(), resources.JetStream
	ref := func(task, attempt int) protocol.StepRef {
		return protocol.StepRef{Plan: "20261123t015322-x7k2q", Task: task, Step: 0, Attempt: attempt}
	}
	whole := protocol.StreamName{Ref: ref(1, 1), ID: "abcdefgh"}
	half := protocol.StreamName{Ref: ref(2, 3), ID: "ijklmnop"}
	refs := []protocol.StepRef{whole.Ref, ref(7, 2)}
	require.NoError(t, protocol.StoreStreamObject(ctx, js, whole, refs))
	stored := func(stream protocol.StreamName, number uint64, object bool) protocol.ChunksName {
		chunks := protocol.ChunksName{Segment: protocol.SegmentName{Stream: stream, Number: number}}
		for range 3 {
			_, err := js.Publish(ctx, protocol.ObjectChunksSubject(chunks.String()), []byte("chunk"))
			require.NoError(t, err)
		}
		if object {
			message, err := protocol.ObjectMetaMessage(jetstream.ObjectInfo{
				ObjectMeta: jetstream.ObjectMeta{Name: chunks.Segment.String()}, NUID: chunks.String(), Size: 15, Chunks: 3,
			})
			require.NoError(t, err)
			_, err = js.PublishMsg(ctx, message)
			require.NoError(t, err)
		}
		return chunks
	}
	first := stored(whole, 0, true)
	stored(whole, 1, true)
	stored(whole, 2, false) // its sender died while storing it
	stored(half, 5, false)  // and here its remover did
	_, err := resources.Streams.PutString(ctx, "photo", "not ours")
	require.NoError(t, err)

	streams, unknown, err := protocol.StoredStreams(ctx, js)
	require.NoError(t, err)
	require.Len(t, unknown, 2, "the object and the chunk that are not ours")
	for _, subject := range unknown {
		require.True(t, strings.HasPrefix(subject, "$O.zfleet-streams."), subject)
	}
	byName := map[protocol.StreamName]protocol.StoredStream{}
	for _, stream := range streams {
		byName[stream.Name] = stream
		require.WithinDuration(t, time.Now(), stream.Since, time.Minute)
	}
	require.Len(t, byName, 2)
	require.Equal(t, refs, byName[whole].Refs)
	require.Nil(t, byName[half].Refs)

	// The segments are objects like any others.
	info, err := resources.Streams.GetInfo(ctx, first.Segment.String())
	require.NoError(t, err)
	require.EqualValues(t, 15, info.Size)
	bucket, err := js.Stream(ctx, protocol.StreamsStream)
	require.NoError(t, err)
	require.NoError(t, protocol.RemoveSegment(ctx, bucket, first))
	require.NoError(t, protocol.RemoveSegment(ctx, bucket, first), "removing what is gone")

	require.NoError(t, byName[whole].Remove(ctx, js))
	streams, _, err = protocol.StoredStreams(ctx, js)
	require.NoError(t, err)
	require.Len(t, streams, 1)
	require.Equal(t, half, streams[0].Name)
	require.NoError(t, streams[0].Remove(ctx, js))
	require.NoError(t, byName[half].Remove(ctx, js), "removing what is gone")
	state, err := bucket.Info(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 2, state.State.Msgs, "what is not ours stays, and nothing else")
	text, err := resources.Streams.GetString(ctx, "photo")
	require.NoError(t, err)
	require.Equal(t, "not ours", text)
}

func TestAFullBucketSaysWhatToDo(t *testing.T) {
	t.Parallel()
	_, js := natsWithQuota(t, 64<<10)
	var err error
	for range 64 {
		if _, err = js.Publish(t.Context(), protocol.ObjectChunksSubject("x"), make([]byte, 8<<10)); err != nil {
			break
		}
	}
	require.Error(t, err, "512 KiB do not fit into 64 KiB")
	require.True(t, protocol.StreamsFull(err), "%v", err)
	err = protocol.StreamsError("storing a segment", err)
	require.ErrorContains(t, err, "coordinator.streams.max_bytes")
	require.ErrorContains(t, err, "replication.objects.window")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
}

func natsWithQuota(t *testing.T, quota int64) (*protocol.Resources, jetstream.JetStream) {
	t.Helper()
	_, _, js := natstest.Run(t)
	resources, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{StreamsMaxBytes: quota})
	require.NoError(t, err)
	return resources, js
}
