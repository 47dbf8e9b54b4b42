package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func TestLinesOfEvents(t *testing.T) {
	t.Parallel()
	p := newTestbed(t).program("", &safeBuffer{}, &safeBuffer{})
	p.location = time.UTC
	event := protocol.Event{
		Ref:  protocol.StepRef{Plan: "20261123t010000-abcde", Task: 1, Step: 2, Attempt: 3},
		Role: protocol.RoleSend, Host: "alpha", Filesystem: "tank/data", Target: "bravo",
		At: time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC),
	}
	const begin = "2026-11-23 01:02:03  20261123t010000-abcde/1-2#3  "
	for want, change := range map[string]func(*protocol.Event){
		"connected  send  on alpha  tank/data → bravo  object: 10.0.0.2:8410: no route to host  zstd: it did not shrink": func(e *protocol.Event) {
			e.Kind, e.Note = protocol.EventConnected, "zstd: it did not shrink"
			e.Path = &protocol.Path{Transport: protocol.TransportObject, Receivers: 1, Reason: "10.0.0.2:8410: no route to host"}
		},
		"progress  send  on alpha  tank/data → bravo  10.0 MiB of 20.0 MiB, 2.0 MiB/s, 5s left": func(e *protocol.Event) {
			e.Kind = protocol.EventProgress
			e.Progress = &protocol.Progress{Bytes: 10 << 20, Expected: 20 << 20, Rate: 2 << 20, Remaining: 5 * time.Second}
		},
		"failed  send  on alpha  tank/data → bravo  delivered 2 times  transient: reset": func(e *protocol.Event) {
			e.Kind, e.Delivery = protocol.EventFailed, 2
			e.Failure = &protocol.Failure{Kind: protocol.Transient, Message: "reset"}
		},
	} {
		changed := event
		change(&changed)
		require.Equal(t, begin+want, p.eventLine(fleet.EventRecord{Event: &changed}))
	}
}
