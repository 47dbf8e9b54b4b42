// Package bandwidth holds streams to the limits of their job and of their host.
//
// There is one token bucket for each job and direction, which all steps of the job on this host share, and one for each
// direction of the host, which all jobs share. A step waits for both before it moves bytes:
//
//	step ─┐
//	step ─┴▶ job "a", sending ─┐
//	step ───▶ job "b", sending ─┴▶ host, sending ──▶ bytes move
//
// A request is split into pieces of an eighth of a second, and pieces are served in the order in which they were asked
// for, so that steps that share a bucket get equal shares of it. After a pause, an eighth of a second's worth may pass at
// once.
//
// Limits have schedules (protocol.BandwidthLimit), in the local time of the host. Who waits follows them: when a limit
// changes, because the clock has got there or because Set was called, each wait under way begins anew with the new one.
// So there is no goroutine, and nothing to close.
package bandwidth
