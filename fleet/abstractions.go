// Abstractions: what replication keeps on the hosts' disks, asked from the hosts themselves.

package fleet

import (
	"context"
	"errors"
	"slices"

	"github.com/nats-io/nats.go"

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

// abstractionsOf asks one host. The client's timeout bounds the wait for each page.
func (c *Client) abstractionsOf(ctx context.Context, host protocol.Host, request protocol.AbstractionsRequest) (
	[]protocol.AbstractionInfo, error,
) {
	if err := host.Validate(); err != nil {
		return nil, err
	}
	inbox := c.conn.NewInbox()
	replies, err := c.conn.SubscribeSync(inbox)
	if err != nil {
		return nil, c.explain(err, "ask host %s for its abstractions", host)
	}
	defer func() { _ = replies.Unsubscribe() }() // it fails only where the connection is closed
	message, err := protocol.NewMessage(ctx, protocol.RPCSubject(host, protocol.VerbAbstractions), request)
	if err != nil {
		return nil, protocol.Failf(protocol.Usage, "ask host %s for its abstractions: %w", host, err)
	}
	message.Reply = inbox
	if err := c.conn.PublishMsg(message); err != nil {
		return nil, c.explain(err, "ask host %s for its abstractions", host)
	}
	var found []protocol.AbstractionInfo
	for number := 0; ; number++ {
		page, err := c.nextPage(ctx, host, replies)
		switch {
		case err != nil:
			return found, err
		case page.Failure != nil:
			return found, protocol.Failf(page.Failure.Kind, "abstractions of host %s: %w", host, page.Failure)
		case page.Number != number:
			return found, protocol.Failf(protocol.Transient, "abstractions of host %s: page %d is missing; try again", host, number)
		}
		for i := range page.Abstractions {
			page.Abstractions[i].Host = host
		}
		found = append(found, page.Abstractions...)
		if page.Last {
			return found, nil
		}
	}
}

func (c *Client) nextPage(ctx context.Context, host protocol.Host, replies *nats.Subscription) (protocol.AbstractionsPage, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var page protocol.AbstractionsPage
	reply, err := replies.NextMsgWithContext(ctx)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return page, protocol.Failf(protocol.Transient,
			"no worker of host %s is there: start one on it with: zctl worker --host %s; zctl hosts lists those that are", host, host)
	case errors.Is(err, context.DeadlineExceeded):
		return page, protocol.Failf(protocol.Transient, "host %s did not answer within %s; look at the logs of its worker: %w",
			host, c.timeout, err)
	case err != nil:
		return page, c.explain(err, "abstractions of host %s", host)
	}
	if reply.Header.Get("Nats-Service-Error-Code") != "" {
		return page, protocol.Failf(protocol.Permanent, "abstractions of host %s: %s", host, reply.Header.Get("Nats-Service-Error"))
	}
	if err := protocol.ReadMessage(reply.Header, reply.Data, &page); err != nil {
		return page, protocol.Failf(protocol.Permanent, "abstractions of host %s: its answer cannot be read: %w", host, err)
	}
	return page, nil
}
