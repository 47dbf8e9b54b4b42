// The recorder: operations with their begins and ends, and the search for an order that explains them.

package history

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// ErrUndecided says that the search for an explanation was given up after its time; the history is neither right nor wrong.
var ErrUndecided = errors.New("no verdict in time")

// patience bounds the search for each register. What the harness records is decided in far less than a second.
const patience = 30 * time.Second

// outcome is how an operation ended, for its process.
type outcome int

const (
	unknown outcome = iota // the process never learned it: nobody can tell whether there was an effect
	succeeded
	refused
)

func (o outcome) String() string { return [...]string{"unknown", "done", "refused"}[o] }

// recorder keeps the operations of all registers.
type recorder struct {
	began time.Time

	mu sync.Mutex
	// clock counts begins and ends, so that no two of them are at the same time.
	clock      int64
	operations []*record
}

func newRecorder() *recorder { return &recorder{began: time.Now()} }

// record is one operation. Its fields are guarded by the recorder until the check.
type record struct {
	process, register string
	input             any

	call, end         int64
	calledAt, endedAt time.Duration
	output            any
	outcome           outcome
	dropped           bool
}

func (r *recorder) begin(process, register string, input any) *record {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	one := &record{
		process: process, register: register, input: input, call: r.clock, end: math.MaxInt64, calledAt: time.Since(r.began),
	}
	r.operations = append(r.operations, one)
	return one
}

// end ends an operation; what comes after the first end changes nothing.
func (r *recorder) end(one *record, how outcome, output any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if one.end != math.MaxInt64 || one.outcome != unknown || one.dropped {
		return
	}
	r.clock++
	one.outcome, one.output, one.endedAt = how, output, time.Since(r.began)
	if how != unknown {
		one.end = r.clock
	}
}

// drop forgets an operation that failed and cannot have had an effect.
func (r *recorder) drop(one *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one.dropped = true
}

// Violation is a history that no order explains.
type Violation struct {
	Register string
	// Rule says what the register promises.
	Rule string
	// Operations are those of the register, in words, in the order of their begins.
	Operations []string
	// Explained is how many operations the best order explains.
	Explained int
	// Visualisation is a page that shows the history, for a browser; empty if none was asked for.
	Visualisation string
}

func (v *Violation) Error() string {
	text := fmt.Sprintf("the history of %s has no explanation: %s. At most %d of its %d operations agree with each other:\n  %s",
		v.Register, v.Rule, v.Explained, len(v.Operations), strings.Join(v.Operations, "\n  "))
	if v.Visualisation != "" {
		text += "\nsee " + v.Visualisation
	}
	return text
}

// check looks for an explanation of each register's history. The error joins a *Violation for each that has none.
func (r *recorder) check(model porcupine.Model, rule, directory string) error {
	r.mu.Lock()
	registers := map[string][]*record{}
	for _, one := range r.operations {
		if !one.dropped {
			copied := *one
			registers[one.register] = append(registers[one.register], &copied)
		}
	}
	r.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(registers)) {
		errs = append(errs, checkRegister(model, rule, directory, name, registers[name]))
	}
	return errors.Join(errs...)
}

func checkRegister(model porcupine.Model, rule, directory, name string, records []*record) error {
	clients := map[string]int{}
	history := make([]porcupine.Operation, 0, len(records))
	words := make([]string, 0, len(records))
	for _, one := range records {
		if _, known := clients[one.process]; !known {
			clients[one.process] = len(clients)
		}
		history = append(history, porcupine.Operation{
			ClientId: clients[one.process], Input: one, Output: one, Call: one.call, Return: one.end,
		})
		words = append(words, describe(one))
	}
	result, info := porcupine.CheckOperationsVerbose(model, history, patience)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("the history of %s (%d operations): %w", name, len(history), ErrUndecided)
	case porcupine.Illegal:
	}
	violation := &Violation{Register: name, Rule: rule, Operations: words}
	for _, partition := range info.PartialLinearizations() {
		longest := slices.MaxFunc(partition, func(a, b []int) int { return cmp.Compare(len(a), len(b)) })
		violation.Explained = max(violation.Explained, len(longest))
	}
	if directory == "" {
		return violation
	}
	file := filepath.Join(directory, unfitForNames.ReplaceAllString(name, "_")+".html")
	err := os.MkdirAll(directory, 0o750)
	if err == nil {
		err = porcupine.VisualizePath(model, info, file)
	}
	if err != nil {
		return errors.Join(violation, fmt.Errorf("show the history of %s: %w", name, err))
	}
	violation.Visualisation = file
	return violation
}

var unfitForNames = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// describe is an operation in words, such as "12.5ms–13ms alpha-1: move to 7@42: done".
func describe(one *record) string {
	until := "?"
	if one.outcome != unknown {
		until = one.endedAt.Round(time.Microsecond).String()
	}
	text := fmt.Sprintf("%s–%s %s: %v: %s", one.calledAt.Round(time.Microsecond), until, one.process, one.input, one.outcome)
	if one.output != nil {
		text += fmt.Sprintf(", %v", one.output)
	}
	return text
}

// as is what the checker hands back of what it was given.
func as[T any](value any) T {
	known, _ := value.(T)
	return known
}
