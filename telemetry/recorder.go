// The recorder: the latest finished spans, in memory.

package telemetry

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Span is a finished span, wherever it was read from.
type Span struct {
	TraceID trace.TraceID
	SpanID  trace.SpanID
	// Parent is zero for the first span of a trace.
	Parent trace.SpanID
	Name   string
	Start  time.Time
	End    time.Time
	// Host is where the span was made; empty where that is not known.
	Host string
	// Attributes are in the order in which they were set.
	Attributes []Attribute
	// Failed says that the span ended in an error, and Error says which; it may be empty.
	Failed bool
	Error  string
}

// Attribute is a span's attribute, with its value as text.
type Attribute struct{ Key, Value string }

// Recorder keeps the latest finished spans. It is a span processor of an OpenTelemetry tracer provider, and may serve
// several of them at once. It is safe for concurrent use.
type Recorder struct {
	mutex   sync.Mutex
	spans   []Span // a ring once it is full
	next    int    // where the next span goes
	limit   int
	dropped int
}

var _ sdktrace.SpanProcessor = (*Recorder)(nil)

// NewRecorder makes a recorder for at most limit spans; the oldest go first.
func NewRecorder(limit int) *Recorder { return &Recorder{limit: max(limit, 1)} }

// OnStart does nothing: only finished spans are kept.
func (r *Recorder) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd keeps the span.
func (r *Recorder) OnEnd(finished sdktrace.ReadOnlySpan) {
	span := Span{
		TraceID: finished.SpanContext().TraceID(),
		SpanID:  finished.SpanContext().SpanID(),
		Parent:  finished.Parent().SpanID(),
		Name:    finished.Name(),
		Start:   finished.StartTime(),
		End:     finished.EndTime(),
		Failed:  finished.Status().Code == codes.Error,
		Error:   finished.Status().Description,
	}
	for _, attribute := range finished.Attributes() {
		span.Attributes = append(span.Attributes, Attribute{string(attribute.Key), attribute.Value.String()})
	}
	if resource := finished.Resource(); resource != nil {
		if host, found := resource.Set().Value("host.name"); found {
			span.Host = host.AsString()
		}
	}
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if len(r.spans) < r.limit {
		r.spans = append(r.spans, span)
		return
	}
	r.spans[r.next] = span
	r.next = (r.next + 1) % r.limit
	r.dropped++
}

// Shutdown does nothing: what was recorded can still be read.
func (r *Recorder) Shutdown(context.Context) error { return nil }

// ForceFlush does nothing: every finished span is there at once.
func (r *Recorder) ForceFlush(context.Context) error { return nil }

// Spans are the recorded spans in the order in which they ended: those of one trace, or all for the zero id.
func (r *Recorder) Spans(id trace.TraceID) []Span {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	var found []Span
	for i := range r.spans {
		span := r.spans[(r.next+i)%len(r.spans)]
		if !id.IsValid() || span.TraceID == id {
			found = append(found, span)
		}
	}
	return found
}

// Dropped is how many spans were given up to keep within the limit.
func (r *Recorder) Dropped() int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.dropped
}
