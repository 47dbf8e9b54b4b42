// The lease: any number of coordinators may run; the one that holds the leader's key leads.

package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// lease is the leader's key, held or wanted. The key expires by itself when its holder stops renewing it (ADR-48).
type lease struct {
	resources *protocol.Resources
	value     protocol.Lease
	ttl       time.Duration
	logger    *slog.Logger
	failPoint func(ctx context.Context, point string)

	revision uint64
}

// acquire waits until this coordinator holds the lease; false says that ctx has ended before.
func (l *lease) acquire(ctx context.Context) bool {
	ticker := time.NewTicker(l.ttl / 3)
	defer ticker.Stop()
	reported := false
	for {
		l.value.Since = time.Now().UTC()
		var none uint64
		l.failPoint(ctx, before(pointLeaseAcquire))
		err := l.write(ctx, &none)
		l.failPoint(ctx, after(pointLeaseAcquire))
		if err == nil {
			return true
		}
		if !errors.Is(err, protocol.ErrRevision) && ctx.Err() == nil && !reported {
			reported = true
			l.logger.WarnContext(ctx, "cannot ask for the lease yet; trying on", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}

func (l *lease) write(ctx context.Context, last *uint64) error {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/3)
	defer cancel()
	data, err := protocol.EncodeValue(l.value)
	if err != nil {
		return err
	}
	revision, err := protocol.PutTTL(ctx, l.resources.JetStream, protocol.BucketLeader, protocol.LeaderKey, data, l.ttl, last)
	if err != nil {
		return err
	}
	l.revision = revision
	return nil
}

// keep renews the lease until ctx ends (nil), or it cannot be sure any more that it holds the lease. It returns before
// the lease can have expired at the server, so that the term ends before another one begins.
func (l *lease) keep(ctx context.Context) error {
	ticker := time.NewTicker(l.ttl / 3)
	defer ticker.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		asked := time.Now()
		last := l.revision
		l.failPoint(ctx, before(pointLeaseRenew))
		err := l.write(ctx, &last)
		l.failPoint(ctx, after(pointLeaseRenew))
		switch {
		case err == nil:
			renewed = asked
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, protocol.ErrRevision) && l.ours(ctx):
			renewed = asked
		case errors.Is(err, protocol.ErrRevision):
			return errors.New("the lease is another coordinator's now")
		case time.Since(renewed) > l.ttl/2:
			return errors.New("the lease could not be renewed: " + err.Error())
		}
	}
}

// ours tells whether the key still holds this coordinator's value: a renewal whose answer was lost has moved the
// revision on.
func (l *lease) ours(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, l.ttl/6)
	defer cancel()
	entry, err := l.resources.Leader.Get(ctx, protocol.LeaderKey)
	if err != nil {
		return false
	}
	var held protocol.Lease
	if err := protocol.DecodeValue(entry.Value(), &held); err != nil || held.Holder != l.value.Holder ||
		!held.Since.Equal(l.value.Since) {
		return false
	}
	l.revision = entry.Revision()
	return true
}

// release gives the lease up, so that another coordinator can lead at once.
func (l *lease) release(ctx context.Context) {
	l.failPoint(ctx, before(pointLeaseRelease))
	err := l.resources.Leader.Delete(ctx, protocol.LeaderKey, jetstream.LastRevision(l.revision))
	l.failPoint(ctx, after(pointLeaseRelease))
	if err != nil {
		l.logger.DebugContext(ctx, "the lease was not given up and will expire", slog.Any("error", err))
	}
}
