package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/zfleet/zfleet/protocol"
)

func TestJSONRecordsCarryTheSpanAndTheStep(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger, err := NewLogger(&out, LogOptions{Format: FormatJSON})
	require.NoError(t, err)
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	ctx := trace.ContextWithSpanContext(context.Background(), span)

	logger.With(Host("alpha"), Job("prod")).InfoContext(ctx, "step done",
		Plan("p-1"), Step(protocol.StepRef{Plan: "p-1", Task: 2, Step: 3, Attempt: 4}))

	var record map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &record))
	delete(record, "time")
	require.Equal(t, map[string]any{
		"level": "INFO", "msg": "step done", "host": "alpha", "job": "prod", "plan": "p-1", "step": "p-1/2-3#4",
		"trace_id": "01000000000000000000000000000000", "span_id": "0200000000000000",
	}, record)
}

func TestHumanRecordsAreOneLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger, err := NewLogger(&out, LogOptions{Level: "warn"})
	require.NoError(t, err)
	logger.Info("not shown")
	logger.Warn("worker lost its claim", Host("alpha"))
	require.Regexp(t, `^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} WRN worker lost its claim host=alpha\n$`, out.String())
}

func TestLogOptionsAreChecked(t *testing.T) {
	t.Parallel()
	for _, options := range []LogOptions{{Level: "loud"}, {Format: "xml"}} {
		_, err := NewLogger(&bytes.Buffer{}, options)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, ""), "%+v", options)
	}
}
