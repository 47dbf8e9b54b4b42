package protocol_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func TestNATSErrorsSayWhetherTheyPassAndWhatToDo(t *testing.T) {
	t.Parallel()
	refused := func(status int, code jetstream.ErrorCode, text string) error {
		return fmt.Errorf("put: %w", &jetstream.APIError{Code: status, ErrorCode: code, Description: text})
	}
	for name, test := range map[string]struct {
		err    error
		kind   protocol.FailureKind
		advice string
	}{
		"a full store":             {refused(500, 10047, "insufficient storage resources available"), protocol.Transient, "max_file_store"},
		"a full server":            {refused(503, 10023, "insufficient resources"), protocol.Transient, "max_file_store"},
		"a stream's limit":         {refused(503, 10077, "maximum messages exceeded"), protocol.Transient, "nats stream info"},
		"an account's limit":       {refused(400, 10002, "resource limits exceeded for account"), protocol.Transient, "nats account info"},
		"too few servers":          {refused(400, 10005, "no suitable peers for placement"), protocol.Transient, "coordinator.replicas"},
		"no leader":                {refused(503, 10008, "JetStream system temporarily unavailable"), protocol.Transient, "no leader"},
		"another trouble":          {refused(500, 10051, "stream failure"), protocol.Transient, "stream failure"},
		"nobody answers":           {jetstream.ErrNoStreamResponse, protocol.Transient, "nats server report jetstream"},
		"no answer in time":        {context.DeadlineExceeded, protocol.Transient, "deadline"},
		"the connection is closed": {nats.ErrConnectionClosed, protocol.Transient, "closed"},
		"a message too large":      {nats.ErrMaxPayload, protocol.Permanent, "max_payload"},
		"a stream's message limit": {refused(400, 10054, "message size exceeds maximum allowed"), protocol.Permanent, "--max-msg-size"},
		"another's revision":       {refused(400, 10071, "wrong last sequence: 7"), protocol.Permanent, "wrong last sequence"},
		"no such key":              {jetstream.ErrKeyNotFound, protocol.Permanent, "not found"},
		"a failure already":        {protocol.Failf(protocol.Policy, "not allowed"), protocol.Policy, "not allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := protocol.NATSError("writing the plan", test.err)
			require.ErrorIs(t, err, test.err)
			require.Equal(t, test.kind, protocol.KindOf(err, protocol.Usage), "%s", err)
			require.ErrorContains(t, err, "writing the plan: ")
			require.ErrorContains(t, err, test.advice)
			require.Equal(t, test.kind == protocol.Transient, protocol.Passing(t.Context(), test.err))
		})
	}
	require.NoError(t, protocol.NATSError("writing the plan", nil))
	require.False(t, protocol.Passing(t.Context(), nil))
	ended, end := context.WithCancel(t.Context())
	end()
	require.False(t, protocol.Passing(ended, errors.New("anything")), "what was ended does not pass")
	require.False(t, protocol.Passing(t.Context(), fmt.Errorf("ask: %w", context.Canceled)))
}

// full is a server with room for so many bytes, and a stream that has taken them all.
func full(t *testing.T, room int64) jetstream.JetStream {
	t.Helper()
	_, js := natstest.Connect(t, natstest.Start(t, natsserver.Options{MaxStore: room}))
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FILL", Subjects: []string{"fill"}})
	require.NoError(t, err)
	for err == nil {
		_, err = js.Publish(t.Context(), "fill", make([]byte, room/16))
	}
	return js
}

func TestPublishingToAFullServerSaysSo(t *testing.T) {
	t.Parallel()
	js := full(t, 8<<20)
	_, err := protocol.Publish(t.Context(), js, nats.NewMsg("fill"), "")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Usage))
	require.ErrorContains(t, err, "JetStream is full")
	require.NoError(t, js.DeleteStream(t.Context(), "FILL"))
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FILL", Subjects: []string{"fill"}})
	require.NoError(t, err)
	_, err = protocol.Publish(t.Context(), js, nats.NewMsg("fill"), "")
	require.NoError(t, err, "there is room again")
}
