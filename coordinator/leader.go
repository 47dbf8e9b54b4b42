// The leader: one term of leading. It watches requests, gives every plan a runner, hands events to the runners, and
// tidies up behind them.

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/protocol"
)

// leader is one term. Its fields belong to the goroutine of lead.
type leader struct {
	coordinator *Coordinator
	resources   *protocol.Resources
	logger      *slog.Logger

	// runners are those of the plans under way; busy tells which plan of a job is, and queued which requests wait for it.
	runners map[protocol.PlanID]*runner
	busy    map[string]protocol.PlanID
	queued  map[string][]protocol.PlanRequest
	// cancels are plans whose cancellation came before their runner.
	cancels map[protocol.PlanID]bool
	ended   chan *runner
	group   *errgroup.Group
	// turns has the loop come round where nothing happens.
	turns *time.Ticker
	// attendance knows which hosts are there, and attended has an element when that has changed.
	attendance *attendance
	attended   chan struct{}

	// startAfter is the event sequence up to which nothing matters to the plans that were found at the term's begin, and
	// replayUntil that of the newest event then.
	startAfter, replayUntil uint64
	replaying               []*runner
}

func newLeader(c *Coordinator) *leader {
	l := &leader{
		coordinator: c,
		resources:   c.config.Resources,
		logger:      c.config.Logger,
		attended:    make(chan struct{}, 1),
		runners:     map[protocol.PlanID]*runner{},
		busy:        map[string]protocol.PlanID{},
		queued:      map[string][]protocol.PlanRequest{},
		cancels:     map[protocol.PlanID]bool{},
		ended:       make(chan *runner),
	}
	l.attendance = newAttendance(c.config.Resources.Hosts, c.config.Logger, func() { signal(l.attended) })
	return l
}

// lead runs until ctx ends or something makes it impossible to go on.
func (l *leader) lead(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	l.group = group
	l.turns = time.NewTicker(turnEvery)
	defer l.turns.Stop()
	group.Go(func() error { return l.loop(ctx) })
	group.Go(func() error {
		c := collector{
			resources: l.resources, logger: l.logger,
			every: l.coordinator.config.CollectEvery, grace: l.coordinator.config.CollectGrace,
		}
		c.run(ctx)
		return nil
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (l *leader) loop(ctx context.Context) error {
	watcher, err := retry(ctx, "watch the plans", func(context.Context) (jetstream.KeyWatcher, error) {
		return l.resources.Plans.WatchFiltered(ctx,
			[]string{"*." + string(protocol.PlanKeyRequest), "*." + string(protocol.PlanKeyCancel)}, jetstream.IgnoreDeletes())
	})
	if err != nil {
		return err
	}
	defer func() {
		if err := watcher.Stop(); err != nil && ctx.Err() == nil {
			l.logger.DebugContext(ctx, "the watch on the plans was not stopped in order", slog.Any("error", err))
		}
	}()
	requests, err := l.initialRequests(ctx, watcher)
	if err != nil {
		return err
	}
	present, err := l.attendance.open(ctx)
	if err != nil {
		return err
	}
	l.group.Go(func() error {
		err := l.attendance.follow(ctx, present)
		if stopErr := present.Stop(); stopErr != nil && ctx.Err() == nil {
			l.logger.DebugContext(ctx, "the watch on the hosts was not stopped in order", slog.Any("error", stopErr))
		}
		return err
	})
	if err := l.resume(ctx, requests); err != nil {
		return err
	}
	events, err := l.follow(ctx)
	if err != nil {
		return err
	}
	reconnected := l.coordinator.config.Conn.StatusChanged(nats.CONNECTED)
	defer l.coordinator.config.Conn.RemoveStatusListener(reconnected)

	for {
		l.coordinator.standing.turn()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.turns.C:
		case entry, open := <-watcher.Updates():
			if !open {
				return errors.New("the watch on the plans ended")
			}
			if entry != nil {
				err = l.noticed(ctx, entry)
			}
		case message := <-events:
			err = l.dispatch(ctx, message)
		case r := <-l.ended:
			err = l.runnerEnded(ctx, r)
		case <-reconnected:
			for _, r := range l.runners {
				r.wake()
			}
		case <-l.attended:
			for _, r := range l.runners {
				r.hostsChanged()
			}
		}
		if err != nil {
			return err
		}
	}
}

// initialRequests reads what the watcher has at the begin: every request ever kept, and every cancellation.
func (l *leader) initialRequests(ctx context.Context, watcher jetstream.KeyWatcher) ([]protocol.PlanRequest, error) {
	var requests []protocol.PlanRequest
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case entry, open := <-watcher.Updates():
			if !open {
				return nil, errors.New("the watch on the plans ended")
			}
			if entry == nil {
				slices.SortFunc(requests, func(a, b protocol.PlanRequest) int {
					return a.At.Compare(b.At)
				})
				return requests, nil
			}
			if request, ok := l.read(ctx, entry); ok {
				requests = append(requests, request)
			}
		}
	}
}

// read takes an entry: a cancellation is noted, a request returned.
func (l *leader) read(ctx context.Context, entry jetstream.KeyValueEntry) (request protocol.PlanRequest, ok bool) {
	id, kind, _, err := protocol.ParsePlanKey(entry.Key())
	if err == nil && kind == protocol.PlanKeyCancel {
		l.cancels[id] = true
		return request, false
	}
	if err == nil {
		err = protocol.DecodeValue(entry.Value(), &request)
	}
	if err == nil && request.Plan != id {
		err = protocol.Usagef("the request is for plan %q", request.Plan)
	}
	if err != nil {
		l.deadLetter(ctx, protocol.BucketPlans+" "+entry.Key(), nil, entry.Value(), err)
		return request, false
	}
	return request, true
}

// resume starts runners for what the term before left unfinished.
func (l *leader) resume(ctx context.Context, requests []protocol.PlanRequest) error {
	info, err := retry(ctx, "read the state of the events", func(ctx context.Context) (*jetstream.StreamInfo, error) {
		return l.resources.Events.Info(ctx)
	})
	if err != nil {
		return err
	}
	l.startAfter, l.replayUntil = info.State.LastSeq, info.State.LastSeq
	for _, request := range requests {
		if err := l.consider(ctx, request, true); err != nil {
			return err
		}
	}
	return nil
}

// consider starts the request's plan, unless it has ended, or has to wait for another plan of its job. A dry run waits for
// nothing.
func (l *leader) consider(ctx context.Context, request protocol.PlanRequest, atBegin bool) error {
	if l.runners[request.Plan] != nil {
		return nil
	}
	if other, isBusy := l.busy[request.Job]; isBusy && !request.DryRun {
		l.logger.InfoContext(ctx, "plan waits for another one of its job", slog.String("plan", string(request.Plan)),
			slog.String("job", request.Job), slog.String("other", string(other)))
		l.queued[request.Job] = append(l.queued[request.Job], request)
		if r := l.runners[other]; r != nil {
			r.yield()
		}
		return nil
	}
	r := newRunner(l.coordinator, l.attendance, request)
	unfinished, err := l.prepare(ctx, r)
	if err != nil {
		return fmt.Errorf("plan %s of job %s: %w", request.Plan, request.Job, err)
	}
	if !unfinished {
		return nil
	}
	if !request.DryRun {
		l.busy[request.Job] = request.Plan
	}
	l.runners[request.Plan] = r
	if l.cancels[request.Plan] {
		r.cancel()
	}
	if atBegin && r.since < l.replayUntil {
		l.startAfter = min(l.startAfter, r.since)
		l.replaying = append(l.replaying, r)
	} else {
		close(r.caughtUp)
	}
	l.logger.InfoContext(ctx, "plan taken up", slog.String("plan", string(request.Plan)), slog.String("job", request.Job),
		slog.Bool("resumed", atBegin))
	l.group.Go(func() error {
		err := r.run(ctx)
		select {
		case l.ended <- r:
		case <-ctx.Done():
		}
		return err
	})
	return nil
}

// prepare loads what there is of the runner's plan, or begins it. A plan whose record cannot be read is passed over: the others go
// on, and a later run of its job finds what it has left on the hosts.
func (l *leader) prepare(ctx context.Context, r *runner) (unfinished bool, err error) {
	unfinished, err = r.prepare(ctx)
	if errors.Is(err, errUnreadable) {
		l.logger.ErrorContext(ctx, "a plan is passed over; run its job again", slog.String("plan", string(r.request.Plan)),
			slog.String("job", r.request.Job), slog.Any("error", err))
		return false, nil
	}
	return unfinished, err
}

func (l *leader) noticed(ctx context.Context, entry jetstream.KeyValueEntry) error {
	request, ok := l.read(ctx, entry)
	if ok {
		return l.consider(ctx, request, false)
	}
	for id, r := range l.runners {
		if l.cancels[id] {
			r.cancel()
		}
	}
	return l.dropQueued(ctx)
}

// dropQueued ends queued plans that were cancelled before they began: they are taken up so that their end is recorded.
func (l *leader) dropQueued(ctx context.Context) error {
	for job, queue := range l.queued {
		kept := queue[:0]
		for _, request := range queue {
			if !l.cancels[request.Plan] {
				kept = append(kept, request)
				continue
			}
			r := newRunner(l.coordinator, l.attendance, request)
			unfinished, err := l.prepare(ctx, r)
			if err != nil {
				return err
			}
			if unfinished {
				if err := r.finish(ctx, protocol.PlanCancelled, nil); err != nil {
					return err
				}
			}
		}
		l.queued[job] = kept
	}
	return nil
}

func (l *leader) runnerEnded(ctx context.Context, r *runner) error {
	delete(l.runners, r.request.Plan)
	delete(l.cancels, r.request.Plan)
	l.replaying = slices.DeleteFunc(l.replaying, func(other *runner) bool { return other == r })
	job := r.request.Job
	if l.busy[job] == r.request.Plan {
		delete(l.busy, job)
	}
	if err := l.tidy(ctx, job); err != nil {
		l.logger.WarnContext(ctx, "old plans were not removed; the next plan's end tries again",
			slog.String("job", job), slog.Any("error", err))
	}
	for queue := l.queued[job]; len(queue) > 0 && l.busy[job] == ""; queue = l.queued[job] {
		l.queued[job] = queue[1:]
		// It may have ended already, cancelled under the leader before this one; then it is the next one's turn.
		if err := l.consider(ctx, queue[0], false); err != nil {
			return err
		}
	}
	return nil
}

// follow reads the events from where the oldest unfinished plan begins.
func (l *leader) follow(ctx context.Context) (<-chan jetstream.Msg, error) {
	reader, err := retry(ctx, "follow the events", func(ctx context.Context) (*protocol.StreamReader, error) {
		return protocol.NewStreamReader(ctx, l.resources.Events, jetstream.OrderedConsumerConfig{
			FilterSubjects: []string{protocol.EventSubjects},
			DeliverPolicy:  jetstream.DeliverByStartSequencePolicy,
			OptStartSeq:    l.startAfter + 1,
			// A leader that died leaves its consumer behind; the server removes it after this.
			InactiveThreshold: time.Minute,
		})
	})
	if err != nil {
		return nil, err
	}
	if reader.Consumer().CachedInfo().NumPending == 0 {
		l.endReplay()
	}
	events := make(chan jetstream.Msg)
	l.group.Go(func() error {
		defer reader.Close()
		for {
			message, err := reader.Next(ctx)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				return protocol.NATSError("follow the events", err)
			}
			select {
			case events <- message:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return events, nil
}

// dispatch gives an event to its plan's runner. What cannot be read goes to the dead letters, once.
func (l *leader) dispatch(ctx context.Context, message jetstream.Msg) error {
	metadata, err := message.Metadata()
	if err != nil {
		return fmt.Errorf("event without metadata: %w", err)
	}
	var e protocol.Event
	if err := protocol.ReadMessage(message.Headers(), message.Data(), &e); err != nil {
		if metadata.Sequence.Stream > l.replayUntil {
			l.deadLetter(ctx, message.Subject(), message.Headers(), message.Data(), err)
		}
	} else if r := l.runners[e.Ref.Plan]; r != nil && message.Subject() == protocol.EventSubject(e) &&
		metadata.Sequence.Stream > r.since {
		if err := l.deliver(ctx, r, e); err != nil {
			return err
		}
	}
	if metadata.Sequence.Stream >= l.replayUntil || metadata.NumPending == 0 {
		l.endReplay()
	}
	return nil
}

func (l *leader) deliver(ctx context.Context, r *runner, e protocol.Event) error {
	for {
		l.coordinator.standing.turn()
		select {
		case <-l.turns.C:
		case r.events <- e:
			return nil
		case ended := <-l.ended:
			if err := l.runnerEnded(ctx, ended); err != nil {
				return err
			}
			if ended == r {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endReplay tells the runners of the term before that they have all events from before this term.
func (l *leader) endReplay() {
	for _, r := range l.replaying {
		close(r.caughtUp)
	}
	l.replaying = nil
}

func (l *leader) deadLetter(ctx context.Context, subject string, header nats.Header, data []byte, reason error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	err := protocol.PublishDeadLetter(ctx, l.resources.JetStream,
		protocol.NewDeadLetter(subject, header, data, reason, "coordinator", 1))
	l.logger.WarnContext(ctx, "a message cannot be read; it is kept among the dead letters",
		slog.String("subject", subject), slog.Any("reason", reason), slog.Any("error", err))
}

// tidy removes all but the newest plans of the job.
func (l *leader) tidy(ctx context.Context, job string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	lister, err := l.resources.Plans.ListKeysFiltered(ctx, "*."+string(protocol.PlanKeyHead))
	if err != nil {
		return fmt.Errorf("list the plans: %w", err)
	}
	var ended []protocol.Plan
	var heads []string
	for key := range lister.Keys() {
		heads = append(heads, key)
	}
	for _, key := range heads {
		entry, err := l.resources.Plans.Get(ctx, key)
		if err != nil {
			continue // gone since
		}
		var head protocol.Plan
		if protocol.DecodeValue(entry.Value(), &head) == nil && head.Job == job && head.State.Final() {
			ended = append(ended, head)
		}
	}
	slices.SortFunc(ended, func(a, b protocol.Plan) int { return a.Finished.Compare(b.Finished) })
	if len(ended) <= l.coordinator.config.KeepPlans {
		return nil
	}
	for _, old := range ended[:len(ended)-l.coordinator.config.KeepPlans] {
		l.coordinator.config.FailPoint(ctx, before(pointPlanRemove))
		if err := l.remove(ctx, old.ID); err != nil {
			return err
		}
		l.coordinator.config.FailPoint(ctx, after(pointPlanRemove))
	}
	return nil
}

// remove takes all keys of a plan away at once, by purging their subjects from the bucket's stream: no deletion markers
// stay behind.
func (l *leader) remove(ctx context.Context, id protocol.PlanID) error {
	stream, err := l.resources.JetStream.Stream(ctx, "KV_"+protocol.BucketPlans)
	if err != nil {
		return fmt.Errorf("remove plan %s: %w", id, err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+protocol.BucketPlans+"."+protocol.PlanKeys(id))); err != nil {
		return fmt.Errorf("remove plan %s: %w", id, err)
	}
	return nil
}
