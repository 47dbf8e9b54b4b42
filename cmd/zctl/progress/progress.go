// Package progress shows an operator how a plan goes on: as a display that redraws itself on a terminal, as plain lines
// elsewhere, or as JSON lines for programs. What is shown is computed by pure functions of fleet.Snapshot; only [Live]
// knows a terminal.
package progress

import (
	"fmt"
	"iter"
	"math"
	"strings"
	"time"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// Display shows snapshots. Show is called for each snapshot of one plan in turn, and Close once at the end.
type Display interface {
	Show(shot fleet.Snapshot) error
	Close() error
}

// Follow shows every snapshot, and gives the last one. The error is that of watching or of showing. It closes the display.
func Follow(snapshots iter.Seq2[fleet.Snapshot, error], display Display) (last fleet.Snapshot, err error) {
	defer func() {
		if closing := display.Close(); err == nil {
			err = closing
		}
	}()
	for shot, err := range snapshots {
		last = shot
		if err != nil {
			return last, err
		}
		if err := display.Show(shot); err != nil {
			return last, err
		}
	}
	return last, nil
}

// route names a task for people.
func route(task fleet.TaskProgress) string {
	return task.Filesystem + " → " + string(task.TargetHost)
}

// Bytes is a number of bytes for people.
func Bytes(n uint64) string { return protocol.ByteSize(n).String() }

// rateText is a rate for people; empty where nothing moves.
func rateText(rate float64) string {
	if rate < 1 || rate >= math.MaxUint64 {
		return ""
	}
	return Bytes(uint64(rate)) + "/s"
}

// Duration is d without more digits than people read.
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	text := d.Round(time.Second).String()
	if d >= time.Hour {
		text = d.Round(time.Minute).String()
		text = strings.TrimSuffix(text, "0s")
	}
	return text
}

// extent is how much of a task is there: of all of it, or of its step where the sizes of later ones are not known.
func extent(task fleet.TaskProgress) (sent, expected uint64) {
	if task.Expected == 0 && task.StepExpected > 0 {
		return task.StepSent, task.StepExpected
	}
	return task.Sent, task.Expected
}

// amount is how much is there: "1.2 MiB of 3.4 MiB (35%)".
func amount(sent, expected uint64) string {
	if expected == 0 {
		return Bytes(sent)
	}
	return fmt.Sprintf("%s of %s (%d%%)", Bytes(sent), Bytes(expected), percent(sent, expected))
}

func percent(sent, expected uint64) int {
	if expected == 0 {
		return 0
	}
	return int(math.Min(100, 100*float64(sent)/float64(expected)))
}

// Pace is rate and remaining time, as what follows an amount: ", 5.0 MiB/s, 12s left". What is 0 is left
// out.
func Pace(rate float64, remaining time.Duration) string {
	text := ""
	if rate := rateText(rate); rate != "" {
		text += ", " + rate
	}
	if remaining > 0 {
		text += ", " + Duration(remaining) + " left"
	}
	return text
}

// currentStep describes the step that a task is at; empty where none is left.
func currentStep(task fleet.TaskProgress) string {
	if task.Next >= len(task.Steps) {
		return ""
	}
	text := task.Steps[task.Next].String()
	if task.Resumed || task.Steps[task.Next].Resume {
		text += ", resumed"
	}
	if len(task.Steps) > 1 {
		text += fmt.Sprintf(" (step %d of %d)", task.Next+1, len(task.Steps))
	}
	return text
}

// wayOf is the way that a task's stream takes, for people; empty while there is none.
func wayOf(task fleet.TaskProgress) string {
	if task.Path == nil {
		return ""
	}
	return "by " + task.Path.String()
}

// Count is a number with its noun: "1 filesystem", "2 filesystems".
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Summary is what a finished plan has come to, in one line.
func Summary(plan protocol.Plan, tasks []fleet.TaskProgress) string {
	counts := map[protocol.TaskState]int{}
	var bytes uint64
	for _, task := range tasks {
		counts[task.State]++
		bytes += task.Sent
	}
	var parts []string
	add := func(n int, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(counts[protocol.TaskDone], "replicated")
	add(plan.UpToDate, "up to date")
	add(counts[protocol.TaskFailed], "failed")
	add(counts[protocol.TaskConflict], "in conflict")
	add(counts[protocol.TaskCancelled], "cancelled")
	if len(parts) == 0 && plan.State == protocol.PlanDone {
		parts = append(parts, "there was nothing to replicate")
	}
	if bytes > 0 {
		parts = append(parts, Bytes(bytes))
	}
	text := string(plan.State)
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	if !plan.Finished.IsZero() && !plan.Started.IsZero() {
		text += " in " + Duration(plan.Finished.Sub(plan.Started))
	}
	return text
}

// Problems are the failures of a plan and its tasks, each with what it is about.
func Problems(plan protocol.Plan, tasks []fleet.TaskProgress) []string {
	var found []string
	if plan.Failure != nil {
		found = append(found, plan.Failure.Error())
	}
	for _, task := range tasks {
		switch task.State {
		case protocol.TaskFailed, protocol.TaskConflict:
			found = append(found, problem(task))
		case protocol.TaskReady, protocol.TaskWaiting, protocol.TaskOffering, protocol.TaskSending, protocol.TaskBackoff, protocol.TaskDone,
			protocol.TaskCancelled:
		}
	}
	return found
}

// problem is why a task has not gone well.
func problem(task fleet.TaskProgress) string {
	why := "no reason was given"
	if task.Failure != nil {
		why = task.Failure.Error()
	}
	return fmt.Sprintf("%s: %s: %s", route(task), task.State, why)
}
