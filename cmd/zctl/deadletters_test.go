package main

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// keepLetters keeps two dead letters: an item that no program can read, and a request that was garbled.
func (b *testbed) keepLetters() {
	b.t.Helper()
	conn, err := nats.Connect(b.env["ZFLEET_NATS"])
	require.NoError(b.t, err)
	defer conn.Close()
	js, err := protocol.JetStream(conn, "")
	require.NoError(b.t, err)
	payload, err := protocol.Encode(map[string]any{"ref": "?", "offer": map[string]any{"secret": []byte("sesame"), "tls": true}})
	require.NoError(b.t, err)
	newer := &protocol.ProtocolVersionError{Theirs: 2, Ours: 1}
	for _, letter := range []protocol.DeadLetter{
		protocol.NewDeadLetter("zfleet.work.alpha.send", nats.Header{"Zfleet-Protocol": {"2"}}, payload, newer, "alpha", 1),
		protocol.NewDeadLetter("zfleet.rpc.bravo.inventory", nil, []byte("\xc1\x00garbage"), errors.New("9 bytes that should be a request"), "bravo", 3),
	} {
		letter.At = time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
		require.NoError(b.t, protocol.PublishDeadLetter(b.t.Context(), js, letter))
	}
}

var hexBytes = regexp.MustCompile(`"raw": "[A-Za-z0-9+/=]+"`)

func TestDeadLetters(t *testing.T) {
	t.Parallel()
	b := newTestbed(t)
	b.listen()
	b.resources()
	require.Equal(t, "LETTER  WHEN  REPORTED BY  SUBJECT  DELIVERIES  SIZE  REASON\n", b.must("deadletters", "list"))
	require.JSONEq(t, `[]`, b.must("deadletters", "list", "-o", "json"))
	require.Contains(t, b.must("deadletters", "drop", "--all", "--yes"), "There are no such dead letters.")
	b.keepLetters()

	golden(t, "deadletters", b.must("deadletters", "list"))
	golden(t, "deadletters-one", b.must("deadletters", "list", "--reporter", "bravo", "--since", "1h"))
	golden(t, "deadletters-show", b.must("deadletters", "show", "1"))
	golden(t, "deadletters-show-raw", b.must("deadletters", "show", "2"))
	require.Regexp(t, hexBytes, b.must("deadletters", "show", "2", "-o", "json"))
	require.NotContains(t, b.must("deadletters", "show", "1", "-o", "yaml"), "c2VzYW1l", "the secret in base64")
	for _, command := range []string{"list", "show 1", "show 2"} {
		var value any
		require.NoError(t, json.Unmarshal([]byte(b.must(append([]string{"deadletters"}, append(strings.Fields(command), "-o", "json")...)...)), &value))
	}
	missing := b.zctl("deadletters", "show", "99")
	require.Equal(t, exitUsage, missing.code)
	require.Contains(t, missing.err, "there is no dead letter 99; see: zctl deadletters list")

	require.Contains(t, b.must("deadletters", "retry", "--all", "--dry-run"), "2 letters would be retried. Nothing was changed.")
	refused := b.zctlWith("n\n", "deadletters", "retry", "--all")
	require.Equal(t, exitFailed, refused.code)
	require.Contains(t, refused.err, "Retry 2 letters? [y/N]")
	require.Contains(t, refused.err, "nothing was changed: it was not confirmed")
	retried := b.zctlWith("y\n", "deadletters", "retry", "--all")
	require.Equal(t, exitPartial, retried.code)
	golden(t, "deadletters-retry", retried.out)
	require.NotContains(t, b.must("deadletters", "list"), "zfleet.work")

	again := b.zctl("deadletters", "retry", "1", "-o", "json")
	require.Equal(t, exitFailed, again.code)
	var results []fleet.LetterResult
	require.NoError(t, json.Unmarshal([]byte(again.out), &results))
	require.Equal(t, fleet.LetterFailed, results[0].Outcome)

	require.Contains(t, b.must("deadletters", "drop", "--before", "1h", "--yes"), "There are no such dead letters.")
	require.Contains(t, b.must("deadletters", "drop", "2", "--dry-run"), "1 letter would go.")
	require.Equal(t, "letter 2: dropped\n", b.must("deadletters", "drop", "2"))
	require.Equal(t, "letter 2: gone\n", b.must("deadletters", "drop", "2"))
}
