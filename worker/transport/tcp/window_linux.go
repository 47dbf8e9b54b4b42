// Windows: what a long round trip asks of the sender's buffer.

package tcp

import (
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// wantedRate is what one stream should reach whatever the round trip, in bytes per second: 1 Gbit/s.
	wantedRate = 125_000_000
	// nearby is the round trip below which the kernel's own buffers do: they hold 40 milliseconds of the wanted rate.
	nearby = 10 * time.Millisecond
	// maxSendBuffer bounds a connection's send buffer, as the kernel counts.
	maxSendBuffer = 64 << 20
)

// widen lets the kernel keep as many bytes for a connection as are under way at the wanted rate, where its own tuning ends
// before that (tcp_wmem, tcp(7)). It does nothing where it would make things worse: setting a size ends the tuning, and
// without CAP_NET_ADMIN the size is cut to wmem_max, which is far below what the tuning gives by default.
func widen(conn net.Conn) {
	plain, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := plain.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			widenFor(int(fd), time.Duration(info.Rtt)*time.Microsecond)
		}
	})
}

// widenFor is widen for a known round trip.
func widenFor(fd int, roundTrip time.Duration) {
	if roundTrip < nearby {
		return
	}
	automatic := lastNumber("/proc/sys/net/ipv4/tcp_wmem")
	have, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	size := sendBuffer(roundTrip)
	if err != nil || automatic == 0 || size <= max(automatic, have) {
		return
	}
	// The kernel doubles what it is given, to have room for its bookkeeping (socket(7)).
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size/2) == nil {
		return
	}
	allowed := 2 * lastNumber("/proc/sys/net/core/wmem_max")
	if size = min(size, allowed); size > max(automatic, have) {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size/2) // without it the stream is slower
	}
}

// sendBuffer is the size that the wanted rate needs, as the kernel counts: twice what is under way.
func sendBuffer(roundTrip time.Duration) int {
	return int(min(2*wantedRate*roundTrip.Seconds(), maxSendBuffer))
}

// lastNumber is the last number in a file of the kernel's, or zero if there is none.
func lastNumber(path string) int {
	text, err := os.ReadFile(path) //nolint:gosec // the paths are above
	if err != nil {
		return 0
	}
	numbers := strings.Fields(string(text))
	if len(numbers) == 0 {
		return 0
	}
	number, err := strconv.Atoi(numbers[len(numbers)-1])
	if err != nil {
		return 0
	}
	return number
}
