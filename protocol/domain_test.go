package protocol_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// TestResourcesThroughALeafNode does with every resource, from behind a leaf node, what workers, coordinators and operators
// do with it, and looks for it at the hub.
func TestResourcesThroughALeafNode(t *testing.T) {
	t.Parallel()
	for name, domain := range map[string]string{"with a domain of its own": "site", "with no JetStream": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			hub := natstest.Hub(t, "hub")
			_, js := natstest.Connect(t, hub)
			atHub, err := protocol.EnsureResources(ctx, js, protocol.ResourceOptions{})
			require.NoError(t, err)
			connection, _ := natstest.Connect(t, natstest.Leaf(t, hub, domain))
			through, err := protocol.JetStream(connection, "hub")
			require.NoError(t, err)
			remote, err := protocol.OpenResources(ctx, through)
			require.NoError(t, err)

			// A key with a time to live, by compare-and-set.
			zero := uint64(0)
			revision, err := protocol.PutTTL(ctx, through, protocol.BucketLeader, protocol.LeaderKey, []byte("me"), time.Hour, &zero)
			require.NoError(t, err)
			_, err = protocol.PutTTL(ctx, through, protocol.BucketLeader, protocol.LeaderKey, []byte("you"), time.Hour, &zero)
			require.ErrorIs(t, err, protocol.ErrRevision)
			entry, err := atHub.Leader.Get(ctx, protocol.LeaderKey)
			require.NoError(t, err)
			require.Equal(t, "me", string(entry.Value()))
			require.Equal(t, revision, entry.Revision())

			// A plain key, and its watch.
			_, err = remote.Jobs.Create(ctx, "job", []byte("one"))
			require.NoError(t, err)
			watcher, err := remote.Jobs.WatchAll(ctx)
			require.NoError(t, err)
			first := <-watcher.Updates()
			require.Equal(t, "one", string(first.Value()))
			require.Nil(t, <-watcher.Updates())
			_, err = atHub.Jobs.Put(ctx, "job", []byte("two"))
			require.NoError(t, err)
			require.Equal(t, "two", string((<-watcher.Updates()).Value()))
			require.NoError(t, watcher.Stop())

			// A work item: published at the hub, taken and acknowledged behind the leaf node, told of in an event.
			item := soundItem(t, protocol.RoleRecv)
			_, err = protocol.PublishWork(ctx, js, item)
			require.NoError(t, err)
			consumer, err := protocol.EnsureWorkConsumer(ctx, through, item.Host(), item.Role, 0)
			require.NoError(t, err)
			message, err := consumer.Next()
			require.NoError(t, err)
			var taken protocol.WorkItem
			require.NoError(t, protocol.ReadMessage(message.Headers(), message.Data(), &taken))
			require.Equal(t, item.Ref, taken.Ref)
			require.NoError(t, message.InProgress())
			require.NoError(t, message.DoubleAck(ctx))
			info, err := atHub.Work.Info(ctx)
			require.NoError(t, err)
			require.Zero(t, info.State.Msgs, "the item is done")
			_, err = protocol.PublishEvent(ctx, through, protocol.Event{
				Ref: item.Ref, Kind: protocol.EventClaimed, Role: item.Role, Host: item.Host(), Worker: "w",
			})
			require.NoError(t, err)
			info, err = atHub.Events.Info(ctx)
			require.NoError(t, err)
			require.EqualValues(t, 1, info.State.Msgs)

			// An object, written behind the leaf node and read at the hub, and the other way round.
			content := make([]byte, 3<<20)
			content[1<<20] = 1
			for from, to := range map[jetstream.ObjectStore]jetstream.ObjectStore{remote.Streams: atHub.Streams, atHub.Streams: remote.Streams} {
				_, err = from.PutBytes(ctx, "segment", content)
				require.NoError(t, err)
				read, err := to.GetBytes(ctx, "segment")
				require.NoError(t, err)
				require.Equal(t, content, read)
				require.NoError(t, to.Delete(ctx, "segment"))
			}
		})
	}
}
