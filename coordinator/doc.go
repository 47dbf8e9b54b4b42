// Package coordinator turns jobs into replication plans and plans into work.
//
// Any number of coordinators may run. The one that holds the lease (lease.go) leads for a term (leader.go): it watches
// the bucket of plans for requests, and gives every plan a runner (runner.go). The runner asks the workers of the job's
// hosts for their inventories (inventory.go), lets the pure planner in coordinator/plan compare them, and stores one task
// for each filesystem and target that has something to do (planning.go). From then on it feeds the workers' events to a
// pure state machine (machine.go) and carries out what that answers: publish a work item, store a task, look at both
// sides again, record a cursor.
//
// The coordinator knows no ZFS command and keeps no truth. What has been replicated is told by the pools; the records in
// NATS are intent and view. After a failed try of a step, both sides are inventoried anew and the rest of the task is
// planned from what is really there, so that a partial state is resumed and a half-finished range goes on where it
// stopped.
//
// A term's end stops everything at once: every record is written by compare-and-set on the revision that this term has
// read, so a leader that was deposed without noticing cannot overwrite its successor's (store.go). A new leader reads the
// plans that have not ended, replays the events since each began, and goes on; transfers in flight do not notice.
package coordinator
