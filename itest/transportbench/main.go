//go:build linux

// The command line, and the rounds.

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zfleet/zfleet/protocol"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "transportbench:", err)
		os.Exit(1)
	}
}

// run is the program, in whichever role. The table goes to out, and what goes on to log.
func run(ctx context.Context, args []string, out, log io.Writer) error {
	if len(args) == 2 && isRole(args[0]) {
		return runRole(ctx, args[0], args[1])
	}
	b, choice, rounds, err := parse(args, log)
	if err != nil {
		return err
	}
	var results []result
	for _, w := range ways() {
		if choice.MatchString(w.key) {
			results = append(results, result{way: w})
		}
	}
	if len(results) == 0 {
		return fmt.Errorf("no way matches %s; there are %s", choice, keys())
	}
	err = b.rounds(ctx, results, rounds, log)
	_, writeError := fmt.Fprintf(out, "%s\n\n%s", conditions(b, rounds), table(results))
	return errors.Join(err, writeError)
}

func isRole(name string) bool {
	switch name {
	case roleEmit, roleConsume, roleServer, roleWorker:
		return true
	}
	return false
}

func parse(args []string, log io.Writer) (b benchmark, choice *regexp.Regexp, rounds int, err error) {
	flags := flag.NewFlagSet("transportbench", flag.ContinueOnError)
	flags.SetOutput(log)
	size := protocol.ByteSize(4 << 30)
	flags.TextVar(&size, "size", size, "the stream's `length`, such as 4GiB")
	flags.IntVar(&rounds, "rounds", 3, "how often all ways are measured; the medians are shown")
	pattern := flags.String("ways", ".", "measure only the ways that match the regular `expression`: "+keys())
	flags.StringVar(&b.dir, "dir", "", "a `directory` on the disk that NATS is to use (default the one for temporary files)")
	flags.StringVar(&b.profiles, "profiles", "", "write each process's profiles of CPU and allocations into the `directory`")
	if err := flags.Parse(args); err != nil {
		return b, nil, 0, err
	}
	if flags.NArg() > 0 {
		return b, nil, 0, fmt.Errorf("unexpected: %s", strings.Join(flags.Args(), " "))
	}
	const most = 1 << 40
	if size < payloadLength || size > most || rounds < 1 {
		return b, nil, 0, fmt.Errorf("use a size from %s to %s, and at least one round", protocol.ByteSize(payloadLength), protocol.ByteSize(most))
	}
	b.size = int64(size)
	if choice, err = regexp.Compile(*pattern); err != nil {
		return b, nil, 0, fmt.Errorf("-ways: %w", err)
	}
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o750); err != nil {
			return b, nil, 0, fmt.Errorf("make the directory for profiles: %w", err)
		}
	}
	return b, choice, rounds, nil
}

// keys are those of all ways.
func keys() string {
	var all []string
	for _, w := range ways() {
		all = append(all, w.key)
	}
	return strings.Join(all, " ")
}

// rounds measures all ways in turn, so that what else the machine does meets all of them. A way that fails does not keep the
// others from being measured.
func (b benchmark) rounds(ctx context.Context, results []result, rounds int, log io.Writer) error {
	var failures []error
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(log, format, args...) } // nobody waits for it
	for round := range rounds {
		for i := range results {
			r := &results[i]
			m, err := b.measure(ctx, r.way)
			if ctx.Err() != nil {
				return errors.Join(append(failures, context.Cause(ctx))...)
			}
			if err != nil {
				failures = append(failures, fmt.Errorf("%s, round %d: %w", r.way.key, round+1, err))
				say("%s: %v\n", r.way.key, err)
				continue
			}
			r.measurements = append(r.measurements, m)
			say("%s: %.0f MB/s\n", r.way.key, m.rate/1e6)
		}
	}
	return errors.Join(failures...)
}

// conditions say what the numbers are of.
func conditions(b benchmark, rounds int) string {
	kernel := "unknown"
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("Streams of %s, medians of %d rounds; %d CPUs, Linux %s, %s.", protocol.ByteSize(b.size), rounds,
		runtime.NumCPU(), kernel, runtime.Version())
}
