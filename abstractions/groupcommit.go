// Group commit: requests of concurrent steps that can share one command do so, since commands are what replication of
// many filesystems waits for, and those that change a pool also wait for a transaction group to be synced.

package abstractions

import (
	"context"
	"slices"
	"sync"
	"time"
)

// commitKey is what requests must have in common to share a command.
type commitKey struct{ operation, pool, tag string }

// committer gathers requests for items of one type, with results of one type. A batch is open for a short window, and for as
// long as the command of the batch before it with the same key runs; so a busy pool gets bigger batches, and an idle one hardly
// waits.
type committer[I comparable, T any] struct {
	window time.Duration
	// limit is how many items go into one command, those of a single request excepted. What a batch has more goes into further
	// commands, which run at the same time.
	limit int

	mu      sync.Mutex
	open    map[commitKey]*batch[I, T] // takes further members
	last    map[commitKey]*batch[I, T] // the youngest, which the next one waits for
	batches sync.WaitGroup
}

// sharedCommand does what all members of a batch want, for all their items at once. It is idempotent. All members get
// the same result, and must not change it.
type sharedCommand[I comparable, T any] func(ctx context.Context, items []I) (T, error)

// batch is a set of requests that share commands. All but ended is guarded by the committer's mutex.
type batch[I comparable, T any] struct {
	members []*member[I, T]
	cancel  context.CancelFunc
	ended   chan struct{}
}

// member is one request. The committer's mutex guards gone.
type member[I comparable, T any] struct {
	items  []I
	gone   bool
	result chan outcome[T] // takes one
}

type outcome[T any] struct {
	value T
	err   error
}

// do has the command run with the items, together with those of others, and returns how that went for these items: when a
// shared command fails it is run again for each request alone, so that nobody gets the failure of another. When ctx ends,
// do returns at once; a command that nobody waits for any more is ended. Requests of one key must have equal commands.
func (c *committer[I, T]) do(ctx context.Context, key commitKey, items []I, command sharedCommand[I, T]) (T, error) {
	request := &member[I, T]{items: items, result: make(chan outcome[T], 1)}
	joined := c.join(ctx, key, request, command)
	select {
	case result := <-request.result:
		return result.value, result.err
	case <-ctx.Done():
		c.leave(joined, request)
		var none T
		return none, ctx.Err()
	}
}

// wait returns when no batch is left.
func (c *committer[I, T]) wait() { c.batches.Wait() }

func (c *committer[I, T]) join(ctx context.Context, key commitKey, request *member[I, T], command sharedCommand[I, T]) *batch[I, T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	joined := c.open[key]
	if joined == nil {
		// The first member's context gives the values, such as its trace; its end does not end the others' command.
		batchContext, cancel := context.WithCancel(context.WithoutCancel(ctx)) //nolint:gosec // run cancels it
		joined = &batch[I, T]{cancel: cancel, ended: make(chan struct{})}
		if c.open == nil {
			c.open, c.last = make(map[commitKey]*batch[I, T]), make(map[commitKey]*batch[I, T])
		}
		previous := c.last[key]
		c.open[key], c.last[key] = joined, joined
		c.batches.Go(func() { c.run(batchContext, key, joined, previous, command) })
	}
	joined.members = append(joined.members, request)
	return joined
}

// leave takes a request back. The last one to leave ends the command.
func (c *committer[I, T]) leave(left *batch[I, T], request *member[I, T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	request.gone = true
	if !slices.ContainsFunc(left.members, func(other *member[I, T]) bool { return !other.gone }) {
		c.close(left)
		left.cancel()
	}
}

// close keeps a batch from taking further members. The mutex is held.
func (c *committer[I, T]) close(full *batch[I, T]) {
	for key, open := range c.open {
		if open == full {
			delete(c.open, key)
		}
	}
}

func (c *committer[I, T]) run(ctx context.Context, key commitKey, own, previous *batch[I, T], command sharedCommand[I, T]) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.last[key] == own {
			delete(c.last, key)
		}
		own.cancel()
		close(own.ended)
	}()
	window := time.NewTimer(c.window)
	defer window.Stop()
	select {
	case <-window.C:
	case <-ctx.Done():
		return
	}
	if previous != nil {
		select {
		case <-previous.ended:
		case <-ctx.Done():
			return
		}
	}

	c.mu.Lock()
	c.close(own)
	members := slices.DeleteFunc(slices.Clone(own.members), func(m *member[I, T]) bool { return m.gone })
	c.mu.Unlock()
	var commands sync.WaitGroup
	for len(members) > 0 {
		end := c.share(members)
		sharing := members[:end]
		members = members[end:]
		commands.Go(func() { serve(ctx, sharing, command) })
	}
	commands.Wait()
}

// share is how many of the members, from the first on, can share one command.
func (c *committer[I, T]) share(members []*member[I, T]) int {
	count := 0
	for i, request := range members {
		count += len(request.items)
		if i > 0 && count > c.limit {
			return i
		}
	}
	return len(members)
}

// serve runs one command for the members, and when it fails one for each.
func serve[I comparable, T any](ctx context.Context, members []*member[I, T], command sharedCommand[I, T]) {
	var items []I
	for _, request := range members {
		for _, item := range request.items {
			if !slices.Contains(items, item) {
				items = append(items, item)
			}
		}
	}
	value, err := command(ctx, items)
	for _, request := range members {
		result := outcome[T]{value, err}
		if err != nil && len(members) > 1 && ctx.Err() == nil {
			result.value, result.err = command(ctx, request.items)
		}
		request.result <- result
	}
}
