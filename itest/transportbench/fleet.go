//go:build linux

// One measurement of one way: a fleet is started, replicates one stream, and is looked at.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/zfleet/zfleet/coordinator"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// measurement is what one stream took.
type measurement struct {
	// rate is in bytes a second.
	rate float64
	// sender, receivers and server are processor seconds for each GiB of the stream, those of all receivers together.
	sender, receivers, server float64
	// senderPeak, receiverPeak and serverPeak are bytes; of several receivers, the largest.
	senderPeak, receiverPeak, serverPeak int64
}

// benchmark is what is asked for.
type benchmark struct {
	size int64
	// dir is for the server's files, and profiles, where it is not empty, for profiles.
	dir, profiles string
}

// settle bounds the time of a fleet's start, and patience that of a stream.
const (
	settle   = time.Minute
	patience = time.Hour
)

// measure sends one stream along the way.
func (b benchmark) measure(ctx context.Context, w way) (measurement, error) {
	if w.bare() {
		return b.measurePipe(ctx, w)
	}
	dir, err := os.MkdirTemp(b.dir, w.key)
	if err != nil {
		return measurement{}, fmt.Errorf("make a directory: %w", err)
	}
	f := &benchFleet{benchmark: b, way: w, dir: dir, workers: map[protocol.Host]*member{}}
	m, err := f.measure(ctx)
	return m, errors.Join(err, os.RemoveAll(dir))
}

// measurePipe joins the stand-ins by a pipe.
func (b benchmark) measurePipe(ctx context.Context, w way) (measurement, error) {
	children, err := self()
	if err != nil {
		return measurement{}, err
	}
	send, err := roleCommand(roleEmit, emitSpec{Content: w.content, Size: b.size})
	if err != nil {
		return measurement{}, err
	}
	receive, err := roleCommand(roleConsume, consumeSpec{Content: w.content})
	if err != nil {
		return measurement{}, err
	}
	said := &bytes.Buffer{}
	receive.Stdout = said
	if receive.Stdin, send.Stdout, err = os.Pipe(); err != nil {
		return measurement{}, err
	}
	sent := make(chan error, 1)
	go func() {
		result, err := children.Run(ctx, send)
		sent <- exited(roleEmit, result, err)
	}()
	result, err := children.Run(ctx, receive)
	if err := errors.Join(exited(roleConsume, result, err), <-sent); err != nil {
		return measurement{}, err
	}
	var arrived transfer
	if err := json.Unmarshal(said.Bytes(), &arrived); err != nil {
		return measurement{}, fmt.Errorf("what the stand-in for zfs recv says: %w", err)
	}
	return measurement{rate: rate(arrived)}, nil
}

// exited is what went wrong with a stand-in.
func exited(role string, result zfs.Result, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", role, err)
	case result.ExitCode != 0:
		return fmt.Errorf("%s: exit status %d: %s", role, result.ExitCode, bytes.TrimSpace(result.Stderr))
	}
	return nil
}

func rate(t transfer) float64 { return float64(t.Bytes) / (t.Ended - t.Began).Seconds() }

// benchFleet is a fleet for one measurement.
type benchFleet struct {
	benchmark
	way way
	dir string

	server  *member
	workers map[protocol.Host]*member
}

// measure runs the fleet. Whatever happens, all of its processes have ended when it returns.
func (f *benchFleet) measure(ctx context.Context) (m measurement, err error) {
	serverSpec := serverSpec{Dir: filepath.Join(f.dir, "nats"), Profile: f.profile(roleServer)}
	if f.server, err = startMember(ctx, roleServer, roleServer, serverSpec); err != nil {
		return m, err
	}
	reports := map[protocol.Host][]report{}
	m, err = f.measureWith(ctx)
	for host, worker := range f.workers {
		said, stopError := worker.stop()
		reports[host], err = said, errors.Join(err, stopError)
	}
	_, stopError := f.server.stop()
	if err = errors.Join(err, stopError); err != nil {
		return m, err
	}
	m.rate, err = f.arrived(reports)
	return m, err
}

func (f *benchFleet) profile(process string) string {
	return profilePath(f.profiles, f.way.key, process)
}

// measureWith runs the coordinator and the workers on the server, and looks at them once the stream is replicated.
func (f *benchFleet) measureWith(ctx context.Context) (m measurement, err error) {
	starting, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	url, err := f.server.url(starting)
	if err != nil {
		return m, err
	}
	conn, js, err := protocol.Connect(starting, protocol.ConnectOptions{URL: url, Name: "transportbench", Logger: logger()})
	if err != nil {
		return m, err
	}
	defer conn.Close()
	resources, err := protocol.EnsureResources(starting, js, protocol.ResourceOptions{StreamsStorage: f.way.storage})
	if err != nil {
		return m, err
	}
	leading, stop := context.WithCancel(ctx)
	led := make(chan error, 1)
	go func() {
		led <- coordinator.New(coordinator.Config{
			Name: "bench", Host: "bench", Conn: conn, Resources: resources, Logger: logger(),
		}).Run(leading)
	}()
	defer func() {
		stop()
		err = errors.Join(err, <-led)
	}()
	for _, host := range f.way.hosts() {
		spec := workerSpec{
			Host: host, URL: url, TLS: f.way.tls, Content: f.way.content, Size: f.size, Dir: filepath.Join(f.dir, string(host)),
			Profile: f.profile(string(host)),
		}
		if f.workers[host], err = startMember(ctx, "the worker of "+string(host), roleWorker, spec); err != nil {
			delete(f.workers, host)
			return m, err
		}
	}
	client := fleet.New(conn, resources, fleet.Options{By: "transportbench"})
	if err := awaitWorkers(starting, client, len(f.workers)); err != nil {
		return m, err
	}
	before, err := f.usage()
	if err != nil {
		return m, err
	}
	if err := f.replicate(ctx, client); err != nil {
		return m, err
	}
	after, err := f.usage()
	if err != nil {
		return m, err
	}
	return f.cost(before, after), nil
}

// awaitWorkers waits until so many workers are present.
func awaitWorkers(ctx context.Context, client *fleet.Client, number int) error {
	for {
		present, err := client.Hosts(ctx)
		if err != nil {
			return err
		}
		if len(present) >= number {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("only %d of %d workers started: %w", len(present), number, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// replicate runs the job, and checks which way the stream took.
func (f *benchFleet) replicate(ctx context.Context, client *fleet.Client) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	job := f.way.job()
	if _, err := client.SubmitJob(ctx, job); err != nil {
		return err
	}
	plan, err := client.Run(ctx, job.Name)
	if err != nil {
		return err
	}
	for _, err := range client.Watch(ctx, plan, fleet.WatchOptions{}) {
		if err != nil {
			return err
		}
	}
	detail, err := client.Plan(ctx, plan)
	if err != nil {
		return err
	}
	for _, task := range detail.Tasks {
		if task.Failure != nil {
			err = errors.Join(err, fmt.Errorf("to %s: %w", task.TargetHost, task.Failure))
		}
	}
	if detail.Plan.State != protocol.PlanDone {
		return errors.Join(fmt.Errorf("the plan is %s", detail.Plan.State), err)
	}
	return f.checkPaths(ctx, client, plan)
}

// checkPaths looks whether the stream took the way that is to be measured to every receiver.
func (f *benchFleet) checkPaths(ctx context.Context, client *fleet.Client, plan protocol.PlanID) error {
	if f.way.transport == protocol.TransportLocal {
		return nil // it is the only one between the pools of one host
	}
	reached := map[protocol.Host]bool{}
	for record, err := range client.Events(ctx, fleet.EventQuery{Plan: plan}) {
		if err != nil {
			return err
		}
		if record.Event == nil || record.Event.Kind != protocol.EventConnected {
			continue
		}
		if err := f.way.checkPath(*record.Event.Path); err != nil {
			return fmt.Errorf("to %s: %w", record.Event.Target, err)
		}
		reached[record.Event.Target] = true
	}
	for _, host := range f.way.targets() {
		if !reached[host] {
			return fmt.Errorf("no event says which way the stream took to %s", host)
		}
	}
	return nil
}

// usage is what all processes have used, by name.
func (f *benchFleet) usage() (map[*member]usage, error) {
	used := map[*member]usage{}
	for _, m := range append(slices.Collect(maps.Values(f.workers)), f.server) {
		u, err := m.usage()
		if err != nil {
			return nil, err
		}
		used[m] = u
	}
	return used, nil
}

// cost is what the stream has cost, but for its rate.
func (f *benchFleet) cost(before, after map[*member]usage) measurement {
	perGiB := func(m *member) float64 {
		return (after[m].processor - before[m].processor).Seconds() * (1 << 30) / float64(f.size)
	}
	m := measurement{server: perGiB(f.server), serverPeak: after[f.server].peak}
	for host, worker := range f.workers {
		if host == sender {
			m.sender, m.senderPeak = perGiB(worker), after[worker].peak
			continue
		}
		m.receivers += perGiB(worker)
		m.receiverPeak = max(m.receiverPeak, after[worker].peak)
	}
	return m
}

// arrived looks whether one stream was sent, and arrived at all receivers. It gives the rate of the slowest.
func (f *benchFleet) arrived(reports map[protocol.Host][]report) (float64, error) {
	sent, slowest := 0, 0.0
	for _, host := range f.way.targets() {
		streams := 0
		for _, r := range reports[host] {
			if r.Received == nil {
				continue
			}
			streams++
			if r.Received.Bytes < f.size {
				return 0, fmt.Errorf("%s received %d bytes, not %d", host, r.Received.Bytes, f.size)
			}
			if slowest == 0 || rate(*r.Received) < slowest {
				slowest = rate(*r.Received)
			}
		}
		if streams != 1 {
			return 0, fmt.Errorf("%s received %d streams", host, streams)
		}
	}
	for _, r := range reports[sender] {
		if r.Sent {
			sent++
		}
	}
	if sent != 1 {
		return 0, fmt.Errorf("zfs send ran %d times", sent)
	}
	return slowest, nil
}
