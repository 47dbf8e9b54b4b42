package protocol_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func TestConnectInProcessAndByURL(t *testing.T) {
	t.Parallel()
	embedded := natstest.Start(t, natsserver.Options{Listen: "127.0.0.1:0"})
	for name, options := range map[string]protocol.ConnectOptions{
		"in process": {InProcess: embedded.InProcess()},
		"by URL":     {URL: embedded.ClientURL()},
		"one of two": {URL: "nats://127.0.0.1:" + closedPort(t) + "," + embedded.ClientURL()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options.Name = "zctl worker alpha"
			connection, _, err := protocol.Connect(t.Context(), options)
			require.NoError(t, err)
			defer connection.Close()
			require.Equal(t, "zctl worker alpha", connection.Opts.Name)
			require.Negative(t, connection.Opts.MaxReconnect, "it reconnects for ever")
		})
	}
}

// closedPort is a port where nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return port
}

func TestConnectGivesUpAfterItsWait(t *testing.T) {
	t.Parallel()
	address := "nats://me:secret@127.0.0.1:" + closedPort(t)
	_, _, err := protocol.Connect(t.Context(), protocol.ConnectOptions{URL: address, Wait: 300 * time.Millisecond})
	require.ErrorIs(t, err, nats.ErrNoServers)
	require.ErrorContains(t, err, "connecting to NATS at nats://xxxxx@127.0.0.1:")
	require.NotContains(t, err.Error(), "secret")
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Usage))

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, _, err = protocol.Connect(ctx, protocol.ConnectOptions{URL: address, Wait: -1})
	require.ErrorIs(t, err, context.DeadlineExceeded, "without a bound the context is one")
}

func TestConnectWaitsForTheServer(t *testing.T) {
	t.Parallel()
	log := newLogBuffer()
	address := "127.0.0.1:" + closedPort(t)
	connected := make(chan error, 1)
	go func() {
		connection, _, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
			URL: "nats://" + address, Wait: time.Minute, Logger: slog.New(slog.NewTextHandler(log, nil)),
		})
		if err == nil {
			connection.Close()
		}
		connected <- err
	}()
	log.waitFor(t, "NATS cannot be reached yet")
	natstest.Start(t, natsserver.Options{Listen: address})
	require.NoError(t, <-connected)
}

// logBuffer collects log lines.
type logBuffer struct {
	mu      sync.Mutex
	text    bytes.Buffer
	written chan struct{}
}

func newLogBuffer() *logBuffer { return &logBuffer{written: make(chan struct{}, 1)} }

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.written <- struct{}{}:
	default:
	}
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for !strings.Contains(b.String(), text) {
		select {
		case <-b.written:
		case <-timeout:
			require.FailNow(t, "the log does not say it", "wanted %q in %s", text, b.String())
		}
	}
}

func TestConnectReconnectsAndSaysSo(t *testing.T) {
	t.Parallel()
	embedded := natstest.Start(t, natsserver.Options{Listen: "127.0.0.1:0"})
	log := newLogBuffer()
	connection, _, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		URL: embedded.ClientURL(), Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	require.NoError(t, err)
	defer connection.Close()
	embedded.Shutdown()
	log.waitFor(t, "the connection to NATS is lost")
	natstest.Restart(t, embedded)
	log.waitFor(t, "connected to NATS again")
	require.True(t, connection.IsConnected())
}

// bareServer is a NATS server that is not set up as the fleet needs it.
func bareServer(t *testing.T, options server.Options) string {
	t.Helper()
	options.Host, options.Port, options.NoSigs, options.NoLog = "127.0.0.1", server.RANDOM_PORT, true, true
	bare, err := server.NewServer(&options)
	require.NoError(t, err)
	bare.Start()
	t.Cleanup(func() {
		bare.Shutdown()
		bare.WaitForShutdown()
	})
	require.True(t, bare.ReadyForConnections(30*time.Second))
	return bare.ClientURL()
}

func TestConnectNeedsJetStream(t *testing.T) {
	t.Parallel()
	_, _, err := protocol.Connect(t.Context(), protocol.ConnectOptions{URL: bareServer(t, server.Options{})})
	require.ErrorContains(t, err, "has no JetStream for this account: start it with -js")
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
}

func TestConnectRefusesAnOldServer(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan struct{})
	go func() {
		defer close(served)
		socket, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = socket.Close() }()
		_, _ = fmt.Fprintf(socket, "INFO {\"server_id\":\"x\",\"version\":\"2.10.29\",\"proto\":1,\"headers\":true,\"max_payload\":1048576}\r\n")
		lines := bufio.NewScanner(socket)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "PING") {
				_, _ = fmt.Fprint(socket, "PONG\r\n")
			}
		}
	}()
	_, _, err = protocol.Connect(t.Context(), protocol.ConnectOptions{URL: "nats://" + listener.Addr().String()})
	require.ErrorContains(t, err, "is version 2.10.29, and zfleet needs 2.11 or newer: upgrade the server")
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
	require.NoError(t, listener.Close())
	<-served
}

func TestConnectDoesNotRetryWhatCannotSucceed(t *testing.T) {
	t.Parallel()
	address := bareServer(t, server.Options{Username: "fleet", Password: "right", JetStream: true, StoreDir: t.TempDir()})
	right := strings.Replace(address, "://", "://fleet:right@", 1)
	connection, _, err := protocol.Connect(t.Context(), protocol.ConnectOptions{URL: right})
	require.NoError(t, err)
	connection.Close()
	missing := filepath.Join(t.TempDir(), "missing")
	for name, test := range map[string]struct {
		options protocol.ConnectOptions
		says    string
	}{
		"wrong password":  {protocol.ConnectOptions{URL: strings.Replace(right, "right", "wrong", 1)}, "Authorization Violation"},
		"no credentials":  {protocol.ConnectOptions{URL: address, Creds: missing}, missing},
		"no seed":         {protocol.ConnectOptions{URL: address, NKey: missing}, "NKey seed file " + missing},
		"no CA":           {protocol.ConnectOptions{URL: address, CA: missing}, missing},
		"no certificate":  {protocol.ConnectOptions{URL: address, Cert: missing, Key: missing}, missing},
		"unknown context": {protocol.ConnectOptions{Context: missing}, missing},
		"TLS where there is none": {
			protocol.ConnectOptions{URL: strings.Replace(address, "nats://", "tls://", 1)}, "secure connection not available",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.options.Wait = time.Hour
			_, _, err := protocol.Connect(t.Context(), test.options)
			require.ErrorContains(t, err, test.says)
			require.NotContains(t, err.Error(), "wrong@")
			require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
		})
	}
}

func TestConnectWithAContextOfTheNATSCommand(t *testing.T) {
	address := bareServer(t, server.Options{
		Username: "fleet", Password: "right", JetStream: true, JetStreamDomain: "hub", StoreDir: t.TempDir(),
	})
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	write := func(name, text string) {
		path := filepath.Join(home, "nats", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	write("context/fleet.json", fmt.Sprintf(`{"url": %q, "user": "fleet", "password": "right"}`, address))
	write("context/elsewhere.json", `{"url": "nats://127.0.0.1:1", "user": "fleet", "password": "right"}`)
	write("context/domain.json", fmt.Sprintf(`{"url": %q, "user": "fleet", "password": "right", "jetstream_domain": "hub"}`, address))
	write("context/prefix.json", fmt.Sprintf(`{"url": %q, "user": "fleet", "password": "right", "jetstream_api_prefix": "JS.hub"}`, address))
	write("context.txt", "fleet")

	for name, test := range map[string]struct {
		options protocol.ConnectOptions
		domain  string
	}{
		"the selected one":        {protocol.ConnectOptions{}, ""},
		"by name":                 {protocol.ConnectOptions{Context: "fleet"}, ""},
		"by path":                 {protocol.ConnectOptions{Context: filepath.Join(home, "nats", "context", "fleet.json")}, ""},
		"with a URL of my own":    {protocol.ConnectOptions{Context: "elsewhere", URL: address}, ""},
		"with a domain":           {protocol.ConnectOptions{Context: "domain"}, "hub"},
		"with a domain of my own": {protocol.ConnectOptions{Context: "fleet", Domain: "hub"}, "hub"},
	} {
		t.Run(name, func(t *testing.T) {
			connection, js, err := protocol.Connect(t.Context(), test.options)
			require.NoError(t, err)
			defer connection.Close()
			require.Same(t, connection, js.Conn())
			require.Equal(t, test.domain, js.Options().Domain)
		})
	}
	for says, options := range map[string]protocol.ConnectOptions{
		`unknown context "nobody"`:       {Context: "nobody"},
		"a prefix for the JetStream API": {Context: "prefix"},
		"Authorization Violation":        {URL: address},
		"invalid context name ../flee":   {Context: "../fleet"},
	} {
		_, _, err := protocol.Connect(t.Context(), options)
		require.ErrorContains(t, err, says)
		require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
	}
}

func TestConnectThroughALeafNode(t *testing.T) {
	t.Parallel()
	hub := natstest.Hub(t, "hub")
	leaf := natstest.Leaf(t, hub, "")
	connection, js, err := protocol.Connect(t.Context(), protocol.ConnectOptions{URL: leaf.ClientURL(), Domain: "hub"})
	require.NoError(t, err)
	defer connection.Close()
	_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err)

	_, _, err = protocol.Connect(t.Context(), protocol.ConnectOptions{URL: leaf.ClientURL()})
	require.ErrorContains(t, err, "a host behind a leaf node names the domain")
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))

	_, _, err = protocol.Connect(t.Context(), protocol.ConnectOptions{URL: leaf.ClientURL(), Domain: "hop", Wait: time.Millisecond})
	require.ErrorContains(t, err, `nobody answers for the JetStream domain "hop"`)
	require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent), "the leaf node may not be connected yet")

	_, _, err = protocol.Connect(t.Context(), protocol.ConnectOptions{URL: leaf.ClientURL(), Domain: "hub.one", Wait: time.Hour})
	require.ErrorContains(t, err, "a domain is one word")
}

func TestConnectRefusesAServerThatTakesNoLargeMessages(t *testing.T) {
	t.Parallel()
	small := bareServer(t, server.Options{MaxPayload: 64 << 10})
	_, _, err := protocol.Connect(t.Context(), protocol.ConnectOptions{URL: small})
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
	require.ErrorContains(t, err, "raise max_payload")
}

func TestConnectReconnectsOnceItsCredentialsAreGoodAgain(t *testing.T) {
	t.Parallel()
	log := newLogBuffer()
	newUser := func() (public string, seed []byte) {
		user, err := nkeys.CreateUser()
		require.NoError(t, err)
		public, err = user.PublicKey()
		require.NoError(t, err)
		seed, err = user.Seed()
		require.NoError(t, err)
		return public, seed
	}
	alpha, seed := newUser()
	other, _ := newUser()
	file := filepath.Join(t.TempDir(), "alpha.nk")
	require.NoError(t, os.WriteFile(file, seed, 0o600))
	config, store := filepath.Join(t.TempDir(), "nats.conf"), t.TempDir()
	users := func(key string) {
		text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream: {store_dir: %q, max_file_store: 64MiB}\n"+
			"authorization: {users: [{nkey: %s}]}\n", store, key)
		require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
	}
	users(alpha)
	node := natstest.StartFile(t, config)
	connection, js, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		URL: node.ClientURL(), NKey: file, Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	require.NoError(t, err)
	defer connection.Close()

	users(other)
	node.ReloadFile(t)
	log.waitFor(t, "credentials that they take")
	users(alpha)
	node.ReloadFile(t)
	log.waitFor(t, "connected to NATS again")
	_, err = js.AccountInfo(t.Context())
	require.NoError(t, err)
}

func TestASlowConsumerIsTold(t *testing.T) {
	t.Parallel()
	log := newLogBuffer()
	embedded := natstest.Start(t, natsserver.Options{})
	connection, _, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		InProcess: embedded.InProcess(), Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	require.NoError(t, err)
	defer connection.Close()
	unread, err := connection.SubscribeSync("busy")
	require.NoError(t, err)
	require.NoError(t, unread.SetPendingLimits(1, -1))
	for range 3 {
		require.NoError(t, connection.Publish("busy", nil))
	}
	log.waitFor(t, "did not keep up")
	require.Contains(t, log.String(), "subject=busy")
}
