// One command: how it is started, what it reads and writes, and how it ends.

package zfsfake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zfleet/zfleet/zfs"
)

const stderrLimit = 64 << 10

// process is a running command.
type process struct {
	fake   *Fake
	ctx    context.Context //nolint:containedctx // a process lives exactly as long as the Run that made it
	args   []string        // what follows the command's name
	usage  string
	in     *input
	out    *output
	stderr standardError
}

// standardError gathers what the command says, and hands it on as it comes where somebody wants that.
type standardError struct {
	bytes.Buffer

	live io.Writer
}

// Write hands on first, so that what is gathered is never more than what was handed on.
func (e *standardError) Write(data []byte) (int, error) {
	if e.live != nil {
		_, _ = e.live.Write(data) // what it returns is ignored, see zfs.Command
	}
	return e.Buffer.Write(data)
}

// Run runs one zfs or zpool command line against the fake's pools. See zfs.Runner.
func (f *Fake) Run(ctx context.Context, command zfs.Command) (result zfs.Result, err error) {
	p := &process{fake: f, ctx: ctx, in: &input{ctx: ctx}, out: &output{ctx: ctx}}
	p.stderr.live = command.Stderr
	defer func() {
		p.in.close()
		p.out.close()
	}()
	record, plan := f.begin(command.Args)
	defer func() { f.finish(record, result, err) }()
	p.in.open(command.Stdin, record, plan)
	p.out.open(command.Stdout, record, plan)

	name := strings.Join(firstWords(command.Args, 2), " ")
	if len(command.Args) == 0 || command.Args[0] != "zfs" && command.Args[0] != "zpool" {
		return zfs.Result{}, fmt.Errorf("zfsfake: %q is neither zfs nor zpool: %w", name, os.ErrNotExist)
	}
	if err := ctx.Err(); err != nil {
		return zfs.Result{ExitCode: -1}, fmt.Errorf("%s: %w", name, err)
	}
	if err := plan.hang(ctx); err != nil {
		return zfs.Result{ExitCode: -1}, fmt.Errorf("%s: %w", name, err)
	}
	var code int
	if failure := plan.before; failure != nil {
		p.errorf("%s", failure.Stderr)
		code = failure.ExitCode
	} else {
		code = p.main(command.Args)
		if failure := plan.after; failure != nil {
			p.stderr.Reset()
			p.errorf("%s", failure.Stderr)
			code = failure.ExitCode
		}
	}
	stderr := p.stderr.Bytes()
	if len(stderr) > stderrLimit {
		stderr = stderr[len(stderr)-stderrLimit:]
	}
	result = zfs.Result{ExitCode: code, Stderr: stderr}
	switch {
	case ctx.Err() != nil && (p.in.cancelled || p.out.cancelled):
		result.ExitCode = -1
		return result, fmt.Errorf("%s: %w", name, ctx.Err())
	case p.out.failure != nil:
		return result, fmt.Errorf("%s: write its output: %w", name, p.out.failure)
	case p.out.broken:
		result.ExitCode = -1 // SIGPIPE
	}
	return result, nil
}

func firstWords(words []string, n int) []string { return words[:min(n, len(words))] }

type command struct {
	run   func(*process) int
	usage string
}

var zfsCommands = map[string]command{
	"bookmark":   {(*process).zfsBookmark, "bookmark <snapshot|bookmark> <newbookmark>"},
	"clone":      {(*process).zfsClone, "clone [-p] [-o property=value] ... <snapshot> <filesystem|volume>"},
	"create":     {(*process).zfsCreate, "create [-Pnpuv] [-o property=value] ... <filesystem>"},
	"destroy":    {(*process).zfsDestroy, "destroy [-fnpRrv] <filesystem|volume>"},
	"get":        {(*process).zfsGet, "get [-rHp] [-d max] [-o field[,...]] [-t type[,...]] [-s source[,...]] <property[,...]> ..."},
	"hold":       {(*process).zfsHold, "hold [-r] <tag> <snapshot> ..."},
	"holds":      {(*process).zfsHolds, "holds [-rHp] <snapshot> ..."},
	"inherit":    {(*process).zfsInherit, "inherit [-rS] <property> <filesystem|volume|snapshot> ..."},
	"list":       {(*process).zfsList, "list [-Hp] [-r|-d max] [-o property[,...]] [-t type[,...]] [filesystem|volume|snapshot] ..."},
	"load-key":   {(*process).zfsLoadKey, "load-key [-rn] [-L <keylocation>] <-a | filesystem|volume>"},
	"mount":      {(*process).zfsMount, "mount <filesystem>"},
	"program":    {(*process).zfsProgram, "program [-jn] [-t <instruction limit>] [-m <memory limit (b)>] <pool> <program file> [lua args...]"},
	"receive":    {(*process).zfsReceive, "receive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ... <filesystem|volume|snapshot>"},
	"release":    {(*process).zfsRelease, "release [-r] <tag> <snapshot> ..."},
	"rename":     {(*process).zfsRename, "rename [-f] <filesystem|volume|snapshot> <filesystem|volume|snapshot>"},
	"rollback":   {(*process).zfsRollback, "rollback [-rRf] <snapshot>"},
	"send":       {(*process).zfsSend, "send [-DLPbcehnpsVvw] [-i|-I snapshot] <snapshot>"},
	"set":        {(*process).zfsSet, "set [-u] <property=value> ... <filesystem|volume|snapshot> ..."},
	"snapshot":   {(*process).zfsSnapshot, "snapshot [-r] [-o property=value] ... <filesystem|volume>@<snap> ..."},
	"unload-key": {(*process).zfsUnloadKey, "unload-key [-r] <-a | filesystem|volume>"},
	"unmount":    {(*process).zfsUnmount, "unmount [-fu] <filesystem|mountpoint>"},
	"version":    {(*process).zfsVersion, "version [-j]"},
}

var zpoolCommands = map[string]command{
	"get":     {(*process).zpoolGet, "get [-Hp] [-o \"all\" | field[,...]] <\"all\" | property[,...]> <pool> ..."},
	"list":    {(*process).zpoolList, "list [-gHLpPv] [-o property[,...]] [pool] ..."},
	"version": {(*process).zfsVersion, "version [-j]"},
}

var aliases = map[string]string{
	"recv": "receive", "snap": "snapshot", "umount": "unmount", "--version": "version", "-V": "version",
}

// main is main(): it finds the command and runs it.
func (p *process) main(args []string) int {
	commands := zfsCommands
	if args[0] == "zpool" {
		commands = zpoolCommands
	}
	if len(args) < 2 {
		p.errorf("missing command\n")
		return p.showUsage()
	}
	name := args[1]
	if alias, ok := aliases[name]; ok {
		name = alias
	}
	found, ok := commands[name]
	if !ok {
		p.errorf("unrecognized command '%s'\n", args[1])
		return p.showUsage()
	}
	p.args = args[2:]
	p.usage = found.usage
	return found.run(p)
}

func (p *process) errorf(format string, args ...any) { _, _ = fmt.Fprintf(&p.stderr, format, args...) } // into memory

const exitUsage = 2

func (p *process) showUsage() int {
	p.errorf("usage:\n\t%s\n\nFor the property list, run: zfs set|get\n\nFor the delegated permission list, run: "+
		"zfs allow|unallow\n\nFor further help on a command or topic, run: zfs help [<topic>]\n", p.usage)
	return exitUsage
}

// invalidOption says which option getopt did not know.
func (p *process) invalidOption(o option) int {
	if o.letter == ':' {
		p.errorf("missing argument for '%s' option\n", o.unknown)
	} else {
		p.errorf("invalid option '%s'\n", o.unknown)
	}
	return p.showUsage()
}

// object is what a name means: a dataset, one of its snapshots, or one of its bookmarks.
type object struct {
	dataset  *dataset
	snapshot *snapshot
	bookmark *bookmark
}

func (o object) name() string {
	switch {
	case o.snapshot != nil:
		return o.snapshot.full()
	case o.bookmark != nil:
		return o.dataset.name + "#" + o.bookmark.name
	}
	return o.dataset.name
}

func (o object) kind() kinds {
	switch {
	case o.snapshot != nil:
		return kindSnapshot
	case o.bookmark != nil:
		return kindBookmark
	case o.dataset.volume:
		return kindVolume
	}
	return kindFilesystem
}

func (o object) typeName() string {
	switch {
	case o.snapshot != nil:
		return "snapshot"
	case o.bookmark != nil:
		return "bookmark"
	}
	return o.dataset.kind()
}

func (o object) guid() uint64 {
	switch {
	case o.snapshot != nil:
		return o.snapshot.guid
	case o.bookmark != nil:
		return o.bookmark.guid
	}
	return o.dataset.guid
}

func (o object) createTXG() uint64 {
	switch {
	case o.snapshot != nil:
		return o.snapshot.createTXG
	case o.bookmark != nil:
		return o.bookmark.createTXG
	}
	return o.dataset.createTXG
}

// find resolves a full name of any type; the caller holds the fake's state.
func (f *Fake) find(name string) (object, bool) {
	i := strings.IndexAny(name, "@#")
	if i < 0 {
		d := f.dataset(name)
		return object{dataset: d}, d != nil
	}
	d := f.dataset(name[:i])
	if d == nil {
		return object{}, false
	}
	if name[i] == '@' {
		s := d.byName[name[i+1:]]
		return object{dataset: d, snapshot: s}, s != nil
	}
	b := d.bookmarks[name[i+1:]]
	return object{dataset: d, bookmark: b}, b != nil
}

// open is zfs_open: it resolves name to an object of one of the types, or says why it cannot.
func (p *process) open(name string, types kinds) (object, bool) {
	if problem := typedNameProblem(name, types, false); problem != "" {
		p.errorf("cannot open '%s': %s\n", name, problem)
		return object{}, false
	}
	o, ok := p.fake.find(name)
	switch {
	case !ok:
		// A missing bookmark is reported by another path of libzfs than a missing dataset.
		reason := "dataset does not exist"
		if dataset, _, marked := strings.Cut(name, "#"); marked && p.fake.dataset(dataset) != nil {
			reason = "no such pool or dataset"
		}
		p.errorf("cannot open '%s': %s\n", name, reason)
		return object{}, false
	case o.kind()&types == 0:
		p.errorf("cannot open '%s': operation not applicable to datasets of this type\n", name)
		return object{}, false
	}
	return o, true
}

// input is the command's standard input.
type input struct {
	ctx       context.Context //nolint:containedctx // as process
	file      *os.File
	stop      func() bool
	record    *Record
	plan      *plan
	count     int64
	cancelled bool
}

func (in *input) open(file *os.File, record *Record, plan *plan) {
	in.record, in.plan = record, plan
	if file == nil {
		return
	}
	file = adopt(file)
	in.file = file
	in.stop = context.AfterFunc(in.ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
}

func (in *input) close() {
	if in.file != nil {
		in.stop()
		_ = in.file.Close()
		in.file = nil
	}
}

// Read reads what the command is given, as the faults planned for it allow.
func (in *input) Read(buffer []byte) (int, error) {
	if in.file == nil {
		return 0, io.EOF
	}
	if in.ctx.Err() != nil {
		in.cancelled = true
		return 0, in.ctx.Err()
	}
	limit, err := in.plan.admit(in.ctx, in.count, len(buffer))
	if err != nil {
		if in.ctx.Err() != nil {
			in.cancelled = true
		}
		if errors.Is(err, errTruncated) {
			err = io.EOF
		}
		return 0, err
	}
	n, err := in.file.Read(buffer[:limit])
	in.plan.spoil(buffer[:n], in.count)
	in.count += int64(n)
	in.record.transferred(in.count)
	if err != nil && in.ctx.Err() != nil {
		in.cancelled = true
		err = in.ctx.Err()
	}
	return n, err
}

// output is the command's standard output.
type output struct {
	ctx       context.Context //nolint:containedctx // as process
	file      *os.File
	writer    io.Writer
	stop      func() bool
	record    *Record
	plan      *plan
	count     int64
	failure   error // of a writer that is no file
	broken    bool  // a pipe nobody reads any more
	cancelled bool
}

func (out *output) open(writer io.Writer, record *Record, plan *plan) {
	out.record, out.plan = record, plan
	file, ok := writer.(*os.File)
	if !ok || file == nil {
		if !ok {
			out.writer = writer
		}
		return
	}
	file = adopt(file)
	out.file = file
	out.stop = context.AfterFunc(out.ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) })
}

func (out *output) close() {
	if out.file != nil {
		out.stop()
		_ = out.file.Close()
		out.file = nil
	}
}

// Write writes as the faults planned for the command allow.
func (out *output) Write(data []byte) (int, error) {
	written := 0
	for written < len(data) {
		if err := out.ctx.Err(); err != nil {
			out.cancelled = true
			return written, err
		}
		limit, err := out.plan.admit(out.ctx, out.count, len(data)-written)
		if err != nil {
			if out.ctx.Err() != nil {
				out.cancelled = true
			}
			return written, err
		}
		part := out.plan.spoiled(data[written:written+limit], out.count)
		n, err := out.emit(part)
		written += n
		out.count += int64(n)
		out.record.transferred(out.count)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (out *output) emit(data []byte) (int, error) {
	switch {
	case out.file != nil:
		n, err := out.file.Write(data)
		switch {
		case err == nil:
		case out.ctx.Err() != nil:
			out.cancelled = true
			err = out.ctx.Err()
		case errors.Is(err, syscall.EPIPE):
			out.broken = true
		}
		return n, err
	case out.writer != nil:
		n, err := out.writer.Write(data)
		if err == nil && n < len(data) {
			err = io.ErrShortWrite
		}
		if err != nil {
			out.failure = err
		}
		return n, err
	}
	return len(data), nil
}

// adopt answers a file whose reads and writes can be interrupted by a deadline: f itself, or a copy of it where f was
// put into blocking mode. Files that cannot block are taken as they are.
func adopt(f *os.File) *os.File {
	raw, err := f.SyscallConn()
	if err != nil {
		return f
	}
	pollable := f.SetDeadline(time.Time{}) == nil
	descriptor := -1
	_ = raw.Control(func(fd uintptr) {
		if status, err := unix.FcntlInt(fd, unix.F_GETFL, 0); pollable && err == nil && status&unix.O_NONBLOCK != 0 {
			return
		}
		if duplicate, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			descriptor = duplicate
		}
	})
	if descriptor < 0 {
		return f
	}
	if err := unix.SetNonblock(descriptor, true); err != nil {
		_ = unix.Close(descriptor)
		return f
	}
	_ = f.Close()
	return os.NewFile(uintptr(descriptor), f.Name())
}

// sortedKeys fixes an order where OpenZFS leaves it to a hash table.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
