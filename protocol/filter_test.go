package protocol_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func TestFilterMatch(t *testing.T) {
	t.Parallel()
	filter := protocol.Filter{
		"tank<": true, "tank/tmp<": false, "tank/tmp/keep": true, "tank/tmp/deep<": true, "pool": true, "off<": false, "off": true,
	}
	for filesystem, want := range map[string]bool{
		"tank": true, "tank/a": true, "tank/a/b": true, "tankard": false, "tank/tmp": false, "tank/tmp/a": false,
		"tank/tmp/keep": true, "tank/tmp/keep/a": false, "tank/tmp/deep": true, "tank/tmp/deep/a/b": true, "tank/tmpx": true,
		"pool": true, "pool/a": false, "off": true, "off/a": false, "other": false, "": false,
	} {
		require.Equal(t, want, filter.Match(filesystem), "filesystem %q", filesystem)
	}
	require.True(t, protocol.Filter{"<": true}.Match("any/thing"))
	require.False(t, protocol.Filter{"<": true, "any<": false}.Match("any/thing"))
	require.False(t, protocol.Filter(nil).Match("any"))
}

func TestFilterRoots(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		filter protocol.Filter
		want   []string
	}{
		{nil, nil},
		{protocol.Filter{"<": true, "a": true}, nil},
		{protocol.Filter{"b<": true, "a": true, "b/c": true, "c<": false}, []string{"a", "b"}},
		{protocol.Filter{"a<": true, "a-b<": true, "a/x<": true}, []string{"a", "a-b"}},
		{protocol.Filter{"a/b/c<": true, "a/b": true}, []string{"a/b"}},
	} {
		require.Equal(t, test.want, test.filter.Roots(), "filter %v", test.filter)
	}
}

func TestFilterValidate(t *testing.T) {
	t.Parallel()
	for _, filter := range []protocol.Filter{{"<": true}, {"a b/c:d.e<": true}, {"a": true, "b<": false}} {
		require.NoError(t, filter.Validate(), "filter %v", filter)
	}
	for says, filter := range map[string]protocol.Filter{
		"no pattern is true":     {"a<": false},
		"an empty pattern":       {"": true},
		"there are no wildcards": {"a*": true},
		`pattern "a<b"`:          {"a<b": true},
		`pattern "a<<"`:          {"a<<": true},
		`pattern "a@b"`:          {"a@b": true},
		"an empty component":     {"/a": true},
		`pattern "a/<"`:          {"a/<": true},
		`pattern "a//b"`:         {"a//b": true},
		`pattern "a\nb"`:         {"a\nb": true},
		`pattern "ä"`:            {"ä": true},
		"at most 255 letters":    {strings.Repeat("a", 256): true},
	} {
		require.ErrorContains(t, filter.Validate(), says)
	}
	require.ErrorContains(t, protocol.Filter(nil).Validate(), "nothing would ever match")
}

// arbitraryFilter draws filters over few names, so that patterns meet.
func arbitraryFilter(t *rapid.T) protocol.Filter {
	return rapid.MapOf(rapid.StringMatching(`(a|b)(/(a|b)){0,3}<?|<`), rapid.Bool()).Draw(t, "filter")
}

func TestFilterRootsCoverWhatMatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		filter := arbitraryFilter(t)
		filesystem := rapid.StringMatching(`(a|b)(/(a|b)){0,4}`).Draw(t, "filesystem")
		if !filter.Match(filesystem) {
			return
		}
		roots := filter.Roots()
		covered := len(roots) == 0
		for _, root := range roots {
			covered = covered || filesystem == root || strings.HasPrefix(filesystem, root+"/")
		}
		require.True(t, covered, "%s matches %v and is below none of %v", filesystem, filter, roots)
	})
}

// The most specific pattern is the longest that applies.
func TestFilterMatchesByTheMostSpecificPattern(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		filter := arbitraryFilter(t)
		filesystem := rapid.StringMatching(`(a|b)(/(a|b)){0,4}`).Draw(t, "filesystem")
		want, length := false, -1
		for pattern, in := range filter {
			root, subtree := strings.CutSuffix(pattern, "<")
			applies := pattern == filesystem || subtree && (root == "" || strings.HasPrefix(filesystem+"/", root+"/"))
			specific := 2 * len(root)
			if !subtree {
				specific++ // a full name beats the subtree of the same name
			}
			if applies && specific > length {
				want, length = in, specific
			}
		}
		require.Equal(t, want, filter.Match(filesystem))
	})
}

func FuzzFilter(f *testing.F) {
	for _, seed := range [][2]string{
		{"tank<", "tank/a"}, {"<", "a"}, {"", ""}, {"a/<", "a"}, {"a//b", "a//b"}, {"a<<", "a<"}, {"/", "/"}, {"a@b", "a"}, {"\xff<", "\xff"},
	} {
		f.Add(seed[0], seed[1], true)
	}
	f.Fuzz(func(t *testing.T, pattern, filesystem string, in bool) {
		filter := protocol.Filter{pattern: in}
		match, roots := filter.Match(filesystem), filter.Roots()
		require.False(t, match && !in, "an excluding filter has %q in", filesystem)
		require.LessOrEqual(t, len(roots), 1)
		if err := filter.Validate(); err != nil {
			require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
			return
		}
		require.True(t, in)
		require.True(t, filter.Match(strings.TrimSuffix(pattern, "<")) || pattern == "<")
	})
}
