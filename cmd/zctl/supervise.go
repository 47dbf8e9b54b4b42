// Supervision: telling systemd what a daemon does, and that it is well (sd_notify(3), systemd.service(5)). Where no supervisor
// listens, nothing is told.

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

const (
	// readyWithin is when systemd is told in any case that a daemon is up: a machine has to come up while NATS is away. systemd
	// gives up a start after 90 seconds.
	readyWithin = 45 * time.Second
	// stuckAfter is how long a part of a daemon may go without a sign of life. All of them give one every minute, or more often.
	stuckAfter = 3 * time.Minute
	// extendBy is by how much a stopping daemon puts off the end that systemd would make of it, and extendEvery how often.
	extendBy, extendEvery = 30 * time.Second, 10 * time.Second
	statusEvery           = time.Second
)

// part is something that a daemon does for as long as it lives.
type part struct {
	// doing says what it does, in a few words; empty says nothing.
	doing func() string
	// lastTurn is its last sign of life; zero while it needs to give none.
	lastTurn func() time.Time
}

// supervisor tells systemd about one daemon. Its methods may be called from any goroutine.
type supervisor struct {
	notify   func(state string) error
	watchdog time.Duration // 0: nobody watches
	logger   *slog.Logger
	release  func()

	mu       sync.Mutex
	starting string // what is waited for before the parts run
	stopping string
	stopped  time.Time // when it will have stopped at the latest
	parts    []part
	isReady  bool
}

// supervise begins to tell systemd about this process; end has to be called.
func supervise(ctx context.Context, logger *slog.Logger) *supervisor {
	watchdog, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		logger.WarnContext(ctx, "systemd's watchdog cannot be served", slog.Any("error", err))
	}
	return startSupervisor(ctx, watchdog, logger, func(state string) error {
		_, err := sd.SdNotify(false, state)
		return err
	})
}

func startSupervisor(ctx context.Context, watchdog time.Duration, logger *slog.Logger, notify func(state string) error) *supervisor {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &supervisor{notify: notify, watchdog: watchdog, logger: logger}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.run(ctx)
	}()
	s.release = func() {
		cancel()
		<-done
	}
	return s
}

// end ends the telling.
func (s *supervisor) end() { s.release() }

// awaits says what the daemon waits for before its parts can run.
func (s *supervisor) awaits(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting = what
}

// add adds a part.
func (s *supervisor) add(p part) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts = append(s.parts, p)
}

// ready says that the daemon does what it is for.
func (s *supervisor) ready() {
	s.mu.Lock()
	wasReady := s.isReady
	s.isReady, s.starting = true, ""
	s.mu.Unlock()
	if !wasReady {
		s.tell(sd.SdNotifyReady)
	}
}

// stops says that the daemon is on its way out, and how long that may take.
func (s *supervisor) stops(how string, within time.Duration) {
	s.mu.Lock()
	s.stopping, s.stopped = how, time.Now().Add(within)
	s.mu.Unlock()
	s.tell(sd.SdNotifyStopping, extension())
}

func extension() string { return fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extendBy.Microseconds()) }

func (s *supervisor) run(ctx context.Context) {
	looking, extending := time.NewTicker(statusEvery), time.NewTicker(extendEvery)
	defer looking.Stop()
	defer extending.Stop()
	late := time.NewTimer(readyWithin)
	defer late.Stop()
	var watching <-chan time.Time
	if s.watchdog > 0 {
		ticker := time.NewTicker(s.watchdog / 2)
		defer ticker.Stop()
		watching = ticker.C
	}
	told, reported := "", false
	look := func() {
		if status := s.status(); status != told {
			told = status
			s.tell("STATUS=" + status)
		}
	}
	look()
	for {
		select {
		case <-ctx.Done():
			look()
			return
		case <-looking.C:
			look()
		case <-late.C:
			s.mu.Lock()
			wasReady := s.isReady
			s.isReady = true
			s.mu.Unlock()
			if !wasReady {
				s.tell(sd.SdNotifyReady)
			}
		case <-extending.C:
			if s.isStopping() {
				s.tell(extension())
			}
		case <-watching:
			stuck := s.stuckFor()
			if stuck <= stuckAfter {
				reported = false
				s.tell(sd.SdNotifyWatchdog)
			} else if !reported {
				reported = true
				s.logger.ErrorContext(ctx, "this process has given no sign of life for too long; systemd restarts it",
					slog.Duration("since", stuck))
			}
		}
	}
}

func (s *supervisor) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping != "" && time.Now().Before(s.stopped)
}

// stuckFor is how long the part that is furthest behind has given no sign of life.
func (s *supervisor) stuckFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	var longest time.Duration
	for _, p := range s.parts {
		if last := p.lastTurn(); !last.IsZero() {
			longest = max(longest, time.Since(last))
		}
	}
	return longest
}

// status is what the daemon does, in one line.
func (s *supervisor) status() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.starting != "" && s.stopping == "" {
		return s.starting
	}
	var texts []string
	for _, p := range s.parts {
		if text := p.doing(); text != "" {
			texts = append(texts, text)
		}
	}
	text := strings.Join(texts, "; ")
	if s.stopping != "" {
		text = strings.TrimSuffix(s.stopping+": "+text, ": ")
	}
	return text
}

func (s *supervisor) tell(states ...string) {
	if err := s.notify(strings.Join(states, "\n")); err != nil {
		s.logger.Debug("systemd was not told", slog.Any("error", err))
	}
}
