package fleet

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

// answer plays the worker of a host: every request gets the pages.
func (s *scripted) answer(host protocol.Host, pages ...protocol.AbstractionsPage) {
	s.t.Helper()
	subscription, err := s.conn.Subscribe(protocol.RPCSubject(host, protocol.VerbAbstractions), func(request *nats.Msg) {
		for _, page := range pages {
			reply, err := protocol.NewMessage(context.Background(), request.Reply, page)
			if err == nil {
				err = s.conn.PublishMsg(reply)
			}
			if err != nil {
				s.t.Error(err)
			}
		}
	})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = subscription.Unsubscribe() })
}

func TestAbstractionsOfHosts(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	info := func(name string) protocol.AbstractionInfo {
		return protocol.AbstractionInfo{Kind: "cursor", Name: name}
	}
	s.answer("alpha",
		protocol.AbstractionsPage{Number: 0, Abstractions: []protocol.AbstractionInfo{info("tank#a")}},
		protocol.AbstractionsPage{Number: 1, Abstractions: []protocol.AbstractionInfo{info("tank#b")}, Last: true})
	s.answer("bravo", protocol.AbstractionsPage{Last: true, Failure: protocol.Failf(protocol.Permanent, "no zfs here")})
	s.answer("charlie", protocol.AbstractionsPage{Number: 1, Last: true})

	found, err := s.Abstractions(t.Context(), protocol.AbstractionsRequest{}, "alpha", "bravo", "charlie", "delta")
	require.Len(t, found, 2)
	require.Equal(t, protocol.Host("alpha"), found[1].Host)
	require.Equal(t, "tank#b", found[1].Name)
	require.ErrorContains(t, err, "no zfs here")
	require.ErrorContains(t, err, "host charlie: page 0 of the answer was lost")
	require.ErrorContains(t, err, "waiting for host delta: no worker of it is connected")
	require.NotContains(t, err.Error(), "alpha")
}

func TestASilentHostIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	s.hostTimeout = 100 * time.Millisecond
	s.answer("alpha")
	_, err := s.Abstractions(t.Context(), protocol.AbstractionsRequest{}, "alpha")
	require.ErrorContains(t, err, "host alpha did not answer within 100ms")
}

func TestHostsCursorsAndStatus(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	put := func(bucket, key string, value any) {
		data, err := protocol.EncodeValue(value)
		require.NoError(t, err)
		s.put(bucket, key, data)
	}
	status, err := s.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, Status{Hosts: []protocol.Presence{}, Absent: []AbsentHost{}}, status)

	s.lead()
	put(protocol.BucketHosts, protocol.HostKey("bravo", "w"), protocol.Presence{Host: "bravo", Worker: "w"})
	put(protocol.BucketHosts, protocol.HostKey("alpha", "w"), protocol.Presence{Host: "alpha", Worker: "w"})
	put(protocol.BucketCursors, protocol.CursorKey("prod", "prod.bravo", "tank/b"), protocol.Cursor{Job: "prod", Filesystem: "tank/b"})
	put(protocol.BucketCursors, protocol.CursorKey("prod", "prod.bravo", "tank/a"), protocol.Cursor{Job: "prod", Filesystem: "tank/a"})
	put(protocol.BucketCursors, protocol.CursorKey("other", "other.bravo", "tank/a"), protocol.Cursor{Job: "other", Filesystem: "tank/a"})
	_, err = s.SubmitJob(t.Context(), exampleJob("prod"))
	require.NoError(t, err)
	s.putPlan(protocol.Plan{ID: "20261123t000000-aaaaa", Job: "prod", State: protocol.PlanDone})
	s.putPlan(protocol.Plan{ID: "20261123t000001-aaaaa", Job: "prod", State: protocol.PlanRunning})
	s.putPlan(protocol.Plan{ID: "20261123t000002-aaaaa", Job: "prod", State: protocol.PlanPlanned, Request: protocol.PlanRequest{DryRun: true}})

	cursors, err := s.Cursors(t.Context(), "prod")
	require.NoError(t, err)
	require.Len(t, cursors, 2)
	require.Equal(t, "tank/a", cursors[0].Filesystem)
	cursors, err = s.Cursors(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, cursors, 3)

	status, err = s.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, "c1", status.Leader.Holder)
	require.Equal(t, protocol.Host("alpha"), status.Hosts[0].Host)
	require.Len(t, status.Running, 1)
	require.Equal(t, protocol.PlanID("20261123t000001-aaaaa"), status.Jobs[0].Last.ID, "dry runs do not count")
}

func TestEvents(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	for record, err := range s.Events(t.Context(), EventQuery{}) {
		t.Fatalf("there are no events yet, but here is %v, %v", record, err)
	}
	claimed := func(plan protocol.PlanID) protocol.Event {
		return protocol.Event{Ref: protocol.StepRef{Plan: plan, Attempt: 1}, Kind: protocol.EventClaimed, Host: "alpha"}
	}
	s.tell(claimed("20261123t000000-aaaaa"))
	s.tell(claimed("20261123t000000-bbbbb"))
	require.NoError(t, s.conn.Publish("zfleet.event.20261123t000000-bbbbb.0-0.claimed", []byte("garbage")))
	require.NoError(t, s.conn.Flush())

	var records []EventRecord
	for record, err := range s.Events(t.Context(), EventQuery{}) {
		require.NoError(t, err)
		records = append(records, record)
	}
	require.Len(t, records, 3)
	require.Equal(t, protocol.PlanID("20261123t000000-aaaaa"), records[0].Event.Ref.Plan)
	require.Nil(t, records[2].Event)
	require.NotEmpty(t, records[2].Problem)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	followed := 0
	for record, err := range s.Events(ctx, EventQuery{Plan: "20261123t000000-aaaaa", Follow: true}) {
		require.NoError(t, err)
		require.Equal(t, protocol.PlanID("20261123t000000-aaaaa"), record.Event.Ref.Plan)
		followed++
		switch followed {
		case 1:
			done := claimed("20261123t000000-aaaaa")
			done.Kind, done.To = protocol.EventDone, &protocol.Version{Type: protocol.Snapshot, Name: "a", GUID: 1}
			s.tell(done)
		case 2:
			cancel()
		}
	}
	require.Equal(t, 2, followed)
}

func TestDeadLettersKeepSecretsToThemselves(t *testing.T) {
	t.Parallel()
	s := newScripted(t)
	letter := protocol.DeadLetter{Subject: "zfleet.work.alpha.send", Reason: "no plan", Payload: []byte("secret"), Size: 6, Reporter: "alpha"}
	require.NoError(t, protocol.PublishDeadLetter(t.Context(), s.resources.JetStream, letter))
	letters, err := s.DeadLetters(t.Context(), DeadLetterQuery{})
	require.NoError(t, err)
	require.Len(t, letters, 1)
	require.Equal(t, "no plan", letters[0].Letter.Reason)
	require.Equal(t, 6, letters[0].Letter.Size)
	require.Empty(t, letters[0].Letter.Payload)
}
