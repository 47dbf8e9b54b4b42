// Limits: NATS takes nothing more for a while. What is going on goes on, who is concerned says what to do, and when the cause
// is gone everything comes to its end by itself.

package itest_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// logbook is what a fleet's processes log.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

// has tells whether some line has all of the texts.
func (l *logbook) has(texts ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		found := true
		for _, text := range texts {
			found = found && strings.Contains(line, text)
		}
		if found {
			return true
		}
	}
	return false
}

// watched lets the pair's processes log into a book.
func (p *pair) watched() *logbook {
	book := &logbook{}
	p.Logger = slog.New(slog.NewTextHandler(book, &slog.HandlerOptions{Level: slog.LevelInfo}))
	return book
}

// awaitLog waits until the processes have logged a line with all of the texts.
func (p *pair) awaitLog(book *logbook, texts ...string) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return book.has(texts...) }, testfleet.Timeout, 20*time.Millisecond, "logged is %q", texts)
}

// requireUndisturbed requires that the plan ends well with its first send, and that nothing was given up.
func (i *interrupted) requireUndisturbed() {
	i.t.Helper()
	i.requireReplicated(i.Wait(i.plan))
	require.Zero(i.t, i.streamedAgain(), "the transfer in flight goes on undisturbed")
	var letters *jetstream.StreamInfo
	require.EventuallyWithT(i.t, func(t *assert.CollectT) { // the stream may be about to choose a leader
		var err error
		letters, err = i.Resources.DeadLetters.Info(i.t.Context())
		require.NoError(t, err)
	}, testfleet.Timeout, 100*time.Millisecond)
	require.Zero(i.t, letters.State.Msgs, "dead letters")
}

// small is a server with little room, most of it for what the test fills it with.
func small(t *testing.T) *pair {
	t.Helper()
	embedded := natstest.Start(t, natsserver.Options{MaxStore: 48 << 20})
	return newPairOn(t, testfleet.NewAt(t, testfleet.Site{
		Server: embedded, Resources: protocol.ResourceOptions{StreamsMaxBytes: 4 << 20},
	}))
}

func TestAFullDiskOfNATSIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := small(t)
	book := p.watched()
	i := p.interruptTransfer(protocol.TransportTCP)
	js := p.Resources.JetStream
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "FILL", Subjects: []string{"fill"}})
	require.NoError(t, err)
	for size := 512 << 10; size > 0; size /= 2 { // to the last byte
		for err = nil; err == nil; {
			_, err = js.Publish(t.Context(), "fill", make([]byte, size))
		}
	}
	i.fault.Release()
	p.awaitLog(book, "NATS does not take what became of a step; trying on", "JetStream is full", "max_file_store")
	require.NoError(t, js.DeleteStream(t.Context(), "FILL"))
	i.requireUndisturbed()
}

// limit lets the stream take nothing more, and returns what lets it take more again.
func (p *pair) limit(name string) (lift func()) {
	p.t.Helper()
	js := p.Resources.JetStream
	stream, err := js.Stream(p.t.Context(), name)
	require.NoError(p.t, err)
	before := stream.CachedInfo().Config
	limited := before
	limited.MaxBytes, limited.Discard = 1, jetstream.DiscardNew
	_, err = js.UpdateStream(p.t.Context(), limited)
	require.NoError(p.t, err)
	return func() {
		_, err := js.UpdateStream(p.t.Context(), before)
		require.NoError(p.t, err)
	}
}

func TestALimitOfAStreamIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		stream string
		logged string
	}{
		"the events":  {protocol.StreamEvents, "NATS does not take what became of a step; trying on"},
		"the plans":   {"KV_" + protocol.BucketPlans, "NATS does not do it yet; trying on"},
		"the cursors": {"KV_" + protocol.BucketCursors, "NATS does not do it yet; trying on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			book := p.watched()
			i := p.interruptTransfer(protocol.TransportTCP)
			lift := p.limit(test.stream)
			i.fault.Release()
			p.awaitLog(book, test.logged, "maximum bytes exceeded", "nats stream info")
			lift()
			i.requireUndisturbed()
		})
	}
}

func TestALimitOfTheWorkIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	book := p.watched()
	names := p.tree(2, 2)
	lift := p.limit(protocol.StreamWork)
	p.startAll()
	p.Submit(p.job("prod"))
	id := p.Request("prod")
	p.awaitLog(book, "NATS does not do it yet; trying on", "publish work item", "maximum bytes exceeded", "nats stream info")
	lift()
	require.Equal(t, protocol.PlanDone, p.Wait(id).Plan.State)
	p.requireEqual(names, "backup/alpha")
}

func TestALeaseThatCannotBeKeptLeavesTheTransferAlone(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	book := p.watched()
	i := p.interruptTransfer(protocol.TransportTCP)
	lift := p.limit("KV_" + protocol.BucketLeader)
	p.awaitLog(book, "the lease cannot be renewed yet", "maximum bytes exceeded", "nats stream info")
	p.awaitLog(book, "this coordinator no longer leads", "could not be renewed in time")
	p.awaitLog(book, "cannot ask for the lease yet; trying on", "nats stream info")
	i.fault.Release()
	lift()
	i.requireUndisturbed()
}

func TestAServerWithoutJetStreamIsWaitedFor(t *testing.T) {
	t.Parallel()
	node := natstest.Hub(t, "hub")
	p := newPairOn(t, testfleet.NewAt(t, testfleet.Site{Server: node}))
	book := p.watched()
	i := p.interruptTransfer(protocol.TransportTCP)
	node.Shutdown()
	node.Start(t, func(options *server.Options) { options.JetStream = false })
	i.fault.Release()
	p.awaitLog(book, "NATS does not take what became of a step; trying on", "no NATS server answers", "JetStream is on again")
	node.Shutdown()
	node.Start(t, func(options *server.Options) { options.JetStream = true })
	i.requireUndisturbed()
}

func TestASlowConsumerIsDisconnectedAndComesBack(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(config, []byte(
		"listen: \"127.0.0.1:-1\"\nwrite_deadline: 200ms\njetstream: {store_dir: \""+t.TempDir()+"\", max_file_store: 4GiB, max_memory_store: 64MiB}\n"),
		0o600))
	server := natstest.StartFile(t, config)
	p := newPairOn(t, testfleet.NewAt(t, testfleet.Site{Server: server}))
	cable := testfleet.NewCable(server)
	p.hostA.Site = &testfleet.Site{Server: cable}
	i := p.interruptTransfer(protocol.TransportTCP)
	release := cable.Hold()
	defer release()
	i.fault.Release()
	require.Eventually(t, func() bool { return server.SlowConsumers() > 0 }, testfleet.Timeout, 20*time.Millisecond,
		"the server gives up the worker's connection")
	release()
	i.requireUndisturbed()
}
