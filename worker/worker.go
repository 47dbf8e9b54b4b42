// The worker: its configuration and its life.

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/bandwidth"
	"github.com/zfleet/zfleet/worker/transport/object"
	"github.com/zfleet/zfleet/worker/transport/tcp"
	"github.com/zfleet/zfleet/zfs"
)

// Config is what a worker needs.
type Config struct {
	// Host is the host that it works for.
	Host protocol.Host
	// Name is this process's, unique among the host's workers.
	Name string
	// Version is the program's.
	Version   string
	Conn      *nats.Conn
	Resources *protocol.Resources
	ZFS       *zfs.System
	Slots     Slots
	// Data is the data port that senders connect to.
	Data   tcp.Config
	Policy Policy
	// Bandwidth is what the host allows all its steps together, in each direction. Other workers of the host count by themselves.
	Bandwidth Bandwidth
	// CompressionThreads is how many threads compress one stream; 0 is half the CPUs, and at least 1.
	CompressionThreads int
	// ShareWindow is how much of a stream that several ways share is kept in memory for the slower ones, in bytes; 0 is 32 MiB.
	ShareWindow int
	// AckWait is how long a claim outlives a worker that died; 0 is the protocol's default. It must be the same for all
	// workers of a host.
	AckWait time.Duration
	// PresenceTTL is how long this worker's presence outlives it when it dies, in whole seconds; 0 is the protocol's default.
	PresenceTTL time.Duration
	// ClaimsDir is a directory of a local file system that all worker processes of the host share: there they keep one another
	// from working on the same filesystem. Workers of several hosts may share one, too. It is made if it is missing.
	ClaimsDir string
	// MaxDeliveries is how often an item may be delivered and not be finished before it is given up; 0 is the protocol's default.
	MaxDeliveries int
	// FailPoint is called before and after every durable action, with its name (FailPoints), and on the goroutine that acts. It is
	// for tests, which kill the process there; nil in production.
	FailPoint func(ctx context.Context, point string)
	// Logger and TracerProvider may be nil: nothing is then logged or traced.
	Logger         *slog.Logger
	TracerProvider trace.TracerProvider
}

// Slots are how many steps of each role a worker works on at once. 0 is 4; a negative number takes no such steps.
type Slots struct {
	Send, Recv int
}

// Bandwidth bounds what a worker sends and receives in each second, on the network. The zero value is unlimited.
type Bandwidth struct {
	Send, Recv protocol.BandwidthLimit
}

// Worker works on the items of one host.
type Worker struct {
	config   Config
	keeper   *abstractions.Manager
	listener *tcp.Listener
	dialer   *tcp.Dialer
	objects  *object.Store
	limits   *bandwidth.Limits
	jobs     *jobLimits
	active   *activeSteps
	locks    *claimLocks
	// unreachable is what the worker remembers of ways that do not work.
	unreachable *unreachable
	// made is when the work stream was made; nil before NATS was asked.
	made atomic.Pointer[time.Time]
	// serving is closed once work is asked for.
	serving chan struct{}
	loops   loops
	// draining is closed by Drain.
	draining  chan struct{}
	drainOnce sync.Once
	logger    *slog.Logger
	tracer    trace.Tracer
	started   time.Time
}

const (
	defaultSlots       = 4
	defaultShareWindow = 32 << 20
)

// New makes a worker; Run runs it. The error is of kind Usage, for a configuration that cannot work.
func New(config Config) (*Worker, error) {
	if err := config.Host.Validate(); err != nil {
		return nil, err
	}
	if config.Name == "" {
		return nil, protocol.Usagef("a worker of host %s needs a name", config.Host)
	}
	if err := config.Policy.Validate(); err != nil {
		return nil, err
	}
	if config.Slots.Send == 0 {
		config.Slots.Send = defaultSlots
	}
	if config.Slots.Recv == 0 {
		config.Slots.Recv = defaultSlots
	}
	if config.ShareWindow <= 0 {
		config.ShareWindow = defaultShareWindow
	}
	if config.ClaimsDir == "" {
		return nil, protocol.Usagef("worker of %s: name the directory that the workers of this host share (worker.run_dir)", config.Host)
	}
	if config.MaxDeliveries <= 0 {
		config.MaxDeliveries = protocol.DefaultMaxDeliveries
	}
	if config.PresenceTTL <= 0 {
		config.PresenceTTL = protocol.PresenceTTL
	}
	if config.AckWait <= 0 {
		config.AckWait = protocol.DefaultAckWait
	}
	if config.FailPoint == nil {
		config.FailPoint = func(context.Context, string) {}
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.TracerProvider == nil {
		config.TracerProvider = noop.NewTracerProvider()
	}
	logger := config.Logger.With(slog.String("host", string(config.Host)), slog.String("worker", config.Name))
	w := &Worker{
		config:      config,
		active:      newActiveSteps(),
		locks:       &claimLocks{dir: config.ClaimsDir, host: config.Host, worker: config.Name},
		limits:      bandwidth.New(config.Bandwidth.Send, config.Bandwidth.Recv),
		jobs:        newJobLimits(),
		unreachable: newUnreachable(),
		serving:     make(chan struct{}),
		draining:    make(chan struct{}),
		logger:      logger,
		tracer:      config.TracerProvider.Tracer("github.com/zfleet/zfleet/worker"),
	}
	w.keeper = abstractions.New(config.ZFS, abstractions.Options{
		Logger: logger,
		Around: func(ctx context.Context, change abstractions.Change, do func() error) error {
			return w.durably(ctx, pointOfChange(change), do)
		},
	})
	return w, nil
}

// Drain has Run take no more items, and return nil once the steps under way have ended by themselves. Until then their claims are
// kept and requests are answered, and the presence says that the worker is on its way out. Drain does not wait. It may be called
// from any goroutine, at any time and any number of times. Ending Run's context stops a draining worker at once, as any other.
func (w *Worker) Drain() { w.drainOnce.Do(func() { close(w.draining) }) }

// Run works until ctx ends: steps under way are then stopped, their items are given back, and Run returns nil when nothing
// is running any more. After Drain, it returns nil when they have ended. An error says that the worker could not start.
func (w *Worker) Run(ctx context.Context) error {
	w.started = time.Now().UTC()
	_, err := w.config.ZFS.Features(ctx)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // a worker that is stopped while it starts has not failed
	}
	if err != nil {
		return fmt.Errorf("worker of %s: is OpenZFS installed? %w", w.config.Host, err)
	}
	if err := w.locks.check(); err != nil {
		return fmt.Errorf("worker of %s: %w", w.config.Host, err)
	}
	listener, err := tcp.Listen(ctx, w.config.Data)
	if err != nil {
		return fmt.Errorf("worker of %s: open the data port: %w", w.config.Host, err)
	}
	w.listener = listener
	w.dialer = tcp.NewDialer(tcp.DialerOptions{Logger: w.logger})
	w.objects = object.Open(w.config.Conn, w.config.Resources.JetStream, w.config.Resources.Streams)
	err = w.work(ctx)
	w.keeper.Close()
	w.dialer.Close()
	if closeError := listener.Close(); closeError != nil {
		w.logger.DebugContext(ctx, "the data port was not closed in order", slog.Any("error", closeError))
	}
	return err
}

func (w *Worker) work(ctx context.Context) error {
	notices, err := w.config.Conn.Subscribe(protocol.CancelSubjects, func(message *nats.Msg) { w.noticed(ctx, message) })
	if err != nil {
		return fmt.Errorf("worker of %s: listen for cancellations: %w", w.config.Host, err)
	}
	defer func() {
		if err := notices.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			w.logger.DebugContext(ctx, "the listening for cancellations was not ended in order", slog.Any("error", err))
		}
	}()
	stopService, err := w.serve(ctx)
	if err != nil {
		return fmt.Errorf("worker of %s: %w", w.config.Host, err)
	}
	// What serves the steps outlasts the last of them.
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	var running, slots sync.WaitGroup
	running.Go(func() { w.present(serving) })
	running.Go(func() { w.followJobs(serving) })
	running.Go(func() { w.sweepClaims(serving) })
	for role, count := range map[protocol.Role]int{
		protocol.RoleSend: w.config.Slots.Send, protocol.RoleRecv: w.config.Slots.Recv,
	} {
		for range count {
			slots.Go(func() { w.takeItems(ctx, asking, role) })
		}
	}
	close(w.serving)
	w.logger.InfoContext(ctx, "worker runs", slog.Any("addresses", w.listener.Addresses()),
		slog.Int("send_slots", w.config.Slots.Send), slog.Int("recv_slots", w.config.Slots.Recv))
	select {
	case <-ctx.Done():
	case <-w.draining:
		w.logger.InfoContext(ctx, "the worker claims nothing more, and stops when its steps have ended")
		stopAsking()
	}
	slots.Wait()
	stopServing()
	running.Wait()
	if err := stopService(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		w.logger.DebugContext(ctx, "the service was not stopped in order", slog.Any("error", err))
	}
	w.logger.InfoContext(ctx, "worker stopped")
	return nil
}

// workStream is when the work stream was made, as far as this worker has heard.
func (w *Worker) workStream() time.Time {
	if made := w.made.Load(); made != nil {
		return *made
	}
	return w.config.Resources.Work.CachedInfo().Created.UTC()
}

// askWorkStream is when the work stream was made, as NATS says now.
func (w *Worker) askWorkStream(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stream, err := w.config.Resources.JetStream.Stream(ctx, protocol.StreamWork)
	if err != nil {
		return time.Time{}, fmt.Errorf("look at the stream %s: %w", protocol.StreamWork, err)
	}
	made := stream.CachedInfo().Created.UTC()
	w.made.Store(&made)
	return made, nil
}

// sweepClaims removes the files of places that nobody works on any more, until ctx ends.
func (w *Worker) sweepClaims(ctx context.Context) {
	ticker := time.NewTicker(sweepClaimsEvery)
	defer ticker.Stop()
	for {
		if err := w.locks.sweep(time.Now()); err != nil {
			w.logger.WarnContext(ctx, "the files of old claims cannot be removed", slog.String("directory", w.config.ClaimsDir),
				slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// noticed stops steps that the coordinator has given up, or whose plan was cancelled.
func (w *Worker) noticed(ctx context.Context, message *nats.Msg) {
	var notice protocol.CancelNotice
	if err := protocol.ReadMessage(message.Header, message.Data, &notice); err != nil {
		letterContext, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		letter := protocol.NewDeadLetter(message.Subject, message.Header, message.Data, err, string(w.config.Host), 1)
		letterError := protocol.PublishDeadLetter(letterContext, w.config.Resources.JetStream, letter)
		w.logger.WarnContext(ctx, "a notice cannot be read; it is kept among the dead letters", slog.Any("reason", err),
			slog.Any("error", letterError))
		return
	}
	w.active.stop(notice)
}
