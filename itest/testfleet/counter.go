package testfleet

import (
	"context"
	"sync/atomic"

	"github.com/zfleet/zfleet/zfs"
)

// Counter is a Runner that counts commands. It works around fake and real pools alike.
type Counter struct {
	inner zfs.Runner
	match func(args []string) bool
	count atomic.Int64
}

// NewCounter makes a Counter of the commands that match.
func NewCounter(inner zfs.Runner, match func(args []string) bool) *Counter {
	return &Counter{inner: inner, match: match}
}

// Count is how many commands have been begun.
func (c *Counter) Count() int { return int(c.count.Load()) }

// Run counts the command, if it matches, and runs it.
func (c *Counter) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	if c.match(command.Args) {
		c.count.Add(1)
	}
	return c.inner.Run(ctx, command)
}
