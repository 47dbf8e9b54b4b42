// limiter: a token bucket that follows its schedule.

package bandwidth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/zfleet/zfleet/protocol"
)

const (
	// pieces is into how many a second's worth is divided.
	pieces = 8
	// maxPiece keeps the largest limits within an int.
	maxPiece = 1 << 30
)

// limiter is one bucket, with all who share it.
type limiter struct {
	current atomic.Pointer[period]
	mu      sync.Mutex // held to replace current
}

// period is a time for which one limit holds.
type period struct {
	limit  protocol.BandwidthLimit
	bucket *rate.Limiter // nil is unlimited
	until  time.Time     // by the clock on the wall; zero is for ever
	over   chan struct{} // closed when there is another period
}

func newLimiter(limit protocol.BandwidthLimit, now time.Time) *limiter {
	l := &limiter{}
	l.current.Store(newPeriod(limit, now))
	return l
}

func newPeriod(limit protocol.BandwidthLimit, now time.Time) *period {
	bandwidth, until := limit.At(now)
	p := &period{limit: limit, until: until, over: make(chan struct{})}
	if bandwidth > 0 {
		piece := max(min(bandwidth/pieces, maxPiece), 1)
		p.bucket = rate.NewLimiter(rate.Limit(bandwidth), int(piece))
	}
	return p
}

// at is the period that now is in.
func (l *limiter) at(now time.Time) *period {
	p := l.current.Load()
	if !p.ends(now) {
		return p
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if p = l.current.Load(); p.ends(now) {
		p = l.replace(p, p.limit, now)
	}
	return p
}

func (p *period) ends(now time.Time) bool { return !p.until.IsZero() && !now.Before(p.until) }

// set changes the limit, unless it is that already.
func (l *limiter) set(limit protocol.BandwidthLimit, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.current.Load(); !p.limit.Equal(limit) {
		l.replace(p, limit, now)
	}
}

// replace begins a new period. mu is held.
func (l *limiter) replace(old *period, limit protocol.BandwidthLimit, now time.Time) *period {
	p := newPeriod(limit, now)
	l.current.Store(p)
	close(old.over)
	return p
}

// limited tells whether there is ever a limit.
func (l *limiter) limited() bool { return !l.current.Load().limit.Unlimited() }

// wait waits until n bytes may be moved.
func (l *limiter) wait(ctx context.Context, n int) error {
	for n > 0 {
		if p := l.current.Load(); p.bucket == nil && p.until.IsZero() {
			return nil
		}
		now := time.Now()
		p := l.at(now)
		if p.bucket == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		moved, err := p.wait(ctx, n, now)
		if err != nil {
			return err
		}
		n -= moved
	}
	return nil
}

// wait waits for one piece of n bytes, and says how much that is; none if the period ended before.
func (p *period) wait(ctx context.Context, n int, now time.Time) (int, error) {
	piece := min(n, p.bucket.Burst())
	reservation := p.bucket.ReserveN(now, piece)
	delay := reservation.DelayFrom(now)
	if delay == 0 {
		return piece, nil
	}
	if !p.until.IsZero() {
		if left := p.until.Sub(now); left < delay {
			delay, piece = left, 0
		}
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return piece, nil
	case <-p.over:
		return 0, nil
	case <-ctx.Done():
		reservation.Cancel()
		return 0, context.Cause(ctx)
	}
}
