package protocol_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

// tokenGrammar is what both a subject token and a token of a bucket's key allow (ADR-8), without the dots between tokens.
var tokenGrammar = regexp.MustCompile(`^[-/_=a-zA-Z0-9]+$`)

func TestEscapeToken(t *testing.T) {
	t.Parallel()
	for plain, token := range map[string]string{
		"":                 "=",
		"tank/data":        "tank/data",
		"Prod-1_a":         "Prod-1_a",
		"_kv":              "=5Fkv",
		"a_kv":             "a_kv",
		"a b.c:d":          "a=20b=2Ec=3Ad",
		"*":                "=2A",
		">":                "=3E",
		"=":                "=3D",
		"ä":                "=C3=A4",
		"\x00\xff":         "=00=FF",
		"tank/a@b#c%d":     "tank/a=40b=23c=25d",
		"$KV.zfleet-jobs.": "=24KV=2Ezfleet-jobs=2E",
	} {
		require.Equal(t, token, protocol.EscapeToken(plain))
		unescaped, err := protocol.UnescapeToken(token)
		require.NoError(t, err)
		require.Equal(t, plain, unescaped)
	}
}

func TestUnescapeTokenRefusesWhatEscapeTokenNeverMakes(t *testing.T) {
	t.Parallel()
	for _, token := range []string{
		"", "==", "a=", "a=2", "=2", "=2e", "=GG", "=41", "=61", "=2F", "_kv", "a=5Fb", "a b", "a.b", "a\x00", "ä", "=3D=", "*", ">",
	} {
		unescaped, err := protocol.UnescapeToken(token)
		require.Error(t, err, "token %q became %q", token, unescaped)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
	}
}

func TestTokensAreBijective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		checkToken(t, string(rapid.SliceOf(rapid.Byte()).Draw(t, "plain")))
	})
}

func checkToken(t require.TestingT, plain string) {
	token := protocol.EscapeToken(plain)
	require.Regexp(t, tokenGrammar, token)
	require.NotEqual(t, byte('_'), token[0])
	unescaped, err := protocol.UnescapeToken(token)
	require.NoError(t, err)
	require.Equal(t, plain, unescaped)
}

func FuzzToken(f *testing.F) {
	for _, seed := range []string{"", "=", "=41", "=2E", "tank/data set:1.2", "_kv", "=5Fkv", "\xff\x00", "a.b.>", "==", "=3D"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		checkToken(t, s)
		if plain, err := protocol.UnescapeToken(s); err == nil {
			require.Equal(t, s, protocol.EscapeToken(plain), "one string, two tokens")
		}
	})
}
