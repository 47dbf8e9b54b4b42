package tcp

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAdvertisedAddresses(t *testing.T) {
	t.Parallel()
	machine := []net.Addr{
		&net.IPNet{IP: net.ParseIP("127.0.0.1"), Mask: net.CIDRMask(8, 32)},
		&net.IPNet{IP: net.ParseIP("::1"), Mask: net.CIDRMask(128, 128)},
		&net.IPNet{IP: net.ParseIP("fe80::1"), Mask: net.CIDRMask(64, 128)},
		&net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
		&net.IPNet{IP: net.ParseIP("10.0.0.7"), Mask: net.CIDRMask(24, 32)},
		&net.IPNet{IP: net.ParseIP("169.254.3.4"), Mask: net.CIDRMask(16, 32)},
		&net.IPNet{IP: net.ParseIP("10.0.0.7"), Mask: net.CIDRMask(32, 32)},
		&net.TCPAddr{IP: net.ParseIP("192.0.2.1")},
	}
	for name, test := range map[string]struct {
		bound      string
		configured []string
		want       []string
		err        string
	}{
		"one address":           {bound: "10.0.0.7", want: []string{"10.0.0.7:8410"}},
		"all addresses":         {bound: "::", want: []string{"10.0.0.7:8410", "[2001:db8::7]:8410", "127.0.0.1:8410", "[::1]:8410"}},
		"all IPv4 addresses":    {bound: "0.0.0.0", want: []string{"10.0.0.7:8410", "127.0.0.1:8410"}},
		"configured":            {bound: "::", configured: []string{"alpha.example:9000", "[2001:db8::1]:0"}, want: []string{"alpha.example:9000", "[2001:db8::1]:8410"}},
		"configured, no port":   {bound: "::", configured: []string{"alpha.example"}, err: `"alpha.example" is not host:port`},
		"configured, no host":   {bound: "::", configured: []string{":8410"}, err: `":8410" is not host:port`},
		"configured, bad port":  {bound: "::", configured: []string{"alpha:http"}, err: `"alpha:http" has no usable port`},
		"configured, huge port": {bound: "::", configured: []string{"alpha:65536"}, err: `"alpha:65536" has no usable port`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bound := &net.TCPAddr{IP: net.ParseIP(test.bound), Port: 8410}
			got, err := advertisedAddresses(bound, test.configured, machine)
			if test.err != "" {
				require.ErrorContains(t, err, test.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	listener, err := Listen(t.Context(), Config{Listen: "127.0.0.1:0", TLS: true})
	require.NoError(t, err)
	require.Len(t, listener.Fingerprint(), 32)
	require.True(t, listener.TLS())
	_, err = Listen(t.Context(), Config{Listen: listener.Addresses()[0]})
	require.ErrorContains(t, err, "worker.data.listen")
	_, err = Listen(t.Context(), Config{Listen: "127.0.0.1:0", Advertise: []string{"alpha"}})
	require.ErrorContains(t, err, "data.advertise")
	require.NoError(t, listener.Close())
}
