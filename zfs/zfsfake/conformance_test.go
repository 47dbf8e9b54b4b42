// The conformance suite: transcripts in testdata/conformance are run against the fake and against real pools, and both
// must answer what the transcripts say.
//
// A line that begins with "> " is a command. What follows it is what it answered: "| " standard output, "! " standard
// error, "= " the exit status unless it is 0. POOL and POOL2 stand for the pools' names. Guids and txgs are numbered in
// order of appearance, times, sizes and tokens are replaced by a word, and usage messages are cut off. Commands other
// than zfs and zpool prepare: see (*session).prepare.
//
// To add a case, add its command and run testdata/record, which writes what real ZFS answers.

package zfsfake_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

var update = flag.Bool("update", false, "TestConformanceReal: write the transcripts as real ZFS answers them "+
	"into the directory $ZFLEET_CONFORMANCE_RESULTS")

func TestConformanceFake(t *testing.T) {
	t.Parallel()
	eachTranscript(t, func(t *testing.T, file string) {
		t.Helper()
		fake := zfsfake.New()
		fake.CreatePool("fakepool1")
		fake.CreatePool("fakepool2")
		run(t, fake, "zfs set atime=off fakepool1") // as zfstest.NewPool makes its pools
		run(t, fake, "zfs set atime=off fakepool2")
		s := newSession(t, fake, "fakepool1", "fakepool2")
		s.contents = fakeContents{fake}
		want, have := s.run(file)
		compare(t, want, have, "the fake answers")
	})
}

func TestConformanceReal(t *testing.T) {
	zfstest.RequireReal(t)
	eachTranscript(t, func(t *testing.T, file string) {
		t.Helper()
		first, second := zfstest.NewPool(t), zfstest.NewPool(t)
		s := newSession(t, zfs.NewExecRunner(), first, second)
		s.contents = realContents{t}
		want, have := s.run(file)
		if *update {
			directory := os.Getenv("ZFLEET_CONFORMANCE_RESULTS")
			require.NotEmpty(t, directory, "ZFLEET_CONFORMANCE_RESULTS must name a directory")
			require.NoError(t, os.WriteFile(filepath.Join(directory, filepath.Base(file)), []byte(have), 0o600))
			return
		}
		compare(t, want, have, "real ZFS answers (record the transcript anew with -update)")
	})
}

// compare says for which commands two transcripts differ.
func compare(t *testing.T, want, have, who string) {
	t.Helper()
	wanted, had := strings.Split(want, "\n> "), strings.Split(have, "\n> ")
	require.Len(t, had, len(wanted))
	for i := range wanted {
		if wanted[i] != had[i] {
			t.Errorf("command %d: the transcript says\n> %s\n%s\n> %s", i, wanted[i], who, had[i])
		}
	}
}

func eachTranscript(t *testing.T, test func(t *testing.T, file string)) {
	t.Helper()
	files, err := filepath.Glob("testdata/conformance/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			test(t, file)
		})
	}
}

// contents changes what datasets contain, in the fake's way or through a mounted filesystem.
type contents interface {
	write(dataset, path string, seed, length uint64)
	remove(dataset, path string)
}

type fakeContents struct{ fake *zfsfake.Fake }

func (c fakeContents) write(dataset, path string, seed, length uint64) {
	if err := c.fake.Generate(dataset, path, seed, length); err != nil {
		panic(err)
	}
}

func (c fakeContents) remove(dataset, path string) {
	if err := c.fake.Remove(dataset, path); err != nil {
		panic(err)
	}
}

type realContents struct{ t *testing.T }

func (c realContents) write(dataset, path string, seed, length uint64) {
	data := make([]byte, length)
	random := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = random.Read(data)
	target := filepath.Join("/dev/zvol", dataset)
	if path != "" {
		target = filepath.Join(zfstest.Mountpoint(c.t, dataset), path)
	}
	require.NoError(c.t, os.WriteFile(target, data, 0o600))
	c.sync(dataset)
}

func (c realContents) remove(dataset, path string) {
	require.NoError(c.t, os.Remove(filepath.Join(zfstest.Mountpoint(c.t, dataset), path)))
	c.sync(dataset)
}

func (c realContents) sync(dataset string) {
	pool, _, _ := strings.Cut(dataset, "/")
	output, err := exec.CommandContext(c.t.Context(), "zpool", "sync", pool).CombinedOutput()
	require.NoError(c.t, err, "zpool sync %s: %s", pool, output)
}

// session runs one transcript.
type session struct {
	t         *testing.T
	runner    zfs.Runner
	contents  contents
	pools     []string // the real names of POOL and POOL2
	directory string   // where streams are kept
	variables map[string]string
	guids     map[string]int
	txgs      map[string]int
	finish    func() error // of the receive that start has started
}

func newSession(t *testing.T, runner zfs.Runner, pools ...string) *session {
	t.Helper()
	return &session{
		t: t, runner: runner, pools: pools, directory: t.TempDir(), variables: map[string]string{},
		guids: map[string]int{}, txgs: map[string]int{},
	}
}

// run runs the transcript's commands and answers the transcript and the one that they make now.
func (s *session) run(file string) (want, have string) {
	text, err := os.ReadFile(file)
	require.NoError(s.t, err)
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if len(line) >= 2 && slices.Contains([]string{"| ", "! ", "= "}, line[:2]) || slices.Contains([]string{"|", "!"}, line) {
			continue
		}
		fmt.Fprintln(&out, line)
		if command, ok := strings.CutPrefix(line, "> "); ok {
			s.command(&out, command)
		}
	}
	return string(text), out.String()
}

var quoted = regexp.MustCompile(`'[^']*'|[^ ]+`)

func (s *session) command(out *strings.Builder, line string) {
	var words []string
	stdin, stdout := "", ""
	next := &words
	redirected := []string{}
	for _, word := range quoted.FindAllString(line, -1) {
		switch word {
		case "<", ">":
			next = &redirected
			redirected = append(redirected, word)
			continue
		}
		word = strings.Trim(word, "'")
		for i := len(s.pools) - 1; i >= 0; i-- {
			word = strings.ReplaceAll(word, poolWord(i), s.pools[i])
		}
		names := slices.SortedFunc(maps.Keys(s.variables), func(a, b string) int { return len(b) - len(a) })
		for _, name := range names { // the longest first: $TOKEN begins $TOKEN2
			word = strings.ReplaceAll(word, "$"+name, s.variables[name])
		}
		*next = append(*next, word)
		if len(redirected) > 0 && next == &redirected {
			if redirected[0] == "<" {
				stdin = word
			} else {
				stdout = word
			}
			redirected, next = nil, &words
		}
	}
	if words[0] != "zfs" && words[0] != "zpool" {
		s.prepare(words)
		return
	}
	output, result := s.execute(words, stdin, stdout)
	s.print(out, words, output, result)
}

func poolWord(i int) string { return []string{"POOL", "POOL2"}[i] }

func (s *session) execute(words []string, stdin, stdout string) (string, zfs.Result) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	command := zfs.Command{Args: words}
	var output bytes.Buffer
	command.Stdout = &output
	if stdin != "" {
		file, err := os.Open(s.stream(stdin))
		require.NoError(s.t, err)
		command.Stdin = file
	}
	if stdout != "" {
		file, err := os.Create(s.stream(stdout))
		require.NoError(s.t, err)
		command.Stdout = file
	}
	result, err := s.runner.Run(ctx, command)
	require.NoError(s.t, err, "%v", words)
	return output.String(), result
}

func (s *session) stream(name string) string { return filepath.Join(s.directory, name) }

// prepare runs a command of the transcripts' own:
//
//	write DATASET PATH SEED LENGTH   fills a file, or a volume with path -
//	remove DATASET PATH              removes a file
//	cut STREAM NEW PERCENT           keeps the beginning of a stream
//	flip STREAM NEW PERCENT          changes a byte at that place
//	let NAME COMMAND…                keeps a command's output as $NAME
//	key NAME                         makes a file with a raw key; $NAME is its path
//	start STREAM PERCENT COMMAND…    starts a zfs recv -s, feeds it the beginning of a stream and waits for its token
//	finish                           feeds it the rest and waits for its end, which must be a good one
func (s *session) prepare(words []string) {
	switch words[0] {
	case "write":
		seed, err := strconv.ParseUint(words[3], 10, 64)
		require.NoError(s.t, err)
		length, err := strconv.ParseUint(words[4], 10, 64)
		require.NoError(s.t, err)
		s.contents.write(words[1], strings.TrimPrefix(words[2], "-"), seed, length)
	case "remove":
		s.contents.remove(words[1], words[2])
	case "cut", "flip":
		data, err := os.ReadFile(s.stream(words[1]))
		require.NoError(s.t, err)
		percent, err := strconv.Atoi(strings.TrimSuffix(words[3], "%"))
		require.NoError(s.t, err)
		at := len(data) * percent / 100
		if words[0] == "cut" {
			data = data[:at]
		} else {
			data[at] ^= 0xff
		}
		require.NoError(s.t, os.WriteFile(s.stream(words[2]), data, 0o600))
	case "let":
		output, result := s.execute(words[2:], "", "")
		require.Zero(s.t, result.ExitCode, "%v: %s", words, result.Stderr)
		s.variables[words[1]] = strings.TrimSpace(output)
	case "key":
		file := s.stream(words[1] + ".key")
		require.NoError(s.t, os.WriteFile(file, bytes.Repeat([]byte{'k'}, 32), 0o600))
		s.variables[words[1]] = file
	case "program":
		require.NoError(s.t, os.WriteFile(s.stream(words[1]), []byte(zfs.BookmarkProgram), 0o600))
	case "start":
		s.start(words[1], words[2], words[3:])
	case "finish":
		require.NoError(s.t, s.finish())
	default:
		s.t.Fatalf("unknown command %v", words)
	}
}

// start starts a receive and leaves it waiting for the rest of its stream.
func (s *session) start(stream, percent string, command []string) {
	data, err := os.ReadFile(s.stream(stream))
	require.NoError(s.t, err)
	part, err := strconv.Atoi(strings.TrimSuffix(percent, "%"))
	require.NoError(s.t, err)
	r, w, err := os.Pipe()
	require.NoError(s.t, err)
	var receiving errgroup.Group
	receiving.Go(func() error {
		result, err := s.runner.Run(s.t.Context(), zfs.Command{Args: command, Stdin: r})
		if err == nil && result.ExitCode != 0 {
			err = fmt.Errorf("%v: exit status %d: %s", command, result.ExitCode, result.Stderr)
		}
		return err
	})
	s.finish = func() error {
		_, err := w.Write(data[len(data)*part/100:])
		return errors.Join(err, w.Close(), receiving.Wait())
	}
	_, err = w.Write(data[:len(data)*part/100])
	require.NoError(s.t, err)
	require.Eventually(s.t, func() bool {
		token, _ := s.execute([]string{"zfs", "get", "-H", "-o", "value", "receive_resume_token", command[len(command)-1]}, "", "")
		return strings.HasPrefix(token, "1-")
	}, time.Minute, 10*time.Millisecond)
}

// print writes what a command answered, with what differs between runs replaced.
func (s *session) print(out *strings.Builder, words []string, output string, result zfs.Result) {
	var lines []string
	for line := range strings.Lines(output) {
		lines = append(lines, s.replace(words, strings.TrimSuffix(line, "\n"), true))
	}
	if words[1] == "holds" {
		sort.Strings(lines) // by tag: real ones come in the order of a hash
	}
	for _, line := range lines {
		fmt.Fprintln(out, strings.TrimRight("| "+line, " "))
	}
	stderr := string(result.Stderr)
	usage := usageText.FindStringIndex(stderr)
	if usage != nil {
		stderr = stderr[:usage[0]]
	}
	for line := range strings.Lines(stderr) {
		if words[1] == "send" && sendReport.MatchString(line) {
			continue // whether a thread of zfs send comes to print them depends on how fast the machine is
		}
		fmt.Fprintln(out, strings.TrimRight("! "+s.replace(words, strings.TrimSuffix(line, "\n"), false), " "))
	}
	if usage != nil {
		fmt.Fprintln(out, "! usage:")
	}
	if result.ExitCode != 0 {
		fmt.Fprintf(out, "= %d\n", result.ExitCode)
	}
}

var (
	usageText  = regexp.MustCompile(`usage:( zfs command args \.\.\.)?\n`)
	tokenText  = regexp.MustCompile(`\b1-[0-9a-f]+-[0-9a-f]+-[0-9a-f]{20,}`)
	hexGUID    = regexp.MustCompile(`0x[0-9a-f]{9,16}\b`)
	hexNumber  = regexp.MustCompile(`(object|offset|bytes) = 0x[0-9a-f]+`)
	niceSize   = regexp.MustCompile(`size is [0-9.]+[BKMGTPE]?`)
	anyExample = regexp.MustCompile(`\(eg\. .*\)`) // the first by the order of a hash
	received   = regexp.MustCompile(`^received .* stream in .* seconds \(.*\)$`)
	sendReport = regexp.MustCompile(`^([0-9]{2}:[0-9]{2}:[0-9]{2}[\t ]|TIME  +SENT  +SNAPSHOT )`)
	createdTXG = regexp.MustCompile(`^[0-9]+$`)
)

// replace replaces what differs between runs in a line.
func (s *session) replace(words []string, line string, output bool) string {
	for i := len(s.pools) - 1; i >= 0; i-- {
		line = strings.ReplaceAll(line, s.pools[i], poolWord(i))
	}
	line = tokenText.ReplaceAllString(line, "<token>")
	line = hexNumber.ReplaceAllString(line, "$1 = <number>")
	line = anyExample.ReplaceAllString(line, "(eg. <one>)")
	line = niceSize.ReplaceAllString(line, "size is <size>")
	line = received.ReplaceAllString(line, "received <size> stream")
	line = hexGUID.ReplaceAllStringFunc(line, func(text string) string {
		value, err := strconv.ParseUint(text[2:], 16, 64)
		require.NoError(s.t, err)
		return s.guid(strconv.FormatUint(value, 10))
	})
	if !output && words[1] != "send" {
		return line
	}
	fields := strings.Split(line, "\t")
	for i, column := range s.columns(words, fields) {
		if i < len(fields) {
			fields[i] = s.value(column, fields[i])
		}
	}
	return strings.Join(fields, "\t")
}

// columns names the properties that the fields of a line show.
func (s *session) columns(words, fields []string) []string {
	asked := ""
	for i, word := range words {
		if word == "-o" && i+1 < len(words) {
			asked = words[i+1]
		}
	}
	switch words[0] + " " + words[1] {
	case "zfs list", "zpool list":
		return strings.Split(asked, ",")
	case "zfs holds":
		return []string{"name", "tag", "creation"}
	case "zfs send":
		switch fields[0] {
		case "full":
			return []string{"", "", "used"}
		case "incremental":
			return []string{"", "", "", "used"}
		case "size":
			return []string{"", "used"}
		}
	case "zfs get", "zpool get":
		columns := strings.Split(asked, ",")
		property := ""
		if i := slices.Index(columns, "property"); i >= 0 && i < len(fields) {
			property = fields[i]
		} else {
			for _, word := range words[2:] { // the one property asked for
				if word == "guid" || word == "createtxg" || word == "creation" {
					property = word
				}
			}
		}
		for i, column := range columns {
			if column == "value" || column == "received" {
				columns[i] = property
			}
		}
		return columns
	}
	return nil
}

func (s *session) value(column, value string) string {
	if value == "-" {
		return value
	}
	switch column {
	case "guid":
		return s.guid(value)
	case "createtxg":
		if !createdTXG.MatchString(value) {
			return value
		}
		if s.txgs[value] == 0 {
			s.txgs[value] = len(s.txgs) + 1
		}
		return fmt.Sprintf("<txg %d>", s.txgs[value])
	case "creation", "snapshots_changed":
		return "<time>"
	case "used", "referenced", "available", "written", "size", "free", "allocated", "usedbysnapshots", "logicalreferenced",
		"logicalused", "refreservation", "usedbydataset", "usedbychildren":
		return "<size>"
	}
	return value
}

func (s *session) guid(value string) string {
	if s.guids[value] == 0 {
		s.guids[value] = len(s.guids) + 1
	}
	return fmt.Sprintf("<guid %d>", s.guids[value])
}
