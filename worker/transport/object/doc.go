// Package object carries send streams through the NATS object store: transport "object". Sender and receivers need no
// network path between them but NATS, and one stream feeds any number of receivers.
//
// # Segments
//
// The sender cuts the stream into segments, and stores each as an object of the bucket [protocol.BucketStreams], in the
// object store's own format (ADR-20), so that the NATS tools can list and read them:
//
//	name                                    what
//	<plan>/<task>-<step>#<attempt>/<id>     an empty object that stands for the stream; its metadata names the steps of
//	                                        all receivers. It is stored first and removed last
//	<stream>/<number>                       a segment; its chunks are named by the escaped "<segment>/<try>"
//
// So whatever a crashed sender leaves, be it chunks without an object, tells by its name alone whose it is
// ([protocol.StoredStreams]); the leader collects it. A segment is removed as soon as every receiver has taken it, with
// nothing left of it, and no tombstone either: its messages are purged. The bytes of a stream that are in the bucket
// stay within the stream's window; when it is full the sender waits. When the bucket itself is full, since NATS refuses
// what is beyond its quota, the sender tries again for the stall time, as other streams' segments go, and then fails.
//
// The chunks are published asynchronously while the segment is being read; each is one message. If one of them cannot be
// stored, the whole segment is stored again as another try, whose chunks have another name. Receivers read chunks by
// batched direct gets (ADR-31) from the sequence that the sender names, without a consumer. A replica that lags behind
// gives fewer chunks than there are: the receiver asks again for what it lacks. It asks for as much at once as a connection
// takes in a second or so, and all receivers of a worker together for 32 MiB, since a server gives up connections that do
// not take what they ask for.
//
// # What the sides say to each other
//
// The sender asks each receiver by a [protocol.Call] to the subject of its offer ([Stream.Call]); the receiver's worker
// answers it once [Store.Receive] has succeeded. From then on the sender tells the receiver, on the same subject, what is
// stored ([protocol.SegmentsStored]), and the receiver tells the sender what it has taken, and how the step ended
// ([protocol.SegmentsTaken]), on the subject that the call names. Both subjects hold random parts that only the two know.
//
// These messages are no streams' but plain NATS messages: they can be lost, and come late or twice. Each holds all that
// the other side may not know, numbers only grow, and each is repeated at a third of the stall time, or every second if
// that is less, also as the sign of life. A segment is announced with its size and SHA-256 once it is stored, the end
// with the numbers of segments and bytes. The receiver's confirmation is repeated until the sender says that it has it,
// and the sender's failure until the receiver says so, each for a bounded time.
//
// # Truncated, damaged, stalled
//
// A receiver passes a segment on only when it has all its chunks, with the announced size and SHA-256, and the object
// store's own digest of the object is the same. Anything else is a transient failure. It takes a stream for complete only
// if all segments up to the announced end were passed on and their bytes are as many as announced; a stream that ends in
// any other way is an error of [Incoming.CopyTo], and cannot be confirmed. What was passed on before is intact, and zfs recv
// keeps it for a resumption.
//
// Each side gives up when it has heard nothing of the other for the stall time, whether it is the other side or NATS that
// is gone; a shorter interruption, or restart of NATS, is passed over. A copy in which nothing moves for the idle time
// fails though both live. The receiver notices silence only while it copies: what zfs recv does with the last bytes is
// its own matter, as in the sender, which hears the signs of life until the confirmation.
//
// # Several receivers
//
// Each receiver takes segments at its own pace within the window, and confirms for itself. One that fails, or falls
// silent, is dropped at once, and the others go on. One that alone holds the window full, while all others have taken
// everything, is dropped when it has held them back for longer than [StreamOptions.Lag] in all since it last had
// everything itself.
//
// # Memory
//
// The sender holds at most two segments: one that is being read and one whose storing is awaited. A receiver holds at most
// two: one that is being written and one that is being fetched. Blocks of the sender are used again. On long paths a
// receiver gets a segment per round trip and transfer: larger segments (replication.objects.segment) make it faster there.
//
// # Trust
//
// Whoever may read the bucket can read the streams (except those of raw sends of encrypted datasets), and whoever may
// write to it can destroy them. The digests reach the receiver on the secret subject, so that who can write to the
// bucket only cannot make a receiver accept other bytes.
//
// # Domains
//
// The package uses the given connection and JetStream context only, and keeps their domain or API prefix. Publishing goes by
// subject ($O.zfleet-streams.>) and crosses leaf nodes to the one domain that has the bucket.
package object
