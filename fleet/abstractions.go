// Abstractions: what replication keeps on the hosts' disks, asked from the hosts themselves.

package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zfleet/zfleet/protocol"
)

// Abstractions asks the hosts for the holds and bookmarks that replication keeps: the given hosts, or all that are there.
// What one host cannot answer is an error beside the answers of the others.
func (c *Client) Abstractions(ctx context.Context, request protocol.AbstractionsRequest, hosts ...protocol.Host) (
	[]protocol.AbstractionInfo, error,
) {
	if len(hosts) == 0 {
		present, err := c.Hosts(ctx)
		if err != nil {
			return nil, err
		}
		for _, presence := range present {
			hosts = append(hosts, presence.Host)
		}
		hosts = slices.Compact(hosts)
	}
	var found []protocol.AbstractionInfo
	var failures []error
	for _, host := range hosts {
		of, err := c.abstractionsOf(ctx, host, request)
		if err != nil {
			failures = append(failures, err)
		}
		found = append(found, of...)
	}
	return found, errors.Join(failures...)
}

// abstractionsOf asks one host.
func (c *Client) abstractionsOf(ctx context.Context, host protocol.Host, request protocol.AbstractionsRequest) (
	[]protocol.AbstractionInfo, error,
) {
	var found []protocol.AbstractionInfo
	take := func(page protocol.AbstractionsPage) {
		for _, info := range page.Abstractions {
			info.Host = host
			found = append(found, info)
		}
	}
	err := protocol.Ask(ctx, c.conn, host, protocol.VerbAbstractions, request, c.hostTimeout, take)
	if err != nil {
		err = protocol.AsFailure(fmt.Errorf("abstractions of host %s: %w (zctl hosts lists the hosts that are there)", host, err),
			protocol.Transient)
	}
	return found, err
}
