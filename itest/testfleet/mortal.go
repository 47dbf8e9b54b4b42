package testfleet

import (
	"context"
	"errors"

	"github.com/zfleet/zfleet/zfs"
)

// Dies tells, each time a process comes by a fail point, whether it is killed there. Several goroutines may ask at once.
type Dies func(point string) bool

// mortal is the Runner of one process: when that is killed, its commands end, and none begins any more.
type mortal struct {
	inner zfs.Runner
	life  context.Context //nolint:containedctx // that of the process, which ends before its own context does
	kill  context.CancelFunc
}

var errKilled = errors.New("the process was killed")

func newMortal(inner zfs.Runner) *mortal {
	life, kill := context.WithCancel(context.Background())
	return &mortal{inner: inner, life: life, kill: kill}
}

// Run runs the command, for as long as the process lives.
func (m *mortal) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(m.life, func() { cancel(errKilled) }) //nolint:contextcheck // it is the process's
	defer stop()
	if m.life.Err() != nil {
		cancel(errKilled) // at once; the inner Runner closes the command's files and begins nothing
	}
	return m.inner.Run(ctx, command)
}
