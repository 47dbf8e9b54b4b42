// Package natsserver is the NATS server inside zctl: that of "zctl server", of "zctl demo", and of the tests. It is the
// very server that runs by itself as nats-server, with JetStream on, kept in one directory.
//
// # Durability
//
// JetStream acknowledges a message once it is written to its file, and calls fsync later (Options.SyncAlways changes
// that). What is acknowledged survives the end of the process, kill -9 included; a power failure may lose the last
// messages. zfleet can live with that: the pools are the ground truth, and everything in NATS is rebuilt from them. Where
// that is not good enough, run a cluster of nats-server with three replicas.
package natsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Options configure an embedded server.
type Options struct {
	// StoreDir is the directory of streams and buckets. It is created, and must belong to one server at a time.
	StoreDir string
	// Listen is the address for clients, "host:port"; an empty host is all interfaces, and port 0 any free port. Empty is no
	// network port at all: only InProcess connects.
	Listen string
	// ServerName is shown to operators; empty is a random one.
	ServerName string
	// MaxMemory and MaxStore bound what JetStream keeps, in bytes. 0 is 256 MiB of memory, of which zfleet needs none, and
	// NATS's own default for the store (three quarters of the free space).
	MaxMemory int64
	MaxStore  int64
	// SyncAlways calls fsync before every acknowledgement, which costs most of the speed.
	SyncAlways bool
	// Logger gets the server's log; nil is silent.
	Logger *slog.Logger
}

const (
	startTimeout     = 30 * time.Second // a large store has to be read
	defaultMaxMemory = 256 << 20
	syncInterval     = 10 * time.Second
)

// Server is a running NATS server. Its methods are safe for concurrent use.
type Server struct {
	options Options

	mu      sync.Mutex
	current *server.Server
}

var _ nats.InProcessConnProvider = (*Server)(nil)

// Start starts a server and waits until it takes connections and JetStream is on, at most 30 seconds.
func Start(ctx context.Context, options Options) (*Server, error) {
	if options.StoreDir == "" {
		return nil, errors.New("the embedded NATS server needs a store directory")
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{options: options}
	if err := s.start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	opts := &server.Options{
		ServerName:         s.options.ServerName,
		DontListen:         s.options.Listen == "",
		JetStream:          true,
		StoreDir:           s.options.StoreDir,
		JetStreamMaxMemory: s.options.MaxMemory,
		JetStreamMaxStore:  s.options.MaxStore,
		SyncInterval:       syncInterval,
		SyncAlways:         s.options.SyncAlways,
		NoSigs:             true, // signals are the program's
	}
	if opts.JetStreamMaxMemory == 0 {
		opts.JetStreamMaxMemory = defaultMaxMemory
	}
	if s.options.Listen != "" {
		host, port, err := splitListen(s.options.Listen)
		if err != nil {
			return err
		}
		opts.Host, opts.Port = host, port
	}
	started, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("configuring the embedded NATS server: %w", err)
	}
	log := &serverLog{logger: s.options.Logger, fatal: make(chan string, 1)}
	started.SetLoggerV2(log, s.options.Logger.Enabled(ctx, slog.LevelDebug), false, false)
	started.Start()
	if err := waitReady(ctx, started, log.fatal); err != nil {
		started.Shutdown()
		started.WaitForShutdown()
		return fmt.Errorf("starting the embedded NATS server with the store %s: %w", s.options.StoreDir, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = started
	if address, ok := started.Addr().(*net.TCPAddr); ok {
		host, _, err := net.SplitHostPort(s.options.Listen)
		if err != nil {
			return fmt.Errorf("listen address %q: %w", s.options.Listen, err)
		}
		s.options.Listen = net.JoinHostPort(host, strconv.Itoa(address.Port)) // a restart keeps the port
	}
	return nil
}

func splitListen(listen string) (host string, port int, err error) {
	host, service, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: write it like 127.0.0.1:4222: %w", listen, err)
	}
	number, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("listen address %q: the port is no number from 0 to 65535", listen)
	}
	if number == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(number), nil
}

// waitReady waits for the server in short turns, because the server reports what it cannot do only to its log.
func waitReady(ctx context.Context, started *server.Server, fatal <-chan string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		select {
		case reason := <-fatal:
			return errors.New(reason)
		case <-ctx.Done():
			return fmt.Errorf("it is not ready: %w", context.Cause(ctx))
		default:
		}
		if started.ReadyForConnections(100*time.Millisecond) && started.JetStreamEnabled() {
			return nil
		}
	}
}

// ClientURL is the URL for clients; without a network port it leads nowhere.
func (s *Server) ClientURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return ""
	}
	return s.current.ClientURL()
}

// InProcess is what nats.InProcessServer and protocol.ConnectOptions need to connect without a network. It stays good
// over a Restart.
func (s *Server) InProcess() nats.InProcessConnProvider { return s }

// InProcessConn is a new connection to the server, for the NATS client.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	current := s.current
	s.mu.Unlock()
	if current == nil {
		return nil, errors.New("the embedded NATS server is stopped")
	}
	connection, err := current.InProcessConn()
	if err != nil {
		return nil, fmt.Errorf("connecting to the embedded NATS server: %w", err)
	}
	return connection, nil
}

// Shutdown stops the server and waits until it is down, its files closed. More calls do nothing.
func (s *Server) Shutdown() {
	s.mu.Lock()
	current := s.current
	s.current = nil
	s.mu.Unlock()
	if current == nil {
		return
	}
	current.Shutdown()
	current.WaitForShutdown()
}

// Restart stops the server, if it still runs, and starts it again with the same store and the same port. Clients
// reconnect by themselves.
func (s *Server) Restart(ctx context.Context) error {
	s.Shutdown()
	return s.start(ctx)
}

// serverLog passes the server's log on.
type serverLog struct {
	logger *slog.Logger
	fatal  chan string // the first reason for which the server cannot start
}

var _ server.Logger = (*serverLog)(nil)

func (l *serverLog) log(level slog.Level, format string, args []any) {
	l.logger.Log(context.Background(), level, fmt.Sprintf(format, args...), "component", "nats-server") //nolint:sloglint // the server's own words
}

func (l *serverLog) Noticef(format string, args ...any) { l.log(slog.LevelDebug, format, args) }
func (l *serverLog) Warnf(format string, args ...any)   { l.log(slog.LevelWarn, format, args) }
func (l *serverLog) Errorf(format string, args ...any)  { l.log(slog.LevelError, format, args) }
func (l *serverLog) Debugf(format string, args ...any)  { l.log(slog.LevelDebug, format, args) }
func (l *serverLog) Tracef(format string, args ...any)  { l.log(slog.LevelDebug, format, args) }

// Fatalf is the server's last word; the process does not end with it, since it is not the server's.
func (l *serverLog) Fatalf(format string, args ...any) {
	l.log(slog.LevelError, format, args)
	select {
	case l.fatal <- fmt.Sprintf(format, args...):
	default:
	}
}
