// Limits: how the bandwidth limits of jobs follow what is submitted, also for transfers in flight.

package worker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/bandwidth"
)

// jobLimits are the limits of the jobs as submitted last. A plan carries its job as it was when it was made.
type jobLimits struct {
	mu   sync.Mutex
	jobs map[string]jobLimit
}

type jobLimit struct{ send, recv protocol.BandwidthLimit }

func newJobLimits() *jobLimits { return &jobLimits{jobs: map[string]jobLimit{}} }

// limitOf is the bucket that the item's bytes are taken from; the caller releases it. The lock keeps a change that comes at the
// same moment from being lost.
func (w *Worker) limitOf(direction bandwidth.Direction, item protocol.WorkItem) *bandwidth.Bucket {
	w.jobs.mu.Lock()
	defer w.jobs.mu.Unlock()
	current, found := w.jobs.jobs[item.Job]
	if !found {
		current = jobLimit{item.Send.BandwidthLimit, item.Recv.BandwidthLimit}
	}
	if direction == bandwidth.Send {
		return w.limits.Of(direction, item.Job, current.send)
	}
	return w.limits.Of(direction, item.Job, current.recv)
}

// followJobs learns of jobs that are submitted or changed, until ctx ends.
func (w *Worker) followJobs(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.watchJobs(ctx); err != nil && ctx.Err() == nil {
			w.logger.WarnContext(ctx, "changes of jobs cannot be watched, so that changed bandwidth limits wait for the next step;"+
				" trying on", slog.Any("error", err))
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
		}
	}
}

func (w *Worker) watchJobs(ctx context.Context) error {
	watcher, err := w.config.Resources.Jobs.WatchAll(ctx)
	if err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return watcher.Stop()
		case entry, open := <-watcher.Updates():
			if !open {
				return nil
			}
			if entry != nil { // nil marks the end of what was there before
				w.jobChanged(ctx, entry)
			}
		}
	}
}

func (w *Worker) jobChanged(ctx context.Context, entry jetstream.KeyValueEntry) {
	if entry.Operation() != jetstream.KeyValuePut {
		return // steps of a job that is gone go on as it was
	}
	var job protocol.Job
	if err := protocol.DecodeValue(entry.Value(), &job); err != nil {
		w.logger.DebugContext(ctx, "a job cannot be read", slog.String("key", entry.Key()), slog.Any("error", err))
		return
	}
	w.limitJob(job)
}

// limitJob has the job's transfers, those in flight included, go by its limits.
func (w *Worker) limitJob(job protocol.Job) {
	w.jobs.mu.Lock()
	defer w.jobs.mu.Unlock()
	w.jobs.jobs[job.Name] = jobLimit{job.Send.BandwidthLimit, job.Recv.BandwidthLimit}
	w.limits.Set(bandwidth.Send, job.Name, job.Send.BandwidthLimit)
	w.limits.Set(bandwidth.Recv, job.Name, job.Recv.BandwidthLimit)
}
