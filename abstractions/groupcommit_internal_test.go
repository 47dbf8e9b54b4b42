package abstractions

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func nothing(context.Context, []string) (struct{}, error) { return struct{}{}, nil }

// request is a request whose only result is its error.
func request(ctx context.Context, c *committer[string, struct{}], key commitKey, command sharedCommand[string, struct{}], names ...string) error {
	_, err := c.do(ctx, key, names, command)
	return err
}

var testKey = commitKey{"hold", "tank", "t"}

func TestGroupCommitAttributesFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer[string, struct{}]{window: time.Millisecond, limit: 16}
		errBad := errors.New("bad")
		var commands [][]string
		command := func(_ context.Context, names []string) (struct{}, error) {
			commands = append(commands, slices.Sorted(slices.Values(names)))
			if slices.Contains(names, "bad") {
				return struct{}{}, errBad
			}
			return struct{}{}, nil
		}
		var group sync.WaitGroup
		for _, names := range [][]string{{"a", "b"}, {"bad"}, {"b", "c"}} {
			group.Go(func() {
				err := request(t.Context(), c, testKey, command, names...)
				if slices.Contains(names, "bad") {
					require.ErrorIs(t, err, errBad)
				} else {
					require.NoError(t, err)
				}
			})
		}
		group.Wait()
		c.wait()
		require.Len(t, commands, 4)
		require.Equal(t, []string{"a", "b", "bad", "c"}, commands[0])
		require.ElementsMatch(t, [][]string{{"a", "b"}, {"bad"}, {"b", "c"}}, commands[1:])
		require.Empty(t, c.open)
		require.Empty(t, c.last)
	})
}

func TestGroupCommitGathersWhileACommandRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer[string, struct{}]{window: time.Millisecond, limit: 16}
		var commands [][]string
		command := func(_ context.Context, names []string) (struct{}, error) {
			commands = append(commands, slices.Sorted(slices.Values(names)))
			time.Sleep(time.Second)
			return struct{}{}, nil
		}
		var group sync.WaitGroup
		for i, name := range []string{"a", "b", "c", "d"} {
			group.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				require.NoError(t, request(t.Context(), c, testKey, command, name))
			})
		}
		other := commitKey{"release", "tank", "t"}
		group.Go(func() {
			start := time.Now()
			require.NoError(t, request(t.Context(), c, other, nothing, "z"))
			require.Equal(t, time.Millisecond, time.Since(start), "other commands do not wait")
		})
		group.Wait()
		require.Equal(t, [][]string{{"a"}, {"b", "c", "d"}}, commands)
		c.wait()
	})
}

func TestGroupCommitBoundsCommands(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer[string, struct{}]{window: time.Millisecond, limit: 4}
		start := time.Now()
		var mu sync.Mutex
		var sizes []int
		var group sync.WaitGroup
		for i, size := range []int{3, 3, 9, 1, 1} {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Microsecond) // the order of the requests
				names := make([]string, size)
				for j := range names {
					names[j] = string(rune('a'+i)) + string(rune('A'+j))
				}
				require.NoError(t, request(t.Context(), c, testKey, func(_ context.Context, names []string) (struct{}, error) {
					mu.Lock()
					sizes = append(sizes, len(names))
					mu.Unlock()
					time.Sleep(time.Second)
					return struct{}{}, nil
				}, names...))
			})
		}
		group.Wait()
		slices.Sort(sizes)
		require.Equal(t, []int{2, 3, 3, 9}, sizes)
		require.Equal(t, time.Second+time.Millisecond, time.Since(start), "commands run at the same time")
		c.wait()
		require.Empty(t, c.last)
	})
}

func TestGroupCommitEndsWhenNobodyWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer[string, struct{}]{window: time.Millisecond, limit: 16}
		ended := false
		hang := func(ctx context.Context, names []string) (struct{}, error) {
			require.Equal(t, []string{"a", "b"}, slices.Sorted(slices.Values(names)))
			<-ctx.Done()
			ended = true
			return struct{}{}, ctx.Err()
		}
		first, cancelFirst := context.WithCancel(t.Context())
		second, cancelSecond := context.WithCancel(t.Context())
		left, cancelLeft := context.WithCancel(t.Context())
		cancelLeft()
		results := make(chan error, 3)
		go func() { results <- request(first, c, testKey, hang, "a") }()
		go func() { results <- request(second, c, testKey, hang, "b") }()
		synctest.Wait()
		require.ErrorIs(t, request(left, c, testKey, hang, "c"), context.Canceled)
		time.Sleep(time.Second)

		cancelFirst()
		require.ErrorIs(t, <-results, context.Canceled, "a caller that gives up does not wait")
		synctest.Wait()
		require.False(t, ended, "the command goes on for the other")
		cancelSecond()
		require.ErrorIs(t, <-results, context.Canceled)
		c.wait()
		require.True(t, ended)
		require.NoError(t, request(t.Context(), c, testKey, nothing, "d"),
			"the next one starts anew")
		c.wait()
	})
}
