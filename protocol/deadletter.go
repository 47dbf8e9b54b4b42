// Dead letters: messages that nobody can act on, kept with the reason.

package protocol

import (
	"strings"
	"time"
)

// DeadLetter is a message that could not be acted on, kept with its reason.
type DeadLetter struct {
	Subject string `msgpack:"subject" json:"subject"`
	Reason  string `msgpack:"reason" json:"reason"`
	// Payload is the message's payload, at most MaxDeadLetterPayload bytes of it.
	Payload []byte              `msgpack:"payload" json:"payload"`
	Size    int                 `msgpack:"size" json:"size"`
	Headers map[string][]string `msgpack:"headers,omitempty" json:"headers,omitempty"`
	// Reporter is the host or coordinator that could not act on it.
	Reporter string    `msgpack:"reporter" json:"reporter"`
	At       time.Time `msgpack:"at" json:"at"`
	// Deliveries is how often the message had been delivered.
	Deliveries uint64 `msgpack:"deliveries,omitempty" json:"deliveries,omitempty"`
}

// The bounds of a dead letter, in bytes. They keep it well below MaxPayload.
const (
	// MaxDeadLetterPayload is how much of a payload a dead letter keeps.
	MaxDeadLetterPayload = 64 << 10

	maxDeadLetterText    = 4 << 10
	maxDeadLetterHeaders = 64 << 10
)

// NewDeadLetter makes the dead letter of a message; what is too large of it is cut.
func NewDeadLetter(
	subject string, headers map[string][]string, payload []byte, reason error, reporter string, deliveries uint64,
) DeadLetter {
	return DeadLetter{
		Subject: subject, Reason: reason.Error(), Payload: payload, Size: len(payload), Headers: headers, Reporter: reporter,
		At: time.Now().UTC(), Deliveries: deliveries,
	}.bounded()
}

// bounded is the dead letter without what is too large of it.
func (d DeadLetter) bounded() DeadLetter {
	d.Payload = d.Payload[:min(len(d.Payload), MaxDeadLetterPayload)]
	d.Subject = cutText(d.Subject, maxDeadLetterText)
	d.Reason = cutText(d.Reason, maxDeadLetterText)
	headers, size := map[string][]string{}, 0
	for name, values := range d.Headers {
		for _, value := range values {
			if size += len(name) + len(value); size <= maxDeadLetterHeaders {
				headers[name] = append(headers[name], value)
			}
		}
	}
	d.Headers = headers
	return d
}

func cutText(s string, length int) string {
	if len(s) <= length {
		return s
	}
	return strings.ToValidUTF8(s[:length], "") + "…"
}
