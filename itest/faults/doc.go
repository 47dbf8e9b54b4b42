// Package faults is the fault harness: it runs a whole fleet in one process on pools in memory, does to it what fleets suffer,
// and checks that nothing is lost.
//
// A seed gives a [Schedule] (schedule.go): two or three jobs among four hosts with two workers each, and a few dozen things
// that happen to them within some seconds: NATS servers, coordinators and workers are killed and started again, paused and cut
// off; messages are lost, doubled and delayed; zfs commands fail or hang before or after their effect, streams break off;
// operators take and destroy snapshots, put holds, change jobs, cancel plans and run jobs once more; clocks jump. [Run]
// plays it (run.go), then lets everything come back, runs the jobs until they are done, and compares (settle.go).
//
// The invariants of docs/architecture.md are checked at every change of every pool, not by looking now and then: the fake
// pools tell an [observer] each of them (observer.go). Which changes there are at which instant is not the seed's to say, since
// the fleet's processes run as they like; the schedule is the same for the same seed, and a seed that fails once mostly fails
// again.
//
//	go test ./itest/faults -seeds 50          # the first 50 seeds
//	go test ./itest/faults -seed 7 -v         # one, with what happened
//	go test ./itest/faults -seed 7 -shrink    # the least of its faults that still fail
//	go test ./itest/faults -soak 4h -timeout 0
//
// A seed that fails prints a timeline: what was done to the fleet, what zfs commands changed, what the steps told, and which
// invariant was violated when.
package faults
