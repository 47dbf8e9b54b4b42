package tcp

import (
	"crypto/tls"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhatIsSpliced makes sure that plain TCP and a pipe are, since nothing but the speed would tell.
func TestWhatIsSpliced(t *testing.T) {
	t.Parallel()
	listener, err := Listen(t.Context(), Config{Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addresses()[0])
	require.NoError(t, err)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	regular, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)

	plain := &socket{Conn: conn}
	require.NotNil(t, newSplicer(newLink(plain, plain, ""), r))
	require.NotNil(t, newSplicer(newLink(plain, plain, ""), w))
	require.Nil(t, newSplicer(newLink(plain, plain, ""), regular))
	require.Nil(t, newSplicer(newLink(plain, plain, ""), nil))
	require.Nil(t, newSplicer(newLink(&socket{Conn: conn}, tls.Client(plain, clientTLS(nil)), ""), r))

	require.NoError(t, regular.Close())
	require.NoError(t, r.Close())
	require.NoError(t, w.Close())
	require.NoError(t, conn.Close())
	require.NoError(t, listener.Close())
}
