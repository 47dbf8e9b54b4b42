package itest_test

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver/natstest"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(serverVariable); config != "" {
		if err := beServer(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, natstest.ClientLeak())
}
