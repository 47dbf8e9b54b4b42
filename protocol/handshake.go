// The handshake of a data connection: what sender and receiver say to each other around the stream.

package protocol

import "time"

// StreamHeader is what the sender says before the stream.
type StreamHeader struct {
	Ref   StepRef `msgpack:"ref"`
	JobID JobID   `msgpack:"job_id"`
	// FromGUID is 0 for a full send.
	FromGUID uint64 `msgpack:"from"`
	ToGUID   uint64 `msgpack:"to"`
	// Resumed says that the stream goes on where the offered resume token ends.
	Resumed bool `msgpack:"resumed,omitempty"`
	// RefusedToken is why the sender did not use the offered resume token. No stream follows: the receiver abandons its
	// partial state, and the step is tried again.
	RefusedToken string `msgpack:"refused_token,omitempty"`
	// Expected is the stream's estimated size in bytes; 0 where it is not known.
	Expected uint64 `msgpack:"expected,omitempty"`
	// Compression is the algorithm that is to be undone; empty is none.
	Compression Compression `msgpack:"compression,omitempty"`
	// Traceparent and Tracestate join the receiver's span to the sender's.
	Traceparent string `msgpack:"traceparent,omitempty"`
	Tracestate  string `msgpack:"tracestate,omitempty"`
}

// Confirmation is what the receiver says after it has received the stream, checked To's guid and protected it; or why
// that is not so.
type Confirmation struct {
	ToGUID  uint64        `msgpack:"to"`
	Bytes   uint64        `msgpack:"bytes"`
	Elapsed time.Duration `msgpack:"elapsed"`
	// Failure is nil when the receiver has To.
	Failure *Failure `msgpack:"failure,omitempty"`
}
