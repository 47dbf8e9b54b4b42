// Package fleet is what an operator's program does with a fleet: submit jobs, ask for plans, cancel them, watch them run,
// and look at hosts, cursors, abstractions and events.
//
// All of it goes through what the fleet keeps in NATS. There is no request to the coordinator: a job is a value in the
// bucket of jobs, a request for a plan is a value in the bucket of plans, and whoever leads acts on it, now or when it
// comes back. So a [Client] needs no coordinator to be there, and says so where one is missing.
//
// No call waits for ever. Each request to NATS is bounded by the client's timeout, and [Client.Watch], which lasts as long
// as a plan does, goes on through lost connections and changes of leader, but for no longer than its caller's patience.
//
// Errors are of the kinds of package protocol, and say what to do next.
package fleet
