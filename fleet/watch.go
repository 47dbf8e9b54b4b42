// Watching: a plan while it runs, through lost connections and changes of leader.

package fleet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// WatchOptions say how a plan is watched.
type WatchOptions struct {
	// Interval is the least time between two snapshots that are not final; 0 is 250 milliseconds.
	Interval time.Duration
	// Patience is how long watching goes on while no coordinator leads or NATS cannot be reached; 0 is 2 minutes.
	Patience time.Duration
	// Health is how often leader and connection are looked after; 0 is a second.
	Health time.Duration
}

// Watch gives snapshots of the plan: the first as soon as something is known, further ones when something has changed, and
// the final one, after which it ends. It ends with an error, beside the last snapshot, when ctx ends, when the plan does
// not exist or is removed, and when patience runs out (ErrNoCoordinator or ErrDisconnected); the plan itself does not mind.
// What the caller does with a snapshot delays only the next one.
func (c *Client) Watch(ctx context.Context, id protocol.PlanID, options WatchOptions) iter.Seq2[Snapshot, error] {
	if options.Interval <= 0 {
		options.Interval = 250 * time.Millisecond
	}
	if options.Patience <= 0 {
		options.Patience = 2 * time.Minute
	}
	if options.Health <= 0 {
		options.Health = time.Second
	}
	return func(yield func(Snapshot, error) bool) {
		if err := id.Validate(); err != nil {
			yield(Snapshot{}, err)
			return
		}
		w := &watch{
			client: c, id: id, options: options,
			values: newPlanValues(id), revisions: map[string]uint64{}, meters: map[int]*meter{}, lastWell: time.Now(),
		}
		defer w.close()
		if err := w.run(ctx, yield); err != nil {
			yield(w.snapshot(), err)
		}
	}
}

// watch is what one call of Watch knows.
type watch struct {
	client  *Client
	id      protocol.PlanID
	options WatchOptions

	values    *planValues
	revisions map[string]uint64 // of the keys in values
	meters    map[int]*meter    // by task
	loaded    bool              // all values that were there at the beginning have come
	changed   bool              // since the last snapshot
	absences  int               // how many sources have given everything, and nothing of the plan

	source     *watchSource // nil while it cannot be opened
	reconnects uint64       // of the connection, when source was opened
	behind     bool         // the bucket had a newer plan than source had brought, when health was last looked after
	lastWell   time.Time    // when a coordinator last led and NATS could be reached
	trouble    error        // what is wrong now: ErrNoCoordinator, ErrDisconnected, or another
}

// watchSource is where news comes from.
type watchSource struct {
	bucket   *bucketWatch
	consumer jetstream.ConsumeContext
	// release removes the consumer from the server.
	release func()
	events  chan protocol.Event
}

func (w *watch) run(ctx context.Context, yield func(Snapshot, error) bool) error {
	interval := time.NewTicker(w.options.Interval)
	defer interval.Stop()
	health := time.NewTicker(w.options.Health)
	defer health.Stop()
	w.lookAfter(ctx)
	for {
		var entries <-chan jetstream.KeyValueEntry
		var events <-chan protocol.Event
		if w.source != nil {
			entries, events = w.source.bucket.Updates(), w.source.events
		}
		show := false
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopped watching plan %s, which goes on by itself: %w", w.id, context.Cause(ctx))
		case entry, open := <-entries:
			if !open {
				w.close()
				continue
			}
			w.take(entry)
		case event := <-events:
			w.hear(event)
		case <-health.C:
			w.lookAfter(ctx)
		case <-interval.C:
			show = w.changed && (w.loaded || w.trouble != nil)
		}
		if w.loaded {
			if w.absent() {
				return noSuchPlan(w.id)
			}
			if w.values.head != nil && w.values.head.State.Final() {
				yield(w.snapshot(), nil)
				return nil
			}
		}
		if show && !w.show(yield) {
			return nil
		}
		if time.Since(w.lastWell) > w.options.Patience {
			// What it has waited for is shown before it gives up.
			if w.changed && !w.show(yield) {
				return nil
			}
			return protocol.Failf(protocol.Transient, "plan %s: %w; gave up watching after %s, but the plan stays:"+
				" watch it again with: zctl plans %s --wait", w.id, w.trouble, w.options.Patience, w.id)
		}
	}
}

// looks is how many sources must have had nothing of a plan before there is none.
const looks = 3

// absent tells whether there is no such plan, when the source has given everything. A server of a cluster that is back for a
// moment, and answers, may not have all that the others have; so another source is opened, and asked again.
func (w *watch) absent() bool {
	if w.values.head != nil || w.values.request != nil {
		return false
	}
	w.absences++
	if len(w.revisions) > 0 || w.absences == looks {
		return true // it was there, and was removed, or it was looked for often enough
	}
	w.close()
	w.loaded = false
	return false
}

func (w *watch) show(yield func(Snapshot, error) bool) bool {
	w.changed = false
	return yield(w.snapshot(), nil)
}

// take takes in a value of the plan. Nil says that all values that were there have come.
func (w *watch) take(entry jetstream.KeyValueEntry) {
	w.changed = true
	if entry == nil {
		w.loaded = true
		return
	}
	if entry.Revision() <= w.revisions[entry.Key()] {
		return
	}
	w.revisions[entry.Key()] = entry.Revision()
	if entry.Operation() != jetstream.KeyValuePut {
		w.values.remove(entry.Key())
		return
	}
	w.values.put(entry.Key(), entry.Value())
}

func (w *watch) hear(event protocol.Event) {
	task := event.Ref.Task
	if w.meters[task] == nil {
		w.meters[task] = &meter{}
	}
	w.meters[task].observe(event, time.Now())
	w.changed = true
}

// lookAfter finds out whether the plan can go on and whether news still comes, and opens the source of news where it must.
func (w *watch) lookAfter(ctx context.Context) {
	trouble := w.check(ctx)
	if fmt.Sprint(trouble) != fmt.Sprint(w.trouble) {
		w.changed = true
	}
	w.trouble = trouble
	if trouble == nil {
		w.lastWell = time.Now()
	}
	// Rates fall while nothing is heard, and times go on.
	w.changed = w.changed || len(w.meters) > 0
}

func (w *watch) check(ctx context.Context) error {
	if w.client.conn.Status() != nats.CONNECTED {
		return ErrDisconnected
	}
	if reconnects := w.client.conn.Stats().Reconnects; w.source != nil && reconnects != w.reconnects {
		w.close()
	}
	if w.source == nil {
		if err := w.open(ctx); err != nil {
			return err
		}
	}
	if err := w.compare(ctx); err != nil {
		return err
	}
	leader, err := w.client.Leader(ctx)
	if err != nil {
		return err
	}
	if leader == nil {
		return ErrNoCoordinator
	}
	return nil
}

// compare looks whether the bucket has a newer plan than the source of news has brought; twice in a row means that the
// source is dead, and it is opened anew.
func (w *watch) compare(ctx context.Context) error {
	ctx, cancel := w.client.bounded(ctx)
	defer cancel()
	key := protocol.PlanKey(w.id)
	entry, err := w.client.resources.Plans.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		w.behind = false
		return nil
	case err != nil:
		return w.client.explain(err, "read plan %s", w.id)
	case entry.Revision() <= w.revisions[key]:
		w.behind = false
		return nil
	}
	if w.behind {
		w.close()
	}
	w.behind = !w.behind
	return nil
}

func (w *watch) open(ctx context.Context) error {
	reconnects := w.client.conn.Stats().Reconnects
	bucket, err := watchBucket(ctx, w.client.timeout, w.client.resources.Plans, protocol.PlanKeys(w.id))
	if err != nil {
		return w.client.explain(err, "watch plan %s", w.id)
	}
	source := &watchSource{bucket: bucket, events: make(chan protocol.Event, 64)}
	bounded, cancel := w.client.bounded(ctx)
	defer cancel()
	consumer, err := w.client.resources.Events.OrderedConsumer(bounded, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{protocol.EventSubjectOfPlan(w.id)},
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,

		InactiveThreshold: abandonedAfter,
		MaxResetAttempts:  1, // each in a row has the same name, which may be one of a server that is down
	})
	if err == nil {
		source.release = func() { w.client.release(ctx, w.client.resources.Events, consumer) }
		source.consumer, err = consumer.Consume(func(message jetstream.Msg) {
			var event protocol.Event
			if protocol.ReadMessage(message.Headers(), message.Data(), &event) != nil {
				return // the coordinator keeps it as a dead letter
			}
			// Progress is a courtesy, and the next report replaces this one: better to lose it than to hold up the rest.
			select {
			case source.events <- event:
			default:
			}
		})
	}
	if err != nil {
		bucket.stop()
		return w.client.explain(err, "watch the events of plan %s", w.id)
	}
	w.source, w.reconnects, w.behind = source, reconnects, false
	return nil
}

// close stops the source of news and waits until it has ended; what is known stays known.
func (w *watch) close() {
	if w.source == nil {
		return
	}
	w.source.consumer.Stop()
	w.source.bucket.stop()
	<-w.source.consumer.Closed()
	w.source.release()
	w.source = nil
}

func (w *watch) snapshot() Snapshot {
	now := time.Now()
	detail := w.values.detail()
	shot := Snapshot{Plan: detail.Plan, At: now, Waiting: w.waiting()}
	for _, task := range detail.Tasks {
		shot.Tasks = append(shot.Tasks, w.meters[task.Number].measure(task, now))
	}
	return shot
}

// waiting says what the plan waits for, the worst first.
func (w *watch) waiting() string {
	plan := w.values.plan()
	switch {
	case plan.State.Final():
		return ""
	case w.trouble != nil:
		return w.trouble.Error()
	case plan.State == PlanStateRequested:
		return "the coordinator has not taken up the plan yet"
	}
	return plan.Waiting
}
