// The timeline: what happened, for people who look at a failing seed.

package faults

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// timeline gathers lines with the time since the run began. It is safe for concurrent use.
type timeline struct {
	began time.Time

	mu         sync.Mutex
	lines      []string
	violations []string
}

// maxLines bounds a timeline; a run has a tenth of it.
const maxLines = 50_000

func newTimeline() *timeline { return &timeline{began: time.Now()} }

// add adds a line of something that who did or suffered.
func (t *timeline) add(who, format string, args ...any) {
	line := t.line(who, fmt.Sprintf(format, args...))
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) < maxLines {
		t.lines = append(t.lines, line)
	}
}

func (t *timeline) line(who, what string) string {
	return fmt.Sprintf("%8.3f %-16s %s", time.Since(t.began).Seconds(), who, what)
}

// violate notes that an invariant does not hold.
func (t *timeline) violate(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.violations = append(t.violations, what)
	t.lines = append(t.lines, t.line("VIOLATION", what))
}

// failures are the violations so far, in order.
func (t *timeline) failures() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.violations...)
}

func (t *timeline) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n") + "\n"
}

// Write takes a line of a process's log, so that a slog handler can write to it.
func (t *timeline) Write(line []byte) (int, error) {
	t.add("log", "%s", strings.TrimSpace(string(line)))
	return len(line), nil
}
