// Framing: what outside bytes can do.

package tcp

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport"
)

// said is a connection on which everything has been said already.
type said struct {
	net.Conn
	*bytes.Reader
}

func (s said) Read(p []byte) (int, error)     { return s.Reader.Read(p) }
func (said) Write(p []byte) (int, error)      { return len(p), nil }
func (said) SetReadDeadline(time.Time) error  { return nil }
func (said) SetWriteDeadline(time.Time) error { return nil }
func (said) Close() error                     { return nil }
func saying(frames ...[]byte) (*link, *socket) {
	s := &socket{Conn: said{Reader: bytes.NewReader(bytes.Join(frames, nil))}}
	return newLink(s, s, ""), s
}

// dataFrame is a data frame as bytes.
func dataFrame(payload []byte) []byte {
	whole := make([]byte, frameHeaderSize+len(payload))
	putFrameHeader(whole, frameData, len(payload))
	copy(whole[frameHeaderSize:], payload)
	return whole
}

// receiveAll is what CopyTo makes of a stream's frames.
func receiveAll(t testing.TB, frames ...[]byte) ([]byte, error) {
	t.Helper()
	l, _ := saying(frames...)
	incoming := &Incoming{link: l, header: pipeHeader}
	var received bytes.Buffer
	n, err := incoming.CopyTo(t.Context(), &received, transport.CopyOptions{})
	require.EqualValues(t, received.Len(), n)
	return received.Bytes(), err
}

func encodedFailure(t testing.TB, failure *protocol.Failure) []byte {
	t.Helper()
	whole, err := failureFrame(frameAbort, failure)
	require.NoError(t, err)
	return whole
}

func TestStreamFrames(t *testing.T) {
	t.Parallel()
	half := dataFrame([]byte("half"))
	for name, test := range map[string]struct {
		frames [][]byte
		want   string
		err    string // empty: complete
	}{
		"empty stream":           {[][]byte{endFrame(0)}, "", ""},
		"two frames":             {[][]byte{half, frame(frameAlive, nil), half, endFrame(8)}, "halfhalf", ""},
		"no end":                 {[][]byte{half}, "half", "before the stream was complete"},
		"nothing":                {nil, "", "before the stream was complete"},
		"end with another total": {[][]byte{half, endFrame(5)}, "half", "the sender sent 5 bytes, and 4 arrived"},
		"lost frame":             {[][]byte{half, endFrame(8)}, "half", "the sender sent 8 bytes, and 4 arrived"},
		"duplicate frame":        {[][]byte{half, half, endFrame(4)}, "halfhalf", "the sender sent 4 bytes, and 8 arrived"},
		"abort":                  {[][]byte{half, encodedFailure(t, protocol.Failf(protocol.Policy, "no"))}, "half", "no"},
		"abort without reason":   {[][]byte{frame(frameAbort, []byte{0xc1})}, "", "the sender's failure"},
		"second hello":           {[][]byte{hello{}.frame()}, "", "frame of type 0x01 within the stream"},
		"our own frames":         {[][]byte{frame(framePeerAlive, nil)}, "", "frame of type 0x84 within the stream"},
		"unknown frame":          {[][]byte{{9, 0, 0, 0, 0}}, "", "unknown frame type 0x09"},
		"empty data":             {[][]byte{dataFrame(nil)}, "", "frame of type 0x03 with 0 bytes"},
		"oversized data":         {[][]byte{{3, 0, 0x10, 0, 1}}, "", "frame of type 0x03 with 1048577 bytes"},
		"short end":              {[][]byte{frame(frameEnd, []byte{1})}, "", "frame of type 0x05 with 1 bytes"},
		"alive with a payload":   {[][]byte{frame(frameAlive, []byte{1})}, "", "frame of type 0x04 with 1 bytes"},
		"done before the end":    {[][]byte{frame(frameDone, nil)}, "", "frame of type 0x07 within the stream"},
		"damaged end":            {[][]byte{append(endFrame(0)[:frameHeaderSize+endSize], 0, 0, 0, 0)}, "", "damaged on its way"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			received, err := receiveAll(t, test.frames...)
			require.Equal(t, test.want, string(received))
			if test.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.err)
			var failure *protocol.Failure
			require.ErrorAs(t, err, &failure)
		})
	}
}

// TestDamagedFraming flips each bit of everything but the payload, which is TLS's or zfs recv's to check.
func TestDamagedFraming(t *testing.T) {
	t.Parallel()
	stream := bytes.Join([][]byte{dataFrame([]byte("abcd")), endFrame(4)}, nil)
	for position := range stream {
		if position >= frameHeaderSize && position < frameHeaderSize+4 {
			continue
		}
		for bit := range 8 {
			damaged := bytes.Clone(stream)
			damaged[position] ^= 1 << bit
			_, err := receiveAll(t, damaged)
			require.Error(t, err, "bit %d of byte %d", bit, position)
		}
	}
}

// TestTruncatedFraming cuts a stream after each byte.
func TestTruncatedFraming(t *testing.T) {
	t.Parallel()
	stream := bytes.Join([][]byte{dataFrame([]byte("abcd")), frame(frameAlive, nil), endFrame(4)}, nil)
	for cut := range stream {
		received, err := receiveAll(t, stream[:cut])
		require.ErrorContains(t, err, "before the stream was complete", "cut after %d bytes", cut)
		require.Equal(t, "abcd"[:min(4, max(0, cut-frameHeaderSize))], string(received), "cut after %d bytes", cut)
	}
}

func TestWriterFailureIsTheError(t *testing.T) {
	t.Parallel()
	l, _ := saying(dataFrame([]byte("abcd")), endFrame(4))
	incoming := &Incoming{link: l, header: pipeHeader}
	r, w := io.Pipe()
	gone := errors.New("zfs recv is gone")
	require.NoError(t, r.CloseWithError(gone))
	_, err := incoming.CopyTo(t.Context(), w, transport.CopyOptions{})
	require.ErrorIs(t, err, gone)
}

func TestFailuresAreCutToAFrame(t *testing.T) {
	t.Parallel()
	long := protocol.Failf(protocol.Conflict, "%s", bytes.Repeat([]byte("x"), 1<<20))
	_, err := receiveAll(t, encodedFailure(t, long))
	require.Less(t, len(err.Error()), maxMessage)
	require.Equal(t, protocol.Conflict, protocol.KindOf(err, protocol.Usage))
}

func TestHelloRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := hello{
			secret: sha256.Sum256(rapid.SliceOf(rapid.Byte()).Draw(t, "secret")),
			flags:  helloFlags(rapid.Uint16Range(0, 3).Draw(t, "flags")),
		}
		got, err := readHello(bytes.NewReader(want.frame()))
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

// FuzzHello gives a listener's first reads arbitrary bytes.
func FuzzHello(f *testing.F) {
	f.Add(hello{}.frame())
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readHello(bytes.NewReader(data))
		if err == nil {
			require.True(t, bytes.HasPrefix(data, h.frame()), "a hello that is not the one that was said")
		}
	})
}

// FuzzHeader gives a listener arbitrary bytes after the secret.
func FuzzHeader(f *testing.F) {
	whole, err := headerFrame(pipeHeader, time.Minute)
	require.NoError(f, err)
	f.Add(whole)
	f.Add([]byte{2, 0, 0, 0, 1, 0xc0})
	f.Fuzz(func(t *testing.T, data []byte) {
		// As they are, and as the payload of a frame that was not damaged.
		for _, said := range [][]byte{data, frame(frameHeader, data)} {
			l, _ := saying(said)
			header, stall, err := readHeader(l)
			if err == nil {
				require.NoError(t, header.Ref.Validate())
				require.LessOrEqual(t, transport.MinStall, stall)
			}
		}
	})
}

// FuzzStream gives a receiver arbitrary bytes as the stream. It must never take for complete what does not end as a
// complete stream does.
func FuzzStream(f *testing.F) {
	f.Add(bytes.Join([][]byte{dataFrame([]byte("abcd")), frame(frameAlive, nil), endFrame(4)}, nil))
	f.Add(encodedFailure(f, protocol.Failf(protocol.Policy, "no")))
	f.Add([]byte{3, 0, 0x10, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		received, err := receiveAll(t, data)
		if err == nil {
			require.Contains(t, string(data), string(endFrame(int64(len(received)))))
		}
	})
}

// FuzzAnswer gives a sender arbitrary bytes as the receiver's answers, and a receiver that dials as the sender's.
func FuzzAnswer(f *testing.F) {
	whole, err := messageFrame(frameConfirm, protocol.Confirmation{ToGUID: 2})
	require.NoError(f, err)
	f.Add(whole)
	f.Add(append(frame(framePeerAlive, nil), whole...))
	f.Add([]byte{0x85, 0, 0, 0, 1, 0xc0})
	header, err := headerFrame(pipeHeader, time.Minute)
	require.NoError(f, err)
	f.Add(header)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, said := range [][]byte{data, frame(frameConfirm, data)} {
			l, _ := saying(said)
			outgoing := &Outgoing{link: l}
			if err := outgoing.listen(); err == nil {
				t.Fatal("listening ended without a reason")
			}
		}
		for _, said := range [][]byte{data, frame(frameRefuse, data)} {
			l, _ := saying(said)
			if err := ask(l, nil); err == nil {
				require.True(t, bytes.HasPrefix(said, frame(frameAccept, nil)))
			}
		}
		for _, said := range [][]byte{data, frame(frameHeader, data)} {
			l, _ := saying(said)
			if header, _, err := askHeader(l, nil, pipeHeader.Ref); err == nil {
				require.Equal(t, pipeHeader.Ref, header.Ref)
			}
		}
	})
}
