// Live: a display that redraws itself on a terminal.

package progress

import (
	"context"
	"errors"
	"fmt"
	"io"

	tea "charm.land/bubbletea/v2"

	"github.com/zfleet/zfleet/fleet"
)

// Screen redraws a picture in place on a terminal. The last picture stays when it is closed. It reads no keys and catches
// no signals: those are the program's.
type Screen struct {
	program *tea.Program
	done    chan error
}

// NewScreen makes a screen on the terminal out. It owns a goroutine until Close.
func NewScreen(out io.Writer, environment []string) *Screen {
	screen := &Screen{
		program: tea.NewProgram(picture{}, tea.WithOutput(out), tea.WithInput(nil), tea.WithoutSignalHandler(),
			tea.WithEnvironment(environment), tea.WithFPS(20)),
		done: make(chan error, 1),
	}
	go func() {
		_, err := screen.program.Run()
		screen.done <- err
	}()
	return screen
}

// Draw replaces the picture: draw gets the terminal's size, again whenever it changes.
func (s *Screen) Draw(draw func(Size) string) { s.program.Send(draw) }

// Close leaves the last picture on the terminal and waits until the display has ended.
func (s *Screen) Close() error {
	s.program.Quit()
	err := <-s.done
	if err == nil || errors.Is(err, tea.ErrProgramKilled) || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("draw on the terminal: %w", err)
}

// picture is the program's model: what to draw, and how large the terminal is.
type picture struct {
	draw func(Size) string
	size Size
}

var _ tea.Model = picture{}

func (p picture) Init() tea.Cmd { return nil }

func (p picture) Update(message tea.Msg) (tea.Model, tea.Cmd) {
	switch message := message.(type) {
	case tea.WindowSizeMsg:
		p.size = Size{Width: message.Width, Height: message.Height}
	case func(Size) string:
		p.draw = message
	}
	return p, nil
}

func (p picture) View() tea.View {
	if p.draw == nil {
		return tea.NewView("")
	}
	return tea.NewView(p.draw(p.size) + "\n")
}

// Live shows a plan on a terminal, and ends with its problems and its summary as plain lines.
type Live struct {
	out    io.Writer
	screen *Screen
	last   fleet.Snapshot
}

var _ Display = (*Live)(nil)

// NewLive makes a live display on the terminal out.
func NewLive(out io.Writer, environment []string) *Live {
	return &Live{out: out, screen: NewScreen(out, environment)}
}

// Show draws the snapshot.
func (l *Live) Show(shot fleet.Snapshot) error {
	l.last = shot
	l.screen.Draw(func(size Size) string { return Frame(shot, size) })
	return nil
}

// Close leaves the last picture, and below it what came of the plan.
func (l *Live) Close() error {
	if err := l.screen.Close(); err != nil {
		return err
	}
	if !l.last.Final() {
		return nil
	}
	for _, line := range append(Problems(l.last.Plan, l.last.Tasks), Summary(l.last.Plan, l.last.Tasks)) {
		if _, err := fmt.Fprintln(l.out, line); err != nil {
			return fmt.Errorf("show progress: %w", err)
		}
	}
	return nil
}
