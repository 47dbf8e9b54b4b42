// Package worker does a host's share of replication: it claims work items, sends, receives, and answers questions about the
// host's pools. It knows no plan, only steps.
//
// A worker has slots (worker.go). Each slot asks the queue for one item when it is free (claim.go), compares it with the
// host's own policy (policy.go) and with what is really on the pools, by guid, and works on it: as the receiver, which goes
// first and offers the sender a connection (recv.go); as the sender (send.go); or as both at once where they are one host
// (local.go). Package abstractions puts the holds and bookmarks on disk that protect the step. What happens is told in
// events (events.go), which the coordinator turns into the next items.
//
// Everything can happen twice, and several workers may serve a host. Each step works under locks that the host's workers share,
// with a fencing token (claimlock.go): of several claims on a filesystem one runs at a time, and what comes late is dropped. An item
// that is delivered again after its worker's death finds on the pool how far things are.
//
// A worker does nothing that its policy does not allow, whoever published the item.
package worker
