// Receiving: zfs recv, and why it failed.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// RecvArgs ask for a receive.
type RecvArgs struct {
	// Dataset is the filesystem or volume to receive into; the stream names the snapshot.
	Dataset string

	// Resumable keeps what has been received when the receive is interrupted (-s).
	Resumable bool

	// Rollback destroys what the destination has beyond the incremental source (-F).
	Rollback bool

	// Override sets properties (-o), Inherit keeps the stream's values of properties out (-x).
	Override map[string]string
	Inherit  []string
}

// RecvErrorKind is why a receive failed.
type RecvErrorKind string

// Why a receive can fail.
const (
	// RecvDestinationModified: the destination has changed since the incremental source, by later snapshots or by writes.
	RecvDestinationModified RecvErrorKind = "destination modified"

	// RecvNoSuchSnapshot: the destination does not have the incremental source.
	RecvNoSuchSnapshot RecvErrorKind = "no such snapshot"

	// RecvDestinationMissing: the destination of an increment, or the parent of a new filesystem, does not exist.
	RecvDestinationMissing RecvErrorKind = "destination missing"

	// RecvDestinationExists: the destination of a full stream exists already.
	RecvDestinationExists RecvErrorKind = "destination exists"

	// RecvBusy: another receive or an operation on the dataset is under way.
	RecvBusy RecvErrorKind = "busy"

	// RecvPartialStatePresent: the destination holds partially received state, which must be resumed or abandoned first. A
	// receive with Resumable that is still running looks the same; to abandon it is refused as busy.
	RecvPartialStatePresent RecvErrorKind = "partially received state present"

	// RecvResumeMismatch: a resumed stream does not continue where the partially received state ends, because that has
	// grown or gone since the token was read.
	RecvResumeMismatch RecvErrorKind = "resume mismatch"

	// RecvChecksumMismatch: the stream was damaged. With Resumable, OpenZFS reports that as RecvInterrupted.
	RecvChecksumMismatch RecvErrorKind = "checksum mismatch"

	// RecvInterrupted: the stream ended too early. With Resumable, what was received is kept, and the stream may also have
	// been damaged: what is kept ends before the damage.
	RecvInterrupted RecvErrorKind = "interrupted"

	// RecvInvalidStream: what was received is no stream of zfs send.
	RecvInvalidStream RecvErrorKind = "invalid stream"

	// RecvForceIntoEncrypted: Rollback cannot replace an encrypted filesystem, or an unencrypted by an encrypted one.
	RecvForceIntoEncrypted RecvErrorKind = "force into encrypted"

	// RecvEncryption: keys or encryption of stream and destination do not fit.
	RecvEncryption RecvErrorKind = "encryption"

	// RecvNoSpace: the pool is full or a quota is exceeded.
	RecvNoSpace RecvErrorKind = "no space"

	// RecvIncompatibleFeatures: this pool or this OpenZFS is too old for the stream.
	RecvIncompatibleFeatures RecvErrorKind = "incompatible features"

	// RecvLargeBlocksRequired: the destination has received large blocks, and the increment was sent without them (zfs send
	// -L, zfs-send(8)).
	RecvLargeBlocksRequired RecvErrorKind = "large blocks required"

	// RecvEmbeddedIntoEncrypted: a stream with embedded data (zfs send -e) cannot be received into an encrypted dataset.
	RecvEmbeddedIntoEncrypted RecvErrorKind = "embedded data into encrypted"

	// RecvOther: something else; see the text.
	RecvOther RecvErrorKind = "other"
)

// RecvError says why a receive failed.
type RecvError struct {
	Kind    RecvErrorKind
	Dataset string

	// ResumeToken is the token of what was received and kept, where zfs recv printed it.
	ResumeToken string

	// Stderr is what zfs recv printed.
	Stderr string

	// Command is the failed zfs recv.
	Command *CommandError

	// Stream is the error of reading the stream, where that is what ended it.
	Stream error
}

// Error is what zfs recv said, and what can be done about it.
func (e *RecvError) Error() string {
	text := fmt.Sprintf("zfs recv %s", e.Dataset)
	if e.Command != nil {
		text = e.Command.Error()
	}
	if e.Stream != nil {
		text += fmt.Sprintf("; the stream broke off: %v", e.Stream)
	}
	if advice := e.advice(); advice != "" {
		text += "; " + advice
	}
	return text
}

// Unwrap gives the failed command and the stream's error.
func (e *RecvError) Unwrap() []error {
	var wrapped []error
	if e.Command != nil {
		wrapped = append(wrapped, e.Command)
	}
	if e.Stream != nil {
		wrapped = append(wrapped, e.Stream)
	}
	return wrapped
}

func (e *RecvError) advice() string {
	switch e.Kind {
	case RecvDestinationModified:
		return fmt.Sprintf("if its changes can go, roll %s back; set it readonly=on so that nothing writes to it", e.Dataset)
	case RecvPartialStatePresent:
		return fmt.Sprintf("resume what was begun, or abandon it with zfs recv -A %s", e.Dataset)
	case RecvForceIntoEncrypted:
		return fmt.Sprintf("receive to another name, or rename or destroy %s first", e.Dataset)
	case RecvNoSpace:
		return "free space or raise the quota, then run again"
	case RecvIncompatibleFeatures:
		return "upgrade OpenZFS or the pool on the receiver, or send without the feature"
	case RecvDestinationExists:
		return fmt.Sprintf("rename or destroy %s, or receive to another name", e.Dataset)
	case RecvResumeMismatch:
		return "read the resume token again, and resume from there"
	case RecvLargeBlocksRequired:
		return "send with large blocks again (zfs send -L)"
	case RecvEmbeddedIntoEncrypted:
		return "send without embedded data (no zfs send -e)"
	case RecvEncryption:
		return fmt.Sprintf("look at zfs get encryption,encryptionroot,keystatus %s, and load the key if the text says so", e.Dataset)
	case RecvNoSuchSnapshot, RecvDestinationMissing, RecvBusy, RecvChecksumMismatch, RecvInterrupted, RecvInvalidStream,
		RecvOther:
	}
	return ""
}

// Recv receives the stream into args.Dataset with zfs recv -u (nothing is mounted).
//
// An *os.File (a pipe, a socket, a file) is given to the command itself, without a copy through this process, and closed
// whatever happens. O_NONBLOCK is cleared on it, also for its duplicates, such as the connection that a socket's file was
// made of.
//
// Any other reader is copied until its io.EOF. Recv returns only when nobody reads it any more: if zfs recv ends first, or
// the context does, a blocked Read is interrupted by SetReadDeadline with a time in the past, where the reader has that
// method (the deadline is cleared afterwards), else by Close, where it has that; the Read of any other reader is waited for.
//
// The error is a [*RecvError] where zfs recv failed. Where the stream's reader failed, it is in RecvError.Stream, or is the
// error itself if zfs recv had already received all.
func (s *System) Recv(ctx context.Context, args RecvArgs, stream io.Reader) error {
	file, isFile := stream.(*os.File)
	argv, err := args.argv()
	if err != nil {
		if isFile {
			closeFile(file)
		}
		return err
	}
	if isFile {
		return args.failure(s.run(ctx, Command{Args: argv, Stdin: file}), nil)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("zfs recv %s: make a pipe: %w", args.Dataset, err)
	}
	enlargePipe(writer)
	feed := startFeed(writer, stream)
	runErr := s.run(ctx, Command{Args: argv, Stdin: reader})
	if runErr != nil {
		feed.interrupt()
	}
	return args.failure(runErr, feed.wait(ctx))
}

// argv is the command line. The properties are sorted so that the same arguments give the same command.
func (a RecvArgs) argv() ([]string, error) {
	if err := ValidateDataset(a.Dataset); err != nil {
		return nil, err
	}
	argv := []string{"zfs", "recv", "-u"}
	if a.Resumable {
		argv = append(argv, "-s")
	}
	if a.Rollback {
		argv = append(argv, "-F")
	}
	for _, property := range slices.Sorted(maps.Keys(a.Override)) {
		if err := validateProperty(property); err != nil {
			return nil, err
		}
		argv = append(argv, "-o", property+"="+a.Override[property])
	}
	for _, property := range slices.Sorted(slices.Values(a.Inherit)) {
		if err := validateProperty(property); err != nil {
			return nil, err
		}
		argv = append(argv, "-x", property)
	}
	return append(argv, a.Dataset), nil
}

// propertyName is the form of native and user property names (zfsprops(7)).
var propertyName = regexp.MustCompile(`^[a-z0-9@][a-zA-Z0-9:+._@-]{0,255}$`)

func validateProperty(name string) error {
	if !propertyName.MatchString(name) {
		return fmt.Errorf("%q is not the name of a property", name)
	}
	return nil
}

// failure makes the error of a receive from those of the command and of the stream.
func (a RecvArgs) failure(runErr, streamErr error) error {
	var failed *CommandError
	switch {
	case errors.As(runErr, &failed):
		kind, token := classifyRecv(failed.Stderr)
		return &RecvError{
			Kind: kind, Dataset: a.Dataset, ResumeToken: token, Stderr: failed.Stderr, Command: failed, Stream: streamErr,
		}
	case runErr != nil:
		return runErr
	case streamErr != nil:
		return fmt.Errorf("zfs recv %s: the stream was received, and then its source failed: %w", a.Dataset, streamErr)
	}
	return nil
}

// recvTexts are what lib/libzfs/libzfs_sendrecv.c says, as one line, the first that matches being it.
var recvTexts = [...]struct {
	text string
	kind RecvErrorKind
}{
	{`partially-complete state from "zfs receive -s"`, RecvPartialStatePresent},
	{"has been modified since most recent snapshot", RecvDestinationModified},
	{"does not match incremental source", RecvNoSuchSnapshot},
	{"-F cannot be used to destroy an encrypted filesystem", RecvForceIntoEncrypted},
	{"cannot perform raw receive on top of existing unencrypted dataset", RecvEncryption},
	{"key must be loaded", RecvEncryption},
	{"encryption key does not match existing key", RecvEncryption},
	{"failed to create encryption key", RecvEncryption},
	{"IV set guid", RecvEncryption},
	{"must specify -F to overwrite it", RecvDestinationExists},
	{"must destroy them to overwrite it", RecvDestinationExists},
	{"must destroy it to overwrite it", RecvDestinationExists},
	{"destination already exists", RecvDestinationExists},
	{"cannot overwrite with a ZVOL", RecvDestinationExists},
	{"Resuming recv on existing dataset without force", RecvDestinationExists},
	// One text for both, with -s; a broken connection is by far the more frequent.
	{"checksum mismatch or incomplete stream", RecvInterrupted},
	{"incomplete stream", RecvInterrupted},
	{"failed to read from stream", RecvInterrupted},
	{"checksum mismatch", RecvChecksumMismatch},
	{"pool must be upgraded", RecvIncompatibleFeatures},
	{"kernel modules must be upgraded", RecvIncompatibleFeatures},
	{"stream has unsupported feature", RecvIncompatibleFeatures},
	{"stream uses crypto parameters not compatible", RecvIncompatibleFeatures},
	{"incompatible embedded data stream feature", RecvEmbeddedIntoEncrypted},
	{"stream requires -L", RecvLargeBlocksRequired},
	{"Spill block flag missing", RecvIncompatibleFeatures},
	{"out of space", RecvNoSpace},
	{"quota exceeded", RecvNoSpace},
	{"is busy", RecvBusy},
	{"invalid stream", RecvInvalidStream},
	{"invalid backup stream", RecvInvalidStream},
	{"invalid record type", RecvInvalidStream},
	{"does not exist", RecvDestinationMissing},
}

// resumeAdvice is how zfs recv prints the token of what it has kept.
var resumeAdvice = regexp.MustCompile(`zfs send -t ([0-9]+-[0-9a-f]+-[0-9a-f]+-[0-9a-f]+)`)

// classifyRecv finds out from its standard error why zfs recv failed, and the resume token if it printed one.
func classifyRecv(stderr string) (kind RecvErrorKind, token string) {
	if match := resumeAdvice.FindStringSubmatch(stderr); match != nil && validToken(match[1]) {
		token = match[1]
	}
	line := strings.Join(strings.Fields(stderr), " ")
	// EINVAL has one text for all its causes, or another one for streams with embedded data (zfs_receive_one). dmu_recv.c's
	// recv_resume_check returns it when the state does not fit.
	if reason, resumed := strings.CutPrefix(line, "cannot receive resume stream: "); resumed &&
		(strings.HasPrefix(reason, "kernel modules must be upgraded") ||
			strings.HasPrefix(reason, "incompatible embedded data stream feature")) {
		return RecvResumeMismatch, token
	}
	for _, known := range recvTexts {
		if strings.Contains(line, known.text) {
			return known.kind, token
		}
	}
	return RecvOther, token
}

// feed copies a reader into the pipe that zfs recv reads.
type feed struct {
	stream io.Reader
	done   chan struct{}
	err    error // of reading the stream; not changed after done is closed

	// interrupted is of the goroutine that calls interrupt and wait.
	interrupted bool
}

// copyBuffer is the size of the pieces that are copied; a default pipe's is 64 KiB.
const copyBuffer = 256 << 10

func startFeed(pipe *os.File, stream io.Reader) *feed {
	f := &feed{stream: stream, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		defer closeFile(pipe) // zfs recv sees the end of the stream
		to := &feedWriter{pipe: pipe}
		_, err := io.CopyBuffer(to, stream, make([]byte, copyBuffer))
		if !to.failed { // the pipe breaks when zfs recv ends, whose exit status tells why
			f.err = err
		}
	}()
	return f
}

// feedWriter hides the file's ReadFrom, so that the buffer is used, and remembers that the pipe broke.
type feedWriter struct {
	pipe   *os.File
	failed bool
}

func (w *feedWriter) Write(p []byte) (int, error) {
	n, err := w.pipe.Write(p)
	w.failed = w.failed || err != nil
	return n, err
}

// interrupt ends a blocked Read.
func (f *feed) interrupt() {
	select {
	case <-f.done:
		return
	default:
	}
	f.interrupted = true
	switch stream := f.stream.(type) {
	case interface{ SetReadDeadline(t time.Time) error }:
		if stream.SetReadDeadline(time.Unix(1, 0)) == nil {
			<-f.done
			_ = stream.SetReadDeadline(time.Time{}) // it worked just now; the connection's next use shows if it does not
		}
	case io.Closer:
		_ = stream.Close() // only to end the Read; what the stream has to say, its Read says
	}
}

// wait waits until the stream was read to its end, and returns the error of reading it.
func (f *feed) wait(ctx context.Context) error {
	select {
	case <-f.done:
	case <-ctx.Done():
		f.interrupt()
		<-f.done
	}
	if f.interrupted {
		return nil // what the Read said then, it was made to say
	}
	return f.err
}

// AbortRecv abandons partially received state (zfs recv -A). It is no error if there is none, or no dataset.
func (s *System) AbortRecv(ctx context.Context, dataset string) error {
	if err := ValidateDataset(dataset); err != nil {
		return err
	}
	err := s.run(ctx, Command{Args: []string{"zfs", "recv", "-A", dataset}})
	var failed *CommandError
	if errors.As(err, &failed) &&
		(strings.Contains(failed.Stderr, "does not have any resumable receive state to abort") || len(failed.missing()) > 0) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("abandon the partially received state: %w", err)
	}
	return nil
}
