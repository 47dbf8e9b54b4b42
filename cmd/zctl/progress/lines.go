// Lines: progress as plain text, for logs and pipes.

package progress

import (
	"fmt"
	"io"
	"time"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// Lines writes a line whenever something has changed that an operator would want to read later, and now and then how far
// what is under way has come.
type Lines struct {
	out io.Writer
	// every is the time between two lines about a task that just goes on.
	every time.Duration

	header  string
	waiting string
	tasks   map[int]taskLine
}

// taskLine is what was last said of a task.
type taskLine struct {
	state   protocol.TaskState
	attempt int
	next    int
	at      time.Time
	// way and notes are what was said of the try's path, and how many of its notes were.
	way   string
	notes int
}

var _ Display = (*Lines)(nil)

// NewLines makes a display of plain lines that tells every so often how far a running task is.
func NewLines(out io.Writer, every time.Duration) *Lines {
	return &Lines{out: out, every: every, tasks: map[int]taskLine{}}
}

// Show writes what is new.
func (l *Lines) Show(shot fleet.Snapshot) error {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if header := head(shot.Plan); header != "" && header != l.header {
		l.header = header
		say("%s", header)
	}
	if shot.Final() && l.header == "" {
		say("plan %s of job %s", shot.Plan.ID, shot.Plan.Job)
	}
	if shot.Waiting != l.waiting {
		l.waiting = shot.Waiting
		if shot.Waiting != "" {
			say("waiting: %s", shot.Waiting)
		}
	}
	for _, task := range shot.Tasks {
		if line := l.task(task, shot.At); line != "" {
			say("%s", line)
		}
		lines = append(lines, l.news(task)...)
	}
	if shot.Final() {
		if shot.Plan.Failure != nil {
			say("%s", shot.Plan.Failure.Error())
		}
		say("%s", Summary(shot.Plan, shot.Tasks))
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(l.out, line); err != nil {
			return fmt.Errorf("show progress: %w", err)
		}
	}
	return nil
}

// Close does nothing: every line is out already.
func (l *Lines) Close() error { return nil }

// head is the line about the plan itself; empty where the summary says it.
func head(plan protocol.Plan) string {
	if plan.State.Final() {
		return ""
	}
	text := fmt.Sprintf("plan %s of job %s: %s", plan.ID, plan.Job, plan.State)
	if plan.State == protocol.PlanRunning {
		text += fmt.Sprintf(", %s to replicate, %d up to date", Count(plan.Tasks, "filesystem"), plan.UpToDate)
	}
	return text
}

// task is the line about a task; empty where there is nothing new to say.
func (l *Lines) task(task fleet.TaskProgress, now time.Time) string {
	before, said := l.tasks[task.Number]
	current := taskLine{state: task.State, attempt: task.Attempt, next: task.Next, at: now}
	same := said && before.state == current.state && before.attempt == current.attempt && before.next == current.next
	if same && (task.State != protocol.TaskSending || now.Sub(before.at) < l.every) {
		return ""
	}
	if same {
		current.way, current.notes = before.way, before.notes
	}
	l.tasks[task.Number] = current
	switch task.State {
	case protocol.TaskSending:
		if same {
			return fmt.Sprintf("%s: %s%s", route(task), amount(extent(task)), Pace(task.Rate, task.Remaining()))
		}
		return fmt.Sprintf("%s: sending %s", route(task), currentStep(task))
	case protocol.TaskBackoff:
		why := "no reason was given"
		if task.Failure != nil {
			why = task.Failure.Error()
		}
		wait := Duration(task.NotBefore.Sub(now))
		return fmt.Sprintf("%s: try %d failed, the next one comes in %s: %s", route(task), task.Attempt, wait, why)
	case protocol.TaskDone:
		return fmt.Sprintf("%s: done, %s", route(task), Bytes(task.Sent))
	case protocol.TaskFailed, protocol.TaskConflict:
		return problem(task)
	case protocol.TaskCancelled:
		return route(task) + ": cancelled"
	case protocol.TaskWaiting:
		return route(task) + ": " + task.Waiting
	case protocol.TaskReady, protocol.TaskOffering:
	}
	return ""
}

// news is what a task's try has told since it was last looked at: which way its stream takes, and its notes.
func (l *Lines) news(task fleet.TaskProgress) []string {
	said := l.tasks[task.Number]
	var lines []string
	if way := wayOf(task); way != said.way && way != "" {
		lines = append(lines, fmt.Sprintf("%s: %s", route(task), way))
		said.way = way
	}
	for ; said.notes < len(task.StepNotes); said.notes++ {
		lines = append(lines, fmt.Sprintf("%s: %s", route(task), task.StepNotes[said.notes]))
	}
	l.tasks[task.Number] = said
	return lines
}
