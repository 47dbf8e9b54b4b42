// Connecting: how the operator's commands reach the fleet.

package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/telemetry"
)

// connectionFlags say where NATS is.
type connectionFlags struct{ url, creds, nkey, context, domain string }

func (f *connectionFlags) add(command *cobra.Command) {
	command.Flags().StringVar(&f.url, "nats", "", "NATS server URLs, separated by commas (environment: ZFLEET_NATS)")
	command.Flags().StringVar(&f.creds, "creds", "", "NATS credentials file (environment: ZFLEET_CREDS)")
	command.Flags().StringVar(&f.nkey, "nkey", "", "file with the seed of an NKey, for NATS (environment: ZFLEET_NKEY)")
	command.Flags().StringVar(&f.context, "context", "", "context of the nats CLI; without --nats the selected one is the default")
	command.Flags().StringVar(&f.domain, "domain", "",
		"JetStream domain of the fleet, where NATS is reached through a leaf node (environment: ZFLEET_DOMAIN)")
}

// resolve fills in what the environment says.
func (f connectionFlags) resolve(getenv func(string) string) connectionFlags {
	if f.url == "" {
		f.url = getenv("ZFLEET_NATS")
	}
	if f.creds == "" {
		f.creds = getenv("ZFLEET_CREDS")
	}
	if f.nkey == "" {
		f.nkey = getenv("ZFLEET_NKEY")
	}
	if f.domain == "" {
		f.domain = getenv("ZFLEET_DOMAIN")
	}
	return f
}

// session is an operator's connection to the fleet for the time of one command.
type session struct {
	*fleet.Client
	conn    *nats.Conn
	tracing *telemetry.Tracing
	span    trace.Span
	logger  *slog.Logger
}

// openWait is how long an operator waits for NATS to answer at all.
const openWait = 5 * time.Second

// open connects to the fleet. The context that it gives carries the span of the command. The caller closes the session.
func (p *program) open(ctx context.Context, command string, flags connectionFlags) (context.Context, *session, error) {
	// Trouble with the connection is shown by the commands themselves; the log would only tear up their output.
	logger := slog.New(slog.DiscardHandler)
	flags = flags.resolve(p.getenv)
	conn, js, err := protocol.Connect(ctx, protocol.ConnectOptions{
		URL: flags.url, Creds: flags.creds, NKey: flags.nkey, Context: flags.context, Domain: flags.domain,
		Name: "zctl " + command, Logger: logger, Wait: openWait,
	})
	if err != nil {
		return ctx, nil, protocol.Failf(protocol.KindOf(err, protocol.Transient),
			"%w; say where NATS is with --nats, ZFLEET_NATS or --context, or start one with: zctl server", err)
	}
	s := &session{conn: conn, logger: logger}
	if s.tracing, err = telemetry.StartTracing(ctx, telemetry.TraceOptions{
		Role: "zctl " + command, Version: programVersion().Version, Getenv: p.getenv,
	}); err != nil {
		conn.Close()
		return ctx, nil, err
	}
	resources, err := openResources(ctx, js)
	if err != nil {
		s.close()
		return ctx, nil, err
	}
	s.Client = fleet.New(conn, resources, fleet.Options{By: "zctl " + command})
	ctx, s.span = s.tracing.Provider().Tracer("github.com/zfleet/zfleet/cmd/zctl").Start(ctx, "zctl "+command)
	return ctx, s, nil
}

// openResources opens the fleet's streams and buckets within openWait.
func openResources(ctx context.Context, js jetstream.JetStream) (*protocol.Resources, error) {
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	resources, err := protocol.OpenResources(ctx, js)
	var missing *protocol.MissingResources
	if errors.As(err, &missing) {
		return nil, protocol.Failf(protocol.Permanent, "there is no fleet on this NATS server yet: %w", err)
	}
	return resources, err
}

func (s *session) close() {
	if s.span != nil {
		s.span.End()
	}
	// An operator's command is no worse for spans that could not be sent.
	_ = s.tracing.Shutdown(2 * time.Second)
	s.conn.Close()
}
