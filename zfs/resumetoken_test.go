package zfs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const tokenA = "1-c85489795-f0-789c636064000310a500c4ec50360710"

// As OpenZFS 2.3.2 printed it.
const tokenOutput = "resume token contents:\nnvlist version: 0\n\tfromguid = 0x365ebc5ab8edb4d5\n\tobject = 0x80\n" +
	"\toffset = 0x2a0000\n\tbytes = 0x2c3420\n\ttoguid = 0x8c213168177cdfe3\n\ttoname = tank/fs@b\n\tembedok = 1\n\tcompressok = 1\n" +
	"send from tank/fs@a to tank/fs@b estimated size is 5.26M\ntotal estimated size is 5.26M\n"

func decodedToken() ResumeToken {
	return ResumeToken{
		Raw: tokenA, Object: 0x80, Offset: 0x2a0000, Bytes: 0x2c3420, ToGUID: 0x8c213168177cdfe3, FromGUID: 0x365ebc5ab8edb4d5,
		HasFromGUID: true, ToName: "tank/fs@b", EmbedOK: true, CompressOK: true,
	}
}

func TestDecodeResumeToken(t *testing.T) {
	t.Parallel()
	token, err := scripted(t, answer{args: "zfs send -nvt " + tokenA, stdout: tokenOutput}).DecodeResumeToken(t.Context(), tokenA)
	require.NoError(t, err)
	require.Equal(t, decodedToken(), token)
}

func TestDecodeResumeTokenOnAHostWithoutTheDataset(t *testing.T) {
	t.Parallel()
	contents, _, _ := strings.Cut(tokenOutput, "send from")
	token, err := scripted(t, answer{
		args: "zfs send -nvt " + tokenA, stdout: contents, exit: 255,
		stderr: "cannot resume send: 'tank/fs@b' used in the initial send no longer exists\n",
	}).DecodeResumeToken(t.Context(), tokenA)
	require.NoError(t, err)
	require.Equal(t, decodedToken(), token)
}

func TestDecodeResumeTokenThatIsCorrupt(t *testing.T) {
	t.Parallel()
	_, err := scripted(t, answer{
		args: "zfs send -nvt " + tokenA, exit: 255, stderr: "cannot resume send: resume token is corrupt (incorrect checksum)\n",
	}).DecodeResumeToken(t.Context(), tokenA)
	require.ErrorIs(t, err, ErrResumeTokenCorrupt)
	for _, token := range []string{"", "nonsense", "-n", "1-abc", "1-a-b-c d", "1-a-b-C", "1-a-b-" + strings.Repeat("0", maxToken)} {
		_, err := scripted(t).DecodeResumeToken(t.Context(), token)
		require.ErrorIs(t, err, ErrResumeTokenCorrupt, "%.40q does not reach the command line", token)
	}
	_, err = scripted(t, answer{args: "zfs send -nvt " + tokenA, exit: 1, stderr: "permission denied\n"}).
		DecodeResumeToken(t.Context(), tokenA)
	require.NotErrorIs(t, err, ErrResumeTokenCorrupt)
	require.ErrorContains(t, err, "permission denied")
	_, err = scripted(t, answer{args: "zfs send -nvt " + tokenA, stdout: "something else\n"}).DecodeResumeToken(t.Context(), tokenA)
	var malformed *OutputError
	require.ErrorAs(t, err, &malformed)
}

func TestParseResumeTokenOutputIsStrict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ output, want string }{
		"empty":    {"", "does not begin with"},
		"heading":  {"resume token contents:\nnvlist version: 1\n", "does not begin with"},
		"missing":  {strings.Replace(tokenOutput, "\tbytes = 0x2c3420\n", "", 1), `no entry "bytes"`},
		"repeated": {strings.Replace(tokenOutput, "\tobject", "\tobject = 0x1\n\tobject", 1), "the entry is repeated"},
		"unknown":  {strings.Replace(tokenOutput, "\tobject", "\tsubject = 0x1\n\tobject", 1), "the entry is unknown"},
		"number":   {strings.Replace(tokenOutput, "0x80", "many", 1), "it is not a number"},
		"overflow": {strings.Replace(tokenOutput, "0x80", "0x1ffffffffffffffff", 1), "it is not a number"},
		"flag":     {strings.Replace(tokenOutput, "embedok = 1", "embedok = 0", 1), "it is not a flag"},
		"name":     {strings.Replace(tokenOutput, "tank/fs@b", "tank/fs", 1), "neither @ nor #"},
	} {
		_, err := ParseResumeTokenOutput(c.output)
		require.ErrorContains(t, err, c.want, name)
	}
	token, err := ParseResumeTokenOutput(strings.Replace(tokenOutput, "\tobject", "\trawok\n\tobject", 1))
	require.NoError(t, err, "a flag may be printed without a value")
	require.True(t, token.RawOK)
	token, err = ParseResumeTokenOutput(strings.Replace(tokenOutput, "\tobject", "\tredact_snaps = 0x1 0x2\n\tobject", 1))
	require.NoError(t, err)
	require.True(t, token.Redacted)
}

func matchingArgs() SendArgs {
	return SendArgs{
		Dataset: "tank/fs", From: &VersionRef{Type: Snapshot, Name: "a", GUID: 0x365ebc5ab8edb4d5},
		To:    VersionRef{Type: Snapshot, Name: "b", GUID: 0x8c213168177cdfe3},
		Flags: SendFlags{Compressed: true, EmbeddedData: true, LargeBlocks: true},
	}
}

func TestResumeTokenMatches(t *testing.T) {
	t.Parallel()
	require.NoError(t, decodedToken().Matches(matchingArgs()))
	yes := true
	for want, change := range map[string]func(*ResumeToken, *SendArgs){
		`of the dataset "tank/other"`:        func(t *ResumeToken, _ *SendArgs) { t.ToName = "tank/other@b" },
		"of the snapshot tank/fs@b (guid 1)": func(t *ResumeToken, _ *SendArgs) { t.ToGUID = 1 },
		"not of a full one":                  func(_ *ResumeToken, a *SendArgs) { a.From = nil },
		"is of a full send":                  func(t *ResumeToken, _ *SendArgs) { t.HasFromGUID = false },
		"from guid 5, not from @a":           func(t *ResumeToken, _ *SendArgs) { t.FromGUID = 5 },
		"is of a raw send":                   func(t *ResumeToken, _ *SendArgs) { t.RawOK = true },
		"must be encrypted":                  func(_ *ResumeToken, a *SendArgs) { a.Encrypted, a.Flags.Raw = &yes, true },
		"of a compressed send, and this":     func(_ *ResumeToken, a *SendArgs) { a.Flags.Compressed = false },
		"this is a compressed send":          func(t *ResumeToken, _ *SendArgs) { t.CompressOK = false },
		"large-block": func(t *ResumeToken, a *SendArgs) {
			t.LargeBlockOK, a.Flags.LargeBlocks = true, false
		},
		"embedded-data":  func(_ *ResumeToken, a *SendArgs) { a.Flags.EmbeddedData = false },
		"saved-state":    func(t *ResumeToken, _ *SendArgs) { t.SavedOK = true },
		"a redacted":     func(t *ResumeToken, _ *SendArgs) { t.Redacted = true },
		"of no snapshot": func(t *ResumeToken, _ *SendArgs) { t.ToName = "tank/fs" },
	} {
		token, args := decodedToken(), matchingArgs()
		change(&token, &args)
		require.ErrorContains(t, token.Matches(args), want)
	}
}

func TestResumeTokenMatchesWhatTheStreamDidNotNeed(t *testing.T) {
	t.Parallel()
	token, args := decodedToken(), matchingArgs()
	token.EmbedOK = false // allowed and not used
	require.NoError(t, token.Matches(args))
	token, args = decodedToken(), matchingArgs()
	args.Flags = SendFlags{Raw: true} // raw implies the others (dmu_send.c, setup_featureflags)
	token.RawOK, token.LargeBlockOK = true, true
	require.NoError(t, token.Matches(args))
	token.RawOK = false // of a dataset that is not encrypted
	require.NoError(t, token.Matches(args))
}

// What is decoded says the same when it is printed again.
func FuzzResumeTokenOutput(f *testing.F) {
	f.Add(tokenOutput)
	f.Add("resume token contents:\nnvlist version: 0\n\tobject = 0x2\n\toffset = 0x0\n\tbytes = 0x0\n\ttoguid = 0x1\n\ttoname = a@b\n")
	f.Add("resume token contents:\nnvlist version: 0\n\ttoname = a@b = c\n")
	f.Fuzz(func(t *testing.T, output string) {
		token, err := ParseResumeTokenOutput(output)
		if err != nil {
			return
		}
		require.NoError(t, ValidateSnapshot(token.ToName))
		again, err := ParseResumeTokenOutput(printToken(token))
		require.NoError(t, err)
		require.Equal(t, token, again)
	})
}

func printToken(token ResumeToken) string {
	var b strings.Builder
	fmt.Fprintf(&b, "resume token contents:\nnvlist version: 0\n\tobject = %#x\n\toffset = %#x\n\tbytes = %#x\n\ttoguid = %#x\n\ttoname = %s\n",
		token.Object, token.Offset, token.Bytes, token.ToGUID, token.ToName)
	if token.HasFromGUID {
		fmt.Fprintf(&b, "\tfromguid = %#x\n", token.FromGUID)
	}
	for name, set := range map[string]bool{
		"largeblockok": token.LargeBlockOK, "embedok": token.EmbedOK, "compressok": token.CompressOK, "rawok": token.RawOK,
		"savedok": token.SavedOK, "redact_snaps": token.Redacted,
	} {
		if set {
			fmt.Fprintf(&b, "\t%s = 1\n", name)
		}
	}
	return b.String()
}
