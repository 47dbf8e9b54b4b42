// Errors: a failed command, and the reasons that several operations can have in common.

package zfs

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// CommandError is a zfs or zpool command that ran and failed. Every error that stems from one wraps it.
type CommandError struct {
	// Args is the whole argument vector.
	Args []string

	// ExitCode is the exit status, or -1 when the command was ended by a signal.
	ExitCode int

	// Stderr is what the command wrote to standard error (the tail of it, when it was long), without what zfs send reports of
	// its progress there.
	Stderr string
}

// Error is one line: what was run on which dataset, what the command said, and its exit status.
func (e *CommandError) Error() string {
	status := fmt.Sprintf("exit status %d", e.ExitCode)
	if e.ExitCode < 0 {
		status = "ended by a signal"
	}
	text := e.text()
	if text == "" {
		return fmt.Sprintf("%s: %s", summary(e.Args), status)
	}
	return fmt.Sprintf("%s: %s (%s)", summary(e.Args), text, status)
}

// text is standard error as one line, without the usage that some failures are followed by; OpenZFS breaks some of its
// messages in the middle of a sentence.
func (e *CommandError) text() string {
	text, _, _ := strings.Cut("\n"+e.Stderr, "\nusage:\n")
	return strings.Join(strings.Fields(text), " ")
}

// maxSummary bounds what a long name list or a resume token takes in messages and logs.
const maxSummary = 160

// summary is a command line in short: the command, what it does, and its last operand (the dataset, with all the
// commands of this package).
func summary(args []string) string {
	switch {
	case len(args) < 2:
		return strings.Join(args, " ")
	case len(args) == 2, args[len(args)-2] == "-o":
		return args[0] + " " + args[1]
	}
	operand := args[len(args)-1]
	if len(operand) > maxSummary {
		operand = operand[:maxSummary] + "…"
	}
	return args[0] + " " + args[1] + " " + operand
}

// ErrDatasetDoesNotExist is matched by every error that says that a dataset, snapshot or bookmark is not there.
var ErrDatasetDoesNotExist = errors.New("dataset does not exist")

// DatasetDoesNotExist says that a dataset, snapshot or bookmark is not there, and which.
type DatasetDoesNotExist struct {
	Dataset string

	// Command is the command that found out; nil where a listing was searched.
	Command *CommandError
}

// Error names the dataset.
func (e *DatasetDoesNotExist) Error() string {
	return fmt.Sprintf("dataset %q does not exist", e.Dataset)
}

// Is matches [ErrDatasetDoesNotExist].
func (e *DatasetDoesNotExist) Is(target error) bool { return target == ErrDatasetDoesNotExist }

// Unwrap gives the failed command.
func (e *DatasetDoesNotExist) Unwrap() error {
	if e.Command == nil {
		return nil
	}
	return e.Command
}

// OutputError says that a command's output was not what OpenZFS prints, and shows the line.
type OutputError struct {
	// Command is the command in short, such as "zfs list".
	Command string

	// Line is the offending line, cut when it is long.
	Line string

	Reason string
}

// Error shows the line.
func (e *OutputError) Error() string {
	return fmt.Sprintf("%s: unexpected output: %s, in line %q", e.Command, e.Reason, e.Line)
}

const maxErrorLine = 512

func outputError(command, line, format string, args ...any) *OutputError {
	if len(line) > maxErrorLine {
		line = line[:maxErrorLine] + "…"
	}
	return &OutputError{Command: command, Line: line, Reason: fmt.Sprintf(format, args...)}
}

// doesNotExist matches what libzfs says of something that is not there:
//
//	cannot open 'tank/x': dataset does not exist
//	cannot open 'tank/x#b': no such pool or dataset
//	cannot create 'nopool/x': no such pool 'nopool'
var doesNotExist = regexp.MustCompile(`(?m)^cannot [a-z ]+ '([^'\n]+)': (?:dataset does not exist|no such pool.*)$`)

// missing lists the datasets that the command said do not exist, in its order.
func (e *CommandError) missing() []string {
	var names []string
	for _, match := range doesNotExist.FindAllStringSubmatch(e.Stderr, -1) {
		names = append(names, match[1])
	}
	return names
}

// commandFailure is nil, or the error that the result stands for: a *CommandError, behind a *DatasetDoesNotExist where that is
// the reason.
func commandFailure(args []string, result Result) error {
	if result.ExitCode == 0 {
		return nil
	}
	e := &CommandError{Args: args, ExitCode: result.ExitCode, Stderr: errorOutput(args, result)}
	if names := e.missing(); len(names) > 0 {
		return &DatasetDoesNotExist{Dataset: names[0], Command: e}
	}
	return e
}
