// Plans: one run of one job, as kept in the bucket of plans.

package protocol

import "time"

// PlanRequest asks the leader for a plan. Its existence is the request; it is never changed.
type PlanRequest struct {
	Plan PlanID    `msgpack:"plan" json:"plan"`
	Job  string    `msgpack:"job" json:"job"`
	At   time.Time `msgpack:"at" json:"at"`
	// By is who asked, for people: "zctl run", "schedule".
	By string `msgpack:"by" json:"by"`
	// DryRun asks for the plan, with size estimates, and that nothing of it be done.
	DryRun bool `msgpack:"dry_run,omitempty" json:"dry_run,omitempty"`
	// Spec is a job that is not among the submitted ones, for a dry run only.
	Spec *Job `msgpack:"spec,omitempty" json:"spec,omitempty"`
	// Traceparent and Tracestate join the plan's trace to the asker's (W3C Trace Context).
	Traceparent string `msgpack:"traceparent,omitempty" json:"traceparent,omitempty"`
	Tracestate  string `msgpack:"tracestate,omitempty" json:"tracestate,omitempty"`
}

// PlanState is where a plan is.
type PlanState string

// The states of a plan. The last four are final.
const (
	PlanPlanning  PlanState = "planning"
	PlanRunning   PlanState = "running"
	PlanPlanned   PlanState = "planned"   // a dry run, finished
	PlanDone      PlanState = "done"      // everything is replicated
	PlanPartial   PlanState = "partial"   // some filesystems failed
	PlanFailed    PlanState = "failed"    // all that was to do failed, or the planning itself
	PlanCancelled PlanState = "cancelled" // somebody asked to stop
)

// Final tells whether nothing more will happen to a plan in this state.
func (s PlanState) Final() bool {
	switch s {
	case PlanPlanned, PlanDone, PlanPartial, PlanFailed, PlanCancelled:
		return true
	case PlanPlanning, PlanRunning:
	}
	return false
}

// Plan is one run of one job. Its tasks are kept beside it, each under its own key.
type Plan struct {
	ID      PlanID      `msgpack:"id" json:"id"`
	Job     string      `msgpack:"job" json:"job"`
	Spec    Job         `msgpack:"spec" json:"spec"`
	State   PlanState   `msgpack:"state" json:"state"`
	Request PlanRequest `msgpack:"request" json:"request"`
	Started time.Time   `msgpack:"started" json:"started"`
	// Finished is zero until the state is final.
	Finished time.Time `msgpack:"finished" json:"finished"`
	// Tasks is how many tasks there are: filesystem and target pairs that have something to do or a conflict. A dry run
	// has tasks, which are done, for those that are up to date, too.
	Tasks int `msgpack:"tasks" json:"tasks"`
	// UpToDate is how many filesystem and target pairs had nothing to do.
	UpToDate int `msgpack:"up_to_date" json:"up_to_date"`
	// Done and Failed count finished tasks; they are brought up to date when the plan ends.
	Done   int `msgpack:"done" json:"done"`
	Failed int `msgpack:"failed" json:"failed"`
	// Bytes is what all finished steps have sent.
	Bytes uint64 `msgpack:"bytes" json:"bytes"`
	// Waiting says what the plan is waiting for before it has tasks, for people.
	Waiting string `msgpack:"waiting,omitempty" json:"waiting,omitempty"`
	// Failure is why the planning failed.
	Failure *Failure `msgpack:"failure,omitempty" json:"failure,omitempty"`
	// EventSequence is where in the stream of events the plan begins: a new leader reads on from there.
	EventSequence uint64 `msgpack:"event_seq" json:"event_sequence"`
	Traceparent   string `msgpack:"traceparent,omitempty" json:"traceparent,omitempty"`
	Tracestate    string `msgpack:"tracestate,omitempty" json:"tracestate,omitempty"`
}

// TaskState is where a task is.
type TaskState string

// The states of a task. The last four are final.
const (
	TaskReady     TaskState = "ready"     // its next step waits for a free place, or for its parent
	TaskWaiting   TaskState = "waiting"   // nothing can be begun, because one of its hosts has no worker running; Waiting says which
	TaskOffering  TaskState = "offering"  // the receive item is published
	TaskSending   TaskState = "sending"   // the send item is published
	TaskBackoff   TaskState = "backoff"   // the last try failed; the next one comes at NotBefore, after a new look at both sides
	TaskDone      TaskState = "done"      // every step is confirmed
	TaskFailed    TaskState = "failed"    // a step failed for good
	TaskConflict  TaskState = "conflict"  // no step can be planned
	TaskCancelled TaskState = "cancelled" // the plan was cancelled before the task was done
)

// Final tells whether nothing more will happen to a task in this state.
func (s TaskState) Final() bool {
	switch s {
	case TaskDone, TaskFailed, TaskConflict, TaskCancelled:
		return true
	case TaskReady, TaskWaiting, TaskOffering, TaskSending, TaskBackoff:
	}
	return false
}

// Task is what a plan has to do for one filesystem and one target.
type Task struct {
	Plan   PlanID `msgpack:"plan" json:"plan"`
	Number int    `msgpack:"number" json:"number"`
	// Target is the index of the target in the job.
	Target           int    `msgpack:"target" json:"target"`
	TargetHost       Host   `msgpack:"target_host" json:"target_host"`
	JobID            JobID  `msgpack:"job_id" json:"job_id"`
	Filesystem       string `msgpack:"fs" json:"filesystem"`
	TargetFilesystem string `msgpack:"target_fs" json:"target_filesystem"`
	// Common is the newest version that both sides had when the steps were planned, the source's; nil if there was none.
	Common *Version `msgpack:"common,omitempty" json:"common,omitempty"`
	// Partial is what the target had half received when the steps were planned; nil if there was nothing.
	Partial *ResumeState `msgpack:"partial,omitempty" json:"partial,omitempty"`
	// Steps are all steps in order: those done, the one under way, those to come.
	Steps []Step `msgpack:"steps" json:"steps"`
	// Next is the index of the step that is under way or comes next; len(Steps) when nothing is left.
	Next  int       `msgpack:"next" json:"next"`
	State TaskState `msgpack:"state" json:"state"`
	// Attempt counts tries over all steps; Failures counts the transient failures since the last finished step.
	Attempt  int `msgpack:"attempt" json:"attempt"`
	Failures int `msgpack:"failures" json:"failures"`
	// Group joins the tasks that one zfs send serves in the current try; empty is alone.
	Group string `msgpack:"group,omitempty" json:"group,omitempty"`
	// Alone keeps the task's next steps out of groups, because it has failed in one, or was too slow for it.
	Alone bool `msgpack:"alone,omitempty" json:"alone,omitempty"`
	// Waiting says which host the task waits for, for people: "waiting for host bravo (last seen …)". A step that is under way
	// may well be going on; it just cannot be heard of. WaitingSince is since when; zero while both hosts are there.
	Waiting      string    `msgpack:"waiting,omitempty" json:"waiting,omitempty"`
	WaitingSince time.Time `msgpack:"waiting_since" json:"waiting_since"`
	// NotBefore is when a task in back-off goes on.
	NotBefore time.Time `msgpack:"not_before" json:"not_before"`
	// Bytes is what the finished steps have sent.
	Bytes uint64 `msgpack:"bytes" json:"bytes"`
	// Note is what planning has to say that is no failure: what a rollback will destroy.
	Note string `msgpack:"note,omitempty" json:"note,omitempty"`
	// Failure is the last one; a task that is done may have had some.
	Failure *Failure  `msgpack:"failure,omitempty" json:"failure,omitempty"`
	Updated time.Time `msgpack:"updated" json:"updated"`
}

// Expected is the estimated size of all steps that are not finished, in bytes; 0 where nothing is known.
func (t Task) Expected() uint64 {
	var sum uint64
	for i := t.Next; i < len(t.Steps); i++ {
		sum += t.Steps[i].Estimate
	}
	return sum
}

// Cursor is a view of a replication cursor, as of the last confirmed step. The authority is the bookmark on disk.
type Cursor struct {
	Job        string    `msgpack:"job" json:"job"`
	JobID      JobID     `msgpack:"job_id" json:"job_id"`
	Source     Host      `msgpack:"source" json:"source"`
	Target     Host      `msgpack:"target" json:"target"`
	Filesystem string    `msgpack:"fs" json:"filesystem"`
	Version    Version   `msgpack:"version" json:"version"`
	At         time.Time `msgpack:"at" json:"at"`
	Plan       PlanID    `msgpack:"plan" json:"plan"`
}

// Lease is the value of the leader's key: who coordinates, and since when.
type Lease struct {
	Holder string    `msgpack:"holder" json:"holder"`
	Host   string    `msgpack:"host" json:"host"`
	Since  time.Time `msgpack:"since" json:"since"`
}
