package zfsfake_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs a command line whose words are separated by spaces and answers its output; it must succeed.
func run(t *testing.T, f *zfsfake.Fake, line string) string {
	t.Helper()
	stdout, result := try(t, f, nil, strings.Fields(line)...)
	require.Zero(t, result.ExitCode, "%s: %s", line, result.Stderr)
	return string(stdout)
}

// try runs a command with the given standard input and answers how it ended.
func try(t *testing.T, f *zfsfake.Fake, stdin []byte, args ...string) ([]byte, zfs.Result) {
	t.Helper()
	var stdout bytes.Buffer
	command := zfs.Command{Args: args, Stdout: &stdout}
	var feeding errgroup.Group
	if stdin != nil {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		command.Stdin = r
		feeding.Go(func() error {
			_, _ = w.Write(stdin) // EPIPE when the command does not want it all
			return w.Close()
		})
	}
	result, err := f.Run(context.Background(), command)
	require.NoError(t, err)
	require.NoError(t, feeding.Wait())
	return stdout.Bytes(), result
}

func TestReplicateAndResume(t *testing.T) {
	t.Parallel()
	alpha, bravo := zfsfake.New(), zfsfake.New()
	alpha.CreatePool("tank")
	bravo.CreatePool("backup")
	run(t, alpha, "zfs create tank/data")
	require.NoError(t, alpha.Write("tank/data", "a", []byte("hello")))
	require.NoError(t, alpha.Generate("tank/data", "b", 7, 1<<20))
	run(t, alpha, "zfs snapshot tank/data@1")
	full := []byte(run(t, alpha, "zfs send -L -c -e tank/data@1"))

	_, result := try(t, bravo, full[:700_000], "zfs", "recv", "-u", "-s", "backup/data")
	require.Equal(t, 1, result.ExitCode)
	require.Contains(t, string(result.Stderr), "Partially received snapshot is saved.")
	token := strings.TrimSpace(run(t, bravo, "zfs get -H -o value receive_resume_token backup/data"))
	require.Contains(t, run(t, bravo, "zfs list -Hp -o name,receive_resume_token backup/data"), token)

	rest := []byte(run(t, alpha, "zfs send -t "+token))
	require.Less(t, len(rest), 600_000)
	_, result = try(t, bravo, rest, "zfs", "recv", "-u", "-s", "backup/data")
	require.Zero(t, result.ExitCode, "%s", result.Stderr)
	requireSame(t, alpha, "tank/data@1", bravo, "backup/data@1")

	require.NoError(t, alpha.Remove("tank/data", "a"))
	require.NoError(t, alpha.WriteAt("tank/data", "b", 1<<19, []byte("changed")))
	run(t, alpha, "zfs snapshot tank/data@2")
	run(t, alpha, "zfs bookmark tank/data@1 tank/data#1")
	run(t, alpha, "zfs destroy tank/data@1")
	incremental := []byte(run(t, alpha, "zfs send -i tank/data#1 tank/data@2"))
	require.Less(t, len(incremental), 10_000)
	_, result = try(t, bravo, incremental, "zfs", "recv", "-u", "-s", "backup/data")
	require.Zero(t, result.ExitCode, "%s", result.Stderr)
	requireSame(t, alpha, "tank/data@2", bravo, "backup/data@2")
}

func requireSame(t *testing.T, source *zfsfake.Fake, from string, target *zfsfake.Fake, to string) {
	t.Helper()
	want, err := source.ContentHash(from)
	require.NoError(t, err)
	have, err := target.ContentHash(to)
	require.NoError(t, err)
	require.Equal(t, want, have, "%s and %s differ", from, to)
}
