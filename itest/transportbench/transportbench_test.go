//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// TestMain lets the program that the tests are start itself in its roles.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && isRole(os.Args[1]) {
		if err := runRole(context.Background(), os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m, natstest.ClientLeak())
}

// TestWaysWork measures every way with a small stream, so that the benchmark is there when somebody wants it.
func TestWaysWork(t *testing.T) {
	t.Parallel()
	for _, w := range ways() {
		t.Run(w.key, func(t *testing.T) {
			t.Parallel()
			out, log := &bytes.Buffer{}, &bytes.Buffer{}
			err := run(t.Context(), []string{"-size", "12MiB", "-rounds", "1", "-dir", t.TempDir(), "-ways", "^" + w.key + "$"}, out, log)
			require.NoError(t, err)
			require.Contains(t, out.String(), "| "+w.name+" | ")
		})
	}
}

func TestArgumentsAreChecked(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"-size", "1"}, {"-size", "much"}, {"-rounds", "0"}, {"-ways", "("}, {"-ways", "carrier pigeon"}, {"more"}, {"emit", "{"},
	} {
		require.Error(t, run(t.Context(), args, &bytes.Buffer{}, &bytes.Buffer{}), "%q", args)
	}
}

func TestStreamsArriveAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, c := range []content{noise, halves} {
		stream := &bytes.Buffer{}
		require.NoError(t, emit(stream, []byte("own"), c, contentLength+1))
		length := int64(stream.Len())
		own, arrived, err := consume(stream, c)
		require.NoError(t, err)
		require.Equal(t, "own", string(own))
		require.Equal(t, length, arrived.Bytes)
		require.GreaterOrEqual(t, arrived.Ended, arrived.Began)
	}
}

func TestWhatIsNotTheStreamIsNoticed(t *testing.T) {
	t.Parallel()
	stream := &bytes.Buffer{}
	require.NoError(t, emit(stream, []byte("own"), noise, 4*payloadLength))
	const record = headerLength + payloadLength
	first := stream.Len() - 4*record
	for name, damage := range map[string]func([]byte) []byte{
		"empty":               func([]byte) []byte { return nil },
		"cut in the preamble": func(s []byte) []byte { return s[:first-4] },
		"cut in a record":     func(s []byte) []byte { return s[:len(s)-1] },
		"cut between records": func(s []byte) []byte { return s[:len(s)-record] },
		"a byte too many":     func(s []byte) []byte { return append(s, 0) },
		"a record twice":      func(s []byte) []byte { return append(s[:first+2*record], s[first+record:]...) },
		"a changed byte":      func(s []byte) []byte { s[first+record+headerLength+17] ^= 1; return s },
		"a changed number":    func(s []byte) []byte { s[first+record] ^= 1; return s },
		"two records in swapped order": func(s []byte) []byte {
			a, b := s[first:first+record], s[first+record:first+2*record]
			kept := bytes.Clone(a)
			copy(a, b)
			copy(b, kept)
			return s
		},
	} {
		_, _, err := consume(bytes.NewReader(damage(bytes.Clone(stream.Bytes()))), noise)
		require.Error(t, err, name)
	}
}

func TestUsageIsReadFromProc(t *testing.T) {
	t.Parallel()
	fields := make([]string, 50)
	for i := range fields {
		fields[i] = fmt.Sprint(i + 3) // the third field is the first after the name
	}
	processor, err := processorTime("12 (a (strange) name) " + strings.Join(fields, " "))
	require.NoError(t, err)
	require.Equal(t, 290*time.Millisecond, processor, "14 and 15 ticks")
	_, err = processorTime("12 (name) S 1")
	require.Error(t, err)
	_, err = processorTime("12 (name) " + strings.Repeat("x ", 20))
	require.Error(t, err)

	peak, err := peakMemory("Name:\tx\nVmPeak:\t   5 kB\nVmHWM:\t    1234 kB\nVmRSS:\t 3 kB\n")
	require.NoError(t, err)
	require.Equal(t, int64(1234<<10), peak)
	_, err = peakMemory("Name:\tx\n")
	require.Error(t, err)
	_, err = peakMemory("VmHWM:\tmuch kB\n")
	require.Error(t, err)
}

func TestTableShowsMediansAndPeaks(t *testing.T) {
	t.Parallel()
	all := ways()
	results := []result{
		{way: all[0], measurements: []measurement{{rate: 4e9}, {rate: 1e9}, {rate: 2e9}}},
		{way: all[1]},
		{way: all[3], measurements: []measurement{
			{rate: 1e9, sender: 1, receivers: 2, server: 0.25, senderPeak: 3 << 20, receiverPeak: 40 << 20, serverPeak: 50 << 20},
			{rate: 5e8, sender: 2, receivers: 4, server: 0.75, senderPeak: 9 << 20, receiverPeak: 30 << 20, serverPeak: 60 << 20},
		}},
	}
	lines := strings.Split(strings.TrimSpace(table(results)), "\n")
	require.Len(t, lines, 4, "a heading of two lines and two ways that were measured")
	require.Equal(t, "| a bare pipe | 2000 | 1.00 |  |  |  |  |  |  |  |", lines[2])
	require.Equal(t, "| tcp, TLS | 750 | 0.38 | 1.50 | 3.00 | 0.50 | 5.00 | 9 | 40 | 60 |", lines[3])
}

func TestAnotherWayIsNoticed(t *testing.T) {
	t.Parallel()
	w := way{transport: protocol.TransportTCP, tls: true, compression: protocol.CompressionNone, receivers: 1, storage: jetstream.FileStorage}
	good := protocol.Path{Transport: protocol.TransportTCP, TLS: true, Receivers: 1}
	require.NoError(t, w.checkPath(good))
	for name, change := range map[string]func(*protocol.Path){
		"the object store": func(p *protocol.Path) { p.Transport = protocol.TransportObject },
		"no TLS":           func(p *protocol.Path) { p.TLS = false },
		"the other way":    func(p *protocol.Path) { p.Reverse = true },
		"compressed":       func(p *protocol.Path) { p.Compression = protocol.CompressionZstd },
		"alone of several": func(p *protocol.Path) { p.Receivers = 3 },
	} {
		other := good
		change(&other)
		require.Error(t, w.checkPath(other), name)
	}
}
