package worker

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
)

func TestPolicyOfSending(t *testing.T) {
	t.Parallel()
	policy := Policy{Send: protocol.Filter{"tank/data<": true, "tank/data/secret<": false}}
	for filesystem, allowed := range map[string]bool{
		"tank/data": true, "tank/data/a": true, "tank/data/secret": false, "tank/data/secret/x": false, "tank": false,
		"tank/database": false, "": false,
	} {
		err := policy.allowSend("alpha", filesystem)
		if allowed {
			require.NoError(t, err, filesystem)
			continue
		}
		require.ErrorIs(t, err, &protocol.Failure{Kind: protocol.Policy}, filesystem)
		require.ErrorContains(t, err, "worker.allow.send", "the operator is told where to allow it")
	}
	require.Error(t, Policy{}.allowSend("alpha", "tank"), "the zero policy allows nothing")
}

func TestPolicyOfReceiving(t *testing.T) {
	t.Parallel()
	policy := Policy{Recv: []RecvRule{{Root: "backup", Jobs: []string{"prod-*", "dr"}}, {Root: "open/to/all"}}}
	for _, c := range []struct {
		job, root, filesystem string
		allowed               bool
	}{
		{"prod-1", "backup", "backup/tank", true},
		{"dr", "backup/alpha", "backup/alpha/tank/data", true},
		{"staging", "backup", "backup/tank", false},
		{"any", "open/to/all", "open/to/all/x", true},
		{"any", "open/to", "open/to/all/x", false},
		{"prod-1", "backups", "backups/x", false},
		{"prod-1", "backup", "elsewhere/x", false},
		{"prod-1", "backup", "backup", false},
		{"prod-1", "backup", "backup/../tank", false},
		{"prod-1", "backup", "backup//x", false},
	} {
		err := policy.allowRecv("bravo", c.job, c.root, c.filesystem)
		if c.allowed {
			require.NoError(t, err, "%+v", c)
		} else {
			require.ErrorIs(t, err, &protocol.Failure{Kind: protocol.Policy}, "%+v", c)
		}
	}
	require.Error(t, Policy{}.allowRecv("bravo", "prod", "backup", "backup/x"), "the zero policy allows nothing")
}

func TestPolicyValidation(t *testing.T) {
	t.Parallel()
	for what, policy := range map[string]Policy{
		"empty root":       {Recv: []RecvRule{{}}},
		"root with slash":  {Recv: []RecvRule{{Root: "/backup"}}},
		"malformed glob":   {Recv: []RecvRule{{Root: "backup", Jobs: []string{"[a"}}}},
		"malformed filter": {Send: protocol.Filter{"tank//x": true}},
	} {
		require.ErrorIs(t, policy.Validate(), &protocol.Failure{Kind: protocol.Usage}, what)
	}
	require.NoError(t, Policy{}.Validate())
}

func TestPolicyOfReleases(t *testing.T) {
	t.Parallel()
	policy := Policy{
		Send: protocol.Filter{"tank/data<": true, "tank/data/secret<": false},
		Recv: []RecvRule{{Root: "backup/any"}, {Root: "backup/prod", Jobs: []string{"prod-*"}}},
	}
	for _, try := range []struct {
		kind       abstractions.Kind
		filesystem string
		id         protocol.JobID
		job        string
		refusal    string
	}{
		{kind: abstractions.Cursor, filesystem: "tank/data/a"},
		{kind: abstractions.StepHold, filesystem: "tank/data/secret/a", refusal: "worker.allow.send"},
		{kind: abstractions.CursorV1, filesystem: "tank", refusal: "worker.allow.send"},
		{kind: abstractions.TentativeCursor, filesystem: "backup/any/a", refusal: "worker.allow.send"},
		{kind: abstractions.LastReceivedHold, filesystem: "backup/any/a", id: "whatever"},
		{kind: abstractions.LastReceivedHold, filesystem: "backup/any"},
		{kind: abstractions.LastReceivedHold, filesystem: "backup/anyone", refusal: "worker.allow.recv"},
		{kind: abstractions.LastReceivedHold, filesystem: "tank/data", refusal: "worker.allow.recv"},
		{kind: abstractions.LastReceivedHold, filesystem: "backup/prod/a", id: "prod-dr.bravo"},
		{kind: abstractions.LastReceivedHold, filesystem: "backup/prod/a", id: "zrepl_push", job: "prod-dr"},
		{kind: abstractions.LastReceivedHold, filesystem: "backup/prod/a", id: "zrepl_push", refusal: "say whose it is with --job"},
		{kind: abstractions.LastReceivedHold, filesystem: "backup/prod/a", id: "prod-dr.bravo", job: "other", refusal: "job other"},
	} {
		err := policy.allowRelease("bravo", try.job, abstractions.Abstraction{Kind: try.kind, Filesystem: try.filesystem, JobID: try.id})
		if try.refusal == "" {
			require.NoError(t, err, "%+v", try)
			continue
		}
		require.ErrorIs(t, err, &protocol.Failure{Kind: protocol.Policy}, "%+v", try)
		require.ErrorContains(t, err, try.refusal, "%+v", try)
	}
}
