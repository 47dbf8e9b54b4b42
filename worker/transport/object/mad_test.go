package object

// A control channel that loses, repeats, delays and reorders what the sides say to each other.

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// mad stands between a store and NATS.
type mad struct {
	lose, repeat, delay int // percent
	to                  func(*nats.Msg) error

	mu     sync.Mutex
	random *rand.Rand
	late   sync.WaitGroup
}

// tell may do anything with the message but change it.
func (m *mad) tell(message *nats.Msg) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.random.IntN(100) < m.lose {
		return nil
	}
	times := 1
	if m.random.IntN(100) < m.repeat {
		times += m.random.IntN(3)
	}
	for range times {
		if m.random.IntN(100) >= m.delay {
			if err := m.to(message); err != nil {
				return err
			}
			continue
		}
		wait := time.Duration(m.random.IntN(30)) * time.Millisecond
		m.late.Go(func() {
			time.Sleep(wait) // the delay is what is tested
			_ = m.to(message)
		})
	}
	return nil
}

func (s *stand) madden(store *Store, lose, repeat, delay int, seed uint64) {
	m := &mad{lose: lose, repeat: repeat, delay: delay, to: store.tell, random: rand.New(rand.NewPCG(seed, 1))}
	store.tell, store.life, store.answer = m.tell, 5*time.Millisecond, 20*time.Millisecond
	s.t.Cleanup(m.late.Wait)
}

// TestLostRepeatedAndLateMessagesChangeNothing is a property: whatever the control channel does, and whatever the sizes,
// each receiver gets the stream, and the bucket is empty afterwards.
func TestLostRepeatedAndLateMessagesChangeNothing(t *testing.T) {
	t.Parallel()
	s := newStand(t, protocol.ResourceOptions{StreamsMaxBytes: 64 << 20})
	sender := s.store()
	receiving := []*Store{s.store(), s.store(), s.store()}
	rapid.Check(t, func(rt *rapid.T) {
		percent := rapid.IntRange(0, 60)
		for _, store := range append([]*Store{sender}, receiving...) {
			store.tell = store.conn.PublishMsg
			store.chunk = rapid.IntRange(5000, 40_000).Draw(rt, "chunk")
			s.madden(store, percent.Draw(rt, "lose"), percent.Draw(rt, "repeat"), percent.Draw(rt, "delay"),
				rapid.Uint64().Draw(rt, "seed"))
		}
		sent := content(rapid.IntRange(0, 6*testSegment).Draw(rt, "size"))
		receivers := rapid.IntRange(1, len(receiving)).Draw(rt, "receivers")
		options := s.options(receivers)
		options.Segment = int64(rapid.IntRange(10_000, 2*testSegment).Draw(rt, "segment"))
		options.Window = options.Segment * int64(rapid.IntRange(2, 6).Draw(rt, "segments of the window"))
		options.Stall = time.Minute
		stream := s.send(sender, options)
		var results []<-chan *received
		var outgoing []*Outgoing
		for task := range receivers {
			r := s.receiver(receiving[task], task)
			results = append(results, r.taking(t.Context(), nil, transport.CopyOptions{}))
			outgoing = append(outgoing, s.call(stream, r))
		}
		_, err := stream.CopyFrom(t.Context(), bytes.NewReader(sent), transport.CopyOptions{})
		require.NoError(rt, err)
		for task := range receivers {
			_, err := outgoing[task].Confirmation(t.Context())
			require.NoError(rt, err)
			got := result(t, results[task])
			require.NoError(rt, got.copied)
			require.NoError(rt, got.confirmed)
			require.True(rt, bytes.Equal(sent, got.bytes), "%d bytes were sent, %d received", len(sent), len(got.bytes))
		}
		require.NoError(rt, stream.Close())
		s.nothingLeft()
	})
}
