// Segments: what crashed steps have left in the object store, and its removal. A sender removes its own stream, whatever becomes
// of the step; what is found here is of senders that could not.

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// collector removes the leftovers. It belongs to the leader, but does no harm beside another leader's: what it removes is of
// no use to anybody.
type collector struct {
	resources *protocol.Resources
	logger    *slog.Logger
	// every is the time between two looks, and grace the least age of what is removed.
	every, grace time.Duration

	// toldUnknown and trouble, the last error, keep what goes on from being logged at every look.
	toldUnknown bool
	trouble     string
}

// run looks at once and then again and again, until ctx ends. Trouble is logged, and the next look tries again: leftovers cost
// space and nothing else.
func (c *collector) run(ctx context.Context) {
	ticker := time.NewTicker(c.every)
	defer ticker.Stop()
	for {
		err := c.collect(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			c.trouble = ""
		case err.Error() != c.trouble:
			c.trouble = err.Error()
			c.logger.WarnContext(ctx, "what crashed steps have left in the object store was not removed; the next look tries again",
				slog.Any("error", err), slog.Duration("next", c.every))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// collect looks once. Each request has the client's own time for its answer, so that one that is lost costs no more than that.
func (c *collector) collect(ctx context.Context) error {
	streams, unknown, err := protocol.StoredStreams(ctx, c.resources.JetStream)
	if err != nil {
		return err
	}
	if len(unknown) > 0 && !c.toldUnknown {
		c.toldUnknown = true
		c.logger.WarnContext(ctx, "the bucket of streams has objects that are no streams; they count towards its quota, and nobody removes them",
			slog.String("bucket", protocol.BucketStreams), slog.Int("subjects", len(unknown)), slog.String("first", unknown[0]))
	}
	// The tasks are read after the streams: a step whose stream was there then is not missed because it has begun since.
	tasks, err := c.tasks(ctx, streams)
	if err != nil {
		return err
	}
	for _, left := range leftovers(streams, tasks, time.Now().Add(-c.grace)) {
		if err := left.Remove(ctx, c.resources.JetStream); err != nil {
			return err
		}
		c.logger.InfoContext(ctx, "removed what was left of a stream in the object store", slog.String("stream", left.Name.String()),
			slog.Time("since", left.Since))
	}
	return nil
}

// taskName is what a step says of its task.
type taskName struct {
	plan   protocol.PlanID
	number int
}

// leftovers are the streams that were begun before the given time and of whose steps none is under way: none is the current
// try of a task that is given to workers. Tasks that are not there are not under way.
func leftovers(streams []protocol.StoredStream, tasks map[taskName]protocol.Task, before time.Time) []protocol.StoredStream {
	var left []protocol.StoredStream
	for _, stream := range streams {
		underWay := false
		for _, ref := range refsOf(stream) {
			task, found := tasks[taskName{ref.Plan, ref.Task}]
			underWay = underWay || found && isUnderWay(task, ref)
		}
		if !underWay && stream.Since.Before(before) {
			left = append(left, stream)
		}
	}
	return left
}

// refsOf are all steps that the stream may be for: those that it says itself, and the one that is in its name.
func refsOf(stream protocol.StoredStream) []protocol.StepRef {
	return append([]protocol.StepRef{stream.Name.Ref}, stream.Refs...)
}

func isUnderWay(task protocol.Task, ref protocol.StepRef) bool {
	return task.Attempt == ref.Attempt && task.Next == ref.Step &&
		(task.State == protocol.TaskOffering || task.State == protocol.TaskSending)
}

// tasks reads the tasks that the streams' steps are of. A task that cannot be read stops the look, since it might be under way.
func (c *collector) tasks(ctx context.Context, streams []protocol.StoredStream) (map[taskName]protocol.Task, error) {
	tasks, seen := map[taskName]protocol.Task{}, map[taskName]bool{}
	for _, stream := range streams {
		for _, ref := range refsOf(stream) {
			name := taskName{ref.Plan, ref.Task}
			if seen[name] {
				continue
			}
			seen[name] = true
			key := protocol.TaskKey(ref.Plan, ref.Task)
			data, _, err := protocol.GetKey(ctx, c.resources.JetStream, protocol.BucketPlans, key)
			if errors.Is(err, jetstream.ErrKeyNotFound) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", key, err)
			}
			var task protocol.Task
			if err := protocol.DecodeValue(data, &task); err != nil {
				return nil, fmt.Errorf("read %s: %w", key, err)
			}
			tasks[name] = task
		}
	}
	return tasks, nil
}
