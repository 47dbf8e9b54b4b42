// The real Runner: zfs and zpool as child processes.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"
)

const (
	// maxStderr is how much of a command's standard error is kept: the last bytes.
	maxStderr = 64 << 10

	// pipeGrace is how long the pipes of a command that has ended are still read when something else (a grandchild) keeps
	// them open. For standard output that ends in an error, so that what is cut off is not taken for the whole.
	pipeGrace = 10 * time.Second
)

// ExecOption changes what [NewExecRunner] makes.
type ExecOption func(*execRunner)

// WithExecutable runs the file at path where a command's first argument is name ("zfs" or "zpool").
func WithExecutable(name, path string) ExecOption {
	return func(r *execRunner) { r.executables[name] = path }
}

// NewExecRunner makes the Runner of the real commands. They are searched in PATH and in the directories for system
// programs, run in the C locale, and killed when the context ends or, on Linux, when this process dies.
//
// A command that is stuck in the kernel can not be killed, and Run waits for it all the same: a zfs send that writes to a
// full pipe ends only once the pipe's read end is closed as well (openzfs/zfs#12500). [SendStream.Close] does that.
func NewExecRunner(options ...ExecOption) Runner {
	r := &execRunner{executables: map[string]string{}}
	for _, option := range options {
		option(r)
	}
	return r
}

type execRunner struct {
	executables map[string]string // never changed after it was made
}

// Run implements [Runner].
func (r *execRunner) Run(ctx context.Context, command Command) (Result, error) {
	defer closeFile(command.Stdin)
	stdoutFile, stdoutIsFile := command.Stdout.(*os.File)
	if stdoutIsFile {
		defer closeFile(stdoutFile)
	}
	if err := ctx.Err(); err != nil {
		return Result{}, fmt.Errorf("not started: %w", err)
	}
	path, err := r.find(command.Args)
	if err != nil {
		return Result{}, err
	}
	cmd := exec.CommandContext(ctx, path, command.Args[1:]...) //nolint:gosec // running the given command is what a Runner is for
	cmd.Args[0] = command.Args[0]
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = dieWithParent()

	if command.Stdin != nil {
		cmd.Stdin = command.Stdin
	}
	pipes := &childPipes{}
	defer pipes.close()
	switch {
	case stdoutIsFile && stdoutFile != nil:
		cmd.Stdout = stdoutFile
	case command.Stdout != nil:
		if cmd.Stdout, err = pipes.add(command.Stdout); err != nil {
			return Result{}, err
		}
	}
	stderr := &standardError{tail: tail{limit: maxStderr}, live: command.Stderr}
	if cmd.Stderr, err = pipes.add(stderr); err != nil {
		return Result{}, err
	}
	for _, file := range []any{cmd.Stdin, cmd.Stdout} {
		if err := makeBlocking(file); err != nil {
			return Result{}, err
		}
	}

	// The kernel sends the parent-death signal when the thread that started the child ends, not the process, so this
	// goroutine keeps its thread until the child is reaped (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return Result{}, fmt.Errorf("start: %w", err)
	}
	closeFile(command.Stdin)
	if stdoutIsFile {
		closeFile(stdoutFile)
	}
	pipes.closeWriters()

	waitErr := cmd.Wait()
	pipes.childEnded()
	writeErr := pipes.wait()

	result := Result{ExitCode: cmd.ProcessState.ExitCode(), Stderr: stderr.tail.bytes()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil && result.ExitCode != 0:
		return result, fmt.Errorf("killed: %w", context.Cause(ctx))
	case writeErr != nil:
		return result, fmt.Errorf("read its output: %w", writeErr)
	case waitErr != nil && !errors.As(waitErr, &exit):
		return result, fmt.Errorf("wait: %w", waitErr)
	}
	return result, nil
}

// systemDirectories are searched after PATH, which for users other than root often lacks them.
var systemDirectories = [...]string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

func (r *execRunner) find(args []string) (string, error) {
	if len(args) == 0 {
		return "", errors.New("no command given")
	}
	if path, ok := r.executables[args[0]]; ok {
		return path, nil
	}
	path, err := exec.LookPath(args[0])
	if err == nil {
		return path, nil
	}
	for _, directory := range systemDirectories {
		if path, dirErr := exec.LookPath(filepath.Join(directory, args[0])); dirErr == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w (is OpenZFS installed on this host?)", err)
}

// childPipes are the pipes from a child to writers in this process, with the goroutines that copy.
type childPipes struct {
	copies  sync.WaitGroup
	readers []*os.File
	writers []*os.File

	mu  sync.Mutex
	err error // of the first writer that failed
}

// add makes a pipe whose content goes to w, and returns the child's end of it.
func (p *childPipes) add(w io.Writer) (*os.File, error) {
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	p.readers, p.writers = append(p.readers, reader), append(p.writers, writer)
	p.copies.Go(func() {
		// Closing the read end tells the child that nobody wants the rest.
		defer closeFile(reader)
		_, err := io.Copy(w, reader)
		if _, isStderr := w.(*standardError); err == nil || isStderr {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.err == nil {
			p.err = err
		}
	})
	return writer, nil
}

func (p *childPipes) closeWriters() {
	for _, writer := range p.writers {
		closeFile(writer)
	}
}

// close is for a command that may not have been started: nobody writes to the pipes any more.
func (p *childPipes) close() {
	p.closeWriters()
	p.copies.Wait()
}

// childEnded makes sure that the copies end: what is in the pipes now is read; what a grandchild keeps open is not
// waited for.
func (p *childPipes) childEnded() {
	deadline := time.Now().Add(pipeGrace)
	for _, reader := range p.readers {
		_ = reader.SetReadDeadline(deadline) // fails only where the copy has ended and closed it
	}
}

// wait waits for the copies and returns the error of the first writer that failed.
func (p *childPipes) wait() error {
	p.copies.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// makeBlocking clears O_NONBLOCK, which Go sets on pipes and sockets and which a child would inherit.
func makeBlocking(stream any) error {
	file, ok := stream.(*os.File)
	if !ok || file == nil {
		return nil
	}
	connection, err := file.SyscallConn()
	if err != nil {
		return fmt.Errorf("hand %s to the command: %w", file.Name(), err)
	}
	var setErr error
	if err := connection.Control(func(fd uintptr) { setErr = setBlocking(fd) }); err != nil {
		return fmt.Errorf("hand %s to the command: %w", file.Name(), err)
	}
	return setErr
}

// closeFile closes what may have been closed before; a pipe's or socket's close has no other error worth telling.
func closeFile(file *os.File) {
	if file != nil {
		_ = file.Close()
	}
}

// standardError keeps the end of a command's standard error, and hands all of it on as it comes.
type standardError struct {
	tail tail
	live io.Writer // nil, or Command.Stderr
}

// Write never fails.
func (e *standardError) Write(p []byte) (int, error) {
	if e.live != nil {
		_, _ = e.live.Write(p) // what it returns is ignored, as Command says
	}
	return e.tail.Write(p)
}

// tail keeps the last bytes that were written to it. It is used by one goroutine at a time.
type tail struct {
	limit int
	data  []byte
}

// Write never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if len(t.data) > 2*t.limit {
		t.data = append(t.data[:0], t.data[len(t.data)-t.limit:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte { return t.data[max(0, len(t.data)-t.limit):] }
