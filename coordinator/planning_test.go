package coordinator

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func TestMissingFromSource(t *testing.T) {
	t.Parallel()
	there := inventory{datasets: []protocol.Dataset{{Name: "tank/a"}, {Name: "tank/a/b"}}, missing: []string{"gone"}}
	for what, c := range map[string]struct {
		filter protocol.Filter
		want   []string
	}{
		"all there":                         {protocol.Filter{"tank/a<": true, "tank/a/b": true}, nil},
		"a full name that is gone":          {protocol.Filter{"tank/a": true, "tank/c": true}, []string{"tank/c"}},
		"a subtree that is gone":            {protocol.Filter{"tank/c<": true}, []string{"tank/c"}},
		"a root left out by its own name":   {protocol.Filter{"tank<": true, "tank": false}, nil},
		"a root left out that is gone":      {protocol.Filter{"gone<": true, "gone": false}, []string{"gone"}},
		"what is excluded need not be":      {protocol.Filter{"tank/a<": true, "tank/x<": false}, nil},
		"everything":                        {protocol.Filter{"<": true}, nil},
		"named twice, and missed only once": {protocol.Filter{"tank/c<": true, "tank/c": true}, []string{"tank/c"}},
	} {
		require.Equal(t, c.want, missingFromSource(c.filter, there), what)
	}
}

func TestTargetFilterFollowsTheSourceBelowTheRoot(t *testing.T) {
	t.Parallel()
	filter := targetFilter(protocol.Filter{"tank<": true, "tank/tmp<": false, "tank/tmp/keep": true}, "backup/alpha")
	for filesystem, in := range map[string]bool{
		"backup/alpha": true, "backup/alpha/tank": true, "backup/alpha/tank/x": true, "backup/alpha/tank/tmp": false,
		"backup/alpha/tank/tmp/x": false, "backup/alpha/tank/tmp/keep": true, "backup": false, "backup/alpha/other": false,
	} {
		require.Equal(t, in, filter.Match(filesystem), filesystem)
	}
	require.True(t, targetFilter(protocol.Filter{"<": true}, "backup").Match("backup/any/thing"))
}
