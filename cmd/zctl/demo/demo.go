// Package demo shows a replication from beginning to end in one process: NATS, a coordinator, and the workers of two hosts
// whose pools are in memory, or in files. It tells what it does in words for somebody who sees zfleet for the first time,
// checks what it claims, and leaves nothing behind.
package demo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/telemetry"
	"github.com/zfleet/zfleet/zfs"
)

// Options say how the demo runs.
type Options struct {
	Out io.Writer
	// Display makes the display of one plan's progress.
	Display func() progress.Display
	// Heading makes a heading stand out; nil leaves it as it is.
	Heading func(string) string
	// Real plays on pools in files, which needs root and OpenZFS.
	Real bool
	// TempDir is where the demo's directory is made; empty is the system's.
	TempDir string
	// Pace slows the sends of pools in memory down to so many bytes per second, so that there is something to see; 0 does not.
	Pace   int
	Logger *slog.Logger
}

// The hosts of the demo.
const (
	alpha protocol.Host = "alpha"
	bravo protocol.Host = "bravo"
)

const jobName = "demo"

// Run plays the demo. An error says what did not go as it should; what the demo made is removed in any case.
func Run(ctx context.Context, options Options) (err error) {
	limit := 2 * time.Minute
	if options.Real {
		limit = 15 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took longer than %s", limit))
	defer cancel()
	dir, err := os.MkdirTemp(options.TempDir, "zctl-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() {
		if removing := os.RemoveAll(dir); err == nil && removing != nil {
			err = fmt.Errorf("remove the demo's directory: %w", removing)
		}
	}()
	var stage stage
	if options.Real {
		stage, err = newFilePools(ctx, dir)
	} else {
		stage = newMemoryPools()
	}
	if err != nil {
		return err
	}
	defer func() {
		if closing := stage.close(); err == nil {
			err = closing
		}
	}()
	play := &play{options: options, stage: stage, recorder: telemetry.NewRecorder(20_000), started: time.Now()}
	return play.run(ctx, dir)
}

// play is one run of the demo.
type play struct {
	options  Options
	stage    stage
	recorder *telemetry.Recorder
	cutter   *cutter
	crew     *crew
	tracer   trace.Tracer
	scene    int
	started  time.Time
}

func (p *play) run(ctx context.Context, dir string) error {
	p.title("Two hosts and a job")
	p.say("%s", p.stage.describe())
	if err := p.furnish(ctx); err != nil {
		return err
	}
	p.cutter = newCutter(p.stage.runner(alpha), p.options.Pace)
	crew, err := startCrew(ctx, dir, p.recorder, p.options.Logger, p.stage.ackWait())
	if err != nil {
		return err
	}
	p.crew = crew
	defer func() {
		// Where all went well, it has stopped already; where not, the first error is the one to tell.
		_ = crew.stop()
	}()
	provider, err := crew.providerOf(ctx, "operator", "")
	if err != nil {
		return err
	}
	p.tracer = provider.Tracer("github.com/zfleet/zfleet/cmd/zctl/demo")
	if err := p.hire(ctx); err != nil {
		return err
	}
	p.say("Running in this process: a NATS server, a coordinator, and a worker for each host.")
	job := p.job()
	if err := p.firstRun(ctx, job); err != nil {
		return err
	}
	if err := p.secondRun(ctx); err != nil {
		return err
	}
	interrupted, err := p.interruptedRun(ctx)
	if err != nil {
		return err
	}
	if err := p.prove(ctx, job); err != nil {
		return err
	}
	if err := p.showCursors(ctx); err != nil {
		return err
	}
	// The last spans end when their processes do.
	if err := crew.stop(); err != nil {
		return err
	}
	if err := p.showTrace(interrupted); err != nil {
		return err
	}
	p.say("\nThat was it, in %s. Everything that the demo made is removed again.", progress.Duration(time.Since(p.started)))
	p.say("Next: zctl server --help, zctl worker --help, and docs/configuration.md for job and host files.")
	return nil
}

// hire starts a worker for each host. Each host lets go and takes in only what its own policy allows.
func (p *play) hire(ctx context.Context) error {
	if err := p.crew.startWorker(ctx, alpha, p.cutter, sendPolicy(p.stage.source())); err != nil {
		return err
	}
	if err := p.crew.startWorker(ctx, bravo, p.stage.runner(bravo), recvPolicy(p.stage.root())); err != nil {
		return err
	}
	return p.crew.awaitWorkers(ctx, 2)
}

func (p *play) job() protocol.Job {
	job := protocol.DefaultJob()
	job.Name = jobName
	job.Source = protocol.JobSource{Host: alpha, Filesystems: protocol.Filter{p.stage.source() + "<": true}}
	job.Targets = []protocol.JobTarget{{Host: bravo, Root: p.stage.root()}}
	job.Replication.Initial = protocol.InitialAll
	return job
}

// datasets are what alpha has, below its pool, with what is in it.
var datasets = []struct {
	name   string
	volume bool
	bytes  uint64
}{
	{name: "home", bytes: 1 << 20},
	{name: "home/ada", bytes: 6 << 20},
	{name: "home/grace", bytes: 4 << 20},
	{name: "projects", bytes: 16 << 20},
	{name: volumeName, volume: true, bytes: 8 << 20},
}

const volumeName = "vm-disk"

// growing is the dataset whose transfer is interrupted.
const growing = "projects"

func (p *play) dataset(name string) string { return p.stage.source() + "/" + name }

// furnish makes alpha's datasets, with data and two snapshots.
func (p *play) furnish(ctx context.Context) error {
	for i, dataset := range datasets {
		args := []string{"create", p.dataset(dataset.name)}
		if dataset.volume {
			args = []string{"create", "-V", "16M", p.dataset(dataset.name)}
		}
		if err := p.zfs(ctx, alpha, args...); err != nil {
			return err
		}
		if err := p.stage.write(p.dataset(dataset.name), dataset.volume, "monday", uint64(i), dataset.bytes); err != nil {
			return err
		}
	}
	if err := p.snapshot(ctx, "monday"); err != nil {
		return err
	}
	for i, dataset := range datasets {
		if err := p.stage.write(p.dataset(dataset.name), dataset.volume, "tuesday", 100+uint64(i), dataset.bytes/8); err != nil {
			return err
		}
	}
	return p.snapshot(ctx, "tuesday")
}

func (p *play) snapshot(ctx context.Context, name string) error {
	return p.zfs(ctx, alpha, "snapshot", "-r", p.stage.source()+"@"+name)
}

// zfs runs one zfs command as the operator of the host would.
func (p *play) zfs(ctx context.Context, host protocol.Host, args ...string) error {
	command := zfs.Command{Args: append([]string{"zfs"}, args...)}
	result, err := p.stage.runner(host).Run(ctx, command)
	if err == nil && result.ExitCode != 0 {
		err = fmt.Errorf("%s", strings.TrimSpace(string(result.Stderr)))
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", strings.Join(command.Args, " "), host, err)
	}
	return nil
}

func (p *play) firstRun(ctx context.Context, job protocol.Job) error {
	p.title("The first replication sends everything")
	p.command("zctl submit --from 'alpha:%s<' --to bravo:%s --initial all --job %s --wait", p.stage.source(), p.stage.root(), jobName)
	if _, err := p.crew.client.SubmitJob(ctx, job); err != nil {
		return err
	}
	_, err := p.follow(ctx, "zctl submit", nil)
	return err
}

func (p *play) secondRun(ctx context.Context) error {
	p.title("The next one sends only what has changed")
	for i, dataset := range datasets[:3] {
		if err := p.stage.write(p.dataset(dataset.name), dataset.volume, "wednesday", 200+uint64(i), 256<<10); err != nil {
			return err
		}
	}
	p.command("zfs snapshot -r %s@wednesday      # on alpha, after a day's work", p.stage.source())
	if err := p.snapshot(ctx, "wednesday"); err != nil {
		return err
	}
	p.command("zctl run %s --wait", jobName)
	_, err := p.follow(ctx, "zctl run", nil)
	return err
}

// interruptedRun kills the sending worker in the middle of a transfer and starts another. It gives the run's trace.
func (p *play) interruptedRun(ctx context.Context) (trace.TraceID, error) {
	size := p.stage.interruptedSize()
	p.title("A transfer that breaks off is resumed, not sent again")
	if err := p.stage.write(p.dataset(growing), false, "thursday", 300, size); err != nil {
		return trace.TraceID{}, err
	}
	p.command("zfs snapshot -r %s@thursday      # on alpha, after %s were written to %s", p.stage.source(), progress.Bytes(size),
		p.dataset(growing))
	if err := p.snapshot(ctx, "thursday"); err != nil {
		return trace.TraceID{}, err
	}
	cut := p.cutter.arm(p.dataset(growing), int64(size/2)) //nolint:gosec // the sizes are the demo's own
	p.command("zctl run %s --wait        # and alpha's worker is killed half-way", jobName)
	id, err := p.follow(ctx, "zctl run", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-cut.reached:
		}
		p.crew.killWorker(alpha)
		return p.crew.startWorker(ctx, alpha, p.cutter, sendPolicy(p.stage.source()))
	})
	if err != nil {
		return id, err
	}
	rest, resumed := p.cutter.sentByResuming()
	if !resumed {
		return id, fmt.Errorf("the transfer of %s was not resumed", p.dataset(growing))
	}
	if rest >= size {
		return id, fmt.Errorf("resuming the transfer of %s sent all of it again, %s", p.dataset(growing), progress.Bytes(rest))
	}
	p.say("%s of %s were sent when the worker was killed; the next worker sent the other %s, and nothing had to begin again.",
		progress.Bytes(size/2), progress.Bytes(size), progress.Bytes(rest))
	return id, nil
}

// follow runs the job and shows it until it is done, while meanwhile does something beside; it may be nil.
func (p *play) follow(ctx context.Context, name string, meanwhile func(context.Context) error) (trace.TraceID, error) {
	ctx, span := p.tracer.Start(ctx, name)
	defer span.End()
	id := span.SpanContext().TraceID()
	plan, err := p.crew.client.Run(ctx, jobName)
	if err != nil {
		return id, err
	}
	beside := make(chan error, 1)
	aside, cancel := context.WithCancel(ctx)
	go func() {
		var err error
		if meanwhile != nil {
			err = meanwhile(aside)
		}
		if err != nil {
			cancel()
		}
		beside <- err
	}()
	last, err := progress.Follow(p.crew.client.Watch(aside, plan, fleet.WatchOptions{Interval: 100 * time.Millisecond}), p.options.Display())
	cancel()
	if other := <-beside; other != nil {
		return id, other
	}
	if err != nil {
		return id, err
	}
	if last.Plan.State != protocol.PlanDone {
		return id, fmt.Errorf("plan %s ended as %s: %s", plan, last.Plan.State, strings.Join(progress.Problems(last.Plan, last.Tasks), "; "))
	}
	return id, nil
}

func (p *play) showCursors(ctx context.Context) error {
	p.title("Where the next replication begins")
	p.command("zctl cursors %s", jobName)
	cursors, err := p.crew.client.Cursors(ctx, jobName)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, cursor := range cursors {
		rows = append(rows, []string{cursor.Filesystem, string(cursor.Target), cursor.Version.Rel(), fmt.Sprintf("%016x", cursor.Version.GUID)})
	}
	p.table([]string{"FILESYSTEM", "TARGET", "CONFIRMED", "GUID"}, rows)
	p.say("A cursor is a bookmark on alpha: even if @thursday is destroyed there, the next increment goes from it.")
	return nil
}

// elsewhere tells whether a span is about another filesystem than the one that was interrupted.
func (p *play) elsewhere(span telemetry.Span) bool {
	for _, attribute := range span.Attributes {
		if attribute.Key == "zfleet.filesystem" && attribute.Value != p.dataset(growing) {
			return true
		}
	}
	return false
}

// traceAttributes are those that the tree shows.
var traceAttributes = []string{"zfleet.job", "zfleet.step", "zfleet.attempt", "zfs.command"}

func (p *play) showTrace(id trace.TraceID) error {
	p.title("What happened to " + p.dataset(growing) + " during the interrupted run")
	var out bytes.Buffer
	options := telemetry.TreeOptions{Attributes: traceAttributes, Fold: 3, MaxText: 60, Skip: p.elsewhere}
	if err := telemetry.WriteTree(&out, p.recorder.Spans(id), options); err != nil {
		return fmt.Errorf("draw the trace: %w", err)
	}
	p.say("%s", strings.TrimRight(out.String(), "\n"))
	return nil
}

func (p *play) title(text string) {
	p.scene++
	heading := fmt.Sprintf("%d. %s", p.scene, text)
	if p.options.Heading != nil {
		heading = p.options.Heading(heading)
	}
	if p.scene > 1 {
		p.say("")
	}
	p.say("%s", heading)
}

// command shows what an operator would type.
func (p *play) command(format string, args ...any) { p.say("$ "+format, args...) }

// say writes a line. A terminal that cannot be written to shows in the display of progress, which does report it.
func (p *play) say(format string, args ...any) {
	_, _ = fmt.Fprintf(p.options.Out, format+"\n", args...)
}

func (p *play) table(header []string, rows [][]string) {
	var out bytes.Buffer
	table.Write(&out, header, rows)
	p.say("%s", strings.TrimRight(out.String(), "\n"))
}
