package protocol_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

func TestEnsureResourcesIsIdempotent(t *testing.T) {
	t.Parallel()
	_, _, js := natstest.Run(t)
	for range 2 {
		resources, err := protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
		require.NoError(t, err)
		require.Equal(t, protocol.BucketJobs, resources.Jobs.Bucket())
	}
}
