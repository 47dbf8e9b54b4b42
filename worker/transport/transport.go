// Package transport holds what the ways of a send stream from one worker to another have in common. Each way is a package
// below this one: tcp, object. They know nothing of ZFS: they carry bytes, say how much of them moved, and make sure that
// both sides agree whether that was the whole stream.
package transport

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// IdleFactor is the default of CopyOptions.Idle in stall times.
	IdleFactor = 10
	// MinStall is the least stall and idle time: below it, scheduling alone would look like a dead peer.
	MinStall = 10 * time.Millisecond
)

// CopyOptions bound a copy and make it visible.
type CopyOptions struct {
	// Stall is how long the peer may give no sign of life, which is any byte from it, before the copy fails with a
	// transient failure. Zero is the transport's default, and on the sender's side the stall time given when the way was
	// made. Both sides of a step take it from the same work item: each gives signs of life at a third of the sender's.
	Stall time.Duration
	// Idle is how long no byte of the stream may move although the peer lives, before the copy fails with a transient
	// failure. It bounds a zfs send that finds nothing to send and a zfs recv that takes nothing, either of which can be
	// at honest work for minutes. Zero is IdleFactor times Stall. A copy may overrun it by a quarter.
	Idle time.Duration
	// Bytes, where it is not nil, is increased by the bytes of the stream as they move, so that others can watch the
	// copy without slowing it.
	Bytes *atomic.Int64
	// Limit, where it is not nil, bounds how fast the bytes move, on the wire and also where they are spliced.
	Limit Limit
	// Finish, where it is not nil, is called by the sender's side once the reader is at its end, and says whether what was
	// read is the whole stream: an error aborts it. It is for readers whose end does not say so, as the pipe from a child
	// that may have died. It must be bounded by itself. The receiver's side does not use it.
	Finish func() error
}

// IdleTime is Idle, or its default for a copy with the given stall time.
func (o CopyOptions) IdleTime(stall time.Duration) time.Duration {
	if o.Idle <= 0 {
		return IdleFactor * stall
	}
	return max(o.Idle, MinStall)
}

// Limit bounds how fast bytes move. It may change at any time.
type Limit interface {
	// Wait is called before bytes of the stream are moved, with their number, and returns when they may. Its error, which it
	// must give soon after ctx has ended, ends the copy. The wait is no standstill. A copy calls it from one goroutine at a
	// time; it may call it with more than one second's worth.
	Wait(ctx context.Context, bytes int) error
	// Limited says whether Wait may have to wait now. It is asked before each piece that moves: where there is nothing to
	// wait for, pieces are as large as is best for speed, and otherwise small enough that the peer sees them move.
	Limited() bool
}

// LimitFunc is a Limit that always may have to wait.
type LimitFunc func(ctx context.Context, bytes int) error

// Wait calls f.
func (f LimitFunc) Wait(ctx context.Context, bytes int) error { return f(ctx, bytes) }

// Limited is true.
func (f LimitFunc) Limited() bool { return true }
