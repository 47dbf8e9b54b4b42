// Failures: how the ways tell what went wrong.

package transport

import (
	"fmt"

	"github.com/zfleet/zfleet/protocol"
)

// maxReason is the most bytes of a failure's message that are told to the other side.
const maxReason = 16 << 10

// Transient is err with what was being done when it came up, as a failure that is worth another try unless err says
// otherwise.
func Transient(doing string, err error) *protocol.Failure {
	return protocol.AsFailure(fmt.Errorf("%s: %w", doing, err), protocol.Transient)
}

// CutFailure is the failure with a message that is not too long to be told to the other side; nil stays nil.
func CutFailure(failure *protocol.Failure) *protocol.Failure {
	if failure == nil || len(failure.Message) <= maxReason {
		return failure
	}
	short := *failure
	short.Message = failure.Message[:maxReason] + " …"
	return &short
}
