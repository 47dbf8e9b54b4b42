// Dead letters: messages that nobody can act on, kept with the reason.

package protocol

import "time"

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

// MaxDeadLetterPayload is how much of a payload a dead letter keeps, in bytes.
const MaxDeadLetterPayload = 64 << 10

// NewDeadLetter makes the dead letter of a message; a payload that is too large is cut.
func NewDeadLetter(
	subject string, headers map[string][]string, payload []byte, reason error, reporter string, deliveries uint64,
) DeadLetter {
	return DeadLetter{
		Subject: subject, Reason: reason.Error(), Payload: payload[:min(len(payload), MaxDeadLetterPayload)],
		Size: len(payload), Headers: headers, Reporter: reporter, At: time.Now().UTC(), Deliveries: deliveries,
	}
}
