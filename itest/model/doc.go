// Package model is a model of the step protocol, small enough to look at every state that it can come to.
//
// It puts together what is real and what is imitated. Real are the coordinator's decisions: package coordinator hands its own
// machine and planner in (its model_test.go), so that what is searched is the code that runs. Imitated are
//
//   - the work queue: at least once, to any worker of the host, again to another while the first still runs;
//   - two worker processes on each host, which carry out the actions of a claim in the order that [Order] says. A test compares
//     that order with what real workers do;
//   - both pools: snapshots, holds, bookmarks and the partial state of one filesystem;
//   - what goes wrong: a process dies between any two actions, a claim is given to another although its worker runs, a
//     connection breaks in the middle of a snapshot, an acknowledgement is lost, a deposed coordinator publishes an old item,
//     a deadline passes too early; and a pruner that destroys whatever snapshot is not held.
//
// [Model.Search] goes through all states, breadth first, and checks in each the invariants of docs/architecture.md (1 to 4, and
// that a task never fails), and where nothing more can happen that everything has arrived, with exactly the holds and
// bookmarks that belong there. What it finds is one of the shortest ways to a violation, told step by step.
//
// A [Bug] can be switched on: a model that does not find those would find nothing.
//
// # What is left out
//
// Actions that nobody can see between are one: see goOn. There is one filesystem, one target and one plan; no groups, no
// cancelling, no hosts that are away. A zfs command has its effect at once, or the process dies before it or after. The clock
// is anywhere: whatever waits for a time may come to its end when nothing else can happen, and, as a fault, before.
// Snapshots between the ends of a range (zfs send -I) are not protected by a step, and so not looked at here.
package model
