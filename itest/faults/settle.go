// Settling: after the faults, the fleet converges by itself.

package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/zfleet/zfleet/abstractions"
	zfleet "github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

const (
	// settling bounds a run of a job when nothing disturbs it any more.
	settling = 90 * time.Second
	// tries is how often a job may be run until everything is replicated.
	tries = 4
)

// settle runs every job as it was at first until it is done, and compares.
func (f *fleet) settle(ctx context.Context) error {
	f.timeline.add("harness", "quiet")
	for i, job := range f.schedule.Jobs {
		// Something to do for each filesystem, so that what earlier settings have left behind goes.
		for _, filesystem := range filesystemsOf(job) {
			f.hosts[job.Source.Host].takeSnapshot(ctx, filesystem, f.schedule.Seed)
		}
		if err := eventually(ctx, func(ctx context.Context) error {
			_, err := f.client.SubmitJob(ctx, job)
			return err
		}); err != nil {
			return fmt.Errorf("submitting job %s again: %w", job.Name, err)
		}
		if err := eventually(ctx, func(ctx context.Context) error { return f.request(ctx, i) }); err != nil {
			return fmt.Errorf("running job %s again: %w", job.Name, err)
		}
	}
	for i, job := range f.schedule.Jobs {
		if err := f.finish(ctx, i, job); err != nil {
			return err
		}
	}
	if err := f.tryForbidden(ctx); err != nil {
		return err
	}
	if len(f.timeline.failures()) > 0 {
		return nil // what follows would only repeat it
	}
	for _, job := range f.schedule.Jobs {
		f.compare(job)
	}
	f.awaitEmpty(ctx)
	return nil
}

// finish waits for the job's last plan, and runs the job again where that has not done everything.
func (f *fleet) finish(ctx context.Context, number int, job protocol.Job) error {
	for try := range tries {
		f.mu.Lock()
		plans := f.plans[number]
		f.mu.Unlock()
		detail, err := f.wait(ctx, plans[len(plans)-1])
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			f.describePlans(ctx)
			f.timeline.violate("no convergence: job %s: its plan does not end: %v", job.Name, err)
			return nil
		}
		f.timeline.add("harness", "%s", explain(detail))
		if detail.Plan.State == protocol.PlanDone {
			return nil
		}
		if try == tries-1 || slices.ContainsFunc(detail.Tasks, func(t protocol.Task) bool { return t.State == protocol.TaskConflict }) {
			f.timeline.violate("no convergence: job %s: %s", job.Name, explain(detail))
			return nil
		}
		if err := eventually(ctx, func(ctx context.Context) error { return f.request(ctx, number) }); err != nil {
			return fmt.Errorf("running job %s again: %w", job.Name, err)
		}
	}
	return nil
}

// eventually tries until it succeeds: the NATS servers may not be ready yet. The last error is what kept it from succeeding.
func eventually(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		wait(ctx, 200*time.Millisecond)
		if ctx.Err() != nil {
			return err
		}
	}
}

func (f *fleet) wait(ctx context.Context, id protocol.PlanID) (zfleet.PlanDetail, error) {
	ctx, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	var detail zfleet.PlanDetail
	for snapshot, err := range f.client.Watch(ctx, id, zfleet.WatchOptions{Interval: time.Second}) {
		detail = zfleet.PlanDetail{Plan: snapshot.Plan, Tasks: tasksOf(snapshot)}
		if err != nil {
			return detail, fmt.Errorf("%w: %s", err, explain(detail))
		}
	}
	return detail, nil
}

// describePlans puts into the timeline who leads, who is there, and how far all plans are that have not ended.
func (f *fleet) describePlans(ctx context.Context) {
	status, err := f.client.Status(ctx)
	f.timeline.add("harness", "status: %+v, %v", status, err)
	plans, err := f.client.Plans(ctx)
	if err != nil {
		f.timeline.add("harness", "plans: %v", err)
	}
	for _, plan := range plans {
		if !plan.State.Final() {
			detail, err := f.client.Plan(ctx, plan.ID)
			f.timeline.add("harness", "job %s: %s %v", plan.Job, explain(detail), err)
		}
	}
}

func tasksOf(snapshot zfleet.Snapshot) []protocol.Task {
	tasks := make([]protocol.Task, 0, len(snapshot.Tasks))
	for _, progress := range snapshot.Tasks {
		tasks = append(tasks, progress.Task)
	}
	return tasks
}

func explain(detail zfleet.PlanDetail) string {
	text := fmt.Sprintf("plan %s is %s", detail.Plan.ID, detail.Plan.State)
	if detail.Plan.Failure != nil {
		text += ": " + detail.Plan.Failure.Error()
	}
	for _, task := range detail.Tasks {
		text += fmt.Sprintf("; %s → %s: %s", task.Filesystem, task.TargetHost, task.State)
		if task.Failure != nil && task.State != protocol.TaskDone {
			text += fmt.Sprintf(" (%s: %s)", task.Failure.Kind, task.Failure.Error())
		}
	}
	return text
}

// compare compares source and targets of a job that is done.
func (f *fleet) compare(job protocol.Job) {
	for _, filesystem := range filesystemsOf(job) {
		source := f.hosts[job.Source.Host]
		for _, p := range f.observer.pairs {
			if p.source == (place{job.Source.Host, filesystem}) {
				f.comparePair(p, source, f.hosts[p.target.host])
			}
		}
	}
}

func (f *fleet) comparePair(p *pair, source, target *host) {
	here, err := source.fake.Versions(p.source.filesystem)
	if err != nil {
		f.timeline.violate("%s: %v", p.source, err)
		return
	}
	there, err := target.fake.Versions(p.target.filesystem)
	if err != nil {
		f.timeline.violate("no convergence: %s: %v", p.target, err)
		return
	}
	byGUID := map[uint64]zfsfake.Version{}
	for _, v := range there {
		if v.Type == "snapshot" {
			byGUID[v.GUID] = v
		}
	}
	var newest zfsfake.Version
	begun := false
	for _, v := range here {
		if v.Type != "snapshot" || !isWanted(v.Name) {
			continue
		}
		newest = v
		copied, found := byGUID[v.GUID]
		begun = begun || p.received[v.GUID]
		switch {
		case found:
			f.compareContents(source, p.source.filesystem+"@"+v.Name, target, p.target.filesystem+"@"+copied.Name)
		case begun && !p.received[v.GUID]:
			f.timeline.violate("no convergence: %s@%s has never come to %s, though an older one has", p.source, v.Name, p.target)
		}
	}
	if _, found := byGUID[newest.GUID]; !found {
		f.timeline.violate("no convergence: %s lacks @%s, the newest of %s", p.target, newest.Name, p.source)
		return
	}
	f.compareAbstractions(p, here, there, newest)
}

func (f *fleet) compareContents(source *host, from string, target *host, to string) {
	sent, err := source.fake.ContentHash(from)
	if err == nil {
		var received string
		received, err = target.fake.ContentHash(to)
		if err == nil && sent != received {
			f.timeline.violate("contents differ: %s:%s and %s:%s", source.name, from, target.name, to)
		}
	}
	if err != nil {
		f.timeline.violate("contents of %s and %s: %v", from, to, err)
	}
}

// compareAbstractions requires that exactly those are there that a job that is done needs.
func (f *fleet) compareAbstractions(p *pair, here, there []zfsfake.Version, newest zfsfake.Version) {
	var expected, found []string
	if p.protection != protocol.GuaranteeNothing {
		expected = append(expected, "#"+abstractions.BookmarkName(abstractions.Cursor, newest.GUID, p.id))
		expected = append(expected, "@"+newest.Name+" "+abstractions.HoldTag(abstractions.LastReceivedHold, p.id))
	}
	for _, v := range slices.Concat(here, there) {
		if _, _, id, ours := abstractions.ParseBookmarkName(v.Name); v.Type == "bookmark" && ours && id == p.id {
			found = append(found, "#"+v.Name)
		}
		for _, tag := range v.Holds {
			if _, id, ours := abstractions.ParseHoldTag(tag); ours && id == p.id {
				found = append(found, "@"+v.Name+" "+tag)
			}
		}
	}
	slices.Sort(expected)
	slices.Sort(found)
	if !slices.Equal(expected, found) {
		f.timeline.violate("abstractions of %s on %s and %s: expected [%s], found [%s]", p.id, p.source, p.target,
			strings.Join(expected, ", "), strings.Join(found, ", "))
	}
}

// awaitEmpty waits until nothing of the jobs is left in NATS.
func (f *fleet) awaitEmpty(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	left := "nobody could look"
	for ctx.Err() == nil {
		found, err := f.leftInNATS(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			left = err.Error()
		case err == nil && found == "":
			return
		case err == nil:
			left = found
		}
		wait(ctx, 200*time.Millisecond)
	}
	f.timeline.violate("left behind in NATS: %s", left)
}

// leftInNATS is what is left of the jobs, empty if nothing is.
func (f *fleet) leftInNATS(ctx context.Context) (string, error) {
	var left []string
	work, err := f.resources.Work.Info(ctx)
	if err != nil {
		return "", err
	}
	if work.State.Msgs > 0 {
		left = append(left, fmt.Sprintf("%d work items", work.State.Msgs))
	}
	streams, unknown, err := protocol.StoredStreams(ctx, f.resources.JetStream)
	if err != nil {
		return "", err
	}
	for _, stream := range streams {
		text := fmt.Sprintf("stream %s since %s of the steps %v", stream.Name, stream.Since.Format(time.TimeOnly), stream.Refs)
		if detail, err := f.client.Plan(ctx, stream.Name.Ref.Plan); err == nil {
			text += ": " + explain(detail)
		}
		left = append(left, text)
	}
	return strings.Join(append(left, unknown...), "; "), nil
}
