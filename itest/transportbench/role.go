//go:build linux

// The roles of the program's own processes.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace/noop"

	"github.com/zfleet/zfleet/natsserver"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker"
	"github.com/zfleet/zfleet/worker/transport/tcp"
	"github.com/zfleet/zfleet/zfs"
)

// The roles, each followed by its specification in JSON.
const (
	roleEmit    = "emit"
	roleConsume = "consume"
	roleServer  = "server"
	roleWorker  = "worker"
)

// serverSpec describes the NATS server.
type serverSpec struct {
	Dir string `json:"dir"`
	// Profile is the path that profiles are written to, without their endings; empty writes none.
	Profile string `json:"profile,omitempty"`
}

// workerSpec describes a worker.
type workerSpec struct {
	Host    protocol.Host `json:"host"`
	URL     string        `json:"url"`
	TLS     bool          `json:"tls"`
	Content content       `json:"content"`
	Size    int64         `json:"size"`
	Dir     string        `json:"dir"`
	Profile string        `json:"profile,omitempty"`
}

// report is what a server or worker says on its standard output, in lines of JSON.
type report struct {
	// URL is where the NATS server listens.
	URL string `json:"url,omitempty"`
	// Sent says that a zfs send was started.
	Sent bool `json:"sent,omitempty"`
	// Received is a stream that arrived.
	Received *transfer `json:"received,omitempty"`
}

// runRole is the program in a role.
func runRole(ctx context.Context, role, specification string) error {
	switch role {
	case roleEmit:
		return withSpec(specification, runEmit)
	case roleConsume:
		return withSpec(specification, runConsume)
	case roleServer:
		return withSpec(specification, func(spec serverSpec) error {
			return runMember(ctx, spec.Profile, func(ctx context.Context, tell func(report)) error { return runServer(ctx, spec, tell) })
		})
	case roleWorker:
		return withSpec(specification, func(spec workerSpec) error {
			return runMember(ctx, spec.Profile, func(ctx context.Context, tell func(report)) error { return runWorker(ctx, spec, tell) })
		})
	}
	return fmt.Errorf("there is no role %q", role)
}

func withSpec[T any](text string, run func(T) error) error {
	var spec T
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("the role's specification: %w", err)
	}
	return run(spec)
}

// runMember runs a server or worker until the standard input ends, which is also when the first process has died.
func runMember(ctx context.Context, profile string, run func(context.Context, func(report)) error) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, os.Stdin) // however it ends, it has ended
	}()
	if profile != "" {
		finish, err := startProfile(profile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, finish()) }()
	}
	out := &sayer{encoder: json.NewEncoder(os.Stdout), stop: stop}
	return errors.Join(run(ctx, out.say), out.failure())
}

// sayer writes reports; a report that cannot be written ends the process.
type sayer struct {
	stop context.CancelFunc

	mu      sync.Mutex
	encoder *json.Encoder
	err     error
}

func (s *sayer) say(r report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.encoder.Encode(r); err != nil && s.err == nil {
		s.err = fmt.Errorf("report: %w", err)
		s.stop()
	}
}

func (s *sayer) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// startProfile records processor time until finish, which also writes what was allocated.
func startProfile(path string) (finish func() error, err error) {
	processor, err := os.Create(path + ".cpu")
	if err != nil {
		return nil, fmt.Errorf("write a profile: %w", err)
	}
	if err := pprof.StartCPUProfile(processor); err != nil {
		return nil, fmt.Errorf("write a profile: %w", errors.Join(err, processor.Close()))
	}
	return func() error {
		pprof.StopCPUProfile()
		memory, err := os.Create(path + ".allocs")
		if err == nil {
			err = errors.Join(pprof.Lookup("allocs").WriteTo(memory, 0), memory.Close())
		}
		return errors.Join(err, processor.Close())
	}, nil
}

func runServer(ctx context.Context, spec serverSpec, tell func(report)) error {
	server, err := natsserver.Start(ctx, natsserver.Options{
		StoreDir: spec.Dir, Listen: "127.0.0.1:0", ServerName: "transportbench", Logger: logger(),
		MaxMemory: 2 * protocol.DefaultStreamsMaxBytes,
	})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	tell(report{URL: server.ClientURL()})
	<-ctx.Done()
	return nil
}

func runWorker(ctx context.Context, spec workerSpec, tell func(report)) error {
	conn, js, err := protocol.Connect(ctx, protocol.ConnectOptions{URL: spec.URL, Name: "transportbench " + string(spec.Host), Logger: logger()})
	if err != nil {
		return err
	}
	defer conn.Close()
	resources, err := protocol.OpenResources(ctx, js)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		return fmt.Errorf("make a directory for the fake's streams: %w", err)
	}
	runner, err := newPools(ctx, spec, tell)
	if err != nil {
		return err
	}
	w, err := worker.New(worker.Config{
		Host: spec.Host, Name: string(spec.Host) + "-1", Version: "transportbench", Conn: conn, Resources: resources,
		ZFS:  zfs.New(zfs.Observe(runner, logger(), noop.NewTracerProvider())),
		Data: tcp.Config{Listen: "127.0.0.1:0", TLS: spec.TLS, Logger: logger()},
		Policy: worker.Policy{
			Send: protocol.Filter{sourcePool + "<": true}, Recv: []worker.RecvRule{{Root: targetPool}},
		},
		ClaimsDir: filepath.Join(spec.Dir, "claims"), Logger: logger(),
	})
	if err != nil {
		return err
	}
	return w.Run(ctx)
}

// logger shows what makes a measurement doubtful.
func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// profilePath is where a process's profiles go; empty writes none.
func profilePath(dir, way, process string) string {
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, way+"-"+process)
}

// memberGrace is how long a server or worker may take to end.
const memberGrace = 20 * time.Second
