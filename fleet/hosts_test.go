package fleet

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func (s *scripted) putWorker(host protocol.Host, worker string, ttl time.Duration) {
	s.t.Helper()
	value, err := protocol.EncodeValue(protocol.Presence{Host: host, Worker: worker})
	require.NoError(s.t, err)
	_, err = protocol.PutTTL(s.t.Context(), s.resources.JetStream, protocol.BucketHosts, protocol.HostKey(host, worker), value, ttl, nil)
	require.NoError(s.t, err)
}

// A host is away when each of its workers has taken its leave or has died.
func TestHostsThatAreAway(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	absent, err := s.AbsentHosts(t.Context())
	require.NoError(t, err)
	require.Empty(t, absent)
	require.NotNil(t, absent)

	s.putWorker("delta", "killed", time.Second)
	s.putWorker("bravo", "alive", time.Hour)
	s.putWorker("charlie", "alive", time.Hour)
	for _, key := range []string{protocol.HostKey("charlie", "left"), protocol.HostKey("alpha", "left"), protocol.HostKey("alpha", "left-later")} {
		require.NoError(t, s.resources.Hosts.Purge(t.Context(), key, jetstream.PurgeTTL(protocol.HostMarkerTTL)))
	}
	s.put(protocol.BucketHosts, "elsewhere", []byte("not ours"))
	require.Eventually(t, func() bool {
		absent, err = s.AbsentHosts(t.Context())
		return err == nil && len(absent) == 2
	}, time.Minute, 50*time.Millisecond, "the worker that was killed is noticed")
	require.Equal(t, protocol.Host("alpha"), absent[0].Host)
	require.Equal(t, protocol.Host("delta"), absent[1].Host)
	for _, host := range absent {
		later, err := s.resources.Hosts.Watch(t.Context(), string(host.Host)+".*")
		require.NoError(t, err)
		var newest time.Time
		for entry := range later.Updates() {
			if entry == nil {
				break
			}
			if entry.Created().After(newest) {
				newest = entry.Created()
			}
		}
		require.NoError(t, later.Stop())
		require.True(t, host.Seen.Equal(newest.Add(-protocol.PresenceTTL)), "%s: the newest of its markers counts", host.Host)
	}

	status, err := s.Status(t.Context())
	require.ErrorContains(t, err, "elsewhere", "the key that is none of a worker is told")
	require.Equal(t, absent, status.Absent)
	require.Len(t, status.Hosts, 2)
}
