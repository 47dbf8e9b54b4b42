// Hosts: which of them have a worker running, and when those that have none were last seen.

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

// hosts is what is known of the hosts at one moment. A host that is not in it has never been seen. The nil map knows nothing, and
// takes every host to be there.
type hosts map[protocol.Host]presence

// presence is what is known of one host.
type presence struct {
	// here says that a worker of it is running.
	here bool
	// seen is when it was last seen; zero is not known, or never.
	seen time.Time
}

// absent tells whether the host has no worker running.
func (h hosts) absent(host protocol.Host) bool { return h != nil && !h[host].here }

// waitingFor says that something waits for the host.
func (h hosts) waitingFor(host protocol.Host) string {
	return fmt.Sprintf("waiting for host %s (%s)", host, h.lastSeen(host))
}

func (h hosts) lastSeen(host protocol.Host) string {
	if seen := h[host].seen; !seen.IsZero() {
		return "last seen " + seen.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return "never seen in the last 30 days"
}

// attendance follows the bucket of hosts. Its methods may be called by any goroutine.
type attendance struct {
	bucket jetstream.KeyValue
	logger *slog.Logger
	// changed is called after every change in which host is here, on the goroutine that follows.
	changed func()

	mu      sync.Mutex
	workers map[protocol.Host]map[string]bool
	seen    map[protocol.Host]time.Time
}

func newAttendance(bucket jetstream.KeyValue, logger *slog.Logger, changed func()) *attendance {
	return &attendance{
		bucket: bucket, logger: logger, changed: changed,
		workers: map[protocol.Host]map[string]bool{}, seen: map[protocol.Host]time.Time{},
	}
}

// hosts is what is known now; the caller may keep it.
func (a *attendance) hosts() hosts {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := hosts{}
	for host, seen := range a.seen {
		known[host] = presence{here: len(a.workers[host]) > 0, seen: seen}
	}
	return known
}

// open begins to follow, and returns once it is known who is here now.
func (a *attendance) open(ctx context.Context) (jetstream.KeyWatcher, error) {
	watcher, err := retry(ctx, "watch the hosts", func(context.Context) (jetstream.KeyWatcher, error) {
		return a.bucket.WatchAll(ctx)
	})
	if err != nil {
		return nil, err
	}
	for {
		select {
		case entry, open := <-watcher.Updates():
			if !open {
				return nil, errors.New("the watch on the hosts ended")
			}
			if entry == nil {
				return watcher, nil
			}
			a.note(ctx, entry)
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), watcher.Stop())
		}
	}
}

// follow keeps what is known up to date until ctx ends (nil), or the watcher does.
func (a *attendance) follow(ctx context.Context, watcher jetstream.KeyWatcher) error {
	for {
		select {
		case entry, open := <-watcher.Updates():
			if !open {
				return errors.New("the watch on the hosts ended")
			}
			if entry != nil && a.note(ctx, entry) {
				a.changed()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// note takes one entry of the bucket, and tells whether a host has come or gone by it.
func (a *attendance) note(ctx context.Context, entry jetstream.KeyValueEntry) bool {
	host, worker, err := protocol.ParseHostKey(entry.Key())
	if err != nil {
		a.logger.DebugContext(ctx, "a key among the hosts is none of a worker", slog.Any("error", err))
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.workers[host]) > 0
	seen := entry.Created()
	if entry.Operation() == jetstream.KeyValuePut {
		if a.workers[host] == nil {
			a.workers[host] = map[string]bool{}
		}
		a.workers[host][worker] = true
	} else {
		// The marker of a worker that was killed came when what it had said last did not count any more.
		seen = seen.Add(-protocol.PresenceTTL)
		delete(a.workers[host], worker)
	}
	if seen.After(a.seen[host]) {
		a.seen[host] = seen
	}
	return before != (len(a.workers[host]) > 0)
}
