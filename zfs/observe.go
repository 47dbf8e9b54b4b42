// Observing commands: a span and a log record for each.

package zfs

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Observe decorates a Runner: every command gets a span, named like "zfs list", and a log record of level debug, with its
// arguments in short, its duration and its exit status. A command that fails is recorded, not judged: who called knows
// whether the failure is one.
func Observe(runner Runner, logger *slog.Logger, tracers trace.TracerProvider) Runner {
	return &observedRunner{runner: runner, logger: logger, tracer: tracers.Tracer("github.com/zfleet/zfleet/zfs")}
}

type observedRunner struct {
	runner Runner
	logger *slog.Logger
	tracer trace.Tracer
}

// Run implements [Runner].
func (r *observedRunner) Run(ctx context.Context, command Command) (Result, error) {
	name := strings.Join(command.Args[:min(2, len(command.Args))], " ")
	short := summary(command.Args)
	ctx, span := r.tracer.Start(ctx, name, trace.WithAttributes(attribute.String("zfs.command", short)))
	defer span.End()
	begin := time.Now()
	result, err := r.runner.Run(ctx, command)
	duration := time.Since(begin)

	span.SetAttributes(attribute.Int("process.exit.code", result.ExitCode), attribute.Float64("zfs.seconds", duration.Seconds()))
	attributes := []slog.Attr{
		slog.String("command", short), slog.Duration("duration", duration), slog.Int("exit_status", result.ExitCode),
	}
	switch {
	case err != nil:
		span.SetStatus(codes.Error, err.Error())
		attributes = append(attributes, slog.String("error", err.Error()))
	case result.ExitCode != 0:
		text := strings.Join(strings.Fields(errorOutput(command.Args, result)), " ")
		span.SetStatus(codes.Error, text)
		attributes = append(attributes, slog.String("stderr", text))
	}
	r.logger.LogAttrs(ctx, slog.LevelDebug, "command ended", attributes...)
	return result, err
}
