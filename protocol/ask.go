// Asking: requests to a host's workers, and their answers in pages.

package protocol

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go"
)

// pagesInFlight bounds what an answer may pile up in the asking process before it is read, in bytes.
const pagesInFlight = 256 << 20

// flushTimeout bounds the wait for a server that has a request.
const flushTimeout = 5 * time.Second

// Page is one of the messages of an answer. Answers come in pages so that no message is larger than NATS allows, and
// neither side holds a large answer twice.
type Page interface {
	// Position is the page's number, from 0, and whether it is the last.
	Position() (number int, last bool)
	// Failed is why the host could not answer; nil if it could.
	Failed() *Failure
}

// Position is where the page stands in its answer.
func (p InventoryPage) Position() (number int, last bool) { return p.Number, p.Last }

// Failed is why there is no inventory.
func (p InventoryPage) Failed() *Failure { return p.Failure }

// Position is where the page stands in its answer.
func (p AbstractionsPage) Position() (number int, last bool) { return p.Number, p.Last }

// Failed is why there is no list.
func (p AbstractionsPage) Failed() *Failure { return p.Failure }

// Position is where the page stands in its answer.
func (p ReleasePage) Position() (number int, last bool) { return p.Number, p.Last }

// Failed is why nothing was done.
func (p ReleasePage) Failed() *Failure { return p.Failure }

// Position is that of an answer with one page.
func (r EstimateReply) Position() (number int, last bool) { return 0, true }

// Failed is why there are no estimates.
func (r EstimateReply) Failed() *Failure { return r.Failure }

// Ask sends a request to the workers of a host, one of which answers it, and gives each page of the answer to take, in
// order. pageDeadline is how long it may take to the first page, and from one page to the next. The error is a *Failure:
// transient when no worker is there, a page is late or lost, or NATS cannot be reached, so that asking again may help;
// the worker's own when it could not answer; and ctx's when ctx ended.
func Ask[P Page](
	ctx context.Context, conn *nats.Conn, host Host, verb string, request any, pageDeadline time.Duration, take func(P),
) (err error) {
	if err := host.Validate(); err != nil {
		return err
	}
	inbox := AnswerSubject(conn, host)
	replies, err := conn.SubscribeSync(inbox)
	if err != nil {
		return Failf(Transient, "ask host %s: %w", host, err)
	}
	defer func() {
		if closeError := replies.Unsubscribe(); err == nil && closeError != nil && !errors.Is(closeError, nats.ErrConnectionClosed) {
			err = Failf(Transient, "ask host %s: %w", host, closeError)
		}
	}()
	if err := replies.SetPendingLimits(-1, pagesInFlight); err != nil {
		return Failf(Transient, "ask host %s: %w", host, err)
	}
	message, err := NewMessage(ctx, RPCSubject(host, verb), request)
	if err != nil {
		return err
	}
	message.Reply = inbox
	if err := conn.PublishMsg(message); err != nil {
		return Failf(Transient, "ask host %s: %w", host, err)
	}
	if err := askable(ctx, conn, host, message.Subject); err != nil {
		return err
	}
	for expected := 0; ; expected++ {
		var page P
		if err := nextPage(ctx, replies, host, pageDeadline, &page); err != nil {
			return err
		}
		if failure := page.Failed(); failure != nil {
			return failure
		}
		number, last := page.Position()
		if number != expected {
			return Failf(Transient, "host %s: page %d of the answer was lost (page %d came)", host, expected, number)
		}
		take(page)
		if last {
			return nil
		}
	}
}

// askable tells whether NATS has let the request pass, which it does not answer otherwise. The server's answer to the flush
// comes after what it says of the request.
func askable(ctx context.Context, conn *nats.Conn, host Host, subject string) error {
	flushContext, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	if conn.FlushWithContext(flushContext) != nil {
		return nil // the wait for the answer will tell
	}
	if denied := Denied(conn); denied != nil && denied.Subject == subject {
		return Failf(Transient, "ask host %s: %w", host, denied)
	}
	return nil
}

func nextPage(ctx context.Context, replies *nats.Subscription, host Host, deadline time.Duration, page any) error {
	waitContext, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	reply, err := replies.NextMsgWithContext(waitContext)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, nats.ErrNoResponders):
		return Failf(Transient, "waiting for host %s: no worker of it is connected", host)
	case errors.Is(err, context.DeadlineExceeded):
		return Failf(Transient, "host %s did not answer within %s", host, deadline)
	default:
		return Failf(Transient, "ask host %s: %w", host, err)
	}
	switch {
	case len(reply.Data) == 0 && reply.Header.Get("Status") == "503":
		return Failf(Transient, "waiting for host %s: no worker of it is connected", host)
	case reply.Header.Get("Nats-Service-Error-Code") != "":
		return Failf(Permanent, "host %s refused: %s", host, reply.Header.Get("Nats-Service-Error"))
	}
	if err := ReadMessage(reply.Header, reply.Data, page); err != nil {
		return Failf(Permanent, "the answer of host %s cannot be read: %w", host, err)
	}
	return nil
}
