package worker

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(asHolder); dir != "" {
		os.Exit(holdClaim(dir))
	}
	goleak.VerifyTestMain(m)
}
