// NATS errors: which refusals of NATS pass by themselves, and what an operator can do about each.

package protocol

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Codes of JetStream's errors, as nats-server has them in server/errors.json, where the client has no names for them.
const (
	accountResourcesExceeded = 10002
	clusterNoPeers           = 10005
	clusterNotAvailable      = 10008
	clusterNotLeader         = 10009
	insufficientResources    = 10023
	maximumConsumers         = 10026
	maximumStreams           = 10027
	memoryResourcesExceeded  = 10028
	storageResourcesExceeded = 10047
	messageExceedsMaximum    = 10054
	streamStoreFailed        = 10077
	consumerStoreFailed      = 10104
)

// NATSError is err with what was being done, as a failure: transient where NATS may take it later, when a server is back or an
// operator has made room, and permanent where it never will. Its text says what to do. A nil error gives nil.
func NATSError(doing string, err error) error {
	if err == nil {
		return nil
	}
	if doing != "" {
		err = fmt.Errorf("%s: %w", doing, err)
	}
	var known *Failure
	if errors.As(err, &known) {
		return AsFailure(err, Transient)
	}
	var api *jetstream.APIError
	if errors.As(err, &api) {
		kind, advice := judge(api)
		if advice != "" {
			return Failf(kind, "%w: %s", err, advice)
		}
		return Failf(kind, "%w", err)
	}
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrObjectNotFound), errors.Is(err, jetstream.ErrBucketNotFound):
		return Failf(Permanent, "%w", err)
	case errors.Is(err, nats.ErrMaxPayload):
		return Failf(Permanent, "%w: the NATS servers take no larger messages (max_payload in their configuration); zfleet needs 1 MiB,"+
			" which is their default", err)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return Failf(Transient, "%w: no NATS server answers for it now; it goes on when JetStream is on again, and most of the"+
			" stream's replicas run and have chosen a leader (nats server report jetstream; docs/operations.md#nats)", err)
	}
	return AsFailure(err, Transient)
}

// Passing tells whether an error of a request to NATS may go away by itself, so that the same request may succeed later. The end
// of ctx does not pass.
func Passing(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && KindOf(NATSError("", err), Transient) == Transient
}

// judge is the kind of a refusal, and what there is to do about it beyond what its text says.
func judge(api *jetstream.APIError) (FailureKind, string) {
	const waits = "; zfleet tries on and goes on by itself"
	switch api.ErrorCode { //nolint:exhaustive // of the others, the code says enough
	case accountResourcesExceeded, maximumConsumers, maximumStreams:
		return Transient, "the NATS account has reached its limits of JetStream: raise them (nats account info shows them)" + waits
	case insufficientResources, memoryResourcesExceeded, storageResourcesExceeded:
		return Transient, "JetStream is full: make room on its disk, or let it keep more (jetstream: max_file_store or" +
			" max_memory_store; nats server report jetstream)" + waits
	case streamStoreFailed, consumerStoreFailed:
		return Transient, "the stream takes nothing more: its own limits are reached (nats stream info; the next start of a" +
			" coordinator takes limits out that are not zfleet's), or the server's disk is full" + waits
	case clusterNoPeers:
		return Transient, "the NATS cluster has too few servers for so many replicas now: start those that are down, or lower" +
			" coordinator.replicas" + waits
	case clusterNotAvailable, clusterNotLeader:
		return Transient, "the NATS cluster has no leader now: most of its servers must run and reach each other (nats server" +
			" report jetstream)" + waits
	case messageExceedsMaximum:
		return Permanent, "the stream takes no larger messages: take its limit out (nats stream edit --max-msg-size=-1)"
	}
	if api.Code >= 400 && api.Code < 500 {
		return Permanent, ""
	}
	return Transient, ""
}
