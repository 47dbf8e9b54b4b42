package tcp_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/tcp"
)

// TestMain fails the package's tests if they leave goroutines or descriptors behind.
func TestMain(m *testing.M) {
	before := descriptors() // after the runtime's poller has opened its own
	goleak.VerifyTestMain(verifyingMain{m: m, before: before})
}

type verifyingMain struct {
	m      *testing.M
	before int
}

func (v verifyingMain) Run() int {
	code := v.m.Run()
	if after := descriptors(); code == 0 && after > v.before {
		fmt.Fprintf(os.Stderr, "descriptors leaked: %d open before the tests, %d after\n", v.before, after)
		entries, _ := os.ReadDir("/proc/self/fd") // for whoever looks for the leak
		for _, entry := range entries {
			target, _ := os.Readlink("/proc/self/fd/" + entry.Name())
			fmt.Fprintln(os.Stderr, entry.Name(), target)
		}
		return 1
	}
	return code
}

// descriptors counts the process's open descriptors where the system lists them.
func descriptors() int {
	listener, err := tcp.Listen(context.Background(), tcp.Config{Listen: "127.0.0.1:0"})
	if err != nil {
		panic(err)
	}
	if err := listener.Close(); err != nil {
		panic(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// dial dials over a new connection that serves one step.
func dial(ctx context.Context, offer protocol.Offer, header protocol.StreamHeader, options tcp.DialOptions) (*tcp.Outgoing, error) {
	return tcp.NewDialer(tcp.DialerOptions{MaxIdle: -1}).Dial(ctx, offer, header, options)
}
