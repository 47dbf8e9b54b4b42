// The lease: any number of coordinators may run; the one that holds the leader's key leads.
//
// The key expires at the server when its holder has not renewed it for the lease's time to live (ADR-48). Its holder acts on it
// for a shorter time only, counted from before it asked for the renewal, so its term is over before another one can begin. A
// process may be stopped at any moment for any time, and not know it: therefore each request that changes something looks at
// the clock again (leading) right before it is made, and what is written carries the revision that this term has read, which
// the server compares.

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// errLeaseOver ends a term whose lease may be another coordinator's by now.
var errLeaseOver = errors.New("the lease could not be renewed in time, so another coordinator may lead by now")

// lease is the leader's key, held or wanted. One goroutine acquires, keeps and releases it; any may look whether it is held.
type lease struct {
	resources *protocol.Resources
	value     protocol.Lease
	ttl       time.Duration
	logger    *slog.Logger
	now       func() time.Time
	failPoint func(ctx context.Context, point string)
	// turn is called whenever the lease is asked for.
	turn func()

	// revision is the key's, as this process has written it last.
	revision uint64
	// garbled is a revision of the key that is no lease, and garbledSince when this process saw it first.
	garbled      uint64
	garbledSince time.Time

	mu sync.Mutex
	// renewed is when the key's last renewal was asked for, by the monotonic clock, and renewedWall by the wall clock, which
	// also counts the time in which the whole machine was asleep.
	renewed, renewedWall time.Time
}

// validity is for how long the holder acts on a renewal. The rest of the time to live is for clocks that run at different
// speeds, and for requests that are on their way.
func (l *lease) validity() time.Duration { return l.ttl * 4 / 5 }

// left is how long the lease is valid still; 0 or less when it is not.
func (l *lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	passed := max(time.Since(l.renewed), l.now().Round(0).Sub(l.renewedWall))
	return l.validity() - passed
}

func (l *lease) renewedAt(asked, askedWall time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed, l.renewedWall = asked, askedWall
}

type leaseKey struct{}

// during gives what is done in a term the lease to look at.
func during(ctx context.Context, held *lease) context.Context {
	return context.WithValue(ctx, leaseKey{}, held)
}

// leading tells whether the term that ctx belongs to still holds its lease, by the clock; the error is errLeaseOver. Whatever
// changes something asks it last.
func leading(ctx context.Context) error {
	if held, ok := ctx.Value(leaseKey{}).(*lease); ok && held.left() <= 0 {
		return errLeaseOver
	}
	return nil
}

// loggerOf is the logger of the term that ctx belongs to; outside of terms nothing is logged.
func loggerOf(ctx context.Context) *slog.Logger {
	if held, ok := ctx.Value(leaseKey{}).(*lease); ok {
		return held.logger
	}
	return slog.New(slog.DiscardHandler)
}

// acquire waits until this coordinator holds the lease; false says that ctx has ended before.
func (l *lease) acquire(ctx context.Context) bool {
	ticker := time.NewTicker(l.ttl / 3)
	defer ticker.Stop()
	var watcher jetstream.KeyWatcher
	stop := func() {
		if watcher == nil {
			return
		}
		if err := watcher.Stop(); err != nil && ctx.Err() == nil {
			l.logger.DebugContext(ctx, "the watch on the lease was not stopped in order", slog.Any("error", err))
		}
		watcher = nil
	}
	defer func() { stop() }()
	trouble := ""
	for {
		l.turn()
		if watcher == nil {
			// Where there is no watch, the ticker finds an end of the lease a little later.
			if started, err := l.resources.Leader.Watch(ctx, protocol.LeaderKey); err == nil {
				watcher = started
			}
		}
		err := l.take(ctx)
		switch {
		case err == nil:
			return true
		case errors.Is(err, protocol.ErrRevision):
			trouble = "" // another coordinator leads, as it should
		case ctx.Err() == nil && err.Error() != trouble:
			trouble = err.Error()
			l.logger.WarnContext(ctx, "cannot ask for the lease yet; trying on", slog.Any("error", err))
		}
		running, watching := awaitChange(ctx, watcher, ticker.C)
		if !running {
			return false
		}
		if !watching {
			stop()
		}
	}
}

// awaitChange waits until the lease has been given up or has expired, or it is time to ask in any case. It tells whether ctx
// has not ended, and whether the watch has not.
func awaitChange(ctx context.Context, watcher jetstream.KeyWatcher, tick <-chan time.Time) (running, watching bool) {
	var updates <-chan jetstream.KeyValueEntry
	if watcher != nil {
		updates = watcher.Updates()
	}
	for {
		select {
		case <-ctx.Done():
			return false, updates != nil
		case <-tick:
			return true, updates != nil
		case entry, open := <-updates:
			if !open {
				updates = nil // and the tick is waited for, so that a watch that cannot be had is not asked for all the time
			} else if entry != nil && entry.Operation() != jetstream.KeyValuePut {
				return true, true
			}
		}
	}
}

// take asks for the lease once. A key with this process's name is its own: the answer to an earlier request was lost.
func (l *lease) take(ctx context.Context) error {
	l.failPoint(ctx, before(pointLeaseAcquire))
	defer l.failPoint(ctx, after(pointLeaseAcquire))
	l.value.Since = l.now().UTC()
	var none uint64
	err := l.write(ctx, &none)
	if !errors.Is(err, protocol.ErrRevision) {
		return err
	}
	held, revision, readErr := l.read(ctx)
	switch {
	case readErr != nil && revision != 0 && l.nobodys(revision):
		l.logger.WarnContext(ctx, "the lease's key holds no lease: nobody renews it, and it is taken over", slog.Any("error", readErr))
	case readErr != nil || held.Holder != l.value.Holder:
		return err
	}
	return l.write(ctx, &revision)
}

// nobodys tells whether the revision of the key, which is no lease, has been there for longer than any lease that it was written
// over can be valid. Whoever may publish anything in the account can have it written by the server, and it never expires.
func (l *lease) nobodys(revision uint64) bool {
	if l.garbled != revision {
		l.garbled, l.garbledSince = revision, time.Now()
	}
	return time.Since(l.garbledSince) > l.ttl
}

// write sets the key, for the time to live from now on.
func (l *lease) write(ctx context.Context, last *uint64) error {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/5)
	defer cancel()
	data, err := protocol.EncodeValue(l.value)
	if err != nil {
		return err
	}
	asked, askedWall := time.Now(), l.now().Round(0)
	revision, err := protocol.PutTTL(ctx, l.resources.JetStream, protocol.BucketLeader, protocol.LeaderKey, data, l.ttl, last)
	if err != nil {
		return err
	}
	l.revision = revision
	l.renewedAt(asked, askedWall)
	return nil
}

func (l *lease) read(ctx context.Context) (held protocol.Lease, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/5)
	defer cancel()
	data, revision, err := protocol.GetKey(ctx, l.resources.JetStream, protocol.BucketLeader, protocol.LeaderKey)
	if err != nil {
		return held, revision, fmt.Errorf("read the lease: %w", err)
	}
	return held, revision, protocol.DecodeValue(data, &held)
}

// keep renews the lease until ctx ends (nil), or until it is over: because it is another coordinator's, or because it could
// not be renewed while it was valid. A request that hangs may keep it from returning; the lease is over all the same (expire).
func (l *lease) keep(ctx context.Context) error {
	var trouble error
	for wait := l.ttl / 3; ; wait = l.ttl / 3 {
		if trouble != nil {
			wait = l.ttl / 15
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		last := l.revision
		l.failPoint(ctx, before(pointLeaseRenew))
		err := l.write(ctx, &last)
		l.failPoint(ctx, after(pointLeaseRenew))
		switch {
		case err == nil:
			trouble = nil
			continue
		case ctx.Err() != nil:
			return nil //nolint:nilerr // a term that is ended has not lost its lease
		case errors.Is(err, protocol.ErrRevision) && !l.renewedUnheard(ctx):
			return errors.New("the lease has expired, or is another coordinator's now")
		case l.left() <= 0:
			return fmt.Errorf("%w: %w", errLeaseOver, err)
		}
		if trouble == nil {
			l.logger.WarnContext(ctx, "the lease cannot be renewed yet; trying on while it is valid", slog.Any("error", err),
				slog.Duration("valid_for", l.left()))
		}
		trouble = err
	}
}

// renewedUnheard tells whether the key still has this term's value: a renewal whose answer was lost has moved its revision on.
// The next renewal follows that one. Where the key cannot be read, this stays to be found out.
func (l *lease) renewedUnheard(ctx context.Context) bool {
	held, revision, err := l.read(ctx)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return false
	case err != nil:
		return true
	case held.Holder != l.value.Holder || !held.Since.Equal(l.value.Since):
		return false
	}
	l.revision = revision
	return true
}

// expire waits until the lease is not valid any more (errLeaseOver), or ctx ends (nil). It makes no request, so nothing can keep
// it from returning in time.
func (l *lease) expire(ctx context.Context) error {
	for {
		left := l.left()
		if left <= 0 {
			return errLeaseOver
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(left):
		}
	}
}

// release gives the lease up, so that another coordinator can lead at once. One that is another's already stays.
func (l *lease) release(ctx context.Context) {
	l.failPoint(ctx, before(pointLeaseRelease))
	defer l.failPoint(ctx, after(pointLeaseRelease))
	err := l.resources.Leader.Delete(ctx, protocol.LeaderKey, jetstream.LastRevision(l.revision))
	if isWrongRevision(err) && l.renewedUnheard(ctx) {
		err = l.resources.Leader.Delete(ctx, protocol.LeaderKey, jetstream.LastRevision(l.revision))
	}
	if err != nil && !isWrongRevision(err) {
		l.logger.DebugContext(ctx, "the lease was not given up and will expire", slog.Any("error", err))
	}
}
