// Segments: storing one in the object store.

package object

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"hash"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// block is the room for one chunk.
type block struct{ bytes []byte }

// segment is a part of the stream on its way into the object store. It is used by one goroutine at a time.
type segment struct {
	name   protocol.ChunksName // with the current try
	blocks []*block
	size   int64
	digest hash.Hash
	// acks are those of the current try's messages; err is why one could not even be published.
	acks []jetstream.PubAckFuture
	err  error
}

func newSegment(stream protocol.StreamName, number uint64) *segment {
	return &segment{
		name:   protocol.ChunksName{Segment: protocol.SegmentName{Stream: stream, Number: number}},
		digest: sha256.New(),
	}
}

// block is an unused block with room for size bytes.
func (s *Store) block(size int) *block {
	if b, ok := s.blocks.Get().(*block); ok && cap(b.bytes) >= size {
		b.bytes = b.bytes[:size]
		return b
	}
	return &block{bytes: make([]byte, size)}
}

// release gives the segment's blocks back. Nothing may be under way that reads them.
func (s *Store) release(of *segment) {
	for _, b := range of.blocks {
		s.blocks.Put(b)
	}
	of.blocks = nil
}

// add appends a block to the segment, and publishes it.
func (g *segment) add(publisher jetstream.JetStream, b *block) {
	g.blocks = append(g.blocks, b)
	g.size += int64(len(b.bytes))
	g.publish(publisher, &nats.Msg{Subject: protocol.ObjectChunksSubject(g.name.String()), Data: b.bytes})
	g.digest.Write(b.bytes)
}

// publish publishes a message of the current try. Without retries of the client's, which would change the order of the
// chunks. After an error nothing more is published: settle sees to it.
func (g *segment) publish(publisher jetstream.JetStream, message *nats.Msg) {
	if g.err != nil {
		return
	}
	ack, err := publisher.PublishMsgAsync(message, jetstream.WithRetryAttempts(0), jetstream.WithStallWait(lastWords))
	if err != nil {
		g.err = err
		return
	}
	g.acks = append(g.acks, ack)
}

// seal publishes what the object store knows of the segment, after its last chunk.
func (g *segment) seal(publisher jetstream.JetStream) {
	sum := g.digest.Sum(nil)
	message, err := protocol.ObjectMetaMessage(jetstream.ObjectInfo{
		ObjectMeta: jetstream.ObjectMeta{
			Name: g.name.Segment.String(),
			Opts: &jetstream.ObjectMetaOptions{ChunkSize: uint32(cap(g.blocks[0].bytes))}, //nolint:gosec // below max_payload
		},
		NUID:   g.name.String(),
		Size:   uint64(g.size),        //nolint:gosec // counted up from zero
		Chunks: uint32(len(g.blocks)), //nolint:gosec // at most MaxSegment
		Digest: digestText(sum),
	})
	if err != nil {
		g.err = err
		return
	}
	g.publish(publisher, message)
}

// digestText is a SHA-256 as the object store writes it.
func digestText(sum []byte) string { return "SHA-256=" + base64.URLEncoding.EncodeToString(sum) }

// await waits for the acknowledgements of the current try, all of them, and returns the sequence of the first chunk.
func (g *segment) await(ctx context.Context) (uint64, error) {
	first, err := uint64(0), g.err
	for _, ack := range g.acks {
		select {
		case stored := <-ack.Ok():
			if first == 0 {
				first = stored.Sequence
			}
		case refused := <-ack.Err():
			if err == nil {
				err = refused
			}
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	g.acks, g.err = nil, nil
	return first, err
}

// again publishes the segment as another try.
func (g *segment) again(publisher jetstream.JetStream) {
	for _, b := range g.blocks {
		g.publish(publisher, &nats.Msg{Subject: protocol.ObjectChunksSubject(g.name.String()), Data: b.bytes})
	}
	g.seal(publisher)
}

// stored is what the receivers are told of the segment, the first of whose chunks has the sequence.
func (g *segment) stored(sequence uint64) protocol.StoredSegment {
	return protocol.StoredSegment{
		Chunks: g.name.String(), Count: uint32(len(g.blocks)), Sequence: sequence, //nolint:gosec // at most MaxSegment
		Size: uint64(g.size), Digest: g.digest.Sum(nil), //nolint:gosec // counted up from zero
	}
}
