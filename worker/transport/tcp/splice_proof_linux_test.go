package tcp_test

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

const (
	// spliceSide tells a process of this test binary to make the transfer of TestPlainStreamsPassTheProcessBy.
	spliceSide = "ZFLEET_TCP_TEST_SPLICE"
	// splicedSize is the length of its stream.
	splicedSize = 64 << 20
)

// TestPlainStreamsPassTheProcessBy has a process of its own move a stream from a child's pipe to another child's, and asks the
// kernel how many bytes that process has read and written itself (/proc/pid/io): next to none where it splices.
func TestPlainStreamsPassTheProcessBy(t *testing.T) {
	t.Parallel()
	if os.Getenv(spliceSide) != "" {
		t.Skip("this is the process that makes the transfer")
	}
	if _, err := os.ReadFile("/proc/self/io"); err != nil {
		t.Skip("the kernel does not count: ", err)
	}
	for name, most := range map[string]int64{"plain": 1 << 20, "tls": 5 * splicedSize} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(testContext(t), os.Args[0], "-test.run=^TestSpliceSide$", "-test.v")
			cmd.Env = append(os.Environ(), spliceSide+"="+name)
			said, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", said)
			_, after, found := strings.Cut(string(said), "bytes through the process: ")
			require.True(t, found, "%s", said)
			number, _, _ := strings.Cut(after, "\n")
			through, err := strconv.ParseInt(number, 10, 64)
			require.NoError(t, err)
			require.Less(t, through, most)
			if name == "tls" {
				require.Greater(t, through, int64(2*splicedSize), "the count does not see what is copied")
			}
		})
	}
}

// TestSpliceSide is what the process of TestPlainStreamsPassTheProcessBy does.
func TestSpliceSide(t *testing.T) { //nolint:paralleltest // it counts what the whole process does
	side := os.Getenv(spliceSide)
	if side == "" {
		t.Skip("only for TestPlainStreamsPassTheProcessBy")
	}
	ctx := testContext(t)
	outgoing, incoming := pair(t, side == "tls", time.Minute)
	from := exec.CommandContext(ctx, "head", "-c", strconv.Itoa(splicedSize), "/dev/zero")
	reader, err := from.StdoutPipe()
	require.NoError(t, err)
	to := exec.CommandContext(ctx, "wc", "-c")
	r, w, err := os.Pipe()
	require.NoError(t, err)
	var counted strings.Builder
	to.Stdin, to.Stdout = r, &counted
	require.NoError(t, from.Start())
	require.NoError(t, to.Start())
	require.NoError(t, r.Close())
	before := throughProcess(t)
	received := make(chan error, 1)
	go func() {
		_, err := incoming.CopyTo(ctx, w, transport.CopyOptions{})
		received <- errors.Join(err, incoming.Confirm(ctx, protocol.Confirmation{ToGUID: 2}))
	}()
	_, err = outgoing.CopyFrom(ctx, reader, transport.CopyOptions{})
	require.NoError(t, err)
	_, err = outgoing.Confirmation(ctx)
	require.NoError(t, err)
	require.NoError(t, <-received)
	t.Logf("bytes through the process: %d", throughProcess(t)-before)
	require.NoError(t, w.Close())
	require.NoError(t, from.Wait())
	require.NoError(t, to.Wait())
	require.Equal(t, strconv.Itoa(splicedSize), strings.TrimSpace(counted.String()))
}

// throughProcess is how many bytes this process has read and written by read(2), write(2) and the like.
func throughProcess(t *testing.T) int64 {
	t.Helper()
	counts, err := os.ReadFile("/proc/self/io")
	require.NoError(t, err)
	total := int64(0)
	for line := range strings.Lines(string(counts)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == "rchar" || name == "wchar" {
			n, err := strconv.ParseInt(number, 10, 64)
			require.NoError(t, err)
			total += n
		}
	}
	return total
}
