// Events: telling the fleet what happens to a step.

package worker

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
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
	worker   *Worker
	item     protocol.WorkItem
	delivery uint64
}

func (r *reporter) event(kind protocol.EventKind) protocol.Event {
	return protocol.Event{
		Ref: r.item.Ref, Kind: kind, Role: r.item.Role, Host: r.worker.config.Host, Worker: r.worker.config.Name,
		Delivery: r.delivery, At: time.Now().UTC(), Job: r.item.Job, JobID: r.item.JobID,
		Filesystem: r.item.Step.Filesystem, Target: r.item.Target,
	}
}

// tell publishes the event and waits until the stream has it, trying again while NATS is away, for as long as the worker
// runs and a moment longer.
func (r *reporter) tell(ctx context.Context, event protocol.Event) error {
	publish := func(ctx context.Context) (uint64, error) {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		sequence, err := protocol.PublishEvent(attempt, r.worker.config.Resources.JetStream, event)
		if err != nil && protocol.KindOf(err, protocol.Transient) == protocol.Permanent {
			return 0, backoff.Permanent(err)
		}
		return sequence, err
	}
	policy := backoff.NewExponentialBackOff()
	policy.MaxInterval = 5 * time.Second
	_, err := backoff.Retry(ctx, func() (uint64, error) { return publish(ctx) },
		backoff.WithBackOff(policy), backoff.WithMaxElapsedTime(0))
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

// meter counts a step's bytes and tells its progress until stop is called. The counter is all that the data path touches.
type meter struct {
	bytes    atomic.Int64
	expected uint64
	resumed  bool
	started  time.Time
	stop     func()
}

// newMeter starts telling progress.
func (r *reporter) newMeter(ctx context.Context, expected uint64, resumed bool) *meter {
	m := &meter{expected: expected, resumed: resumed, started: time.Now()}
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

func (m *meter) progress() *protocol.Progress {
	return &protocol.Progress{
		Bytes: uint64(max(m.bytes.Load(), 0)), Expected: m.expected, Resumed: m.resumed, Elapsed: time.Since(m.started),
	}
}

func (r *reporter) tellProgress(ctx context.Context, m *meter) {
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	last, lastAt := int64(-1), time.Time{}
	for {
		if now := m.bytes.Load(); now != last || time.Since(lastAt) >= signOfLifeEvery {
			last, lastAt = now, time.Now()
			event := r.event(protocol.EventProgress)
			event.Progress = m.progress()
			// Progress is not waited for: what is lost is told again in a moment.
			message, err := protocol.NewMessage(ctx, protocol.EventSubject(event), event)
			if err == nil {
				err = r.worker.config.Conn.PublishMsg(message)
			}
			if err != nil {
				r.worker.logger.DebugContext(ctx, "progress was not told", slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
