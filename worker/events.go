// Events: telling the fleet what happens to a step.

package worker

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/zfleet/zfleet/protocol"
)

const (
	// progressEvery is how often a step's progress is told while it moves, and signOfLifeEvery while it does not.
	progressEvery   = 500 * time.Millisecond
	signOfLifeEvery = 5 * time.Second
	// farewell is how long a worker that is being stopped tries to say what became of a step.
	farewell = 3 * time.Second
)

// reporter tells events of one claimed item.
type reporter struct {
	worker *Worker
	item   protocol.WorkItem
	// sequence and delivery are the claim's.
	sequence, delivery uint64
}

func (r *reporter) event(kind protocol.EventKind) protocol.Event {
	return protocol.Event{
		Ref: r.item.Ref, Kind: kind, Role: r.item.Role, Host: r.worker.config.Host, Worker: r.worker.config.Name,
		Item: r.sequence, Delivery: r.delivery, At: time.Now().UTC(), Job: r.item.Job, JobID: r.item.JobID,
		Filesystem: r.item.Step.Filesystem, Target: r.item.Target,
	}
}

// tell publishes the event and waits until the stream has it, trying again while NATS is away, for as long as the worker
// runs and a moment longer.
func (r *reporter) tell(ctx context.Context, event protocol.Event) error {
	return r.worker.durably(ctx, pointOf(event.Role, string(event.Kind)), func() error { return r.publish(ctx, event) })
}

func (r *reporter) publish(ctx context.Context, event protocol.Event) error {
	publish := func(ctx context.Context) (uint64, error) {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		sequence, err := protocol.PublishEvent(attempt, r.worker.config.Resources.JetStream, event)
		if err != nil && protocol.KindOf(err, protocol.Transient) == protocol.Permanent {
			return 0, backoff.Permanent(err)
		}
		return sequence, err
	}
	told := ""
	notify := func(err error, next time.Duration) {
		if text := err.Error(); text != told {
			told = text
			r.worker.logger.WarnContext(ctx, "NATS does not take what became of a step; trying on", slog.String("step", event.Ref.String()),
				slog.String("kind", string(event.Kind)), slog.Any("error", err), slog.Duration("next_try", next))
		}
	}
	_, err := backoff.Retry(ctx, func() (uint64, error) { return publish(ctx) },
		backoff.WithBackOff(patient()), backoff.WithMaxElapsedTime(0), backoff.WithNotify(notify))
	if err != nil && ctx.Err() != nil {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		_, err = publish(last)
	}
	if err != nil {
		return fmt.Errorf("tell that step %s is %s: %w", event.Ref, event.Kind, err)
	}
	return nil
}

// patient is the pace of what is tried until it works.
func patient() backoff.BackOff {
	pace := backoff.NewExponentialBackOff()
	pace.MaxInterval = 5 * time.Second
	return pace
}

// mention publishes an event that is not waited for: nothing depends on it.
func (r *reporter) mention(ctx context.Context, event protocol.Event) {
	message, err := protocol.NewMessage(ctx, protocol.EventSubject(event), event)
	if err == nil {
		err = r.worker.config.Conn.PublishMsg(message)
	}
	if err != nil {
		r.worker.logger.DebugContext(ctx, "an event was not told", slog.String("kind", string(event.Kind)), slog.Any("error", err))
	}
}

// meterOptions are what a meter reads. The functions are called a few times a second, while the stream moves.
type meterOptions struct {
	// Bytes is what has moved, and Expected what is expected to, in this try; 0 where that is not known.
	Bytes    func() int64
	Expected func() uint64
	Resumed  bool
}

// meter tells the progress of a stream until stop is called.
type meter struct {
	meterOptions
	started time.Time
	stop    func()

	mu   sync.Mutex
	rate rate
}

// newMeter starts telling progress.
func (r *reporter) newMeter(ctx context.Context, options meterOptions) *meter {
	m := &meter{meterOptions: options, started: time.Now()}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.tellProgress(ctx, m)
	}()
	m.stop = func() {
		cancel()
		<-done
	}
	return m
}

// progress is how far the stream is now.
func (m *meter) progress() *protocol.Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	p := &protocol.Progress{
		Bytes: uint64(max(m.Bytes(), 0)), Expected: m.Expected(), Resumed: m.Resumed, Elapsed: now.Sub(m.started),
	}
	p.Rate = m.rate.after(p.Bytes, p.Elapsed)
	if p.Expected > p.Bytes && p.Rate > 0 {
		p.Remaining = time.Duration(float64(p.Expected-p.Bytes) / float64(p.Rate) * float64(time.Second))
	}
	return p
}

// rate is an exponentially weighted average of how fast something moves.
type rate struct {
	bytes   uint64
	elapsed time.Duration
	average float64
}

// rateMemory is how long it takes until what was is worth 37 % of the average.
const rateMemory = 5 * time.Second

// after takes how much has moved in which time, and gives the bytes a second as of late. Until rateMemory has passed, that is
// the plain average.
func (r *rate) after(bytes uint64, elapsed time.Duration) uint64 {
	passed := elapsed - r.elapsed
	if passed <= 0 {
		return uint64(r.average)
	}
	now := float64(bytes-min(r.bytes, bytes)) / passed.Seconds()
	weight := 1 - math.Exp(-passed.Seconds()/rateMemory.Seconds())
	if elapsed < rateMemory {
		weight = passed.Seconds() / elapsed.Seconds()
	}
	r.average += weight * (now - r.average)
	r.bytes, r.elapsed = bytes, elapsed
	return uint64(r.average)
}

func (r *reporter) tellProgress(ctx context.Context, m *meter) {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	last, lastAt := int64(-1), time.Time{}
	for {
		if now := m.Bytes(); now != last || time.Since(lastAt) >= signOfLifeEvery {
			last, lastAt = now, time.Now()
			event := r.event(protocol.EventProgress)
			event.Progress = m.progress()
			r.mention(ctx, event) // what is lost is told again in a moment
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
