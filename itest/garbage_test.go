// Garbage: messages that nobody can act on, on every subject and in every bucket.

package itest_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
)

// waitForEvent waits for an event of the step's try.
func (p *pair) waitForEvent(ref protocol.StepRef, kind protocol.EventKind) protocol.Event {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), testfleet.Timeout)
	defer cancel()
	for record, err := range p.Client.Events(ctx, fleet.EventQuery{Plan: ref.Plan, Follow: true}) {
		require.NoError(p.t, err)
		if record.Event != nil && record.Event.Ref == ref && record.Event.Kind == kind {
			return *record.Event
		}
	}
	p.t.Fatalf("no event %s of %s", kind, ref)
	return protocol.Event{}
}

// garbage are payloads that no part of the fleet can act on.
func garbage(t *testing.T) map[string]*nats.Msg {
	t.Helper()
	valid, err := protocol.NewMessage(t.Context(), "x", protocol.CancelNotice{Plan: "20261123t000000-other"})
	require.NoError(t, err)
	message := func(header nats.Header, data []byte) *nats.Msg { return &nats.Msg{Header: header, Data: data} }
	future := nats.Header{protocol.HeaderProtocol: {"99"}}
	return map[string]*nats.Msg{
		"empty":           message(nil, nil),
		"random":          message(valid.Header, []byte("\xc1\x00\xff not msgpack")),
		"truncated":       message(valid.Header, valid.Data[:len(valid.Data)/2]),
		"oversized":       message(valid.Header, bytes.Repeat([]byte{0x90}, 900<<10)),
		"future protocol": message(future, valid.Data),
		"no protocol":     message(nil, valid.Data),
		"length bomb":     message(valid.Header, []byte{0xdd, 0xff, 0xff, 0xff, 0xff}),
		"depth bomb":      message(valid.Header, bytes.Repeat([]byte{0x91}, 10000)),
		"other message":   message(valid.Header, mustEncode(t, map[string]int{"nonsense": 1})),
	}
}

func mustEncode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := protocol.Encode(v)
	require.NoError(t, err)
	return data
}

func TestGarbageLeavesTheFleetRunningAndIsKept(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(2, 2)
	p.startAll()
	p.Submit(p.job("prod"))
	p.MustRun("prod")

	streams := []string{
		"zfleet.work.alpha.send", "zfleet.work.bravo.recv", "zfleet.event.alpha.20261123t000000-other.0-0.done",
	}
	plain := []string{
		"zfleet.rpc.alpha.inventory", "zfleet.rpc.bravo.estimate", "zfleet.rpc.alpha.abstractions",
		"zfleet.cancel.20261123t000000-other",
	}
	sent := map[string]int{}
	for what, message := range garbage(t) {
		for _, subject := range append(streams, plain...) {
			if what == "other message" && strings.HasPrefix(subject, "zfleet.rpc.") {
				continue // fields that a request does not know are those of a later version, and are ignored
			}
			message.Subject = subject
			require.NoError(t, p.Conn.PublishMsg(message), "%s on %s", what, subject)
			sent[subject]++
		}
	}
	for name, bucket := range map[string]func(key string, value []byte) error{
		"plans": func(key string, value []byte) error {
			_, err := p.Resources.Plans.Put(t.Context(), key, value)
			return err
		},
		"jobs": func(key string, value []byte) error {
			_, err := p.Resources.Jobs.Put(t.Context(), key, value)
			return err
		},
	} {
		require.NoError(t, bucket("20261123t000000-other.request", []byte("garbage")), name)
	}
	sent[protocol.BucketPlans+" 20261123t000000-other.request"]++

	require.Eventually(t, func() bool {
		letters, err := p.Client.DeadLetters(t.Context(), fleet.DeadLetterQuery{})
		require.NoError(t, err)
		kept := map[string]int{}
		for _, letter := range letters {
			require.NotEmpty(t, letter.Letter.Reason)
			kept[letter.Letter.Subject]++
		}
		for subject, count := range sent {
			want := count
			if subject == "zfleet.cancel.20261123t000000-other" {
				want *= 2 // both hosts heard it
			}
			if kept[subject] < want {
				return false
			}
		}
		return true
	}, testfleet.Timeout, 20*time.Millisecond, "every piece of garbage is kept as a dead letter")

	p.snapshots(names, 3, 3)
	p.MustRun("prod")
	p.requireEqual(names, "backup/alpha")
	for _, name := range names {
		p.requireAbstractions(name, "backup/alpha", "prod.bravo")
	}
	// The receiver acknowledges its item after the sender has told that the step is done.
	require.Eventually(t, func() bool {
		info, err := p.Resources.Work.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, testfleet.Timeout, 10*time.Millisecond, "no garbage is left in the work queue")
}

func TestRecordsThatCannotBeReadEndNoTerm(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	names := p.tree(2, 2)
	p.StartWorker(p.hostA)
	p.StartWorker(p.hostB)
	spec := p.job("prod")
	p.Submit(spec)
	put := func(key string, value []byte) {
		_, err := p.Resources.Plans.Put(t.Context(), key, value)
		require.NoError(t, err)
	}
	withoutHead, withoutTask := p.Request("prod"), p.Request("prod")
	put(protocol.PlanKey(withoutHead), []byte("garbage"))
	head, err := protocol.EncodeValue(protocol.Plan{
		ID: withoutTask, Job: "prod", State: protocol.PlanRunning, Spec: spec, Tasks: 1, Started: time.Now().UTC(),
	})
	require.NoError(t, err)
	put(protocol.PlanKey(withoutTask), head)
	put(protocol.TaskKey(withoutTask, 0), []byte("garbage"))

	p.StartCoordinator()
	var failed fleet.PlanDetail
	require.Eventually(t, func() bool {
		var err error
		failed, err = p.Client.Plan(t.Context(), withoutTask)
		var unreadable *fleet.UnreadableError
		require.ErrorAs(t, err, &unreadable)
		return failed.Plan.State.Final()
	}, testfleet.Timeout, 20*time.Millisecond, "the plan whose task cannot be read ends")
	require.Equal(t, protocol.PlanFailed, failed.Plan.State)
	require.ErrorContains(t, failed.Plan.Failure, "the record of task 0 was found damaged")
	require.ErrorContains(t, failed.Plan.Failure, "run the job again")
	p.MustRun("prod")
	p.requireEqual(names, "backup/alpha")
}
