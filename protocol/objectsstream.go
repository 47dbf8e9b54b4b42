// The object store as a way: what the two sides of a stream say to each other about its segments.

package protocol

import (
	"crypto/sha256"
	"time"
)

// ObjectsStream is where a receiver finds the segments of a stream.
type ObjectsStream struct {
	// Name begins the names of the stream's segments in the object store: a StreamName.
	Name string `msgpack:"name"`
	// Subject is where the sender listens for what the receiver says of the stream.
	Subject string `msgpack:"subject"`
	// Stall is the sender's stall time: both sides give signs of life at a third of it.
	Stall time.Duration `msgpack:"stall"`
}

func (o ObjectsStream) validate(ref StepRef) error {
	if o.Subject == "" {
		return Usagef("call for step %s: the stream in the object store has no subject to answer to", ref)
	}
	if o.Stall <= 0 {
		return Usagef("call for step %s: a stall time of %s", ref, o.Stall)
	}
	if _, err := ParseStreamName(o.Name); err != nil {
		return Usagef("call for step %s: %w", ref, err)
	}
	return nil
}

// SegmentsStored is what a sender tells a receiver about the stream, whenever it changes and as a sign of life. It holds
// all that the receiver has not said to have taken, so that any of them may get lost, come twice or late.
type SegmentsStored struct {
	// Stream is the StreamName.
	Stream string `msgpack:"stream"`
	// First is the number of the first of Segments.
	First uint64 `msgpack:"first"`
	// Segments are stored, and in order.
	Segments []StoredSegment `msgpack:"segments,omitempty"`
	// End is the end of the stream, once it is known and all segments are stored.
	End *StreamEnd `msgpack:"end,omitempty"`
	// Failure is why there will be no more of the stream.
	Failure *Failure `msgpack:"failure,omitempty"`
	// Confirmed says that the sender has the receiver's confirmation.
	Confirmed bool `msgpack:"confirmed,omitempty"`
}

// MaxAnnounced is how many segments a SegmentsStored may hold.
const MaxAnnounced = 1024

// StoredSegment is one object that holds a segment.
type StoredSegment struct {
	// Chunks names the object's chunks: the ChunksName.
	Chunks string `msgpack:"chunks"`
	// Count is the number of the chunks, and Sequence that of the first one in the bucket's stream.
	Count    uint32 `msgpack:"count"`
	Sequence uint64 `msgpack:"seq"`
	// Size is the segment's length in bytes, and Digest its SHA-256.
	Size   uint64 `msgpack:"size"`
	Digest []byte `msgpack:"digest"`
}

// StreamEnd says how long a stream was.
type StreamEnd struct {
	Segments uint64 `msgpack:"segments"`
	Bytes    uint64 `msgpack:"bytes"`
}

// Validate tells whether a receiver can act on the message.
func (s SegmentsStored) Validate() error {
	if _, err := ParseStreamName(s.Stream); err != nil {
		return err
	}
	if len(s.Segments) > MaxAnnounced {
		return Usagef("stream %s: %d segments in one message (at most %d)", s.Stream, len(s.Segments), MaxAnnounced)
	}
	for i, segment := range s.Segments {
		if err := segment.validate(); err != nil {
			return Usagef("segment %d of stream %s: %w", s.First+uint64(i), s.Stream, err)
		}
	}
	return nil
}

func (s StoredSegment) validate() error {
	if _, err := ParseChunksName(s.Chunks); err != nil {
		return err
	}
	switch {
	case s.Size == 0 || s.Size > MaxSegment:
		return Usagef("a size of %d bytes (1 to %d)", s.Size, MaxSegment)
	case s.Count == 0 || uint64(s.Count) > s.Size:
		return Usagef("%d chunks of %d bytes", s.Count, s.Size)
	case s.Sequence == 0:
		return Usagef("no sequence of its first chunk")
	case len(s.Digest) != sha256.Size:
		return Usagef("a digest of %d bytes (%d for SHA-256)", len(s.Digest), sha256.Size)
	}
	return nil
}

// SegmentsTaken is what a receiver tells the sender about the stream, whenever it changes and as a sign of life.
type SegmentsTaken struct {
	// Stream is the StreamName, and Ref the receiver's step.
	Stream string  `msgpack:"stream"`
	Ref    StepRef `msgpack:"ref"`
	// Taken is how many segments, from the first on, the receiver has no more need of in the object store.
	Taken uint64 `msgpack:"taken"`
	// Confirmation is how the step has ended for the receiver; nil while it has not.
	Confirmation *Confirmation `msgpack:"confirmation,omitempty"`
	// Heard says that the receiver knows of the sender's failure.
	Heard bool `msgpack:"heard,omitempty"`
}

// Validate tells whether a sender can act on the message.
func (s SegmentsTaken) Validate() error {
	if _, err := ParseStreamName(s.Stream); err != nil {
		return err
	}
	if err := s.Ref.Validate(); err != nil {
		return Usagef("stream %s: receiver: %w", s.Stream, err)
	}
	return nil
}
