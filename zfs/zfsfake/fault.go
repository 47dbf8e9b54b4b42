// The log of commands, faults that happen to chosen ones, and signals of what they are doing.

package zfsfake

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/zfleet/zfleet/zfs"
)

// Matcher chooses commands by their whole argument vector ("zfs", "send", …).
type Matcher func(args []string) bool

// Command matches the command lines whose leading words are these, such as Command("zfs", "recv").
func Command(words ...string) Matcher {
	return func(args []string) bool { return len(args) >= len(words) && slices.Equal(args[:len(words)], words) }
}

// With matches what m matches and has the word somewhere among the arguments, such as the dataset's name.
func (m Matcher) With(word string) Matcher {
	return func(args []string) bool { return m(args) && slices.Contains(args, word) }
}

// Failure is how a command fails.
type Failure struct {
	ExitCode int
	Stderr   string
}

// Fault is something that happens to commands.
type Fault struct {
	// Match chooses the commands; nil is all of them.
	Match Matcher
	// Skip lets so many matching commands pass first.
	Skip int
	// Times is how many commands it happens to; 0 is all.
	Times int

	// Before makes the command fail before it has any effect.
	Before *Failure
	// After lets the command have its effect and then reports it as failed.
	After *Failure
	// Hang stops the command before any effect, until Injection.Release or until its context ends.
	Hang bool
	// HangAfter stops the command once it has read or written so many bytes (of its standard input or output), until
	// Injection.Release or until its context ends. 0 is never.
	HangAfter int64
	// Truncate ends the command's stream after so many bytes: a sender stops writing and fails, a receiver sees the end
	// of its input. 0 is never.
	Truncate int64
	// Corrupt inverts the bytes at these offsets of what the command reads or writes.
	Corrupt []int64
	// BytesPerSecond slows the command's stream down, by the fake's clock. 0 is as fast as it goes.
	BytesPerSecond int64
}

// Injection is a Fault at work.
type Injection struct {
	fake  *Fake
	fault Fault

	mu       sync.Mutex
	seen     int
	hits     int
	removed  bool
	released chan struct{}
	reached  chan struct{}
}

// Inject makes a fault happen from now on. Faults that match the same command add up; of two failures the first wins.
func (f *Fake) Inject(fault Fault) *Injection {
	i := &Injection{fake: f, fault: fault, released: make(chan struct{}), reached: make(chan struct{})}
	f.journal.Lock()
	defer f.journal.Unlock()
	f.faults = append(f.faults, i)
	return i
}

// Release lets everything go that the fault has hung, now and later.
func (i *Injection) Release() {
	i.mu.Lock()
	defer i.mu.Unlock()
	closeOnce(i.released)
}

// Remove ends the fault; commands that it has hung are released.
func (i *Injection) Remove() {
	i.mu.Lock()
	i.removed = true
	i.mu.Unlock()
	i.Release()
}

// Reached is closed once a command hangs at the fault.
func (i *Injection) Reached() <-chan struct{} { return i.reached }

// Hits counts the commands that the fault has happened to.
func (i *Injection) Hits() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.hits
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// applies counts one command in and says whether the fault happens to it.
func (i *Injection) applies(args []string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.removed || i.fault.Match != nil && !i.fault.Match(args) {
		return false
	}
	i.seen++
	if i.seen <= i.fault.Skip || i.fault.Times > 0 && i.hits >= i.fault.Times {
		return false
	}
	i.hits++
	return true
}

// wait hangs until the fault is released.
func (i *Injection) wait(ctx context.Context) error {
	i.mu.Lock()
	closeOnce(i.reached)
	i.mu.Unlock()
	select {
	case <-i.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// plan is all that is to happen to one command.
type plan struct {
	clock  Clock
	faults []*Injection
	before *Failure
	after  *Failure
	start  time.Time
}

func (p *plan) hang(ctx context.Context) error {
	for _, i := range p.faults {
		if i.fault.Hang {
			if err := i.wait(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

var errTruncated = errors.New("zfsfake: the stream ends here by an injected fault")

// admit says how many of size bytes may pass at position count of the stream, after waiting as the faults want it.
func (p *plan) admit(ctx context.Context, count int64, size int) (int, error) {
	limit := int64(size)
	for _, i := range p.faults {
		if at := i.fault.HangAfter; at > 0 {
			if count >= at {
				if err := i.wait(ctx); err != nil {
					return 0, err
				}
			} else {
				limit = min(limit, at-count)
			}
		}
		if at := i.fault.Truncate; at > 0 {
			if count >= at {
				return 0, errTruncated
			}
			limit = min(limit, at-count)
		}
		if rate := i.fault.BytesPerSecond; rate > 0 {
			limit = min(limit, max(1, rate/10))
			due := p.start.Add(time.Duration(float64(count) / float64(rate) * float64(time.Second)))
			if wait := due.Sub(p.clock.Now()); wait > 0 {
				select {
				case <-p.clock.After(wait):
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
		}
	}
	return int(limit), nil
}

// spoil inverts the bytes of data, which lie at position count of the stream, that a fault corrupts.
func (p *plan) spoil(data []byte, count int64) {
	for _, i := range p.faults {
		for _, at := range i.fault.Corrupt {
			if at >= count && at < count+int64(len(data)) {
				data[at-count] ^= 0xff
			}
		}
	}
}

// spoiled is spoil on a copy, where there is anything to spoil.
func (p *plan) spoiled(data []byte, count int64) []byte {
	for _, i := range p.faults {
		for _, at := range i.fault.Corrupt {
			if at >= count && at < count+int64(len(data)) {
				data = slices.Clone(data)
				p.spoil(data, count)
				return data
			}
		}
	}
	return data
}

// Record is one command in the log.
type Record struct {
	args []string

	mu       sync.Mutex
	bytes    int64
	done     bool
	exitCode int
	err      error
	watches  []*Watch
}

// Args is the whole argument vector. Do not change it.
func (r *Record) Args() []string { return r.args }

// Bytes is how many bytes the command has read or written so far, whichever is more.
func (r *Record) Bytes() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// Outcome answers the exit code and the error of Run once the command has ended.
func (r *Record) Outcome() (exitCode int, err error, done bool) { //nolint:revive // reads as the call's results do
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exitCode, r.err, r.done
}

func (r *Record) transferred(count int64) {
	r.mu.Lock()
	r.bytes = max(r.bytes, count)
	watches := r.watches
	r.mu.Unlock()
	for _, w := range watches {
		w.progress(count)
	}
}

// Commands answers the log: every command that was started, in order.
func (f *Fake) Commands() []*Record {
	f.journal.Lock()
	defer f.journal.Unlock()
	return slices.Clone(f.log)
}

// Count answers how many commands in the log match; a nil matcher counts all.
func (f *Fake) Count(match Matcher) int {
	f.journal.Lock()
	defer f.journal.Unlock()
	count := 0
	for _, r := range f.log {
		if match == nil || match(r.args) {
			count++
		}
	}
	return count
}

// ResetCommands empties the log.
func (f *Fake) ResetCommands() {
	f.journal.Lock()
	defer f.journal.Unlock()
	f.log = nil
}

// Watch tells what the first matching command does that starts after it was made.
type Watch struct {
	match   Matcher
	started chan struct{}
	ended   chan struct{}

	mu     sync.Mutex
	record *Record
	count  int64
	marks  map[int64]chan struct{}
}

// Watch waits for a command.
func (f *Fake) Watch(match Matcher) *Watch {
	w := &Watch{match: match, started: make(chan struct{}), ended: make(chan struct{}), marks: map[int64]chan struct{}{}}
	f.journal.Lock()
	defer f.journal.Unlock()
	f.watches = append(f.watches, w)
	return w
}

// Started is closed when the command starts.
func (w *Watch) Started() <-chan struct{} { return w.started }

// Ended is closed when the command has ended.
func (w *Watch) Ended() <-chan struct{} { return w.ended }

// Transferred answers a channel that is closed when the command has read or written at least n bytes.
func (w *Watch) Transferred(n int64) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	mark, ok := w.marks[n]
	if !ok {
		mark = make(chan struct{})
		w.marks[n] = mark
		if w.count >= n {
			close(mark)
		}
	}
	return mark
}

// Record answers the command in the log, nil before it started.
func (w *Watch) Record() *Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record
}

func (w *Watch) progress(count int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count = max(w.count, count)
	for n, mark := range w.marks {
		if w.count >= n {
			closeOnce(mark)
		}
	}
}

// begin logs a command and gathers what is to happen to it.
func (f *Fake) begin(args []string) (*Record, *plan) {
	f.journal.Lock()
	defer f.journal.Unlock()
	record := &Record{args: slices.Clone(args)}
	f.log = append(f.log, record)
	plan := &plan{clock: f.clock, start: f.clock.Now()}
	for _, i := range f.faults {
		if !i.applies(args) {
			continue
		}
		plan.faults = append(plan.faults, i)
		if plan.before == nil {
			plan.before = i.fault.Before
		}
		if plan.after == nil {
			plan.after = i.fault.After
		}
	}
	f.watches = slices.DeleteFunc(f.watches, func(w *Watch) bool {
		if w.match != nil && !w.match(args) {
			return false
		}
		w.mu.Lock()
		w.record = record
		w.mu.Unlock()
		record.watches = append(record.watches, w)
		close(w.started)
		return true
	})
	return record, plan
}

// finish logs how a command ended.
func (f *Fake) finish(record *Record, result zfs.Result, err error) {
	record.mu.Lock()
	record.done, record.exitCode, record.err = true, result.ExitCode, err
	watches := record.watches
	record.mu.Unlock()
	for _, w := range watches {
		close(w.ended)
	}
}
