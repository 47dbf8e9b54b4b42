package zstream_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/worker/transport/zstream"
)

var fast = zstream.Options{Level: 1, Threads: 2}

// noise are n bytes that do not shrink.
func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// words are n bytes that shrink.
func words(n int) []byte {
	random, text := rand.New(rand.NewPCG(1, 2)), make([]byte, 0, 10_010)
	for len(text) < 10_000 {
		text = fmt.Appendf(text, "%d, ", random.IntN(5000))
	}
	return bytes.Repeat(text, n/len(text)+1)[:n]
}

// compressed is all that a Reader gives.
func compressed(t require.TestingT, content []byte, options zstream.Options) []byte {
	r := zstream.NewReader(bytes.NewReader(content), options)
	defer r.Close()
	carried, err := io.ReadAll(r)
	require.NoError(t, err)
	return carried
}

// undone is what a Writer makes of the pieces, and what it says at the end.
func undone(pieces ...[]byte) ([]byte, error) {
	var content bytes.Buffer
	w := zstream.NewWriter(&content)
	for _, piece := range pieces {
		if _, err := w.Write(piece); err != nil {
			break
		}
	}
	return content.Bytes(), w.Close()
}

func TestStreamsComeBack(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	mixed := append(append(words(mib), noise(2*mib)...), words(mib/2)...)
	for name, test := range map[string]struct {
		content []byte
		options zstream.Options
		shrinks bool
	}{
		"nothing":                 {nil, fast, false},
		"one byte":                {[]byte{1}, fast, false},
		"words":                   {words(5*mib + 17), fast, true},
		"words, one chunk":        {words(mib), fast, true},
		"words, level 3":          {words(3 * mib), zstream.Options{Level: 3}, true},
		"words, level 19":         {words(2*mib + 1), zstream.Options{Level: 19, Threads: 1}, true},
		"words, then noise":       {mixed, fast, true},
		"zeros":                   {make([]byte, 20*mib), fast, true},
		"noise":                   {noise(3*mib + 1), fast, false},
		"noise, then words":       {append(noise(mib), words(mib)...), fast, false},
		"a few bytes that repeat": {bytes.Repeat([]byte{7}, 312), fast, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var content bytes.Buffer
			r, w := zstream.NewReader(bytes.NewReader(test.content), test.options), zstream.NewWriter(&content)
			carried, err := io.Copy(w, r)
			require.NoError(t, err)
			require.NoError(t, r.Close())
			require.NoError(t, w.Close())
			require.NoError(t, w.Close(), "again")
			require.True(t, bytes.Equal(test.content, content.Bytes()))
			want := zstream.Statistics{Content: int64(len(test.content)), Carried: carried}
			require.Equal(t, want, r.Statistics())
			require.Equal(t, want, w.Statistics())
			if test.shrinks {
				require.Empty(t, r.Note())
				require.Less(t, carried, int64(len(test.content)))
			} else {
				require.LessOrEqual(t, carried, int64(len(test.content)+64))
			}
		})
	}
}

func TestTheNoteSaysWhyAStreamGoesAsItIs(t *testing.T) {
	t.Parallel()
	r := zstream.NewReader(bytes.NewReader(noise(3<<20)), fast)
	defer r.Close()
	require.Empty(t, r.Note(), "before anything was read")
	_, err := r.Read(make([]byte, 1))
	require.NoError(t, err)
	require.Equal(t, "zstd: the first 1.0 MiB shrank to 100 % only, so the stream goes as it is", r.Note())
}

// Whatever the content, and however it is read and written, it comes back.
func TestAnyStreamComesBack(t *testing.T) {
	t.Parallel()
	sources := map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "halves": iotest.HalfReader, "with its end": iotest.DataErrReader,
	}
	rapid.Check(t, func(t *rapid.T) {
		var content []byte
		for range rapid.IntRange(0, 4).Draw(t, "parts") {
			length := rapid.SampledFrom([]int{0, 1, 299, 3000, 70_000, 1<<20 - 1, 1 << 20}).Draw(t, "length")
			content = append(content, rapid.SampledFrom([]func(int) []byte{noise, words}).Draw(t, "part")(length)...)
		}
		source := sources[rapid.SampledFrom([]string{"whole", "halves", "with its end"}).Draw(t, "source")]
		r := zstream.NewReader(source(bytes.NewReader(content)), zstream.Options{Level: 1, Threads: rapid.IntRange(1, 3).Draw(t, "threads")})
		defer r.Close()
		sizes := rapid.SliceOfN(rapid.IntRange(1, 2<<20), 1, 5).Draw(t, "sizes")
		var got bytes.Buffer
		w := zstream.NewWriter(&got)
		for turn := 0; ; turn++ {
			buffer := make([]byte, sizes[turn%len(sizes)])
			n, err := r.Read(buffer)
			if _, err := w.Write(buffer[:n]); err != nil {
				require.NoError(t, err)
			}
			if err == io.EOF { //nolint:errorlint // unwrapped, or it is no clean end
				break
			}
			require.NoError(t, err)
		}
		require.NoError(t, w.Close())
		require.True(t, bytes.Equal(content, got.Bytes()))
	})
}

// Wherever a stream is cut, that is no clean end, and what came before is passed on.
func TestACutIsNoticed(t *testing.T) {
	t.Parallel()
	for name, content := range map[string][]byte{"zstd": words(30_000), "as it is": noise(1<<20 + 500), "nothing": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			carried := compressed(t, content, fast)
			cuts := map[int]bool{}
			for i := range 30 {
				cuts[min(i, len(carried)-1)] = true
				cuts[max(len(carried)-1-i, 0)] = true
				cuts[rand.IntN(len(carried))] = true
			}
			for cut := range cuts {
				got, err := undone(carried[:cut])
				require.Error(t, err, "cut at %d of %d", cut, len(carried))
				require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Permanent))
				require.True(t, bytes.HasPrefix(content, got))
			}
			got, err := undone(carried)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got))
			_, err = undone(carried, []byte{0})
			require.ErrorContains(t, err, "bytes after its end")
		})
	}
}

// Whatever byte is damaged: nothing of it is passed on, and all that came before is.
func TestDamageIsNoticed(t *testing.T) {
	t.Parallel()
	for name, content := range map[string][]byte{"zstd": words(30_000), "as it is": noise(2<<20 + 500), "nothing": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			carried := compressed(t, content, fast)
			places := map[int]bool{}
			for i := range 30 {
				places[min(i, len(carried)-1)] = true
				places[max(len(carried)-1-i, 0)] = true
				places[rand.IntN(len(carried))] = true
			}
			for place := range places {
				bad := bytes.Clone(carried)
				bad[place] ^= 1 << rand.IntN(8)
				got, err := undone(bad)
				if err == nil {
					// Some bits mean nothing: whether what is as it is was said to be that, or flags of zstd.
					require.True(t, bytes.Equal(content, got), "at %d of %d", place, len(carried))
					require.True(t, name == "zstd" || place == 0, "at %d of %d", place, len(carried))
					continue
				}
				require.True(t, bytes.HasPrefix(content, got), "at %d of %d", place, len(carried))
				if name == "as it is" {
					passed := max(place-1, 0) / (1<<20 + 9) << 20
					if place >= len(carried)-17 { // the end's
						passed = len(content)
					}
					require.Equal(t, passed, len(got), "at %d", place) //nolint:testifylint // not the bytes
				}
			}
		})
	}
}

func TestChunksInAnotherOrderAreNoticed(t *testing.T) {
	t.Parallel()
	// As it is: a byte, and then chunks of a MiB and their headers of 9 bytes.
	carried := compressed(t, noise(3<<20), fast)
	const chunk = 1<<20 + 9
	mode, first, second, third, end := carried[:1], carried[1:1+chunk], carried[1+chunk:1+2*chunk], carried[1+2*chunk:1+3*chunk], carried[1+3*chunk:]
	for name, pieces := range map[string][][]byte{
		"exchanged": {mode, first, third, second, end}, "missing": {mode, first, third, end}, "twice": {mode, first, first, second, third, end},
		"the last missing": {mode, first, second, end},
	} {
		got, err := undone(pieces...)
		require.ErrorContains(t, err, "the compressed stream is damaged", name)
		require.True(t, bytes.HasPrefix(noise(3<<20), got), name)
	}
	_, err := undone(mode, first, second, third, end)
	require.NoError(t, err)
}

func TestAnUnknownFormatIsPermanent(t *testing.T) {
	t.Parallel()
	_, err := undone([]byte{7})
	require.Equal(t, protocol.Permanent, protocol.KindOf(err, protocol.Transient))
	require.ErrorContains(t, err, "(0x07)")
}

// The source's error is what the reader of the Reader gets, after what came before it, and there is no mark of the end.
func TestTheSourcesErrorComesThrough(t *testing.T) {
	t.Parallel()
	for _, length := range []int{0, 1, 1 << 20, 5<<20 + 3} {
		failure := fmt.Errorf("zfs send has died: %w", io.EOF) // which is not io.EOF
		r := zstream.NewReader(io.MultiReader(bytes.NewReader(words(length)), iotest.ErrReader(failure)), fast)
		carried, err := io.ReadAll(r)
		require.Equal(t, failure, err)
		require.NoError(t, r.Close())
		got, err := undone(carried)
		require.ErrorContains(t, err, "its end is missing")
		require.True(t, bytes.Equal(words(length), got), "%d of %d bytes", len(got), length)
	}
}

// stuck gives a few bytes, and then blocks until it is closed.
type stuck struct {
	closed chan struct{}
	once   sync.Once
	given  bool
}

func (s *stuck) Read(p []byte) (int, error) {
	if !s.given {
		s.given = true
		return copy(p, "abc"), nil
	}
	<-s.closed
	return 0, io.EOF
}

func (s *stuck) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func TestCloseInterruptsTheSource(t *testing.T) {
	t.Parallel()
	pipe, end, err := os.Pipe()
	require.NoError(t, err)
	defer end.Close()
	defer pipe.Close()
	for name, source := range map[string]io.Reader{"by closing it": &stuck{closed: make(chan struct{})}, "by a deadline": pipe} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := zstream.NewReader(source, fast)
			done := make(chan error)
			go func() {
				_, err := io.ReadAll(r)
				done <- err
			}()
			require.NoError(t, r.Close())
			require.ErrorIs(t, <-done, os.ErrClosed)
			require.NoError(t, r.Close(), "again")
			_, err := r.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrClosed)
		})
	}
}

// closes counts its closes.
type closes struct {
	io.Reader
	count int
}

func (c *closes) Close() error {
	c.count++
	return nil
}

func TestCloseLeavesASourceAloneThatDoesNotBlock(t *testing.T) {
	t.Parallel()
	for _, read := range []bool{false, true} {
		source := &closes{Reader: strings.NewReader("abc")}
		r := zstream.NewReader(source, fast)
		if read {
			_, err := io.ReadAll(r)
			require.NoError(t, err)
		}
		require.NoError(t, r.Close())
		require.Zero(t, source.count)
	}
}

// Whoever reads only a part and closes leaves nothing behind, which TestMain checks.
func TestCloseInTheMiddle(t *testing.T) {
	t.Parallel()
	for _, content := range [][]byte{words(20 << 20), noise(20 << 20)} {
		r := zstream.NewReader(bytes.NewReader(content), zstream.Options{Level: 1, Threads: 4})
		_, err := io.ReadFull(r, make([]byte, 100))
		require.NoError(t, err)
		require.NoError(t, r.Close())
	}
}

// A Reader is not further ahead of who reads it than its chunks in flight.
func TestTheSourceIsReadNoFasterThanTheReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := zstream.NewReader(bytes.NewReader(make([]byte, 50<<20)), zstream.Options{Level: 1, Threads: 2})
		_, err := r.Read(make([]byte, 1))
		require.NoError(t, err)
		synctest.Wait()
		require.LessOrEqual(t, r.Statistics().Content, int64(4<<20))
		require.NoError(t, r.Close())
	})
}

// Content that comes slowly goes on before its chunk is full.
func TestASlowSourceIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from, to := io.Pipe()
		go func() {
			for range 100 {
				time.Sleep(400 * time.Millisecond)
				_, _ = to.Write(make([]byte, 100))
			}
			_ = to.Close()
		}()
		r := zstream.NewReader(from, fast)
		begin := time.Now()
		_, err := io.ReadFull(r, make([]byte, 10))
		require.NoError(t, err)
		require.Less(t, time.Since(begin), 3*time.Second)
		_, err = io.Copy(io.Discard, r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
	})
}

// The Writer waits for w, and can be interrupted meanwhile.
func TestAWriteCanBeInterrupted(t *testing.T) {
	t.Parallel()
	carried := compressed(t, words(3<<20), fast)
	t.Run("by a deadline", func(t *testing.T) {
		t.Parallel()
		read, write, err := os.Pipe()
		require.NoError(t, err)
		defer read.Close()
		defer write.Close()
		w := zstream.NewWriter(write)
		done := make(chan error)
		go func() {
			_, err := w.Write(carried)
			done <- err
		}()
		_, err = read.Read(make([]byte, 1))
		require.NoError(t, err)
		require.NoError(t, w.SetWriteDeadline(time.Unix(1, 0)))
		require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
		require.ErrorIs(t, w.Close(), os.ErrDeadlineExceeded)
	})
	t.Run("by closing it", func(t *testing.T) {
		t.Parallel()
		read, write := io.Pipe()
		w := zstream.NewWriter(write)
		require.ErrorIs(t, w.SetWriteDeadline(time.Unix(1, 0)), os.ErrNoDeadline)
		done := make(chan error)
		go func() {
			_, err := w.Write(carried)
			done <- err
		}()
		_, err := read.Read(make([]byte, 1))
		require.NoError(t, err)
		require.ErrorIs(t, w.Close(), io.ErrClosedPipe)
		require.ErrorIs(t, <-done, io.ErrClosedPipe)
		_, err = w.Write(carried)
		require.ErrorIs(t, err, os.ErrClosed)
	})
}

// failing fails with its first Write, having taken a byte.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 1, f.err }

func TestTheErrorOfTheOtherWriterComesThrough(t *testing.T) {
	t.Parallel()
	failure := errors.New("zfs recv has ended")
	for want, err := range map[error]error{failure: failure, io.ErrShortWrite: nil} {
		w := zstream.NewWriter(failing{err})
		_, got := w.Write(compressed(t, words(1000), fast))
		require.Equal(t, want, got)
		_, got = w.Write([]byte{1})
		require.Equal(t, want, got, "and it stays")
		require.Equal(t, want, w.Close())
	}
}

// chunk is a chunk of zstd with the header of its length.
func chunk(frame []byte) []byte {
	return append(append(binary.BigEndian.AppendUint32([]byte{1, 1}, uint32(len(frame))), 0, 0, 0, 0), frame...)
}

// A frame that would be larger than a chunk is refused, and takes no more memory than one chunk on the way to that.
func TestFramesThatAreTooLargeAreRefused(t *testing.T) {
	t.Parallel()
	encoder, err := zstd.NewWriter(nil, zstd.WithWindowSize(4<<20))
	require.NoError(t, err)
	large := encoder.EncodeAll(make([]byte, 8<<20), nil)
	var streamed bytes.Buffer // without its size
	stream, err := zstd.NewWriter(&streamed)
	require.NoError(t, err)
	_, err = stream.Write(make([]byte, 8<<20))
	require.NoError(t, err)
	require.NoError(t, stream.Close())
	small := encoder.EncodeAll(make([]byte, 1000), nil)
	for name, frame := range map[string][]byte{
		"one that says so": large, "one that says nothing": streamed.Bytes(), "one after another": append(bytes.Clone(small), large...),
		"nothing": encoder.EncodeAll(nil, nil), "no frame": []byte("abc"),
	} {
		got, err := undone(chunk(frame))
		require.ErrorContains(t, err, "the compressed stream is damaged", name)
		require.Empty(t, got, name)
	}
}

// However bytes are cut into pieces, the result is the same; and what is accepted is what a Reader could have made.
func FuzzWriter(f *testing.F) {
	for _, content := range [][]byte{nil, []byte("abc"), words(3000), noise(300), make([]byte, 70_000)} {
		carried := compressed(f, content, fast)
		f.Add(carried, uint16(1))
		f.Add(carried[:len(carried)/2], uint16(7))
		f.Add(append(bytes.Clone(carried), 0), uint16(100))
	}
	f.Add([]byte{2}, uint16(1))
	f.Add([]byte{1, 1, 255, 255, 255, 255, 0, 0, 0, 0}, uint16(1))
	f.Fuzz(func(t *testing.T, carried []byte, at uint16) {
		got, err := undone(carried)
		cut := min(int(at), len(carried))
		again, errAgain := undone(carried[:cut], carried[cut:])
		require.True(t, bytes.Equal(got, again))
		if err == nil {
			require.NoError(t, errAgain)
			require.Equal(t, uint64(len(got)), binary.BigEndian.Uint64(carried[len(carried)-8:]))
		} else {
			require.EqualError(t, errAgain, err.Error())
		}
	})
}
