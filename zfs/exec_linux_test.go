// What is only so on Linux, or can only be seen there, in /proc.

package zfs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A child must not be left behind when this process is killed.
func TestExecRunnerChildrenDieWithTheirParent(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	require.NoError(t, err)
	parent := exec.CommandContext(deadline(t), self, "child/orphan")
	parent.Args[0] = "zfs"
	stdout, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	pid := strings.TrimSpace(line)
	require.False(t, ended(pid), "the grandchild runs")

	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait() // it was killed
	require.Eventually(t, func() bool { return ended(pid) }, time.Minute, 10*time.Millisecond, "process %s was left behind", pid)
}

// ended says whether the process is gone, or a zombie that somebody else has to reap.
func ended(pid string) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%s/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := bytes.Cut(stat, []byte(") "))
	return bytes.HasPrefix(after, []byte("Z"))
}

//nolint:paralleltest // no other test may open or close descriptors meanwhile
func TestExecRunnerLeavesNoDescriptorsBehind(t *testing.T) {
	run := func() {
		var stdout bytes.Buffer
		_, err := shellRunner().Run(deadline(t), Command{Args: []string{"zfs", "-c", "echo x; echo y >&2"}, Stdout: &stdout})
		require.NoError(t, err)
		_, err = NewExecRunner(WithExecutable("zfs", "/nonexistent")).Run(deadline(t), Command{Args: []string{"zfs"}})
		require.Error(t, err)
		stream, err := startSend(deadline(t), shellRunner(), []string{"zfs", "-c", "exec yes"})
		require.NoError(t, err)
		_, err = stream.Read(make([]byte, 10))
		require.NoError(t, err)
		require.NoError(t, stream.Close())
	}
	run()
	before := openDescriptors(t)
	for range 20 {
		run()
	}
	require.Equal(t, before, openDescriptors(t))
}

// linkRunner runs children that say what their end of the pipe is.
type linkRunner struct{ Runner }

func (r linkRunner) Run(ctx context.Context, command Command) (Result, error) {
	command.Args = []string{"zfs", "child/link-" + command.Args[1]}
	return r.Runner.Run(ctx, command)
}

// The two commands have the ends of one pipe: nobody copies between them.
func TestPipeGivesThePipeToTheCommands(t *testing.T) {
	t.Parallel()
	_, err := New(linkRunner{selfRunner(t)}).Pipe(deadline(t), validSend(t), RecvArgs{Dataset: "pool/x"}, PipeOptions{})
	var failed *PipeError
	require.ErrorAs(t, err, &failed)
	var sent *CommandError
	var received *RecvError
	require.ErrorAs(t, failed.Send, &sent)
	require.ErrorAs(t, failed.Recv, &received)
	require.Regexp(t, `^pipe:\[[0-9]+\]$`, sent.Stderr)
	require.Equal(t, sent.Stderr, received.Stderr)
}

//nolint:paralleltest // no other test may open or close descriptors meanwhile
func TestPipeLeavesNoDescriptorsBehind(t *testing.T) {
	run := func() {
		for _, pair := range []shellPair{
			{send: "echo x", recv: "exec cat >/dev/null"},
			{send: "exec yes", recv: "exit 1"},
			{send: "echo x; exit 1", recv: "exec cat >/dev/null"},
		} {
			_, _ = New(pair).Pipe(deadline(t), validSend(t), RecvArgs{Dataset: "pool/x"}, PipeOptions{}) // most are to fail
		}
	}
	run()
	before := openDescriptors(t)
	for range 10 {
		run()
	}
	require.Equal(t, before, openDescriptors(t))
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}
