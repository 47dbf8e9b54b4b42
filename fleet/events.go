// Events: the audit trail, and reading the messages of a stream.

package fleet

import (
	"context"
	"iter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// EventQuery says which events are wanted.
type EventQuery struct {
	// Plan wants the events of one plan; empty wants those of all.
	Plan protocol.PlanID
	// Since leaves out what is older; zero wants all that is kept.
	Since time.Time
	// Follow goes on with events as they happen, until the context ends.
	Follow bool
}

// EventRecord is an event as the stream keeps it.
type EventRecord struct {
	// Sequence is its place in the stream.
	Sequence uint64    `json:"sequence"`
	Stored   time.Time `json:"stored"`
	Subject  string    `json:"subject"`
	// Event is nil where the message could not be read, and Problem says why.
	Event   *protocol.Event `json:"event,omitempty"`
	Problem string          `json:"problem,omitempty"`
}

// Events gives events in the order of the stream. It ends with what was there when it began, or, following, with ctx.
func (c *Client) Events(ctx context.Context, query EventQuery) iter.Seq2[EventRecord, error] {
	subject := protocol.EventSubjects
	if query.Plan != "" {
		subject = protocol.EventSubjectOfPlan(query.Plan)
	}
	return func(yield func(EventRecord, error) bool) {
		if query.Plan != "" {
			if err := query.Plan.Validate(); err != nil {
				yield(EventRecord{}, err)
				return
			}
		}
		for message, err := range c.messages(ctx, c.resources.Events, subject, query.Since, query.Follow) {
			if err != nil {
				yield(EventRecord{}, c.explain(err, "read events"))
				return
			}
			record := EventRecord{Sequence: message.sequence, Stored: message.stored, Subject: message.Subject()}
			var event protocol.Event
			if err := protocol.ReadMessage(message.Headers(), message.Data(), &event); err != nil {
				record.Problem = err.Error()
			} else {
				record.Event = &event
			}
			if !yield(record, nil) {
				return
			}
		}
	}
}

// streamMessage is a message with its place in the stream.
type streamMessage struct {
	jetstream.Msg
	sequence uint64
	stored   time.Time
}

// messages gives a stream's messages in order: those that are there, and further ones where follow says so. Reading what is
// there waits no longer for each message than the client's timeout.
func (c *Client) messages(ctx context.Context, stream jetstream.Stream, subject string, since time.Time, follow bool) iter.Seq2[streamMessage, error] {
	config := jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, DeliverPolicy: jetstream.DeliverAllPolicy, InactiveThreshold: abandonedAfter,
	}
	if !since.IsZero() {
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	return func(yield func(streamMessage, error) bool) {
		opening, cancel := c.bounded(ctx)
		defer cancel()
		reader, err := protocol.NewStreamReader(opening, stream, config)
		if err != nil {
			yield(streamMessage{}, err)
			return
		}
		defer func() { c.release(ctx, stream, reader.Consumer()) }()
		defer reader.Close()
		if !follow && reader.Consumer().CachedInfo().NumPending == 0 {
			return
		}
		for {
			message, err := c.next(ctx, reader, follow)
			switch {
			case follow && ctx.Err() != nil:
				return
			case err != nil:
				yield(streamMessage{}, err)
				return
			}
			metadata, err := message.Metadata()
			if err != nil {
				yield(streamMessage{}, err)
				return
			}
			if !yield(streamMessage{Msg: message, sequence: metadata.Sequence.Stream, stored: metadata.Timestamp.UTC()}, nil) {
				return
			}
			if !follow && metadata.NumPending == 0 {
				return
			}
		}
	}
}

func (c *Client) next(ctx context.Context, reader *protocol.StreamReader, follow bool) (jetstream.Msg, error) {
	if follow {
		return reader.Next(ctx)
	}
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	return reader.Next(ctx)
}

// abandonedAfter is when the server removes a consumer whose reader has died.
const abandonedAfter = time.Minute

// release removes a consumer from which nothing more is read. The server would remove it after a while, but a program that
// watches many plans would have many of them by then.
func (c *Client) release(ctx context.Context, stream jetstream.Stream, consumer jetstream.Consumer) {
	info := consumer.CachedInfo()
	if info == nil || !c.conn.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	_ = stream.DeleteConsumer(ctx, info.Name) // if that fails, the server does it
}
