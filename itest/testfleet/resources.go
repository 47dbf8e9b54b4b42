package testfleet

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func openResources(t testing.TB, conn *nats.Conn, domain string) (*protocol.Resources, error) {
	t.Helper()
	js, err := protocol.JetStream(conn, domain)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	return protocol.OpenResources(ctx, js)
}
