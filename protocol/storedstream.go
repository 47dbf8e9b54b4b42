// Stored streams: what there is of streams in the object store, whose it is, and its removal.

package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// StoredStream is a stream of which something is in BucketStreams.
type StoredStream struct {
	Name StreamName
	// Refs are the steps of all receivers. It is nil where the object that stands for the stream is gone: that one is stored
	// first and removed last, so what is left then is what a removal has not reached.
	Refs []StepRef
	// Since is when the stream was begun, or where that is not known, when the last was stored of it.
	Since time.Time

	subjects []string
}

// stepsOfStream is the object metadata's key for the steps that a stream is for.
const stepsOfStream = "zfleet-steps"

// StreamsStream is the JetStream stream behind BucketStreams.
const StreamsStream = "OBJ_" + BucketStreams

// StoreStreamObject stores the object that stands for the stream, before anything else is stored of it.
func StoreStreamObject(ctx context.Context, js jetstream.JetStream, name StreamName, refs []StepRef) error {
	steps := make([]string, len(refs))
	for i, ref := range refs {
		steps[i] = ref.String()
	}
	message, err := ObjectMetaMessage(jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{
			Name:        name.String(),
			Description: "zfleet: a stream under way",
			Metadata:    map[string]string{stepsOfStream: strings.Join(steps, " ")},
		},
		NUID: EscapeToken(name.String()),
	})
	if err != nil {
		return err
	}
	if _, err := js.PublishMsg(ctx, message); err != nil {
		return StreamsError(fmt.Sprintf("storing the object for stream %s in the bucket %s", name, BucketStreams), err)
	}
	return nil
}

// ObjectMetaMessage is the message by which BucketStreams knows of an object (ADR-20).
func ObjectMetaMessage(info jetstream.ObjectInfo) (*nats.Msg, error) {
	info.Bucket = BucketStreams
	data, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", info.Name, err)
	}
	message := nats.NewMsg(ObjectMetaSubject(info.Name))
	message.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	message.Data = data
	return message, nil
}

// StreamsFull tells whether err is NATS's refusal of what is beyond the quota of BucketStreams.
func StreamsFull(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	const storeFailed, resourcesExceeded = 10077, 10047 // JSStreamStoreFailedF, JSStorageResourcesExceededErr in nats-server
	return api.ErrorCode == resourcesExceeded ||
		(api.ErrorCode == storeFailed && strings.Contains(api.Description, "maximum bytes exceeded"))
}

// StreamsError is an error of NATS about BucketStreams, with what was being done; where the bucket is full, it says what an
// operator can do.
func StreamsError(doing string, err error) error {
	if StreamsFull(err) {
		return Failf(Transient, "%s: the bucket is full: raise its quota (coordinator.streams.max_bytes), or let a stream have"+
			" less of it (replication.objects.window), or fewer streams run at once (replication.concurrency.steps): %w", doing, err)
	}
	return NATSError(doing, err)
}

// StoredStreams are all streams of which something is in BucketStreams, in no order, and the objects and subjects there that
// are of no stream.
func StoredStreams(ctx context.Context, js jetstream.JetStream) (streams []StoredStream, unknown []string, err error) {
	doing := "listing the bucket " + BucketStreams
	stream, err := js.Stream(ctx, StreamsStream)
	if err != nil {
		return nil, nil, NATSError(doing, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter("$O."+BucketStreams+".>"))
	if err != nil {
		return nil, nil, NATSError(doing, err)
	}
	subjects := map[StreamName][]string{}
	for subject := range info.State.Subjects {
		name, err := streamOfSubject(subject)
		if err != nil {
			unknown = append(unknown, subject)
			continue
		}
		subjects[name] = append(subjects[name], subject)
	}
	slices.Sort(unknown)
	for name, of := range subjects {
		stored := StoredStream{Name: name, subjects: of}
		if err := stored.look(ctx, stream); err != nil {
			return nil, nil, NATSError(doing, err)
		}
		if !stored.Since.IsZero() {
			streams = append(streams, stored)
		}
	}
	return streams, unknown, nil
}

// look finds out whose the stream is and when it was begun. Since stays zero if all of it is gone in this moment.
func (s *StoredStream) look(ctx context.Context, stream jetstream.Stream) error {
	last, err := stream.GetLastMsgForSubject(ctx, ObjectMetaSubject(s.Name.String()))
	switch {
	case err == nil:
		s.Since = last.Time
		s.Refs = refsOfObject(last.Data)
		return nil
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return err
	}
	for _, subject := range s.subjects {
		last, err := stream.GetLastMsgForSubject(ctx, subject)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
		case err != nil:
			return err
		case last.Time.After(s.Since):
			s.Since = last.Time
		}
	}
	return nil
}

// refsOfObject reads the steps from the object that stands for a stream. What cannot be read is no step's.
func refsOfObject(data []byte) []StepRef {
	var info jetstream.ObjectInfo
	if json.Unmarshal(data, &info) != nil {
		return nil
	}
	var refs []StepRef
	for _, text := range strings.Fields(info.Metadata[stepsOfStream]) {
		if ref, err := ParseStepRef(text); err == nil {
			refs = append(refs, ref)
		}
	}
	return refs
}

// Remove removes all that StoredStreams has found of the stream, the object that stands for it last. What is gone already
// is no error.
func (s StoredStream) Remove(ctx context.Context, js jetstream.JetStream) error {
	doing := fmt.Sprintf("removing stream %s from the bucket %s", s.Name, BucketStreams)
	stream, err := js.Stream(ctx, StreamsStream)
	if err != nil {
		return NATSError(doing, err)
	}
	own := ObjectMetaSubject(s.Name.String())
	for _, subject := range s.subjects {
		if subject == own {
			continue
		}
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return NATSError(doing, err)
		}
	}
	return RemoveStreamObject(ctx, stream, s.Name)
}

// RemoveSegment removes the object that holds a segment, whatever try of it chunks names. Nothing of it stays, as the
// tombstone of an object store's delete would.
func RemoveSegment(ctx context.Context, stream jetstream.Stream, chunks ChunksName) error {
	for _, subject := range []string{ObjectMetaSubject(chunks.Segment.String()), ObjectChunksSubject(chunks.String())} {
		if err := stream.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
			return NATSError(fmt.Sprintf("removing segment %s from the bucket %s", chunks.Segment, BucketStreams), err)
		}
	}
	return nil
}

// RemoveStreamObject removes the object that stands for the stream, after all else of it.
func RemoveStreamObject(ctx context.Context, stream jetstream.Stream, name StreamName) error {
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(ObjectMetaSubject(name.String()))); err != nil {
		return NATSError(fmt.Sprintf("removing the object for stream %s from the bucket %s", name, BucketStreams), err)
	}
	return nil
}
