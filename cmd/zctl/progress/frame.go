// Frames: one picture of a plan, as the terminal display draws it.

package progress

import (
	"fmt"
	"slices"
	"strings"

	"charm.land/lipgloss/v2"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

// Size is that of the terminal, in cells.
type Size struct{ Width, Height int }

// palette colours a frame.
type palette struct{ title, quiet, bar, good, bad, warn lipgloss.Style }

func newPalette() palette {
	color := func(c string) lipgloss.Style { return lipgloss.NewStyle().Foreground(lipgloss.Color(c)) }
	return palette{
		title: lipgloss.NewStyle().Bold(true), quiet: lipgloss.NewStyle().Faint(true),
		bar: color("6"), good: color("2"), bad: color("1"), warn: color("3"),
	}
}

// Frame draws the plan in no more than the given size: a line for the plan, one for each task that there is room for (what
// is under way first, then failures, then the rest), and one for everything together.
func Frame(shot fleet.Snapshot, size Size) string {
	if size.Width <= 0 {
		size.Width = 80
	}
	if size.Height <= 0 {
		size.Height = 24
	}
	colors := newPalette()
	plan := shot.Plan
	lines := []string{fmt.Sprintf("%s %s  job %s  %s  %s", colors.title.Render("plan"), plan.ID, plan.Job,
		stateStyle(colors, string(plan.State)).Render(string(plan.State)), elapsed(shot))}
	if shot.Waiting != "" {
		lines = append(lines, colors.warn.Render("waiting: ")+shot.Waiting)
	}
	room := size.Height - len(lines) - 3 // what is left out, everything together, and the cursor's own line
	shown := slices.Clone(shot.Tasks)
	slices.SortStableFunc(shown, func(a, b fleet.TaskProgress) int { return urgency(a.State) - urgency(b.State) })
	left := shown[min(len(shown), max(room, 1)):]
	shown = shown[:len(shown)-len(left)]
	slices.SortFunc(shown, func(a, b fleet.TaskProgress) int { return a.Number - b.Number })
	name := nameWidth(shown, size.Width)
	for _, task := range shown {
		lines = append(lines, taskLineOf(colors, task, shot, name, size.Width))
	}
	if len(left) > 0 {
		lines = append(lines, colors.quiet.Render("and "+leftOut(left)))
	}
	if len(shot.Tasks) > 0 {
		lines = append(lines, totalLine(colors, shot, name))
	}
	for i, line := range lines {
		lines[i] = truncate(line, size.Width)
	}
	return strings.Join(lines, "\n")
}

func elapsed(shot fleet.Snapshot) string {
	switch {
	case shot.Plan.Started.IsZero():
		return ""
	case !shot.Plan.Finished.IsZero():
		return Duration(shot.Plan.Finished.Sub(shot.Plan.Started))
	}
	return Duration(shot.At.Sub(shot.Plan.Started))
}

// urgency orders tasks by how much an operator wants to see them.
func urgency(state protocol.TaskState) int {
	switch state {
	case protocol.TaskSending:
		return 0
	case protocol.TaskBackoff, protocol.TaskWaiting:
		return 1
	case protocol.TaskFailed, protocol.TaskConflict:
		return 2
	case protocol.TaskOffering:
		return 3
	case protocol.TaskReady:
		return 4
	case protocol.TaskDone, protocol.TaskCancelled:
	}
	return 5
}

func stateStyle(colors palette, state string) lipgloss.Style {
	switch state {
	case string(protocol.TaskDone):
		return colors.good
	case string(protocol.TaskFailed), string(protocol.TaskConflict):
		return colors.bad
	case string(protocol.TaskBackoff), string(protocol.TaskWaiting), string(protocol.PlanPartial), string(protocol.TaskCancelled):
		return colors.warn
	}
	return lipgloss.NewStyle()
}

// nameWidth is the width of the column of names: that of the longest, as far as it leaves room for the rest.
func nameWidth(tasks []fleet.TaskProgress, width int) int {
	longest := len("everything")
	for _, task := range tasks {
		longest = max(longest, lipgloss.Width(route(task)))
	}
	return min(longest, max(width/2-6, 12))
}

const barWidth = 20

func taskLineOf(colors palette, task fleet.TaskProgress, shot fleet.Snapshot, name, width int) string {
	label := padded(route(task), name)
	switch task.State {
	case protocol.TaskSending:
		sent, expected := extent(task)
		return fmt.Sprintf("%s %s %s%s  %s", label, bar(colors, sent, expected), amount(sent, expected),
			Pace(task.Rate, task.Remaining()), colors.quiet.Render(strings.Join(details(task), ", ")))
	case protocol.TaskDone:
		return fmt.Sprintf("%s %s %s", label, colors.good.Render(padded("done", barWidth)), Bytes(task.Sent))
	case protocol.TaskBackoff:
		why := ""
		if task.Failure != nil {
			why = task.Failure.Error()
		}
		return fmt.Sprintf("%s %s %s", label,
			colors.warn.Render(padded("again in "+Duration(task.NotBefore.Sub(shot.At)), barWidth)), firstLine(why))
	case protocol.TaskFailed, protocol.TaskConflict:
		why := ""
		if task.Failure != nil {
			why = task.Failure.Error()
		}
		return fmt.Sprintf("%s %s %s", label, colors.bad.Render(padded(string(task.State), barWidth)), firstLine(why))
	case protocol.TaskWaiting:
		return fmt.Sprintf("%s %s %s", label, colors.warn.Render(padded("waiting", barWidth)), firstLine(task.Waiting))
	case protocol.TaskOffering:
		return fmt.Sprintf("%s %s %s", label, padded("receiver", barWidth), colors.quiet.Render(currentStep(task)))
	case protocol.TaskReady:
		return fmt.Sprintf("%s %s %s", label, padded("waits its turn", barWidth), colors.quiet.Render(currentStep(task)))
	case protocol.TaskCancelled:
		return fmt.Sprintf("%s %s", label, colors.warn.Render("cancelled"))
	}
	return truncate(label, width)
}

// details are what a terminal shows of a running step where there is room: the step, its notes, and its way.
func details(task fleet.TaskProgress) []string {
	all := append([]string{currentStep(task)}, task.StepNotes...)
	if way := wayOf(task); way != "" {
		all = append(all, way)
	}
	return all
}

func totalLine(colors palette, shot fleet.Snapshot, name int) string {
	done := shot.Count(protocol.TaskDone)
	filled, whole := shot.Sent(), shot.Expected()
	if whole == 0 { // the sizes are not known, the number of filesystems is
		filled, whole = uint64(done), uint64(len(shot.Tasks)) //nolint:gosec // never negative
	}
	text := fmt.Sprintf("%s %s %d of %s, %s%s", colors.title.Render(padded("everything", name)), bar(colors, filled, whole), done, Count(len(shot.Tasks), "filesystem"),
		amount(shot.Sent(), shot.Expected()), Pace(shot.Rate(), shot.Remaining()))
	if bad := shot.Count(protocol.TaskFailed, protocol.TaskConflict); bad > 0 {
		text += colors.bad.Render(fmt.Sprintf(", %d failed", bad))
	}
	return text
}

// leftOut counts the tasks that there is no room for, by state.
func leftOut(tasks []fleet.TaskProgress) string {
	var parts []string
	for _, state := range []protocol.TaskState{
		protocol.TaskSending, protocol.TaskBackoff, protocol.TaskWaiting, protocol.TaskFailed, protocol.TaskConflict, protocol.TaskOffering,
		protocol.TaskReady, protocol.TaskDone, protocol.TaskCancelled,
	} {
		if n := (fleet.Snapshot{Tasks: tasks}).Count(state); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return strings.Join(parts, ", ")
}

// bar is a bar of barWidth cells; an empty one where the size is not known.
func bar(colors palette, sent, expected uint64) string {
	full := percent(sent, expected) * barWidth / 100
	return colors.bar.Render(strings.Repeat("█", full)) + colors.quiet.Render(strings.Repeat("░", barWidth-full))
}

// padded is text in exactly width cells; what is too long loses its middle, since names differ at their ends.
func padded(text string, width int) string {
	cells := lipgloss.Width(text)
	if cells <= width {
		return text + strings.Repeat(" ", width-cells)
	}
	runes := []rune(text)
	for keep := len(runes) - 1; keep > 0; keep-- {
		head, tail := keep/3, keep-keep/3
		short := string(runes[:head]) + "…" + string(runes[len(runes)-tail:])
		if cells := lipgloss.Width(short); cells <= width {
			return short + strings.Repeat(" ", width-cells)
		}
	}
	return strings.Repeat(" ", width)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// truncate cuts a line, which may hold colours, to the terminal's width.
func truncate(line string, width int) string { return lipgloss.NewStyle().MaxWidth(width).Render(line) }
