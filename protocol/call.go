// Calls: how a sender asks a receiver, through NATS, for another way than the receiver's data port.

package protocol

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// Call is a request of the sender's to the subject of a receiver's offer. It is answered with a CallAnswer, once the way is
// there or cannot be.
type Call struct {
	// Secret is the offer's.
	Secret []byte `msgpack:"secret"`
	// Header is what the sender says before the stream.
	Header StreamHeader `msgpack:"header"`
	// Dial asks the receiver to connect to the sender; Objects asks it to take the stream from the object store. One of
	// them is set.
	Dial    *DialBack      `msgpack:"dial,omitempty"`
	Objects *ObjectsStream `msgpack:"objects,omitempty"`
}

// DialBack is how the receiver reaches the sender.
type DialBack struct {
	// Addresses are host:port pairs, tried in order.
	Addresses []string `msgpack:"addresses"`
	// TLS says that the connection is TLS 1.3; false is plain TCP.
	TLS bool `msgpack:"tls"`
	// Fingerprint is the SHA-256 of the sender's certificate in DER form; nil without TLS.
	Fingerprint []byte `msgpack:"fingerprint,omitempty"`
	// Secret is good for one connection.
	Secret []byte `msgpack:"secret"`
}

// CallAnswer is a receiver's answer to a Call.
type CallAnswer struct {
	// Failure is why the way cannot be; nil if it is there.
	Failure *Failure `msgpack:"failure,omitempty"`
}

// PlaceCall asks the receiver that listens at the subject, and returns once the way is there. The error is the receiver's own
// *Failure, or a transient one: nobody listens there any more, ctx has ended, or NATS cannot be reached.
func PlaceCall(ctx context.Context, conn *nats.Conn, subject string, call Call) error {
	message, err := NewMessage(ctx, subject, call)
	if err != nil {
		return err
	}
	reply, err := RequestStream(ctx, conn, message)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return Failf(Transient, "calling the receiver through NATS: it does not listen any more")
	case ctx.Err() != nil:
		return Failf(Transient, "calling the receiver through NATS: no answer: %w", context.Cause(ctx))
	case err != nil:
		return Failf(Transient, "calling the receiver through NATS: %w", err)
	}
	var answer CallAnswer
	if err := ReadMessage(reply.Header, reply.Data, &answer); err != nil {
		return Failf(Permanent, "the receiver's answer cannot be read: %w", err)
	}
	if answer.Failure != nil {
		return answer.Failure
	}
	return nil
}

// Validate tells whether a receiver can act on the call.
func (c Call) Validate() error {
	if err := c.Header.Ref.Validate(); err != nil {
		return Usagef("call: %w", err)
	}
	switch {
	case len(c.Secret) < minSecret:
		return Usagef("call for step %s: no secret", c.Header.Ref)
	case (c.Dial == nil) == (c.Objects == nil):
		return Usagef("call for step %s: it must ask for one way, to dial or to take objects", c.Header.Ref)
	case c.Dial != nil:
		return c.Dial.validate(c.Header.Ref)
	}
	return c.Objects.validate(c.Header.Ref)
}

func (d DialBack) validate(ref StepRef) error {
	return validateAddresses(fmt.Sprintf("call for step %s", ref), d.Addresses, d.TLS, d.Fingerprint, d.Secret)
}

// minSecret is the least length of a one-time secret, in bytes.
const minSecret = 16

// validateAddresses tells whether a data port that is offered can be connected to.
func validateAddresses(what string, addresses []string, tls bool, fingerprint, secret []byte) error {
	switch {
	case len(addresses) == 0:
		return Usagef("%s: no address is offered", what)
	case len(secret) < minSecret:
		return Usagef("%s: no secret is offered", what)
	case tls && len(fingerprint) != 32:
		return Usagef("%s: no fingerprint is offered", what)
	}
	return nil
}
