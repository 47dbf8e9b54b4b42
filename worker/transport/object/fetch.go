// Fetch: reading a segment from the object store, and making sure that it is the right one.

package object

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

const (
	// A server closes a connection that does not take what is asked for within its write_deadline, 10 seconds by default, or
	// that it would have to keep more than max_pending for, 64 MiB by default.
	firstBatch   = 1 << 20                // bytes that are asked for at once, at first
	leastBatch   = 64 << 10               // where the connection is slow; a batch has one chunk at least
	wholeBatch   = 4 << 20                // where it is fast
	limitedBatch = 1 << 20                // where there is a bandwidth limit
	allBatches   = 32 << 20               // by all receivers that share the connection
	fastBatch    = 500 * time.Millisecond // a batch that comes within this time could have been larger
	slowBatch    = 2 * time.Second        // one that does not come within this time should have been smaller
	maxPending   = 512 << 10              // messages
)

// errDamaged says that a segment is not what the sender stored.
var errDamaged = errors.New("it was damaged in the object store")

// fetcher reads segments, one after another.
type fetcher struct {
	store        *Store
	subscription *nats.Subscription
	inbox        string
	request      uint64 // counts the requests: answers to earlier ones are not ours any more
	size         int    // of a batch in bytes, as the connection takes it
	stall        time.Duration
	limit        transport.Limit // nil: none
	meter        *meter
}

func (s *Store) newFetcher(stall time.Duration, limit transport.Limit, m *meter) (*fetcher, error) {
	f := &fetcher{store: s, inbox: s.conn.NewInbox(), size: firstBatch, stall: stall, limit: limit, meter: m}
	var err error
	if f.subscription, err = s.conn.SubscribeSync(f.inbox + ".*"); err != nil {
		return nil, err
	}
	// A batch goes beyond what it was asked for by one chunk at most, and a late one may be in the way.
	return f, f.subscription.SetPendingLimits(maxPending, 4*wholeBatch)
}

func (f *fetcher) close() { _ = f.subscription.Unsubscribe() } // an error says that the connection is closed

// fetch reads the segment's chunks, and checks them and what the object store says of them. It asks again for what does not
// come, until nothing has come for the stall time. The chunks are the caller's.
func (f *fetcher) fetch(ctx context.Context, name protocol.SegmentName, segment protocol.StoredSegment) ([][]byte, error) {
	checking, cancel := context.WithCancel(ctx)
	defer cancel()
	checked := make(chan error, 1)
	go func() { checked <- f.checkObject(checking, name, segment) }()
	chunks, err := f.chunks(ctx, segment)
	if err != nil {
		cancel()
	}
	if unlike := <-checked; err == nil {
		err = unlike
	}
	return chunks, err
}

// chunks reads the segment's chunks, and checks them.
func (f *fetcher) chunks(ctx context.Context, segment protocol.StoredSegment) ([][]byte, error) {
	chunks := make([][]byte, 0, min(segment.Count, 1024))
	size, next := uint64(0), segment.Sequence
	allowed := 0
	digest := sha256.New()
	last := time.Now()
	for try := 0; len(chunks) < int(segment.Count); {
		batch := int(min(segment.Size-size, uint64(f.size))) //nolint:gosec // at most wholeBatch
		if f.limit != nil && f.limit.Limited() {
			if allowed <= 0 {
				batch = min(batch, limitedBatch)
				if err := f.meter.limit(ctx, f.limit, max(batch, 1)); err != nil {
					return nil, err
				}
				last = time.Now()
				allowed += batch
			}
			batch = allowed
		} else {
			allowed = batch
		}
		got, err := f.batch(ctx, batchRequest{
			Subject: protocol.ObjectChunksSubject(segment.Chunks), Sequence: next,
			Batch: int(segment.Count) - len(chunks), MaxBytes: max(batch, 1),
		}, f.store.patience(try, f.stall))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		for _, chunk := range got {
			size += uint64(len(chunk.data))
			if size > segment.Size {
				return nil, fmt.Errorf("%w: it is longer than %d bytes", errDamaged, segment.Size)
			}
			digest.Write(chunk.data)
			chunks, next, allowed = append(chunks, chunk.data), chunk.sequence+1, allowed-len(chunk.data)
		}
		if len(got) > 0 {
			last, try = time.Now(), 0
			continue
		}
		if time.Since(last) > f.stall {
			return nil, protocol.Failf(protocol.Transient, "%d of its %d chunks did not come from the object store within %s: %w",
				int(segment.Count)-len(chunks), segment.Count, f.stall, err)
		}
		pause(ctx, backoff(try)) // the end of ctx is seen above
		try++
	}
	if size != segment.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, and the sender stored %d", errDamaged, size, segment.Size)
	}
	if sum := digest.Sum(nil); string(sum) != string(segment.Digest) {
		return nil, fmt.Errorf("%w: its SHA-256 is %x, and that of what the sender stored is %x", errDamaged, sum, segment.Digest)
	}
	return chunks, nil
}

// checkObject checks that what the object store itself says of the segment agrees with the sender.
func (f *fetcher) checkObject(ctx context.Context, name protocol.SegmentName, segment protocol.StoredSegment) error {
	ctx, cancel := context.WithTimeout(ctx, f.stall)
	defer cancel()
	for try := 0; ; try++ {
		asking, cancel := context.WithTimeout(ctx, f.store.patience(try, f.stall))
		info, err := f.store.objects.GetInfo(asking, name.String())
		cancel()
		switch {
		case err == nil && info.NUID == segment.Chunks && info.Digest == digestText(segment.Digest) && info.Size == segment.Size:
			return nil
		case err == nil:
			err = fmt.Errorf("%w: the object store says of it that it has %d bytes with %s", errDamaged, info.Size, info.Digest)
		}
		// A replica that lags behind may not know of the object, or of an earlier try of it only.
		if !pause(ctx, backoff(try)) {
			return err
		}
	}
}

// chunk is one message of a segment.
type chunk struct {
	sequence uint64
	data     []byte
}

// batchRequest asks for several messages by one direct get (ADR-31): up to Batch messages with the subject from the sequence
// on, until they are MaxBytes or more.
type batchRequest struct {
	Sequence uint64 `json:"seq"`
	Subject  string `json:"next_by_subj"`
	Batch    int    `json:"batch"`
	MaxBytes int    `json:"max_bytes"`
}

// batch makes the request, and reads what comes within patience of each other. An error comes with what was read before it.
func (f *fetcher) batch(ctx context.Context, asked batchRequest, patience time.Duration) ([]chunk, error) {
	request, err := json.Marshal(asked)
	if err != nil {
		return nil, err
	}
	weight := int64(min(asked.MaxBytes, allBatches))
	if err := f.store.asked.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	defer f.store.asked.Release(weight)
	defer f.adapt(time.Now())
	f.request++
	reply := f.inbox + "." + strconv.FormatUint(f.request, 10)
	err = f.store.conn.PublishRequest(f.store.apiPrefix+"DIRECT.GET."+protocol.StreamsStream, reply, request)
	if err != nil {
		return nil, err
	}
	var chunks []chunk
	for {
		message, err := f.next(ctx, reply, patience)
		if err != nil {
			return chunks, err
		}
		if status := message.Header.Get("Status"); status != "" {
			if status == "204" { // the end of the batch
				return chunks, errors.New("there are no more")
			}
			return chunks, errors.New(strings.TrimSpace("NATS says " + status + " " + message.Header.Get("Description")))
		}
		sequence, err := strconv.ParseUint(message.Header.Get("Nats-Sequence"), 10, 64)
		if subject := message.Header.Get("Nats-Subject"); err != nil || subject != asked.Subject || sequence < asked.Sequence {
			return chunks, fmt.Errorf("NATS gave a message that was not asked for (%s)", subject)
		}
		asked.Sequence = sequence + 1
		chunks = append(chunks, chunk{sequence: sequence, data: message.Data})
		if len(chunks) == asked.Batch {
			return chunks, nil
		}
	}
}

// adapt chooses the size of the next batch by how long it took from begin for one.
func (f *fetcher) adapt(begin time.Time) {
	switch took := time.Since(begin); {
	case took < fastBatch:
		f.size = min(2*f.size, wholeBatch)
	case took > slowBatch:
		f.size = max(f.size/2, leastBatch)
	}
}

// next waits for the next message to reply.
func (f *fetcher) next(ctx context.Context, reply string, patience time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		message, err := f.subscription.NextMsgWithContext(ctx)
		if err != nil {
			return nil, err
		}
		if message.Subject == reply {
			return message, nil
		}
	}
}
