package protocol_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// restrictedServer runs a server whose only user has the permissions. It gives the server, its configuration's path, and the
// user's public key and seed file.
func restrictedServer(t *testing.T, permissions string) (node *natstest.Node, config, user, seed string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	user, err = pair.PublicKey()
	require.NoError(t, err)
	secret, err := pair.Seed()
	require.NoError(t, err)
	dir := t.TempDir()
	seed, config = filepath.Join(dir, "user.nk"), filepath.Join(dir, "nats.conf")
	require.NoError(t, os.WriteFile(seed, secret, 0o600))
	writeServer(t, config, dir, user, permissions)
	return natstest.StartFile(t, config), config, user, seed
}

func writeServer(t *testing.T, config, dir, user, permissions string) {
	t.Helper()
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q, max_file_store: 4GB, max_memory_store: 64MB }\naccounts { FLEET { jetstream: enabled, users: [ { nkey: %q,"+
		" permissions: {%s} } ] } }\n", dir, user, permissions)
	require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
}

func TestAnswersComeToTheUsersOwnInboxes(t *testing.T) {
	t.Parallel()
	// The permissions name the user's own inboxes only, which nobody has told the client.
	node, config, user, seed := restrictedServer(t, `publish: ">"`)
	writeServer(t, config, filepath.Dir(config), user, fmt.Sprintf(`publish: ">", subscribe: "%s.>"`, protocol.InboxPrefix(user)))
	node.ReloadFile(t)
	conn, js, err := protocol.Connect(t.Context(), protocol.ConnectOptions{URL: node.ClientURL(), NKey: seed})
	require.NoError(t, err)
	defer conn.Close()
	require.True(t, strings.HasPrefix(conn.NewInbox(), "_INBOX."+user+"."), "%s", conn.NewInbox())
	_, err = js.AccountInfo(t.Context())
	require.NoError(t, err)
}

func TestADeniedRequestSaysSo(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	node, config, user, seed := restrictedServer(t, `publish: ["$JS.API.INFO"], subscribe: "_INBOX.>"`)
	conn, js, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		URL: node.ClientURL(), NKey: seed, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	require.NoError(t, err)
	defer conn.Close()
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := protocol.Publish(ctx, js, nats.NewMsg("zfleet.event.alpha.p.0-0.done"), "")
		return err
	}
	for range 2 {
		err = publish()
		require.ErrorContains(t, err, `NATS does not allow this user to publish to "zfleet.event.alpha.p.0-0.done"`)
		require.ErrorContains(t, err, "zctl nats-config")
		require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent), "it may be allowed later")
	}
	require.Equal(t, 1, strings.Count(log.String(), "NATS denies what this process needs"), "it is told once: %s", log.String())

	err = protocol.Ask(t.Context(), conn, "bravo", protocol.VerbInventory, protocol.InventoryRequest{}, time.Minute,
		func(protocol.InventoryPage) {})
	require.ErrorContains(t, err, `ask host bravo: NATS does not allow this user to publish to "zfleet.rpc.bravo.inventory"`)

	// Once it is allowed it works, on the same connection.
	writeServer(t, config, filepath.Dir(config), user, `publish: ">", subscribe: "_INBOX.>"`)
	node.ReloadFile(t)
	_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)
	require.NoError(t, publish())
}

// A direct get answers wherever it is told to, with whatever its asker has stored: what it answers with passes for nobody's message.
func TestAMessageThatWasPassedOnIsNotRead(t *testing.T) {
	t.Parallel()
	_, conn, js := natstest.Run(t)
	_, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)
	victim, err := conn.SubscribeSync("zfleet.cancel.*")
	require.NoError(t, err)
	notice := protocol.CancelNotice{Plan: "20261123t010000-plans"}
	message, err := protocol.NewMessage(t.Context(), "$O."+protocol.BucketStreams+".C.own", notice)
	require.NoError(t, err)
	stored, err := js.PublishMsg(t.Context(), message)
	require.NoError(t, err)
	require.NoError(t, conn.PublishRequest("$JS.API.DIRECT.GET."+protocol.StreamsStream+".$O."+protocol.BucketStreams+".C.own",
		protocol.CancelSubject(notice.Plan), nil))
	forged, err := victim.NextMsg(time.Minute)
	require.NoError(t, err, "NATS itself does not keep anybody from it")
	var read protocol.CancelNotice
	err = protocol.ReadMessage(forged.Header, forged.Data, &read)
	require.ErrorContains(t, err, "taken from the stream "+protocol.StreamsStream)

	stream, err := js.Stream(t.Context(), protocol.StreamsStream)
	require.NoError(t, err)
	asked, err := stream.GetMsg(t.Context(), stored.Sequence)
	require.NoError(t, err)
	require.NoError(t, protocol.ReadMessage(protocol.FromDirectGet(asked.Header), asked.Data, &read))
	require.Equal(t, notice, read)
}

// lockedBuffer is a buffer for a log.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(data)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
