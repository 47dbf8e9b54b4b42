// Stopping: what the signals mean to a daemon. The first SIGTERM or SIGINT asks it to stop: it takes nothing new, and what it does
// may end within a grace period. The second one stops it at once, in order; the third kills it.

package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

var (
	errGraceOver    = errors.New("the grace period is over")
	errSecondSignal = errors.New("a second signal has come")
)

// stopSignals gives the signals that ask a process to stop, beside whatever else they do to it, until release is called.
func stopSignals() (signals <-chan os.Signal, release func()) {
	received := make(chan os.Signal, 2)
	signal.Notify(received, os.Interrupt, syscall.SIGTERM)
	return received, func() { signal.Stop(received) }
}

// untilStopped gives the context of a daemon's work, and what releases it, which the caller has to call. The context outlasts asked,
// which ends with the first signal, by the grace period, and ends with the second signal in any case.
func (p *program) untilStopped(asked context.Context, grace time.Duration) (context.Context, func()) {
	working, stop := context.WithCancelCause(context.WithoutCancel(asked))
	signals, unlisten := p.signals()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer unlisten()
		var over <-chan time.Time
		begun, count := asked.Done(), 0
		for {
			select {
			case <-begun:
				begun = nil
				if grace <= 0 {
					stop(errGraceOver)
				}
				over = time.After(grace)
			case <-over:
				stop(errGraceOver)
			case <-signals:
				if count++; count == 2 {
					stop(errSecondSignal)
				}
			case <-working.Done():
				return
			}
		}
	}()
	return working, func() {
		stop(nil)
		<-done
	}
}
