package worker

import (
	"testing"

	"github.com/stretchr/testify/require"

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
