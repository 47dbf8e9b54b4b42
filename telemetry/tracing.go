// Tracing: how a process's tracer provider is made from the standard OTEL_* variables.

package telemetry

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/zfleet/zfleet/protocol"
)

// TraceOptions say who traces, and where to.
type TraceOptions struct {
	// Role is what the process is: worker, coordinator, server, or a command's name.
	Role string
	// Host is where it runs; empty where that is not known.
	Host protocol.Host
	// Version is the program's; empty where that is not known.
	Version string
	// Getenv reads the OTEL_* variables that decide whether spans are exported (os.Getenv). The exporters read the details
	// (endpoint, headers, certificates, time limits) from the process's own environment.
	Getenv func(string) string
	// Recorder gets every finished span as well; nil records nothing.
	Recorder *Recorder
}

// Tracing owns a process's tracer provider. Its owner calls Shutdown.
type Tracing struct {
	provider trace.TracerProvider
	shutdown func(context.Context) error
}

// StartTracing makes the tracer provider that the environment asks for:
//
//   - OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: spans are exported there; without one, they are not
//   - OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL: grpc or http/protobuf, the default
//   - OTEL_TRACES_EXPORTER=none and OTEL_SDK_DISABLED=true switch exporting off
//   - OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, OTEL_BSP_*: as OpenTelemetry specifies them
//
// Spans carry service.name=zctl, zfleet.role and host.name unless the environment says otherwise. An endpoint that cannot
// be reached is no error here: exporting is retried in the background and gives up span by span.
func StartTracing(ctx context.Context, options TraceOptions) (*Tracing, error) {
	exporter, err := newExporter(ctx, options.Getenv)
	if err != nil {
		return nil, err
	}
	if exporter == nil && options.Recorder == nil {
		return &Tracing{provider: noop.NewTracerProvider(), shutdown: func(context.Context) error { return nil }}, nil
	}
	description, err := describe(ctx, options)
	if err != nil {
		return nil, err
	}
	providerOptions := []sdktrace.TracerProviderOption{sdktrace.WithResource(description)}
	if exporter != nil {
		providerOptions = append(providerOptions, sdktrace.WithBatcher(exporter))
	}
	if options.Recorder != nil {
		providerOptions = append(providerOptions, sdktrace.WithSpanProcessor(options.Recorder))
	}
	provider := sdktrace.NewTracerProvider(providerOptions...)
	return &Tracing{provider: provider, shutdown: provider.Shutdown}, nil
}

// Provider is the tracer provider; never nil.
func (t *Tracing) Provider() trace.TracerProvider { return t.provider }

// Shutdown sends what is left to send, for at most the given time, and ends the exporter. It does not need a context that
// is still alive, since it is called when the program ends.
func (t *Tracing) Shutdown(limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := t.shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w; check OTEL_EXPORTER_OTLP_ENDPOINT", err)
	}
	return nil
}

func newExporter(ctx context.Context, getenv func(string) string) (sdktrace.SpanExporter, error) {
	endpoint := firstOf(getenv, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	if endpoint == "" || strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") {
		return nil, nil //nolint:nilnil // no exporter is the answer
	}
	switch kind := getenv("OTEL_TRACES_EXPORTER"); kind {
	case "", "otlp":
	case "none":
		return nil, nil //nolint:nilnil // no exporter is the answer
	default:
		return nil, protocol.Usagef("OTEL_TRACES_EXPORTER=%s: use otlp or none", kind)
	}
	var exporter sdktrace.SpanExporter
	var err error
	switch kind := firstOf(getenv, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); kind {
	case "", "http/protobuf":
		exporter, err = otlptracehttp.New(ctx)
	case "grpc":
		exporter, err = otlptracegrpc.New(ctx)
	default:
		return nil, protocol.Usagef("OTEL_EXPORTER_OTLP_PROTOCOL=%s: use grpc or http/protobuf", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("export traces to %s: %w", endpoint, err)
	}
	return exporter, nil
}

func firstOf(getenv func(string) string, names ...string) string {
	for _, name := range names {
		if value := getenv(name); value != "" {
			return value
		}
	}
	return ""
}

// describe is the resource that all spans of the process carry; what the environment says comes last and wins.
func describe(ctx context.Context, options TraceOptions) (*resource.Resource, error) {
	attributes := []attribute.KeyValue{
		attribute.String("service.name", "zctl"),
		attribute.String("zfleet.role", options.Role),
	}
	if options.Host != "" {
		attributes = append(attributes, attribute.String("host.name", string(options.Host)))
	}
	if options.Version != "" {
		attributes = append(attributes, attribute.String("service.version", options.Version))
	}
	description, err := resource.New(ctx, resource.WithAttributes(attributes...), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, protocol.Usagef("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return description, nil
}
