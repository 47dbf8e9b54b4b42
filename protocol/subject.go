// Names: the subjects, streams, buckets and keys that the fleet uses.

package protocol

import (
	"strconv"
	"strings"
)

// The streams.
const (
	StreamWork        = "ZFLEET_WORK"
	StreamEvents      = "ZFLEET_EVENTS"
	StreamDeadLetters = "ZFLEET_DEADLETTERS"
)

// The key-value buckets.
const (
	BucketJobs    = "zfleet-jobs"
	BucketPlans   = "zfleet-plans"
	BucketCursors = "zfleet-cursors"
	BucketHosts   = "zfleet-hosts"
	BucketLeader  = "zfleet-leader"
)

// BucketStreams is the object store for the segments of streams.
const BucketStreams = "zfleet-streams"

// The subjects of the streams, with wildcards.
const (
	WorkSubjects       = "zfleet.work.*.*"
	EventSubjects      = "zfleet.event.>"
	DeadLetterSubjects = "zfleet.deadletter.*"
)

// The verbs of a host's micro service, the last token of its subjects.
const (
	VerbInventory    = "inventory"
	VerbEstimate     = "estimate"
	VerbAbstractions = "abstractions"
	VerbRelease      = "release"
	VerbMigrate      = "migrate"
)

// LeaderKey is the key of the coordinator's lease in BucketLeader.
const LeaderKey = "leader"

// WorkSubject is where work items for a role on a host are published.
func WorkSubject(host Host, role Role) string {
	return "zfleet.work." + EscapeToken(string(host)) + "." + EscapeToken(string(role))
}

// WorkConsumer is the name of the durable consumer of WorkSubject, which all workers of the host share.
func WorkConsumer(host Host, role Role) string {
	return EscapeToken(string(host)) + "-" + EscapeToken(string(role))
}

// EventSubject is where the event is published: "zfleet.event.<host>.<plan>.<task>-<step>.<kind>". The host comes first, so that
// NATS can keep one host from speaking for another.
func EventSubject(event Event) string {
	return "zfleet.event." + EscapeToken(string(event.Host)) + "." + EscapeToken(string(event.Ref.Plan)) + "." +
		event.Ref.StepToken() + "." + EscapeToken(string(event.Kind))
}

// EventSubjectOfPlan matches the subjects of all events of a plan.
func EventSubjectOfPlan(plan PlanID) string {
	return "zfleet.event.*." + EscapeToken(string(plan)) + ".>"
}

// RPCSubject is where the host's workers answer requests for the verb.
func RPCSubject(host Host, verb string) string {
	return "zfleet.rpc." + EscapeToken(string(host)) + "." + EscapeToken(verb)
}

// StreamSubject is where a worker of the host hears, through NATS, about one stream that it sends or receives. id is not to
// be guessed.
func StreamSubject(host Host, id string) string {
	return "zfleet.stream." + EscapeToken(string(host)) + "." + EscapeToken(id)
}

// DeadLetterSubject is where a host or coordinator publishes the messages that it could not act on.
func DeadLetterSubject(reporter string) string { return "zfleet.deadletter." + EscapeToken(reporter) }

// JobKey is a job's key in BucketJobs.
func JobKey(name string) string { return EscapeToken(name) }

// PlanKeyKind is what a key in BucketPlans is for.
type PlanKeyKind string

// The kinds of key in BucketPlans, each the second token of its keys.
const (
	PlanKeyRequest PlanKeyKind = "request"
	PlanKeyCancel  PlanKeyKind = "cancel"
	PlanKeyHead    PlanKeyKind = "head"
	PlanKeyTask    PlanKeyKind = "task"
)

// PlanRequestKey is the key of the plan's PlanRequest in BucketPlans.
func PlanRequestKey(id PlanID) string { return planKey(id, PlanKeyRequest) }

// PlanCancelKey is the key in BucketPlans whose existence asks for the plan to stop.
func PlanCancelKey(id PlanID) string { return planKey(id, PlanKeyCancel) }

// PlanKey is the key of the Plan itself in BucketPlans.
func PlanKey(id PlanID) string { return planKey(id, PlanKeyHead) }

// TaskKey is the key of one of the plan's tasks in BucketPlans.
func TaskKey(id PlanID, number int) string {
	return planKey(id, PlanKeyTask) + "." + strconv.Itoa(number)
}

// PlanKeys matches all keys of a plan in BucketPlans.
func PlanKeys(id PlanID) string { return EscapeToken(string(id)) + ".>" }

func planKey(id PlanID, kind PlanKeyKind) string { return EscapeToken(string(id)) + "." + string(kind) }

// ParsePlanKey takes a key of BucketPlans apart; number is that of the task, and 0 for the other kinds. A key that none of
// the functions above makes is an error of kind Usage.
func ParsePlanKey(key string) (id PlanID, kind PlanKeyKind, number int, err error) {
	tokens := strings.Split(key, ".")
	if len(tokens) < 2 {
		return "", "", 0, Usagef("key %q in bucket %s is none of a plan", key, BucketPlans)
	}
	id, kind = PlanID(tokens[0]), PlanKeyKind(tokens[1])
	if err := id.Validate(); err != nil {
		return "", "", 0, Usagef("key %q in bucket %s: %w", key, BucketPlans, err)
	}
	switch {
	case kind == PlanKeyTask && len(tokens) == 3:
		number, err = strconv.Atoi(tokens[2])
		if err == nil && number >= 0 && strconv.Itoa(number) == tokens[2] {
			return id, kind, number, nil
		}
	case (kind == PlanKeyRequest || kind == PlanKeyCancel || kind == PlanKeyHead) && len(tokens) == 2:
		return id, kind, 0, nil
	}
	return "", "", 0, Usagef("key %q in bucket %s is none of a plan", key, BucketPlans)
}

// CursorKey is the key of a cursor's view in BucketCursors.
func CursorKey(job string, target JobID, filesystem string) string {
	return EscapeToken(job) + "." + EscapeToken(string(target)) + "." + EscapeToken(filesystem)
}

// HostKey is the key of a worker's presence in BucketHosts.
func HostKey(host Host, worker string) string {
	return EscapeToken(string(host)) + "." + EscapeToken(worker)
}

// ParseHostKey takes a key of BucketHosts apart. A key that HostKey does not make is an error of kind Usage.
func ParseHostKey(key string) (host Host, worker string, err error) {
	first, second, found := strings.Cut(key, ".")
	name, err := UnescapeToken(first)
	if err == nil {
		worker, err = UnescapeToken(second)
	}
	if err == nil {
		err = Host(name).Validate()
	}
	if err != nil || !found || HostKey(Host(name), worker) != key {
		return "", "", Usagef("key %q in bucket %s is none of a worker", key, BucketHosts)
	}
	return Host(name), worker, nil
}
