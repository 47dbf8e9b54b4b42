// The coordinator: campaigns for the lease, and leads while it holds it.

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/zfleet/zfleet/protocol"
)

// Config is what a coordinator needs.
type Config struct {
	// Name is this process's, unique in the fleet.
	Name string
	// Host is where it runs, for people.
	Host      string
	Conn      *nats.Conn
	Resources *protocol.Resources
	// LeaseTTL is how long the lease outlives a coordinator that died; 0 is 15 s.
	LeaseTTL time.Duration
	// KeepPlans is how many ended plans of each job are kept; 0 is 20.
	KeepPlans int
	// CollectEvery is the time between two looks for what crashed steps have left in the object store; 0 is 3 minutes.
	// CollectGrace is the least age of what is removed; 0 is 2 minutes.
	CollectEvery, CollectGrace time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// FailPoint is called before and after every durable action, with its name (FailPoints), and on the goroutine that acts. It is
	// for tests, which kill the process there; nil in production.
	FailPoint func(ctx context.Context, point string)
	// Logger and TracerProvider may be nil: nothing is then logged or traced.
	Logger         *slog.Logger
	TracerProvider trace.TracerProvider
}

// Coordinator turns requests for plans into work items, and events into finished plans. Any number may run; one leads.
type Coordinator struct {
	config   Config
	tracer   trace.Tracer
	standing standing
}

// New makes a coordinator; Run runs it.
func New(config Config) *Coordinator {
	if config.LeaseTTL == 0 {
		config.LeaseTTL = 15 * time.Second
	}
	if config.KeepPlans == 0 {
		config.KeepPlans = 20
	}
	if config.CollectEvery <= 0 {
		config.CollectEvery = 3 * time.Minute
	}
	if config.CollectGrace <= 0 {
		config.CollectGrace = 2 * time.Minute
	}
	if config.Now == nil {
		config.Now = time.Now
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
	return &Coordinator{config: config, tracer: config.TracerProvider.Tracer("github.com/zfleet/zfleet/coordinator")}
}

// Run campaigns and leads until ctx ends, and returns nil then. A term that ends for another reason is logged, and the
// coordinator campaigns again: soon, but not as soon each time where one term after another ends early.
func (c *Coordinator) Run(ctx context.Context) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval, pause.RandomizationFactor = c.config.LeaseTTL/5, 4*c.config.LeaseTTL, 0
	for {
		held := &lease{
			resources: c.config.Resources,
			value:     protocol.Lease{Holder: c.config.Name, Host: c.config.Host},
			ttl:       c.config.LeaseTTL,
			now:       c.config.Now,
			logger:    c.config.Logger,
			failPoint: c.config.FailPoint,
			turn:      c.standing.turn,
		}
		if !held.acquire(ctx) {
			return nil
		}
		began := time.Now()
		c.config.Logger.InfoContext(ctx, "this coordinator leads")
		c.standing.begin(held.value.Since)
		err := c.term(ctx, held)
		if time.Since(began) > 4*c.config.LeaseTTL {
			pause.Reset()
		}
		next := pause.NextBackOff()
		if ctx.Err() == nil {
			c.config.Logger.WarnContext(ctx, "this coordinator no longer leads; it asks for the lease again, unless another one leads",
				slog.Any("error", err), slog.Duration("after", next))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// term leads as long as the lease is held. Its error is why it ended.
func (c *Coordinator) term(ctx context.Context, held *lease) error {
	defer c.standing.end()
	termContext, end := context.WithCancelCause(during(ctx, held))
	var watching sync.WaitGroup
	for _, watch := range []func(context.Context) error{held.keep, held.expire} {
		watching.Go(func() {
			if err := watch(termContext); err != nil {
				end(fmt.Errorf("lease: %w", err))
			}
		})
	}
	err := newLeader(c).lead(termContext)
	if cause := context.Cause(termContext); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	end(nil)
	watching.Wait()
	releaseContext, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	held.release(releaseContext)
	return err
}
