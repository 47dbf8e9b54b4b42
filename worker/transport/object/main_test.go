package object

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver/natstest"
)

// TestMain fails the package's tests if they leave goroutines behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, natstest.ClientLeak()) }
