// Inventory: asking a host's workers what is on its pools.

package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
)

// inventory is what a host answered.
type inventory struct {
	datasets []protocol.Dataset
	// missing are requested roots that do not exist.
	missing []string
}

// find is the dataset of the given name, or nil.
func (i inventory) find(name string) *protocol.Dataset {
	for n := range i.datasets {
		if i.datasets[n].Name == name {
			return &i.datasets[n]
		}
	}
	return nil
}

// asker sends requests to workers. The replies come in pages, so that neither side holds more than a page twice and no
// message is larger than NATS allows.
type asker struct {
	conn *nats.Conn
}

// pagesInFlight bounds what a reply may pile up in this process before it is read.
const pagesInFlight = 256 << 20

// inventory asks the host; pageDeadline is how long it may take from one page to the next. Failures are transient when
// asking again may help.
func (a asker) inventory(
	ctx context.Context, host protocol.Host, request protocol.InventoryRequest, pageDeadline time.Duration,
) (inventory, error) {
	var result inventory
	err := a.pages(ctx, host, "inventory", request, pageDeadline, func(message *nats.Msg) (int, bool, error) {
		var page protocol.InventoryPage
		if err := protocol.ReadMessage(message.Header, message.Data, &page); err != nil {
			return 0, false, err
		}
		if page.Failure != nil {
			return 0, false, page.Failure
		}
		for _, dataset := range page.Datasets {
			last := len(result.datasets) - 1
			if last >= 0 && result.datasets[last].Name == dataset.Name {
				result.datasets[last].Versions = append(result.datasets[last].Versions, dataset.Versions...)
				continue
			}
			result.datasets = append(result.datasets, dataset)
		}
		result.missing = append(result.missing, page.Missing...)
		return page.Number, page.Last, nil
	})
	if err != nil {
		return inventory{}, fmt.Errorf("inventory of %s: %w", host, err)
	}
	return result, nil
}

// estimate asks the host for the sizes of steps, in bytes.
func (a asker) estimate(
	ctx context.Context, host protocol.Host, request protocol.EstimateRequest, deadline time.Duration,
) ([]uint64, error) {
	var reply protocol.EstimateReply
	err := a.pages(ctx, host, "estimate", request, deadline, func(message *nats.Msg) (int, bool, error) {
		if err := protocol.ReadMessage(message.Header, message.Data, &reply); err != nil {
			return 0, false, err
		}
		if reply.Failure != nil {
			return 0, false, reply.Failure
		}
		return 0, true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("estimates of %s: %w", host, err)
	}
	if len(reply.Bytes) != len(request.Steps) {
		return nil, protocol.Failf(protocol.Permanent, "estimates of %s: asked for %d steps, got %d", host,
			len(request.Steps), len(reply.Bytes))
	}
	return reply.Bytes, nil
}

// pages sends a request and gives every reply to read, which returns the page's number and whether it is the last.
func (a asker) pages(
	ctx context.Context, host protocol.Host, verb string, request any, pageDeadline time.Duration,
	read func(*nats.Msg) (number int, last bool, err error),
) (err error) {
	inbox := a.conn.NewInbox()
	replies, err := a.conn.SubscribeSync(inbox)
	if err != nil {
		return protocol.Failf(protocol.Transient, "ask %s: %w", host, err)
	}
	defer func() { err = errors.Join(err, ignoreClosed(replies.Unsubscribe())) }()
	if err := replies.SetPendingLimits(-1, pagesInFlight); err != nil {
		return protocol.Failf(protocol.Transient, "ask %s: %w", host, err)
	}
	message, err := protocol.NewMessage(ctx, protocol.RPCSubject(host, verb), request)
	if err != nil {
		return err
	}
	message.Reply = inbox
	if err := a.conn.PublishMsg(message); err != nil {
		return protocol.Failf(protocol.Transient, "ask %s: %w", host, err)
	}
	for expected := 0; ; expected++ {
		reply, err := a.nextReply(ctx, replies, pageDeadline)
		if err != nil {
			return askFailure(ctx, host, pageDeadline, err)
		}
		number, last, err := read(reply)
		if err != nil {
			return err
		}
		if number != expected {
			return protocol.Failf(protocol.Transient, "page %d of the answer was lost (page %d came)", expected, number)
		}
		if last {
			return nil
		}
	}
}

func (a asker) nextReply(ctx context.Context, replies *nats.Subscription, deadline time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	reply, err := replies.NextMsgWithContext(ctx)
	if err != nil {
		return nil, err
	}
	if len(reply.Data) == 0 && reply.Header.Get("Status") == "503" {
		return nil, nats.ErrNoResponders
	}
	if text := reply.Header.Get("Nats-Service-Error"); text != "" {
		return nil, protocol.Failf(protocol.Permanent, "the worker refused: %s", text)
	}
	return reply, nil
}

func askFailure(ctx context.Context, host protocol.Host, deadline time.Duration, err error) error {
	var failure *protocol.Failure
	switch {
	case errors.As(err, &failure):
		return failure
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, nats.ErrNoResponders):
		return protocol.Failf(protocol.Transient, "waiting for host %s: no worker of it is connected", host)
	case errors.Is(err, context.DeadlineExceeded):
		return protocol.Failf(protocol.Transient, "host %s did not answer within %s", host, deadline)
	default:
		return protocol.Failf(protocol.Transient, "ask host %s: %w", host, err)
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, nats.ErrConnectionClosed) || errors.Is(err, nats.ErrBadSubscription) {
		return nil
	}
	return err
}
