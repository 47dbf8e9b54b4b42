// Reading a stream in order, whatever becomes of the servers that it is read from.

package protocol

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go/jetstream"
)

// StreamReader gives a stream's messages in order, each once, with one ordered consumer after another (ADR-17). It is used by one
// goroutine at a time.
//
// An ordered consumer of the client library asks for its successor under one and the same name until it gets it. A cluster may
// have given that name to a server that has just died, and answers to it when that one is back. So the reader lets the library
// ask once, and begins another consumer after that.
type StreamReader struct {
	stream   jetstream.Stream
	config   jetstream.OrderedConsumerConfig
	consumer jetstream.Consumer
	messages jetstream.MessagesContext // nil while there is none
}

const (
	// readerTry is how long one consumer may take to be made.
	readerTry = 10 * time.Second
	// readerHeartbeat is how often the server says that a consumer without messages is there; missing two of them is its end.
	readerHeartbeat = 5 * time.Second
)

// NewStreamReader begins to read as the configuration says. It asks once, for at most 10 seconds; Close has to be called if it
// succeeds.
func NewStreamReader(ctx context.Context, stream jetstream.Stream, config jetstream.OrderedConsumerConfig) (*StreamReader, error) {
	config.MaxResetAttempts = 1
	r := &StreamReader{stream: stream, config: config}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *StreamReader) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readerTry)
	defer cancel()
	consumer, err := r.stream.OrderedConsumer(ctx, r.config)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullHeartbeat(readerHeartbeat))
	if err != nil {
		return err
	}
	r.consumer, r.messages = consumer, messages
	return nil
}

// Consumer is the consumer that is read from at the moment.
func (r *StreamReader) Consumer() jetstream.Consumer { return r.consumer }

// Next waits for the next message. It returns an error when ctx ends, after which it can be called again, or when the stream
// cannot be read any more.
func (r *StreamReader) Next(ctx context.Context) (jetstream.Msg, error) {
	for {
		if r.messages == nil {
			if err := r.reopen(ctx); err != nil {
				return nil, err
			}
		}
		message, err := r.messages.Next(jetstream.NextContext(ctx))
		if err == nil {
			var metadata *jetstream.MsgMetadata
			if metadata, err = message.Metadata(); err != nil {
				return nil, err
			}
			r.config.DeliverPolicy, r.config.OptStartTime = jetstream.DeliverByStartSequencePolicy, nil
			r.config.OptStartSeq = metadata.Sequence.Stream + 1
			return message, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.Close()
	}
}

// reopen makes consumers until one is there.
func (r *StreamReader) reopen(ctx context.Context) error {
	intervals := backoff.NewExponentialBackOff()
	intervals.MaxInterval = readerTry
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := r.open(ctx)
		if err != nil && !Passing(ctx, err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(intervals), backoff.WithMaxElapsedTime(0))
	return err
}

// Close ends the reading. It may be called more than once.
func (r *StreamReader) Close() {
	if r.messages != nil {
		r.messages.Stop()
		r.messages = nil
	}
}
