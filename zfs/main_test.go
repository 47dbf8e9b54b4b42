package zfs

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TestMain also is the child process of some tests: the exec runner starts the test binary under the name "zfs".
func TestMain(m *testing.M) {
	if os.Args[0] == "zfs" {
		os.Exit(childMain(os.Args[len(os.Args)-1]))
	}
	goleak.VerifyTestMain(m)
}

// childMain stands in for a zfs command; its last argument says how to behave.
func childMain(behaviour string) int {
	switch behaviour {
	case "child/count": // reads all, and says how much that was
		n, err := io.Copy(io.Discard, os.Stdin)
		fmt.Fprintf(os.Stderr, "read %d bytes, error %v\n", n, err)
		return 7
	case "child/accept": // reads all
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return 1
		}
		return 0
	case "child/refuse": // reads nothing
		fmt.Fprintln(os.Stderr, "cannot receive new filesystem stream: destination 'child/refuse' exists\nmust specify -F to overwrite it")
		return 1
	case "child/short": // reads 10 bytes and is content
		if _, err := io.ReadFull(os.Stdin, make([]byte, 10)); err != nil {
			return 1
		}
		return 0
	case "child/link-send", "child/link-recv": // says what it writes to or reads from
		descriptor := map[string]string{"child/link-send": "1", "child/link-recv": "0"}[behaviour]
		link, err := os.Readlink("/proc/self/fd/" + descriptor)
		if err != nil {
			link = err.Error()
		}
		fmt.Fprint(os.Stderr, link)
		return 1
	case "child/locale":
		fmt.Println(os.Getenv("LC_ALL"))
		return 0
	case "child/orphan": // becomes the parent of a child, reports its pid, and waits to be killed
		reader, writer, err := os.Pipe()
		if err != nil {
			return 1
		}
		go func() { _, _ = io.Copy(os.Stdout, reader) }()
		_, err = NewExecRunner(WithExecutable("sh", "/bin/sh")).Run(context.Background(), Command{
			Args: []string{"sh", "-c", "echo $$; exec sleep 600"}, Stdout: writer,
		})
		fmt.Fprintln(os.Stderr, err)
		return 1
	default:
		fmt.Fprintln(os.Stderr, "unknown behaviour")
		return 99
	}
}

// selfRunner runs the test binary in the place of zfs.
func selfRunner(t testing.TB) Runner {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return NewExecRunner(WithExecutable("zfs", self))
}

// shellRunner runs the shell in the place of zfs.
func shellRunner() Runner { return NewExecRunner(WithExecutable("zfs", "/bin/sh")) }

// deadline is a context for what must be prompt; it is generous because only a hang should reach it.
func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// answer is what a scripted command does.
type answer struct {
	args   string // joined with spaces
	stdout string
	stderr string
	exit   int
	err    error
}

// script is a Runner that expects commands in order.
type script struct {
	t  testing.TB
	mu sync.Mutex

	answers []answer
}

// scripted makes a System over a script. zfs version is answered as OpenZFS 2.3.2 whenever it is asked, unless the script
// begins with it.
func scripted(t testing.TB, answers ...answer) *System {
	t.Helper()
	s := &script{t: t, answers: answers}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		require.Empty(t, s.answers, "commands that were expected and not run")
	})
	return New(s)
}

func (s *script) Run(ctx context.Context, command Command) (Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	closeFile(command.Stdin)
	if file, ok := command.Stdout.(*os.File); ok {
		defer closeFile(file)
	}
	args := strings.Join(command.Args, " ")
	if args == "zfs version" && (len(s.answers) == 0 || s.answers[0].args != args) {
		_, err := io.WriteString(command.Stdout, "zfs-2.3.2-2~bpo12+2\nzfs-kmod-2.3.2-2~bpo12+2\n")
		return Result{}, err
	}
	if !s.known(args) {
		return Result{}, fmt.Errorf("the script does not expect %q", args)
	}
	next := s.answers[0]
	s.answers = s.answers[1:]
	if next.err != nil {
		return Result{}, next.err
	}
	if command.Stdout != nil {
		// In pieces, since a command's output does not arrive line by line.
		for piece := range slices.Chunk([]byte(next.stdout), 7) {
			if _, err := command.Stdout.Write(piece); err != nil {
				return Result{}, err
			}
		}
	}
	if command.Stderr != nil {
		_, _ = io.WriteString(command.Stderr, next.stderr) // as Command says
	}
	return Result{ExitCode: next.exit, Stderr: []byte(next.stderr)}, ctx.Err()
}

func (s *script) known(args string) bool {
	if len(s.answers) == 0 {
		return false
	}
	if want := s.answers[0].args; want != args {
		s.t.Errorf("command %q, expected %q", args, want)
		return false
	}
	return true
}

var currentFeatures = func() Features {
	features, err := parseVersionOutput("zfs-2.3.2-1\nzfs-kmod-2.3.2-1\n")
	if err != nil {
		panic(err)
	}
	return features
}()
