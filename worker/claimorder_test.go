package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

// The model of the step protocol (itest/model) finds what goes wrong otherwise: the newer try's item would be acknowledged, and
// its step be waited for in vain.
func TestANewerTryCountsThoughItsItemIsOlder(t *testing.T) {
	t.Parallel()
	made := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	claim := func(attempt int, item uint64) claimRecord {
		return claimRecord{
			Ref:   protocol.StepRef{Plan: "20261123t120000-a", Task: 1, Attempt: attempt},
			Token: claimToken{Stream: made, Item: item, Delivery: 1}, JobID: "prod.bravo",
		}
	}
	late, newer := claim(1, 4), claim(2, 3)
	require.NoError(t, admit(late, newer))
	require.True(t, yields(late, newer))
	require.ErrorIs(t, admit(newer, late), errSuperseded)
	require.False(t, yields(newer, late))
}
