package protocol_test

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// brittleStream is a stream whose consumers end after so many messages, and of which every other one cannot be made.
type brittleStream struct {
	jetstream.Stream

	after, made int
}

type brittleConsumer struct {
	jetstream.Consumer

	after int
}

type brittleMessages struct {
	jetstream.MessagesContext

	left int
}

func (s *brittleStream) OrderedConsumer(ctx context.Context, config jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	s.made++
	if s.made%2 == 0 {
		return nil, jetstream.ErrNoStreamResponse
	}
	consumer, err := s.Stream.OrderedConsumer(ctx, config)
	return brittleConsumer{consumer, s.after}, err
}

func (c brittleConsumer) Messages(options ...jetstream.PullMessagesOpt) (jetstream.MessagesContext, error) {
	messages, err := c.Consumer.Messages(options...)
	return &brittleMessages{messages, c.after}, err
}

func (m *brittleMessages) Next(options ...jetstream.NextOpt) (jetstream.Msg, error) {
	if m.left == 0 {
		return nil, errors.New("the consumer could not be made anew")
	}
	m.left--
	return m.MessagesContext.Next(options...)
}

func TestAStreamIsReadInOrderByOneConsumerAfterAnother(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	publish := func(number int) {
		_, err := js.Publish(t.Context(), "s.x", []byte(strconv.Itoa(number)))
		require.NoError(t, err)
	}
	const count = 7
	for number := range count {
		publish(number)
	}
	brittle := &brittleStream{Stream: stream, after: 2}
	reader, err := protocol.NewStreamReader(t.Context(), brittle, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: 2,
	})
	require.NoError(t, err)
	defer reader.Close()
	for number := 1; number < count; number++ {
		message, err := reader.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, strconv.Itoa(number), string(message.Data()))
	}
	require.Equal(t, 5, brittle.made, "three consumers, and two that could not be made")

	impatient, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = reader.Next(impatient)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	publish(count)
	message, err := reader.Next(t.Context())
	require.NoError(t, err, "after an end of patience it goes on")
	require.Equal(t, strconv.Itoa(count), string(message.Data()))
}

func TestAStreamThatIsGoneIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "s.x", nil)
	require.NoError(t, err)
	reader, err := protocol.NewStreamReader(t.Context(), &brittleStream{Stream: stream, after: 1}, jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	defer reader.Close()
	_, err = reader.Next(t.Context())
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "S"))
	_, err = reader.Next(t.Context())
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}
