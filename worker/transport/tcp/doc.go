// Package tcp carries send streams over direct TCP connections between two workers: transport "tcp".
//
// # One step
//
// The receiver's worker has one [Listener]. For each step it claims, it makes an [Expectation], and sends the
// expectation's [protocol.Offer] to the sender through NATS, which has authenticated both. The sender calls
// [Dialer.Dial] with the offer and the step's [protocol.StreamHeader]; the receiver's [Expectation.Accept] then returns.
// The sender copies the output of zfs send with [Outgoing.CopyFrom], the receiver copies it into zfs recv with
// [Incoming.CopyTo], does what follows a receive, and says with [Incoming.Confirm] how it ended, for which the sender
// waits in [Outgoing.Confirmation]. The receiver may confirm a failure at any time after Accept: a sender in the middle
// of its stream stops at once and returns that failure.
//
// # The other way round
//
// Where the sender finds no way to the receiver ([ErrUnreachable]), the receiver may find one to the sender. The sender
// makes a [ReceiverExpectation] of its own listener and sends its [protocol.DialBack] to the receiver through NATS. The
// receiver calls [Dialer.DialSender], the sender's [ReceiverExpectation.Accept] returns, and all else is as before: only
// who dials is another.
//
// # One connection, many steps
//
// A connection on which a step ended well is free, and its [Dialer] keeps it for the next step with the same listener, in
// whatever direction the stream goes then; the listener waits for the next hello on it. So thousands of small steps pay for
// one handshake, and their first byte follows one round trip after the hello. With TLS, a listener is known by its
// certificate, which is one per process; without, by the address it was dialled at, and the one-time secret shows whether
// the same worker still answers there. A kept connection that turns out to be dead, or another worker's, when the hello
// is said is replaced by a new one, and all others to that worker are dropped with it. One that lies idle is closed by
// its dialer after the idle time (a minute), and by its listener five seconds later. Nothing else is ever reused:
// a connection on which anything failed, was cancelled, or was not read to its end, is closed.
//
// [Dialer.Prepare] makes a free connection ahead of the step that will need it, while the sender is still looking at
// its pool.
//
// # Who may connect
//
// With TLS, the connection is TLS 1.3 with the application protocol (ALPN) "zfleet/1". The listener makes an ECDSA
// P-256 key and a self-signed certificate when it starts, and keeps them in memory only. The offer holds the SHA-256 of
// the certificate in DER form, and who dials accepts this certificate only, whatever its names and dates. There are no
// client certificates and no session tickets: who dials is known by the offer's secret, 32 random bytes, which TLS
// keeps from everybody else. Without TLS the bytes below go over TCP as they are, readable and changeable by anybody on
// the network.
//
// A secret is good for one step. The listener compares it in constant time before it parses anything else that
// the other side said. Until it has been shown, a new connection may take 5 seconds, handshake included, and at most 128
// connections may be at that point; further ones wait to be accepted. A secret that is wrong, used or no longer
// expected, one of a step in the other direction, or a header that names another step than the one that was offered, is
// answered with a refusal; only a header that fits uses the secret up. At most 1024 free connections are kept waiting for
// a hello; each is one on which a secret was right before.
//
// # Framing
//
// Both directions consist of frames: one byte for the type, four for the length of the payload, the payload, and four
// bytes with the CRC-32C (Castagnoli, RFC 3720 appendix B.4) of all these; data frames go without this check. All
// numbers are unsigned and big-endian. Messages are msgpack, as everywhere in package protocol.
//
//	type  from      name     payload
//	0x01  dialler   hello    42 bytes: "ZFLEET"; version, 2 bytes, 2; flags, 2 bytes; secret, 32 bytes
//	0x02  sender    header   its stall time in milliseconds, 4 bytes, 10 to 86400000; message StreamHeader, 1 to 65536 bytes
//	0x03  sender    data     1 to 1048576 bytes of the stream
//	0x04  sender    alive    none
//	0x05  sender    end      8 bytes: the number of bytes of the stream
//	0x06  sender    abort    message Failure, 1 to 65536 bytes
//	0x07  sender    done     none
//	0x81  receiver  accept   none
//	0x82  either    refuse   message Failure, 1 to 65536 bytes
//	0x84  receiver  alive    none
//	0x85  receiver  confirm  message Confirmation, 1 to 65536 bytes
//
// The hello's flags say what it opens:
//
//	0x0000  a step whose sender has dialled. It says hello and header at once; the receiver accepts or refuses
//	0x0001  reverse: a step whose receiver has dialled. The sender answers with the header, or refuses; the receiver accepts
//	        the header, or refuses
//	0x0002  ahead: nothing yet. The listener accepts if the secret is one that is expected, without using it up, or refuses;
//	        then it waits for another hello
//
// From then on it does not matter who has dialled. The sender sends any number of data frames,
// and end or abort as the last; with a header that refuses the offered resume token, none of these. The receiver
// says confirm as its last frame, at any time after accept; one without a failure only after it has read end and
// processed the whole stream. Either side may say alive between its other frames, from accept until its last frame.
// Once the sender has read a confirmation without a failure of a stream that it has ended, it says done: it has nothing
// more to say or to read, nor has the receiver once it has read done, and the next frame can only be a hello from who has
// dialled. After a refusal, an abort or a confirmation with a failure, the connection ends.
// Anything else, an unknown type, a length out of its bounds or a wrong check is an error that ends the connection. A hello of
// another version is refused with a permanent failure that names both versions. Both version and flags leave room for
// what is to come, and are not negotiated: the listener refuses what it does not know.
//
// A receiver takes a stream for complete only if end came, and its number is that of the bytes that arrived. A
// connection that ends in any other way is a truncated stream, whatever zfs recv makes of it; what arrived is passed on
// to zfs recv all the same, which keeps it for a resumption.
//
// There is no checksum over the stream. With TLS every record is authenticated. Without, every record of a send stream
// bears zfs send's own fletcher4 checksum, which zfs recv verifies (zstream(8)), beside TCP's; a checksum here would
// have to pull each byte through the process for a second opinion, at the price of splicing. Damage to what is said
// around the stream is noticed by the frames' checks, and damage to the header of a data frame by types, lengths and the
// total.
//
// # The end of a connection
//
// A TCP connection that is closed while it holds unread bytes is reset, and the reset may take from the peer what it
// has not read yet. So the side that says the last word (confirm, refuse, abort) closes its direction only, and reads
// and throws away what still arrives until the peer closes, for 5 seconds at most, or the stall time if that is less.
// A confirmation of success is not the last word: the receiver waits for done, as long, before it closes its direction.
//
// # Stalled or slow
//
// Three bounds keep a dead peer from being waited for, and a slow one from being killed:
//
//   - Silence. Each side that waits for bytes from its peer gives up when none came for the stall time
//     ([transport.CopyOptions.Stall]); any byte is a sign of life, however slowly they trickle. Both sides give one at least at
//     every third of the sender's stall time, which the header names: the receiver from accept until its confirmation,
//     while zfs recv takes nothing and while the step is settled; the sender while zfs send gives nothing. A receiver
//     that is blocked by zfs recv does not read, and does not miss what it does not read; its sender is blocked in turn
//     by TCP's flow control, and sees the signs of life.
//   - Standstill. A copy in which no byte of the stream has moved for the idle time ([transport.CopyOptions.Idle], ten stall times
//     if not set) fails though both sides live: a hanging zfs send or zfs recv. Waiting for bandwidth
//     ([transport.CopyOptions.Limit]) is no standstill for the side that waits; for its peer, bytes move in pieces of 64 KiB.
//   - After the stream's end, the sender waits for the confirmation as long as its context says, and the receiver lives.
//
// All three are transient failures: the step is tried again and resumes where zfs recv stopped.
//
// # Speed
//
// Over TLS the stream is copied through the process in frames of up to 256 KiB, and the records of a frame go to the
// kernel in one call. Over plain TCP on Linux, what zfs send has written to its pipe is framed as it lies there, and
// spliced (splice(2)) to the connection, and on the other side from the connection into the pipe of zfs recv; both
// pipes are enlarged to 1 MiB. Where one end is no pipe, that side copies.
//
// # Long round trips
//
// Nothing in the framing is acknowledged before the stream's end, so what is under way is bounded by the kernel's buffers only:
// 1 Gbit/s with a round trip of 100 ms needs 12.5 MB, and about twice as much as the kernel counts. Linux tunes both buffers by
// itself within net.ipv4.tcp_rmem and tcp_wmem. The sender's side is helped: where the round trip is 10 ms or more and
// tcp_wmem too small for 1 Gbit/s, the send buffer is set, which needs CAP_NET_ADMIN or a net.core.wmem_max that is large enough, and
// is left alone otherwise, since a buffer that is cut to wmem_max ends the tuning and is far worse than it. The receive window
// cannot be enlarged in the same way, for its scale is agreed on before the round trip is known. Current kernels tune it
// up to 32 MiB. On older ones (6 MiB: some 3 to 6 MB under way), the operator of receiving hosts sets
//
//	net.ipv4.tcp_rmem = 4096 131072 33554432
//
// and where the worker has no CAP_NET_ADMIN, on sending hosts
//
//	net.ipv4.tcp_wmem = 4096 16384 33554432
//
// Congestion control is the system's: on links that lose packets, net.ipv4.tcp_congestion_control = bbr.
package tcp
