// System: the operations of this package, over a Runner.

package zfs

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// System is typed OpenZFS over a [Runner]. It is safe for concurrent use.
type System struct {
	runner Runner

	mu       sync.Mutex
	features *Features // nil until they were read once; a failed reading is tried again

	programsRefused atomic.Bool // this process may not run channel programs; it does not change while it runs
}

// New makes a System over the runner.
func New(runner Runner) *System { return &System{runner: runner} }

// maxOutput bounds the output of the commands whose output is small by nature. Listings are parsed line by line instead.
const maxOutput = 16 << 20

// output runs a command whose output is small and returns it. A command that failed is a *CommandError, and its output is
// returned all the same.
func (s *System) output(ctx context.Context, args ...string) (string, error) {
	stdout := boundedBuffer{limit: maxOutput}
	err := s.run(ctx, Command{Args: args, Stdout: &stdout})
	return stdout.String(), err
}

// run runs a command; one that failed is a *CommandError, see commandFailure.
func (s *System) run(ctx context.Context, command Command) error {
	result, err := s.runner.Run(ctx, command)
	if err != nil {
		return fmt.Errorf("%s: %w", summary(command.Args), err)
	}
	return commandFailure(command.Args, result)
}

// boundedBuffer collects output and refuses more than its limit.
type boundedBuffer struct {
	bytes.Buffer

	limit int
}

// Write fails once the limit is passed.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("output is longer than %d bytes", b.limit)
	}
	return b.Buffer.Write(p)
}
