//go:build linux

// Members: the server and workers, as the first process sees them.

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// member is a running server or worker.
type member struct {
	name    string
	command *exec.Cmd
	stdin   io.Closer
	// said is closed when the member's output has ended.
	said chan struct{}
	// firstReport is closed with the first report, or when there will be none.
	firstReport chan struct{}

	mu      sync.Mutex
	reports []report
	err     error // of reading them
}

// startMember starts this program in the role. It must be stopped.
func startMember(ctx context.Context, name, role string, spec any) (*member, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("write down the role %s: %w", role, err)
	}
	m := &member{name: name, said: make(chan struct{}), firstReport: make(chan struct{})}
	// A member ends in order when its standard input ends, and by force when ctx does.
	m.command = exec.CommandContext(ctx, program, role, string(text))
	m.command.Stderr = os.Stderr
	if m.stdin, err = m.command.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	output, err := m.command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := m.command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go m.listen(output)
	return m, nil
}

func (m *member) listen(output io.Reader) {
	defer close(m.said)
	first := sync.OnceFunc(func() { close(m.firstReport) })
	defer first()
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		var r report
		err := json.Unmarshal(lines.Bytes(), &r)
		m.mu.Lock()
		m.reports, m.err = append(m.reports, r), errors.Join(m.err, err)
		m.mu.Unlock()
		first()
	}
}

// url waits for the server's report of where it listens.
func (m *member) url(ctx context.Context) (string, error) {
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("wait for %s: %w", m.name, context.Cause(ctx))
	case <-m.firstReport:
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reports) == 0 || m.reports[0].URL == "" {
		return "", fmt.Errorf("%s did not start", m.name)
	}
	return m.reports[0].URL, nil
}

// stop ends the member and gives all that it reported.
func (m *member) stop() ([]report, error) {
	_ = m.stdin.Close() // it fails only where the member is gone, and then Wait says more
	grace := time.AfterFunc(memberGrace, func() { _ = m.command.Process.Kill() })
	defer grace.Stop()
	<-m.said
	err := m.command.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err = errors.Join(err, m.err); err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	return m.reports, nil
}

// usage is what a process has used so far.
type usage struct {
	// processor is user and system time together.
	processor time.Duration
	// peak is the most memory that was resident, in bytes.
	peak int64
}

// usage reads what the member has used.
func (m *member) usage() (usage, error) {
	dir := "/proc/" + strconv.Itoa(m.command.Process.Pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return usage{}, fmt.Errorf("what %s has used: %w", m.name, err)
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return usage{}, fmt.Errorf("what %s has used: %w", m.name, err)
	}
	u := usage{}
	if u.processor, err = processorTime(string(stat)); err == nil {
		u.peak, err = peakMemory(string(status))
	}
	if err != nil {
		return usage{}, fmt.Errorf("what %s has used: %w", m.name, err)
	}
	return u, nil
}

// clockTick is the unit of times in /proc/<pid>/stat: Linux tells programs 100 a second on every machine that Go runs on.
const clockTick = 10 * time.Millisecond

// processorTime reads utime and stime, the 14th and 15th fields of /proc/<pid>/stat (proc(5)).
func processorTime(stat string) (time.Duration, error) {
	// The second field is the program's name in parentheses, which may have blanks and parentheses in it.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const utime, stime = 14 - 3, 15 - 3
	if len(fields) <= stime {
		return 0, fmt.Errorf("/proc/<pid>/stat has only %d fields after the name", len(fields))
	}
	var ticks int64
	for _, field := range []int{utime, stime} {
		n, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/<pid>/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// peakMemory reads VmHWM from /proc/<pid>/status, in bytes.
func peakMemory(status string) (int64, error) {
	for line := range strings.Lines(status) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "VmHWM:" || fields[2] != "kB" {
			continue
		}
		n, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/<pid>/status: VmHWM: %w", err)
		}
		return n << 10, nil
	}
	return 0, errors.New("/proc/<pid>/status has no VmHWM")
}
