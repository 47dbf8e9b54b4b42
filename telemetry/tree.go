// The tree: spans drawn for people.

package telemetry

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// TreeOptions say what a tree shows.
type TreeOptions struct {
	// Attributes are the keys to show, in this order; nil shows all.
	Attributes []string
	// Skip leaves out the spans for which it is true, with all that is below them; nil leaves out none.
	Skip func(Span) bool
	// MaxText shortens attribute values and errors to so many characters; 0 does not.
	MaxText int
	// Fold joins more than this many neighbours that have the same name, no children and no error into one line; 0 shows all.
	Fold int
}

// WriteTree draws the spans as trees: children below their parents in the order in which they started, with duration,
// host where it changes, attributes, and errors. A span whose parent is not among the spans is drawn at the top.
func WriteTree(w io.Writer, spans []Span, options TreeOptions) error {
	forest := plant(spans)
	if options.Skip != nil {
		for parent, siblings := range forest {
			forest[parent] = slices.DeleteFunc(siblings, options.Skip)
		}
	}
	out := bufio.NewWriter(w)
	for _, root := range forest[trace.SpanID{}] {
		drawer := treeDrawer{out: out, children: forest, options: options}
		drawer.draw(root, "", "", "")
	}
	return out.Flush()
}

// plant sorts spans by start time below their parents; those without a known parent are below the zero id.
func plant(spans []Span) map[trace.SpanID][]Span {
	known := map[trace.SpanID]bool{}
	for _, span := range spans {
		known[span.SpanID] = true
	}
	children := map[trace.SpanID][]Span{}
	for _, span := range spans {
		parent := span.Parent
		if !known[parent] || parent == span.SpanID {
			parent = trace.SpanID{}
		}
		children[parent] = append(children[parent], span)
	}
	for _, siblings := range children {
		slices.SortStableFunc(siblings, func(a, b Span) int { return a.Start.Compare(b.Start) })
	}
	return children
}

type treeDrawer struct {
	out      *bufio.Writer
	children map[trace.SpanID][]Span
	options  TreeOptions
}

// draw writes one span and all below it. Errors of the writer stay in the bufio.Writer, whose Flush reports them.
func (d treeDrawer) draw(span Span, branch, indent, host string) {
	fmt.Fprintf(d.out, "%s%s\n", branch, d.line(span, host))
	children := d.children[span.SpanID]
	for i := 0; i < len(children); {
		run := d.foldable(children[i:])
		last := i+run >= len(children)
		mark, further := "├─ ", "│  "
		if last {
			mark, further = "└─ ", "   "
		}
		if run > 1 {
			fmt.Fprintf(d.out, "%s%s%s\n", indent, mark, foldedLine(children[i:i+run]))
		} else {
			d.draw(children[i], indent+mark, indent+further, span.Host)
		}
		i += run
	}
}

// foldable is how many of the spans, from the first, are drawn as one line.
func (d treeDrawer) foldable(spans []Span) int {
	if d.options.Fold == 0 {
		return 1
	}
	run := 0
	for run < len(spans) && spans[run].Name == spans[0].Name && !spans[run].Failed && len(d.children[spans[run].SpanID]) == 0 {
		run++
	}
	if run <= d.options.Fold {
		return 1
	}
	return run
}

func foldedLine(spans []Span) string {
	var sum time.Duration
	for _, span := range spans {
		sum += span.End.Sub(span.Start)
	}
	return fmt.Sprintf("%s ×%d  %s together", spans[0].Name, len(spans), roundDuration(sum))
}

func (d treeDrawer) line(span Span, host string) string {
	parts := []string{span.Name, roundDuration(span.End.Sub(span.Start))}
	if span.Host != "" && span.Host != host {
		parts = append(parts, "on "+span.Host)
	}
	if attributes := d.attributes(span); attributes != "" {
		parts = append(parts, attributes)
	}
	if span.Failed {
		parts = append(parts, strings.TrimRight("FAILED "+d.short(oneLine(span.Error)), " "))
	}
	return strings.Join(parts, "  ")
}

func (d treeDrawer) attributes(span Span) string {
	var shown []string
	show := func(attribute Attribute) {
		if attribute.Value != "" {
			shown = append(shown, attribute.Key+"="+quoted(d.short(attribute.Value)))
		}
	}
	if d.options.Attributes == nil {
		for _, attribute := range span.Attributes {
			show(attribute)
		}
		return strings.Join(shown, " ")
	}
	for _, key := range d.options.Attributes {
		for _, attribute := range span.Attributes {
			if attribute.Key == key {
				show(attribute)
			}
		}
	}
	return strings.Join(shown, " ")
}

func (d treeDrawer) short(text string) string {
	runes := []rune(text)
	if d.options.MaxText == 0 || len(runes) <= d.options.MaxText {
		return text
	}
	return string(runes[:d.options.MaxText]) + "…"
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// quoted keeps values with spaces or control characters apart from what stands around them.
func quoted(value string) string {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r == '"' || r == 0x7f }) {
		return fmt.Sprintf("%q", value)
	}
	return value
}

// roundDuration keeps three digits or so: 1.23s, 45.6ms, 789µs.
func roundDuration(d time.Duration) string {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
