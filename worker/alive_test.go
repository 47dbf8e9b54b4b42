package worker

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func TestTheLoopThatIsFurthestBehindCounts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all loops
		require.Zero(t, all.lastTurn(), "no loop has begun")
		first, second := all.begin(), all.begin()
		require.Zero(t, all.lastTurn(), "no loop has turned")
		begin := time.Now()
		first.turn()
		time.Sleep(time.Minute)
		second.turn()
		require.Equal(t, begin, all.lastTurn())
		first.turn()
		time.Sleep(time.Minute)
		second.turn()
		require.Equal(t, begin.Add(time.Minute), all.lastTurn())
		first.rest()
		require.Equal(t, begin.Add(2*time.Minute), all.lastTurn(), "a loop that rests does not count")
		first.turn()
		second.rest()
		require.Equal(t, begin.Add(2*time.Minute), all.lastTurn())
		first.rest()
		first.rest()
		require.Zero(t, all.lastTurn())
	})
}

func TestStepsAreCounted(t *testing.T) {
	t.Parallel()
	var all loops
	ended := []func(){all.step(protocol.RoleSend), all.step(protocol.RoleRecv), all.step(protocol.RoleSend)}
	sending, receiving := all.working()
	require.Equal(t, [2]int{2, 1}, [2]int{sending, receiving})
	for _, end := range ended {
		end()
	}
	sending, receiving = all.working()
	require.Equal(t, [2]int{}, [2]int{sending, receiving})
}
