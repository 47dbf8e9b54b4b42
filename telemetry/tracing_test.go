package telemetry

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func environment(variables map[string]string) func(string) string {
	return func(name string) string { return variables[name] }
}

func TestWithoutEndpointNothingIsRecordedOrExported(t *testing.T) {
	t.Parallel()
	for _, variables := range []map[string]string{
		nil,
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		tracing, err := StartTracing(t.Context(), TraceOptions{Role: "worker", Getenv: environment(variables)})
		require.NoError(t, err)
		_, span := tracing.Provider().Tracer("test").Start(t.Context(), "x")
		require.False(t, span.IsRecording(), "%v", variables)
		require.NoError(t, tracing.Shutdown(time.Second))
	}
}

func TestVariablesThatCannotBeMeantAreRefused(t *testing.T) {
	t.Parallel()
	for _, variables := range []map[string]string{
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "zipkin"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
	} {
		_, err := StartTracing(t.Context(), TraceOptions{Getenv: environment(variables)})
		require.Equal(t, protocol.Usage, protocol.KindOf(err, ""), "%v: %v", variables, err)
	}
}

// The exporter itself reads the process's environment, so this test cannot run beside others.
func TestSpansReachTheEndpoint(t *testing.T) {
	received := make(chan string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		received <- request.URL.Path
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)

	tracing, err := StartTracing(t.Context(), TraceOptions{
		Role: "worker", Host: "alpha",
		Getenv: environment(map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}),
	})
	require.NoError(t, err)
	_, span := tracing.Provider().Tracer("test").Start(t.Context(), "x")
	span.End()
	require.NoError(t, tracing.Shutdown(10*time.Second))
	require.Equal(t, "/v1/traces", <-received)
	http.DefaultClient.CloseIdleConnections()
}

func TestShutdownKeepsItsDeadline(t *testing.T) {
	t.Parallel()
	tracing := &Tracing{shutdown: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	err := tracing.Shutdown(time.Millisecond)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestRecorderKeepsTheLatestSpans(t *testing.T) {
	t.Parallel()
	recorder := NewRecorder(2)
	tracing, err := StartTracing(t.Context(), TraceOptions{Role: "demo", Host: "alpha", Recorder: recorder, Getenv: environment(nil)})
	require.NoError(t, err)
	tracer := tracing.Provider().Tracer("test")
	for _, name := range []string{"one", "two", "three"} {
		_, span := tracer.Start(t.Context(), name)
		span.End()
	}
	require.NoError(t, tracing.Shutdown(time.Second))

	spans := recorder.Spans(trace.TraceID{})
	require.Len(t, spans, 2)
	require.Equal(t, "two", spans[0].Name)
	require.Equal(t, "three", spans[1].Name)
	require.Equal(t, "alpha", spans[0].Host)
	require.Equal(t, 1, recorder.Dropped())
	require.Len(t, recorder.Spans(spans[1].TraceID), 1)
}
