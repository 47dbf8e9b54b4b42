// Buckets: reading many keys at once.

package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// UnreadableError lists values that the fleet keeps and that could not be read. The call that gives it has given all
// other values all the same.
type UnreadableError struct {
	Bucket string
	// Reasons are by key.
	Reasons map[string]error
}

// Error names the first few keys.
func (e *UnreadableError) Error() string {
	var shown []string
	for key, reason := range sortedByKey(e.Reasons) {
		if len(shown) == 3 {
			shown = append(shown, fmt.Sprintf("and %d more", len(e.Reasons)-len(shown)))
			break
		}
		shown = append(shown, fmt.Sprintf("%s (%v)", key, reason))
	}
	return fmt.Sprintf("bucket %s holds values that cannot be read: %s; if no newer zctl wrote them, delete them with: nats kv del %s KEY",
		e.Bucket, strings.Join(shown, ", "), e.Bucket)
}

// note adds a key that could not be read; it works on nil.
func (e *UnreadableError) note(bucket, key string, reason error) *UnreadableError {
	if e == nil {
		e = &UnreadableError{Bucket: bucket, Reasons: map[string]error{}}
	}
	e.Reasons[key] = reason
	return e
}

// asError keeps a nil *UnreadableError from becoming an error that is not nil.
func (e *UnreadableError) asError() error {
	if e == nil {
		return nil
	}
	return e
}

// bucketWatch is a watcher of a bucket that ends with its context and leaves nothing behind.
type bucketWatch struct {
	jetstream.KeyWatcher
	cancel context.CancelFunc
}

// watchBucket opens a watcher; opening takes no longer than limit. The watcher lives until stop is called or ctx ends.
func watchBucket(ctx context.Context, limit time.Duration, bucket jetstream.KeyValue, keys ...string) (*bucketWatch, error) {
	// The context that a watcher is made with ends the watcher too, so the time limit must not outlive the opening.
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(limit, cancel)
	watcher, err := bucket.WatchFiltered(ctx, keys)
	inTime := timer.Stop()
	if err == nil && inTime {
		return &bucketWatch{KeyWatcher: watcher, cancel: cancel}, nil
	}
	cancel()
	if err == nil {
		(&bucketWatch{KeyWatcher: watcher, cancel: cancel}).stop()
	}
	if !inTime {
		return nil, fmt.Errorf("open a watcher: %w", context.DeadlineExceeded)
	}
	return nil, fmt.Errorf("open a watcher: %w", err)
}

// stopPatience is how long a watcher may take to say that it has ended.
const stopPatience = 2 * time.Second

// stop ends the watcher and waits until it has ended. A watcher blocks while nobody reads its updates, so the rest of them
// is read. One whose context ended while it was opened may never say that it has ended.
func (w *bucketWatch) stop() {
	w.cancel()
	_ = w.Stop() // it fails only where the watcher or its connection has ended already
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	for {
		select {
		case _, open := <-w.Updates():
			if !open {
				return
			}
		case <-patience.C:
			return
		}
	}
}

// errIncomplete says that a watcher stopped giving values before it had given all.
var errIncomplete = errors.New("the listing stopped short")

// collect gives the present values of the keys that match, by key; deleted keys are left out.
func (c *Client) collect(ctx context.Context, bucket jetstream.KeyValue, keys ...string) (map[string][]byte, error) {
	entries, err := c.entries(ctx, bucket, keys...)
	if err != nil {
		return nil, err
	}
	values := map[string][]byte{}
	for key, entry := range entries {
		if entry.Operation() == jetstream.KeyValuePut {
			values[key] = entry.Value()
		}
	}
	return values, nil
}

// entries gives the newest entry of each key that matches, by key. That of a key that is gone is a marker, as long as it is kept.
//
// A watcher tells that it has given everything by counting; when the leader purges an old plan in that moment, the count is
// never reached. The listing is then begun again.
func (c *Client) entries(
	ctx context.Context, bucket jetstream.KeyValue, keys ...string,
) (map[string]jetstream.KeyValueEntry, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	for {
		entries, err := c.entriesOnce(ctx, bucket, keys...)
		if !errors.Is(err, errIncomplete) {
			return entries, err
		}
	}
}

func (c *Client) entriesOnce(
	ctx context.Context, bucket jetstream.KeyValue, keys ...string,
) (map[string]jetstream.KeyValueEntry, error) {
	watch, err := watchBucket(ctx, c.timeout, bucket, keys...)
	if err != nil {
		return nil, err
	}
	defer watch.stop()
	entries := map[string]jetstream.KeyValueEntry{}
	for {
		select {
		case entry, open := <-watch.Updates():
			switch {
			case !open:
				return nil, fmt.Errorf("read bucket %s: %w", bucket.Bucket(), context.Cause(ctx))
			case entry == nil:
				return entries, nil
			}
			entries[entry.Key()] = entry
		case <-time.After(c.timeout / 5):
			return nil, errIncomplete
		case <-ctx.Done():
			return nil, fmt.Errorf("read bucket %s: %w", bucket.Bucket(), ctx.Err())
		}
	}
}

// list reads every value of the keys that match into a T, in order of key. Values that cannot be read make an
// *UnreadableError beside those that could.
func list[T any](ctx context.Context, c *Client, bucket jetstream.KeyValue, keys ...string) ([]T, error) {
	values, err := c.collect(ctx, bucket, keys...)
	if err != nil {
		return nil, c.explain(err, "list bucket %s", bucket.Bucket())
	}
	found := make([]T, 0, len(values))
	var unreadable *UnreadableError
	for key, data := range sortedByKey(values) {
		var value T
		if err := protocol.DecodeValue(data, &value); err != nil {
			unreadable = unreadable.note(bucket.Bucket(), key, err)
			continue
		}
		found = append(found, value)
	}
	return found, unreadable.asError()
}
