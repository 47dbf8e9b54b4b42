package zfs

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What zfs send of OpenZFS 2.3 writes to standard error with -vP.
const (
	reportOfOne = "full\ttank/big@1\t157572336\n" +
		"size\t157572336\n" +
		"05:41:16\t134256\ttank/big@1\n" +
		"05:41:19\t135591160\ttank/big@1\n"
	reportOfRange = "incremental\t1\ttank/big@2\t1000\n" +
		"incremental\t2\ttank/big@3\t2000\n" +
		"incremental\t3\ttank/big@4\t4000\n" +
		"size\t7000\n" +
		"05:41:21\t100\ttank/big@2\n" +
		"05:41:22\t1100\ttank/big@2\n" +
		"05:41:24\t300\ttank/big@4\n"
	reportOfResumed = "resume token contents:\n" +
		"nvlist version: 0\n" +
		"\tfromguid = 0x39195024f322bd78\n" +
		"\tobject = 0x2\n" +
		"\toffset = 0x38e0000\n" +
		"\tbytes = 0x39235c0\n" +
		"\ttoguid = 0x39195024f322bd79\n" +
		"\ttoname = tank/big@1\n" +
		"\tcompressok = 1\n" +
		"\trawok\n" +
		"incremental\ttank/big@0\ttank/big@1\t97658672\n" +
		"size\t97658672\n" +
		"05:41:40\t132592\ttank/big@1\n"
)

func reportOf(output string) *sendReport {
	report := &sendReport{}
	_, _ = report.Write([]byte(output))
	return report
}

func TestSendReport(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		output         string
		expected, sent uint64
		finished       uint64 // how much is taken to be sent once zfs send has succeeded
	}{
		"nothing":       {},
		"one snapshot":  {output: reportOfOne, expected: 157572336, sent: 135591160, finished: 157572336},
		"resumed":       {output: reportOfResumed, expected: 97658672, sent: 132592, finished: 97658672},
		"estimate only": {output: "full\ta@1\t5\nsize\t5\n", expected: 5, finished: 5},
		"no estimate yet": {
			output: "incremental\t1\ttank/big@2\t1000\n", finished: 1000,
		},
		"a range counts what is through by its last report or its estimate": {
			output: reportOfRange, expected: 7000, sent: 1100 + 2000 + 300, finished: 1100 + 2000 + 4000,
		},
		"more than was expected": {
			output: "full\ta@1\t5\nsize\t5\n00:00:00\t7\ta@1\n", expected: 5, sent: 7, finished: 7,
		},
		"the walk of the estimate is no progress": {
			output:   "00:00:01\t500\ta@2\n00:00:02\t900\ta@2\nincremental\ta#1\ta@2\t900\nsize\t900\n00:00:04\t10\ta@2\n",
			expected: 900, sent: 10, finished: 900,
		},
		"a snapshot that could not be estimated": {
			output: "incremental\t1\ta@2\t10\nincremental\t3\ta@4\t20\nsize\t30\n" +
				"00:00:01\t4\ta@2\n00:00:02\t8\ta@3\n00:00:03\t6\ta@4\n",
			expected: 30, sent: 10 + 8 + 6, finished: 10 + 8 + 20,
		},
		"an estimate that wrapped around is none": {
			output: "full\ta@1\t18446744073709551000\nsize\t18446744073709551000\n00:00:01\t4\ta@1\n", sent: 4, finished: 4,
		},
		"warnings and what is no line of zfs send": {
			output: "warning: x\n\n\t\nsize\t\nsize\t-3\nfull\ta@1\nfull\ta@1\t5\nsize\t5\n0:00:01\t4\ta@1\n00:00:01\t-4\ta@1\n",

			expected: 5, finished: 5,
		},
	} {
		report := reportOf(c.output)
		expected, sent := report.progress()
		require.Equal(t, c.expected, expected, name)
		require.Equal(t, c.sent, sent, name)
		report.finish()
		_, sent = report.progress()
		require.Equal(t, c.finished, sent, "%s, at the end", name)
	}
}

// However standard error arrives in pieces, what is reported is the same, and it never falls.
func TestSendReportTakesPieces(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var output strings.Builder
		snapshots := rapid.IntRange(1, 4).Draw(t, "snapshots")
		for i := range snapshots {
			fmt.Fprintf(&output, "incremental\t%d\ta@%d\t%d\n", i, i+1, rapid.IntRange(0, 1000).Draw(t, "estimate"))
		}
		fmt.Fprintf(&output, "size\t%d\n", rapid.IntRange(0, 4000).Draw(t, "size"))
		for i := range snapshots {
			for _, bytes := range rapid.SliceOfN(rapid.IntRange(0, 2000), 0, 3).Draw(t, "reports") {
				fmt.Fprintf(&output, "12:34:56\t%d\ta@%d\n", bytes, i+1)
			}
		}
		whole, pieces := reportOf(output.String()), &sendReport{}
		var last uint64
		for rest := output.String(); rest != ""; {
			size := rapid.IntRange(1, len(rest)).Draw(t, "piece")
			_, err := io.WriteString(pieces, rest[:size])
			require.NoError(t, err)
			rest = rest[size:]
			_, sent := pieces.progress()
			require.GreaterOrEqual(t, sent, last)
			last = sent
		}
		wantExpected, wantSent := whole.progress()
		expected, sent := pieces.progress()
		require.Equal(t, wantExpected, expected)
		require.Equal(t, wantSent, sent)
		whole.finish()
		_, finished := whole.progress()
		require.GreaterOrEqual(t, finished, sent)
	})
}

func TestSendReportSurvivesALineWithoutEnd(t *testing.T) {
	t.Parallel()
	report := reportOf(strings.Repeat("x", 2*maxLine))
	_, err := io.WriteString(report, "\n"+reportOfOne)
	require.NoError(t, err)
	expected, _ := report.progress()
	require.Equal(t, uint64(157572336), expected)
}

func FuzzSendLine(f *testing.F) {
	for _, report := range []string{reportOfOne, reportOfRange, reportOfResumed, "size\t18446744073709551615", "warning: x"} {
		for line := range strings.Lines(report) {
			f.Add(strings.TrimSuffix(line, "\n"))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		line := parseSendLine(text)
		switch line.kind {
		case sendLineEstimate, sendLineProgress:
			require.Contains(t, text, "\t"+line.snapshot)
		case sendLineTotal:
			require.True(t, strings.HasPrefix(text, "size\t"))
		case sendLineOther, sendLineToken:
			require.Zero(t, line.bytes)
			require.Empty(t, line.snapshot)
		}
	})
}

func FuzzSendReport(f *testing.F) {
	f.Add(reportOfOne)
	f.Add(reportOfRange)
	f.Add(reportOfResumed + reportOfRange)
	f.Fuzz(func(t *testing.T, output string) {
		report := reportOf(output)
		_, before := report.progress()
		report.finish()
		if _, after := report.progress(); after < before {
			t.Fatalf("%d bytes sent, and %d once it had succeeded", before, after)
		}
	})
}

// An operator sees what is wrong, and not how far it had come.
func TestErrorsOfZFSSendHaveNoProgress(t *testing.T) {
	t.Parallel()
	const reason = "warning: cannot send 'tank/big@1': Input/output error\n"
	send := []string{"zfs", "send", "-vP", "-t", "1-2-3-4"}
	var failed *CommandError
	require.ErrorAs(t, commandFailure(send, Result{ExitCode: 1, Stderr: []byte(reportOfResumed + reason)}), &failed)
	require.Equal(t, reason, failed.Stderr)

	long := strings.Repeat("05:41:40\t132592\ttank/big@1\n", maxStderr/20) + reason
	require.ErrorAs(t, commandFailure(send, Result{ExitCode: 1, Stderr: []byte(long[len(long)-maxStderr:])}), &failed)
	require.Equal(t, reason, failed.Stderr, "the first line of a tail is none")

	require.ErrorAs(t, commandFailure([]string{"zfs", "list"}, Result{ExitCode: 1, Stderr: []byte("size\t5\n")}), &failed)
	require.Equal(t, "size\t5\n", failed.Stderr, "other commands report no progress")
}

func TestSendStreamProgress(t *testing.T) {
	t.Parallel()
	const script = "printf 'full\\ta@1\\t5000\\nsize\\t5000\\n12:34:56\\t10\\ta@1\\n' >&2; head -c 6000 /dev/zero"
	stream := startShell(t, deadline(t), script)
	_, err := io.CopyN(io.Discard, stream, 2500)
	require.NoError(t, err)
	require.Equal(t, uint64(2500), stream.Progress().Sent, "what was read was counted")
	_, err = io.Copy(io.Discard, stream)
	require.NoError(t, err)
	require.Equal(t, Progress{Expected: 5000, Sent: 6000, Exact: true}, stream.Progress())
	require.NoError(t, stream.Close())
	require.Equal(t, Progress{Expected: 5000, Sent: 6000, Exact: true}, stream.Progress(), "it outlives the stream")

	stream = startShell(t, deadline(t), script)
	file := stream.File()
	_, err = io.CopyN(io.Discard, file, 6000)
	require.NoError(t, err)
	require.NoError(t, stream.Wait())
	require.Equal(t, Progress{Expected: 5000, Sent: 5000}, stream.Progress(), "nobody counted, and the estimate is what there is")
	require.NoError(t, stream.Close())
	require.False(t, stream.Progress().Exact)
}

// zfs send is not asked for its progress where that would be expensive, or is refused.
func TestSendAsksForProgress(t *testing.T) {
	t.Parallel()
	mark := &VersionRef{Type: Bookmark, Name: "a"}
	snapshot := &VersionRef{Type: Snapshot, Name: "a"}
	require.True(t, SendArgs{}.reports())
	require.True(t, SendArgs{From: snapshot, Intermediate: true}.reports())
	require.True(t, SendArgs{From: snapshot, ResumeToken: tokenA}.reports())
	require.False(t, SendArgs{From: mark}.reports())
	require.False(t, SendArgs{From: mark, ResumeToken: tokenA}.reports())
	require.True(t, SendArgs{From: mark, EstimateFromBookmark: true}.reports())
	require.False(t, SendArgs{Flags: SendFlags{Saved: true}}.reports())
}
