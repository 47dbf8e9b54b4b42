// Addresses: where senders are told to find a listener.

package tcp

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/zfleet/zfleet/protocol"
)

// advertisedAddresses are the host:port pairs that a listener bound to the given address can be reached at: those that
// are configured, with port 0 standing for the listener's; otherwise the bound address, or if that is unspecified, the
// machine's global unicast addresses in the order of its interfaces, IPv4 before IPv6, and loopback last.
func advertisedAddresses(bound *net.TCPAddr, configured []string, machine []net.Addr) ([]string, error) {
	port := strconv.Itoa(bound.Port)
	if len(configured) > 0 {
		addresses := make([]string, 0, len(configured))
		for _, address := range configured {
			host, itsPort, err := net.SplitHostPort(address)
			if err != nil || host == "" {
				return nil, protocol.Usagef("data.advertise: %q is not host:port", address)
			}
			if itsPort == "0" {
				itsPort = port
			}
			if number, err := strconv.ParseUint(itsPort, 10, 16); err != nil || number == 0 {
				return nil, protocol.Usagef("data.advertise: %q has no usable port", address)
			}
			addresses = append(addresses, net.JoinHostPort(host, itsPort))
		}
		return addresses, nil
	}
	if !bound.IP.IsUnspecified() {
		return []string{bound.String()}, nil
	}
	ipv4Only := bound.IP.To4() != nil
	var found []netip.Addr
	for _, address := range machine {
		network, ok := address.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(network.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		if (ip.IsGlobalUnicast() || ip.IsLoopback()) && (ip.Is4() || !ipv4Only) && !slices.Contains(found, ip) {
			found = append(found, ip)
		}
	}
	rank := func(ip netip.Addr) int {
		order := 0
		if ip.IsLoopback() {
			order += 2
		}
		if ip.Is6() {
			order++
		}
		return order
	}
	slices.SortStableFunc(found, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	addresses := make([]string, 0, len(found))
	for _, ip := range found {
		addresses = append(addresses, net.JoinHostPort(ip.String(), port))
	}
	return addresses, nil
}
