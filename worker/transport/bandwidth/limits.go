// Limits: the buckets of a host, and who shares them.

package bandwidth

import (
	"context"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
)

// Direction is where streams go, seen from this host.
type Direction int

// The directions.
const (
	Send Direction = iota
	Recv
)

// Limits are the limits of a host and of the jobs that it has steps of. All methods may be called at any time.
type Limits struct {
	host [2]*limiter

	mu   sync.Mutex
	jobs map[key]*shared
}

type key struct {
	direction Direction
	job       string
}

// shared is a job's limiter, and how many buckets use it.
type shared struct {
	limiter *limiter
	users   int
}

// New makes the limits of a host, which are those of all its jobs together in either direction.
func New(send, recv protocol.BandwidthLimit) *Limits {
	now := time.Now()
	return &Limits{host: [2]*limiter{Send: newLimiter(send, now), Recv: newLimiter(recv, now)}, jobs: map[key]*shared{}}
}

// Of is the bucket of a step of the job, to be released when the step has ended. The steps of a job that are under way
// share one limit: initial is that of the first, until Set changes it.
func (l *Limits) Of(direction Direction, job string, initial protocol.BandwidthLimit) *Bucket {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := key{direction, job}
	of := l.jobs[at]
	if of == nil {
		of = &shared{limiter: newLimiter(initial, time.Now())}
		l.jobs[at] = of
	}
	of.users++
	return &Bucket{job: of.limiter, host: l.host[direction], release: sync.OnceFunc(func() { l.release(at, of) })}
}

func (l *Limits) release(at key, of *shared) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if of.users--; of.users == 0 {
		delete(l.jobs, at)
	}
}

// Set changes the limit of a job. The steps that are under way follow at once, also those that wait at this moment. A job
// that has no step under way is not remembered: its next step brings its limit along.
func (l *Limits) Set(direction Direction, job string, limit protocol.BandwidthLimit) {
	l.mu.Lock()
	of := l.jobs[key{direction, job}]
	l.mu.Unlock()
	if of != nil {
		of.limiter.set(limit, time.Now())
	}
}

// Bucket is what one step waits for. All methods may be called at any time.
type Bucket struct {
	job, host *limiter
	release   func()
}

// Wait waits until so many bytes may be moved, and then counts them as moved. It fits transport.CopyOptions.Limit. The
// error is context.Cause(ctx) if ctx ends first. Where there is no limit it costs next to nothing.
func (b *Bucket) Wait(ctx context.Context, bytes int) error {
	if err := b.job.wait(ctx, bytes); err != nil {
		return err
	}
	return b.host.wait(ctx, bytes)
}

// Limited tells whether there is a limit, be it at another time of the week. While there is none, bytes can go past Wait;
// for a step that makes use of that, a Set comes too late.
func (b *Bucket) Limited() bool { return b.job.limited() || b.host.limited() }

// Release says that the step has ended. It can be called again, and changes nothing then.
func (b *Bucket) Release() { b.release() }
