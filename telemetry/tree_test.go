package telemetry

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

func TestTree(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	span := func(id, parent byte, name, host string, from, to time.Duration, attributes ...Attribute) Span {
		return Span{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{id}, Parent: trace.SpanID{parent},
			Name: name, Host: host, Start: start.Add(from), End: start.Add(to), Attributes: attributes,
		}
	}
	failed := span(4, 2, "receive", "bravo", 12*time.Millisecond, 40*time.Millisecond, Attribute{"dataset", "backup/alpha/tank"})
	failed.Failed, failed.Error = true, "cannot receive:\n  out of space"
	spans := []Span{
		failed,
		span(3, 2, "send", "alpha", 10*time.Millisecond, 1500*time.Millisecond, Attribute{"dataset", "tank/with space"}, Attribute{"argv", "send"}),
		span(2, 1, "step", "alpha", 5*time.Millisecond, 1510*time.Millisecond),
		span(1, 0, "plan", "alpha", 0, 2*time.Second, Attribute{"job", "demo"}),
		span(5, 3, "zfs hold", "alpha", 11*time.Millisecond, 12*time.Millisecond),
		span(6, 3, "zfs hold", "alpha", 12*time.Millisecond, 13*time.Millisecond),
		span(7, 3, "zfs hold", "alpha", 13*time.Millisecond, 14*time.Millisecond),
		span(8, 9, "orphan", "", 3*time.Second, 3*time.Second+250*time.Microsecond),
	}
	var out strings.Builder
	require.NoError(t, WriteTree(&out, spans, TreeOptions{Attributes: []string{"job", "dataset"}, Fold: 2}))
	require.Equal(t, strings.TrimPrefix(`
plan  2s  on alpha  job=demo
└─ step  1.51s
   ├─ send  1.49s  dataset="tank/with space"
   │  └─ zfs hold ×3  3ms together
   └─ receive  28ms  on bravo  dataset=backup/alpha/tank  FAILED cannot receive: out of space
orphan  250µs
`, "\n"), out.String())
}

func TestTreeLeavesOutAndShortens(t *testing.T) {
	t.Parallel()
	spans := []Span{
		{SpanID: trace.SpanID{1}, Name: "plan", Failed: true, Error: "a long story", Attributes: []Attribute{{"job", "a long name"}}},
		{SpanID: trace.SpanID{2}, Parent: trace.SpanID{1}, Name: "boring"},
		{SpanID: trace.SpanID{3}, Parent: trace.SpanID{2}, Name: "below"},
	}
	var out strings.Builder
	options := TreeOptions{MaxText: 6, Skip: func(span Span) bool { return span.Name == "boring" }}
	require.NoError(t, WriteTree(&out, spans, options))
	require.Equal(t, "plan  0s  job=\"a long…\"  FAILED a long…\n", out.String())
}

func TestTreeSurvivesSpansThatAreTheirOwnAncestors(t *testing.T) {
	t.Parallel()
	spans := []Span{{SpanID: trace.SpanID{1}, Parent: trace.SpanID{1}, Name: "self"}}
	var out strings.Builder
	require.NoError(t, WriteTree(&out, spans, TreeOptions{}))
	require.Equal(t, "self  0s\n", out.String())
}
