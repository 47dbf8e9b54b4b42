// Store: a worker's access to the object store.

package object

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/semaphore"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

const (
	// standardChunk is chosen by the benchmark.
	standardChunk = 512 << 10
	// chunkRoom is what is left of the server's maximal payload for headers: those that a direct get adds.
	chunkRoom = 4 << 10

	maxLife      = time.Second            // the longest time between signs of life
	firstAnswer  = 3 * time.Second        // how long an answer of NATS is waited for at first
	lastWords    = 5 * time.Second        // how long the other side is waited for once nothing depends on it any more
	firstBackoff = 20 * time.Millisecond  // before the second try of what NATS refused
	lastBackoff  = 500 * time.Millisecond // between later tries
)

// DefaultStall is the stall time where none is given.
const DefaultStall = 30 * time.Second

// Store gives access to the object store for streams. Its methods can be used concurrently.
type Store struct {
	conn      *nats.Conn
	js        jetstream.JetStream
	objects   jetstream.ObjectStore
	apiPrefix string
	chunk     int                 // how much of a segment is one message, unless the server takes less
	life      time.Duration       // the longest time between signs of life
	answer    time.Duration       // how long NATS may take for an answer before it is asked again, with twice the time
	blocks    sync.Pool           // of *block
	asked     *semaphore.Weighted // bytes that all receivers together have asked for

	mu     sync.Mutex
	bucket jetstream.Stream // behind objects; nil until it is needed

	// tell publishes what one side says to the other. It is the seam at which tests lose, delay and repeat messages.
	tell func(*nats.Msg) error
}

// Open gives access to the bucket protocol.BucketStreams, whose handle is objects, through js, which must be conn's. The
// caller keeps them, and closes conn after everything that came from the Store.
func Open(conn *nats.Conn, js jetstream.JetStream, objects jetstream.ObjectStore) *Store {
	return &Store{
		conn: conn, js: js, objects: objects, apiPrefix: apiPrefix(js.Options()), chunk: standardChunk, life: maxLife,
		answer: firstAnswer,
		asked:  semaphore.NewWeighted(allBatches),
		tell:   conn.PublishMsg,
	}
}

// apiPrefix is what the subjects of js's API begin with.
func apiPrefix(options jetstream.JetStreamOptions) string {
	switch {
	case options.APIPrefix != "":
		return strings.TrimSuffix(options.APIPrefix, ".") + "."
	case options.Domain != "":
		return "$JS." + options.Domain + ".API."
	}
	return "$JS.API."
}

// stream is the stream behind the bucket.
func (s *Store) stream(ctx context.Context) (jetstream.Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bucket == nil {
		bucket, err := s.js.Stream(ctx, protocol.StreamsStream)
		if err != nil {
			return nil, protocol.StreamsError("opening the bucket "+protocol.BucketStreams, err)
		}
		s.bucket = bucket
	}
	return s.bucket, nil
}

// chunkSize is how much of a segment one message can hold now.
func (s *Store) chunkSize() int {
	return min(s.chunk, int(s.conn.MaxPayload())-chunkRoom)
}

// say sends a message to the other side. Whether it arrives does not matter: it is said again.
func (s *Store) say(subject string, v any, logger *slog.Logger) {
	message, err := protocol.NewMessage(context.Background(), subject, v)
	if err == nil {
		err = s.tell(message)
	}
	if err != nil {
		logger.Debug("a message about a stream could not be sent; it will be repeated", "subject", subject, "error", err)
	}
}

// lifeOf is the time between signs of life.
func (s *Store) lifeOf(stall time.Duration) time.Duration { return min(stall/3, s.life) }

func stallOr(stall, otherwise time.Duration) time.Duration {
	if stall <= 0 {
		stall = otherwise
	}
	return max(stall, transport.MinStall)
}

func loggerOr(logger *slog.Logger) *slog.Logger {
	if logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return logger
}

// patience is how long NATS is waited for at the given try, counted from 0.
func (s *Store) patience(try int, stall time.Duration) time.Duration {
	return max(min(s.answer<<min(try, 10), stall), transport.MinStall)
}

// backoff is the time between the given try, counted from 0, and the next.
func backoff(try int) time.Duration { return min(firstBackoff<<min(try, 10), lastBackoff) }

// pause waits for d, or until ctx ends; it says whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// poke puts a token into a channel of one place, unless there is one.
func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
