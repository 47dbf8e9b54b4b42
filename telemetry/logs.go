// Logs: how a process's logger is made, and what its records have in common.

package telemetry

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/lmittmann/tint"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/protocol"
)

// LogOptions say which records are written, and how.
type LogOptions struct {
	// Level is debug, info, warn or error; empty is info.
	Level string `yaml:"level"`
	// Format is human or json; empty is human.
	Format string `yaml:"format"`
	// Color lets the human format use ANSI colours; only for a terminal.
	Color bool `yaml:"-"`
}

// The formats of logs.
const (
	FormatHuman = "human"
	FormatJSON  = "json"
)

// Validate tells what is wrong with the options; the error is of kind usage.
func (o LogOptions) Validate() error {
	if _, err := o.level(); err != nil {
		return err
	}
	switch o.Format {
	case "", FormatHuman, FormatJSON:
		return nil
	}
	return protocol.Usagef("log format %q: use %s or %s", o.Format, FormatHuman, FormatJSON)
}

func (o LogOptions) level() (slog.Level, error) {
	switch strings.ToLower(o.Level) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, protocol.Usagef("log level %q: use debug, info, warn or error", o.Level)
}

// NewLogger makes a logger that writes to w, which must allow concurrent writes no more than any io.Writer does: the
// logger writes one record at a time. Records logged with a context that holds a span carry trace_id and span_id.
func NewLogger(w io.Writer, options LogOptions) (*slog.Logger, error) {
	if err := options.Validate(); err != nil {
		return nil, err
	}
	level, err := options.level()
	if err != nil {
		return nil, err
	}
	var handler slog.Handler
	if options.Format == FormatJSON {
		handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})
	} else {
		handler = tint.NewTextHandler(w, &tint.Options{
			Level: level, TimeFormat: "2006-01-02 15:04:05.000", NoColor: !options.Color,
		})
	}
	return slog.New(spanHandler{handler}), nil
}

// spanHandler adds the ids of the context's span to every record.
type spanHandler struct{ slog.Handler }

func (h spanHandler) Handle(ctx context.Context, record slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		record = record.Clone()
		record.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, record)
}

func (h spanHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return spanHandler{h.Handler.WithAttrs(attrs)}
}

func (h spanHandler) WithGroup(name string) slog.Handler {
	return spanHandler{h.Handler.WithGroup(name)}
}

// Host names the host that a record is about.
func Host(host protocol.Host) slog.Attr { return slog.String("host", string(host)) }

// Job names the job that a record is about.
func Job(name string) slog.Attr { return slog.String("job", name) }

// Plan names the plan that a record is about.
func Plan(id protocol.PlanID) slog.Attr { return slog.String("plan", string(id)) }

// Step names the try of a step that a record is about; its value begins with the plan.
func Step(ref protocol.StepRef) slog.Attr { return slog.String("step", ref.String()) }
