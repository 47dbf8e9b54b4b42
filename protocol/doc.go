// Package protocol is what coordinator, workers and zctl must agree on.
//
// It has three layers, each usable without the next:
//
//   - The words: Host, JobID, Version, Step, Job and its options, WorkItem, Event, Plan, Presence, and what else travels
//     between processes or is kept in NATS. Each is a plain struct with a Validate method where a wrong one could do harm.
//     What operators write is read here too: jobs (ParseJob), filters (Filter), durations and sizes.
//   - The wire: Encode and Decode turn messages into msgpack and bytes from anybody into messages, within bounds of size,
//     depth and length that hold before anything is decoded. NewMessage and ReadMessage add and check the headers:
//     the protocol version, and the trace. EscapeToken makes any string a token of a subject or key, and subject.go
//     names every subject, stream, bucket and key.
//   - NATS: Connect, EnsureResources and OpenResources, EnsureWorkConsumer, Publish, PutTTL.
//
// Failures travel as values (Failure) whose kind says what can be done about them; the same type is the error that the
// functions of this package return, so that a caller tells transient from permanent with KindOf.
//
// The package imports nothing else of the project, keeps no state, and its pure part does no I/O. docs/protocol.md describes
// the wire for readers who do not read Go.
package protocol
