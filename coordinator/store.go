// The store: a plan's records in the bucket of plans, written by compare-and-set, so that a leader that was deposed
// cannot overwrite its successor's.

package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// errDeposed is returned when a record was changed by somebody else: another coordinator leads.
var errDeposed = errors.New("another coordinator has written the plan's records: this one no longer leads")

// errUnreadable is returned for a record that cannot be decoded: it was damaged, or written by a newer version or by hand.
var errUnreadable = errors.New("it cannot be read")

// store writes the records of one plan. It is used by one goroutine at a time, but for the tasks of distinct numbers.
type store struct {
	js        jetstream.JetStream
	bucket    jetstream.KeyValue
	revisions map[string]uint64
}

// maxStoreWait is how long a write to NATS is tried again before the leader gives up its term.
const maxStoreWait = 2 * time.Minute

// retry runs a request to NATS again, with back-off, until it succeeds, fails for good, or ctx or the term that it belongs to
// ends.
func retry[T any](ctx context.Context, what string, request func(context.Context) (T, error)) (T, error) {
	operation := func() (T, error) {
		if err := leading(ctx); err != nil {
			var none T
			return none, backoff.Permanent(err)
		}
		attempt, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		value, err := request(attempt)
		if err != nil && !protocol.Passing(ctx, err) {
			return value, backoff.Permanent(err)
		}
		return value, err
	}
	told := ""
	notify := func(err error, next time.Duration) {
		if text := err.Error(); text != told {
			told = text
			loggerOf(ctx).WarnContext(ctx, "NATS does not do it yet; trying on", slog.String("what", what),
				slog.Any("error", protocol.NATSError("", err)), slog.Duration("next_try", next))
		}
	}
	value, err := backoff.Retry(ctx, operation, backoff.WithMaxElapsedTime(maxStoreWait), backoff.WithNotify(notify))
	if err != nil {
		return value, protocol.NATSError(what, err)
	}
	return value, nil
}

// create writes a record that does not exist yet.
func (s *store) create(ctx context.Context, key string, value any) error {
	return s.write(ctx, key, value, 0)
}

// put writes a record over the revision that this store last read or wrote.
func (s *store) put(ctx context.Context, key string, value any) error {
	return s.write(ctx, key, value, s.revisions[key])
}

func (s *store) write(ctx context.Context, key string, value any, last uint64) error {
	data, err := protocol.EncodeValue(value)
	if err != nil {
		return err
	}
	tried := false
	revision, err := retry(ctx, "write "+key, func(ctx context.Context) (uint64, error) {
		revision, err := s.bucket.Update(ctx, key, data, last)
		if err != nil && tried && isWrongRevision(err) {
			// The answer to the try before may have been lost, with its effect done.
			kept, last, getErr := protocol.GetKey(ctx, s.js, s.bucket.Bucket(), key)
			if getErr == nil && bytes.Equal(kept, data) {
				return last, nil
			}
		}
		tried = true
		return revision, err
	})
	if isWrongRevision(err) {
		return fmt.Errorf("write %s: %w", key, errDeposed)
	}
	if err != nil {
		return err
	}
	s.revisions[key] = revision
	return nil
}

func isWrongRevision(err error) bool {
	var api jetstream.JetStreamError
	if !errors.As(err, &api) || api.APIError() == nil {
		return errors.Is(err, jetstream.ErrKeyExists)
	}
	code := api.APIError().ErrorCode
	return code == jetstream.JSErrCodeStreamWrongLastSequence || code == jetstream.JSErrCodeStreamWrongLastSequenceConstant
}

// load reads a record; found is false when there is none. One that cannot be decoded is errUnreadable, and can be put over.
func (s *store) load(ctx context.Context, key string, value any) (found bool, err error) {
	var revision uint64
	data, err := retry(ctx, "read "+key, func(ctx context.Context) (data []byte, err error) {
		data, revision, err = protocol.GetKey(ctx, s.js, s.bucket.Bucket(), key)
		return data, err
	})
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.revisions[key] = revision
	if err := protocol.DecodeValue(data, value); err != nil {
		return false, fmt.Errorf("read %s: %w: %w", key, errUnreadable, err)
	}
	return true, nil
}
