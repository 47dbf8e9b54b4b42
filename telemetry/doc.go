// Package telemetry is how zctl's processes tell what they do: structured logs, and traces.
//
// Logs are log/slog records, for people or as JSON, on standard error. [NewLogger] makes the logger; every record that is
// logged with a context carries the ids of the span in that context, and [Host], [Job], [Plan] and [Step] name things
// the same way in every record.
//
// Traces are OpenTelemetry spans. [StartTracing] makes a tracer provider from the standard OTEL_* variables: with an OTLP
// endpoint the spans are exported there, without one they cost next to nothing. A [Recorder] keeps the latest spans in
// memory, and [WriteTree] draws them as a tree; zctl demo shows a replication that way.
//
// Nothing here is global: loggers and tracer providers are values that the program hands to whom they concern.
package telemetry
