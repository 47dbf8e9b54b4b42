// Hosts: pools in memory, what operators do to them, and what goes wrong with zfs commands.

package faults

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// host is one of the fleet's.
type host struct {
	name     protocol.Host
	fake     *zfsfake.Fake
	system   *zfs.System
	policy   worker.Policy
	observer *observer
	timeline *timeline
	// claims is the directory that the host's workers share.
	claims string

	mu sync.Mutex
	// armed are faults that wait for their command.
	armed []*commandFault
	// injected are those of streams.
	injected []*zfsfake.Injection
	taken    int // snapshots
}

// commandFault is a fault of the next command that matches, after those that it lets pass.
type commandFault struct {
	fault Fault
	left  int
	// kill is called for KillCommand.
	kill func(worker *process)
}

func newHost(name protocol.Host, seed uint64, jobs []protocol.Job, claims string, o *observer) *host {
	h := &host{name: name, observer: o, timeline: o.timeline, claims: claims}
	h.fake = zfsfake.New(zfsfake.WithSeed(seed), zfsfake.WithObserver(func(change zfsfake.Change) { o.changed(name, change) }))
	h.system = zfs.New(h.fake)
	h.fake.CreatePool(sourcePool)
	h.fake.CreatePool(targetPool)
	h.policy.Send = protocol.Filter{}
	for _, job := range jobs {
		if job.Source.Host == name {
			h.policy.Send[sourcePool+"/"+job.Name+"<"] = true
		}
		for _, target := range job.Targets {
			if target.Host == name {
				h.policy.Recv = append(h.policy.Recv, worker.RecvRule{Root: target.Root, Jobs: []string{job.Name}})
			}
		}
	}
	return h
}

// must runs a zfs command of the harness that cannot fail.
func (h *host) must(ctx context.Context, args ...string) {
	if err := h.operate(ctx, args...); err != nil {
		panic(fmt.Sprintf("zfs %s: %v", strings.Join(args, " "), err)) // a mistake in the harness
	}
}

// operate runs a zfs command as an operator.
func (h *host) operate(ctx context.Context, args ...string) error {
	result, err := h.fake.Run(ctx, zfs.Command{Args: append([]string{"zfs"}, args...)})
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("exit status %d: %s", result.ExitCode, bytes.TrimSpace(result.Stderr))
	}
	return err
}

// build makes what the jobs need on the host, with so many snapshots of each filesystem.
func (h *host) build(ctx context.Context, jobs []protocol.Job, snapshots int) {
	for _, job := range jobs {
		if job.Source.Host == h.name {
			for _, filesystem := range filesystemsOf(job) {
				h.must(ctx, "create", "-p", filesystem)
				for range snapshots {
					h.takeSnapshot(ctx, filesystem, uint64(len(filesystem)))
				}
				// What is not ours, and must be there at the end.
				h.must(ctx, "snapshot", filesystem+"@other")
				h.must(ctx, "hold", "foreign", filesystem+"@other")
				h.must(ctx, "bookmark", filesystem+"@other", filesystem+"#foreign")
			}
		}
		for _, target := range job.Targets {
			if target.Host == h.name {
				h.must(ctx, "create", "-p", target.Root+"/"+sourcePool)
				h.must(ctx, "set", "zrepl:placeholder=on", target.Root+"/"+sourcePool)
			}
		}
	}
}

// takeSnapshot changes the filesystem and takes a snapshot of it.
func (h *host) takeSnapshot(ctx context.Context, filesystem string, content uint64) {
	h.mu.Lock()
	h.taken++
	number := h.taken
	h.mu.Unlock()
	size := uint64(16<<10) << (content % 5)
	if err := h.fake.Generate(filesystem, fmt.Sprint("file", number%3), content, size); err != nil {
		panic(err)
	}
	name := fmt.Sprintf("s%03d", number)
	h.observer.expect(place{h.name, filesystem}, zfsfake.SnapshotCreated, name)
	h.must(ctx, "snapshot", filesystem+"@"+name)
}

// prune destroys a snapshot that nothing holds, as an operator or a pruner would: never the newest.
func (h *host) prune(ctx context.Context, filesystem string, number int) {
	versions, err := h.fake.Versions(filesystem)
	if err != nil {
		return // it has not been received yet
	}
	snapshots := slices.DeleteFunc(versions, func(v zfsfake.Version) bool { return v.Type != "snapshot" })
	var free []string
	for _, v := range snapshots[:max(0, len(snapshots)-1)] {
		if v.UserRefs == 0 {
			free = append(free, v.Name)
		}
	}
	if len(free) == 0 {
		return
	}
	name := free[number%len(free)]
	h.observer.expect(place{h.name, filesystem}, zfsfake.SnapshotDestroyed, name)
	if err := h.operate(ctx, "destroy", filesystem+"@"+name); err != nil {
		h.timeline.add("operator", "could not destroy %s@%s on %s: %v", filesystem, name, h.name, err)
	}
}

// foreignHold puts a hold of the operator's on a snapshot.
func (h *host) foreignHold(ctx context.Context, filesystem string, number int) {
	versions, err := h.fake.Versions(filesystem)
	if err != nil {
		return
	}
	snapshots := slices.DeleteFunc(versions, func(v zfsfake.Version) bool { return v.Type != "snapshot" })
	if len(snapshots) == 0 {
		return
	}
	name := snapshots[number%len(snapshots)].Name
	tag := fmt.Sprint("foreign-", number)
	h.observer.expect(place{h.name, filesystem}, zfsfake.HoldPlaced, name+" "+tag)
	if err := h.operate(ctx, "hold", tag, filesystem+"@"+name); err != nil {
		h.timeline.add("operator", "could not hold %s@%s on %s: %v", filesystem, name, h.name, err)
	}
}

// arm has a fault happen to commands.
func (h *host) arm(f Fault, kill func(*process)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.armed = append(h.armed, &commandFault{fault: f, left: f.Number, kill: kill})
}

// armStream has a fault happen to the next stream.
func (h *host) armStream(f Fault) {
	fault := zfsfake.Fault{Match: func(args []string) bool { return classOf(args) == f.Command }, Times: 1}
	switch f.Kind {
	case TruncateStream:
		fault.Truncate = int64(f.Number)
	case HangStream:
		fault.HangAfter = int64(f.Number)
	case CorruptStream:
		fault.Corrupt = []int64{int64(f.Number)}
	default:
	}
	injection := h.fake.Inject(fault)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.injected = append(h.injected, injection)
}

// calm ends all faults of the host's commands.
func (h *host) calm() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.armed = nil
	for _, injection := range h.injected {
		injection.Remove()
	}
	h.injected = nil
}

// take is the fault that is to happen to a command, nil if there is none.
func (h *host) take(class string) *commandFault {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, armed := range h.armed {
		if armed.fault.Command != class {
			continue
		}
		if armed.left > 0 {
			armed.left--
			continue
		}
		h.armed = slices.Delete(h.armed, i, i+1)
		return armed
	}
	return nil
}

// classOf is a command's name, "send -n" for dry runs, and "recv -A" for a partial state given up.
func classOf(args []string) string {
	if len(args) < 2 {
		return ""
	}
	class := args[1]
	switch class {
	case "send":
		if slices.ContainsFunc(args[2:], func(arg string) bool {
			return strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--") && strings.Contains(arg, "n")
		}) {
			return "send -n"
		}
	case "recv":
		if slices.Contains(args, "-A") {
			return "recv -A"
		}
	case "program":
		return "bookmark"
	}
	return class
}

var injectedFailure = []byte("injected: out of memory\n")

// run runs a command of a worker.
func (h *host) run(ctx context.Context, p *process, command zfs.Command) (zfs.Result, error) {
	class := classOf(command.Args)
	shown := strings.Join(command.Args, " ")
	if len(shown) > 160 {
		shown = shown[:160] + "…"
	}
	fault := h.take(class)
	if fault != nil {
		h.timeline.add(p.name, "%s happens to %s", fault.fault.Kind, shown)
		switch fault.fault.Kind {
		case FailBefore:
			closeFiles(command)
			return zfs.Result{ExitCode: 1, Stderr: injectedFailure}, nil
		case HangBefore:
			wait(ctx, fault.fault.For)
		case KillCommand:
			if fault.fault.Process == 0 {
				fault.kill(p)
				closeFiles(command)
				return zfs.Result{ExitCode: -1}, errKilled
			}
		default:
		}
	}
	if class != "list" && class != "get" && class != "holds" && class != "send -n" && class != "version" {
		h.timeline.add(p.name, "%s", shown)
	}
	h.observer.count(class, command.Args)
	end := h.count(ctx, p, class, command.Args)
	moved := h.observer.moves(p.name, place{host: h.name}, command.Args)
	result, err := h.fake.Run(ctx, command)
	moved(result, err)
	end()
	if result.ExitCode != 0 || err != nil {
		h.timeline.add(p.name, "%s: exit status %d, %v: %s", shown, result.ExitCode, err, firstLine(result.Stderr))
	}
	if fault != nil {
		switch fault.fault.Kind {
		case FailAfter:
			return zfs.Result{ExitCode: 1, Stderr: injectedFailure}, nil
		case HangAfter:
			wait(ctx, fault.fault.For)
		case KillCommand:
			if fault.fault.Process == 1 {
				fault.kill(p)
				return zfs.Result{ExitCode: -1}, errKilled
			}
		default:
		}
	}
	return result, err
}

// count counts the sends and receives under way.
func (h *host) count(ctx context.Context, p *process, class string, args []string) (end func()) {
	last := args[len(args)-1]
	switch class {
	case "recv":
		return h.observer.begin("receive into "+place{h.name, last}.String(), p.name, 1)
	case "send":
		filesystem, _, _ := strings.Cut(last, "@")
		if slices.Contains(args, "-t") {
			token, err := h.system.DecodeResumeToken(ctx, last)
			if err != nil {
				return func() {}
			}
			filesystem, _, _ = strings.Cut(token.ToName, "@")
		}
		at := place{h.name, filesystem}
		return h.observer.begin("send from "+at.String(), p.name, h.observer.targetsOf(at))
	}
	return func() {}
}

func firstLine(text []byte) string {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return string(line)
}

// closeFiles does what a Runner does with the files of a command that it does not run.
func closeFiles(command zfs.Command) {
	for _, end := range []any{command.Stdin, command.Stdout} {
		if file, isFile := end.(*os.File); isFile && file != nil {
			_ = file.Close()
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
