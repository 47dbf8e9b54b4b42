package coordinator

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ClientLeak()) }
