// Package tcp carries send streams over direct TCP connections between two workers: transport "tcp".
//
// # One connection, one step
//
// The receiver's worker has one [Listener]. For each step it claims, it makes an [Expectation], and sends the
// expectation's [protocol.Offer] to the sender through NATS, which has authenticated both. The sender calls [Dial] with
// the offer and the step's [protocol.StreamHeader]; the receiver's [Expectation.Accept] then returns. The sender copies
// the output of zfs send with [Outgoing.CopyFrom], the receiver copies it into zfs recv with [Incoming.CopyTo], does
// what follows a receive, and says with [Incoming.Confirm] how it ended, for which the sender waits in
// [Outgoing.Confirmation]. The receiver may confirm a failure at any time after Accept: a sender in the middle of its
// stream stops at once and returns that failure.
//
// # Who may connect
//
// With TLS, the connection is TLS 1.3 with the application protocol (ALPN) "zfleet/1". The listener makes an ECDSA
// P-256 key and a self-signed certificate when it starts, and keeps them in memory only. The offer holds the SHA-256 of
// the certificate in DER form, and the sender accepts this certificate only, whatever its names and dates. There are no
// client certificates and no session tickets: the sender is known by the offer's secret, 32 random bytes, which TLS
// keeps from everybody else. Without TLS the bytes below go over TCP as they are, readable and changeable by anybody on
// the network.
//
// A secret is good for one connection. The receiver compares it in constant time before it parses anything else that
// the sender said. Until it has been shown, a connection may take 5 seconds, handshake included, and at most 128
// connections may be at that point; further ones wait to be accepted. A secret that is wrong, used or no longer
// expected, or whose header names another step than the one that was offered, is answered with a refusal; only a header
// that fits uses the secret up.
//
// # Framing
//
// Both directions consist of frames: one byte for the type, four for the length of the payload, and the payload. All
// numbers are unsigned and big-endian. Messages are msgpack, as everywhere in package protocol.
//
//	type  from      name     payload
//	0x01  sender    hello    46 bytes: "ZFLEET"; version, 2 bytes, 1; flags, 2 bytes, 0; the sender's stall time in
//	                         milliseconds, 4 bytes, 10 to 86400000; secret, 32 bytes
//	0x02  sender    header   message StreamHeader, 1 to 65536 bytes
//	0x03  sender    data     1 to 1048576 bytes of the stream
//	0x04  sender    alive    none
//	0x05  sender    end      8 bytes: the number of bytes of the stream
//	0x06  sender    abort    message Failure, 1 to 65536 bytes
//	0x81  receiver  accept   none
//	0x82  receiver  refuse   message Failure, 1 to 65536 bytes
//	0x84  receiver  alive    none
//	0x85  receiver  confirm  message Confirmation, 1 to 65536 bytes
//
// The sender says hello and header at once, and waits for accept or refuse. It then sends any number of data frames,
// and end or abort as its last frame; with a header that refuses the offered resume token, none of these. The receiver
// says confirm as its last frame, at any time after accept; one without a failure only after it has read end and
// processed the whole stream. Either side may say alive between its other frames, from accept until its last frame.
// Anything else, an unknown type, or a length out of its bounds is an error that ends the connection. A hello of
// another version is refused with a permanent failure that names both versions. Both version and flags leave room for
// what is to come, and are not negotiated: the receiver refuses what it does not know.
//
// A receiver takes a stream for complete only if end came, and its number is that of the bytes that arrived. A
// connection that ends in any other way is a truncated stream, whatever zfs recv makes of it; what arrived is passed on
// to zfs recv all the same, which keeps it for a resumption.
//
// There is no checksum over the stream. With TLS every record is authenticated. Without, every record of a send stream
// bears zfs send's own fletcher4 checksum, which zfs recv verifies (zstream(8)), beside TCP's; a checksum here would
// have to pull each byte through the process for a second opinion, at the price of splicing. Damage to the framing
// itself is noticed by types, lengths and the total.
//
// # The end of a connection
//
// A TCP connection that is closed while it holds unread bytes is reset, and the reset may take from the peer what it
// has not read yet. So the side that says the last word (confirm, refuse, abort) closes its direction only, and reads
// and throws away what still arrives until the peer closes, for 5 seconds at most, or the stall time if that is less.
// The sender closes as soon as it has read the confirmation.
//
// # Stalled or slow
//
// Three bounds keep a dead peer from being waited for, and a slow one from being killed:
//
//   - Silence. Each side that waits for bytes from its peer gives up when none came for the stall time
//     ([transport.CopyOptions.Stall]); any byte is a sign of life, however slowly they trickle. Both sides give one at least at
//     every third of the sender's stall time, which the hello names: the receiver from accept until its confirmation,
//     while zfs recv takes nothing and while the step is settled; the sender while zfs send gives nothing. A receiver
//     that is blocked by zfs recv does not read, and does not miss what it does not read; its sender is blocked in turn
//     by TCP's flow control, and sees the signs of life.
//   - Standstill. A copy in which no byte of the stream has moved for the idle time ([transport.CopyOptions.Idle], ten stall times
//     if not set) fails though both sides live: a hanging zfs send or zfs recv.
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
package tcp
