package tcp

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSendBufferHoldsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	require.Equal(t, 25_000_000, sendBuffer(100*time.Millisecond))
	require.Equal(t, maxSendBuffer, sendBuffer(time.Hour))
}

// TestWideningNeverNarrows sets a long round trip on a connection that has none.
func TestWideningNeverNarrows(t *testing.T) {
	t.Parallel()
	listener, err := Listen(t.Context(), Config{Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addresses()[0])
	require.NoError(t, err)
	raw, err := conn.(*net.TCPConn).SyscallConn() //nolint:forcetypeassert // it was dialled as TCP
	require.NoError(t, err)
	automatic := lastNumber("/proc/sys/net/ipv4/tcp_wmem")
	for _, roundTrip := range []time.Duration{0, nearby, 100 * time.Millisecond, time.Second, 100 * time.Millisecond} {
		require.NoError(t, raw.Control(func(fd uintptr) {
			before, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
			require.NoError(t, err)
			widenFor(int(fd), roundTrip)
			after, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
			require.NoError(t, err)
			if after != before {
				require.Greater(t, after, max(before, automatic), "round trip %s", roundTrip)
			}
			if roundTrip < nearby {
				require.Equal(t, before, after)
			}
		}))
	}
	require.NoError(t, conn.Close())
	require.NoError(t, listener.Close())
}
