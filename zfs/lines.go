// A writer that hands on whole lines: how the output of long listings is parsed while the command runs.

package zfs

import (
	"bytes"
	"fmt"
)

// maxLine bounds one line of a command's output. The longest in use is a listing's: names, a resume token, and a user
// property, which is at most 8 KiB.
const maxLine = 64 << 10

// lineWriter calls handle with every line written to it, without its line feed.
type lineWriter struct {
	handle func(line string) error
	rest   []byte
}

// Write returns the first error of handle, which ends the command.
func (w *lineWriter) Write(p []byte) (int, error) {
	for remaining := p; len(remaining) > 0; {
		head, tail, found := bytes.Cut(remaining, []byte{'\n'})
		if len(w.rest)+len(head) > maxLine {
			return 0, fmt.Errorf("a line is longer than %d bytes", maxLine)
		}
		if !found {
			w.rest = append(w.rest, head...)
			break
		}
		line := string(head)
		if len(w.rest) > 0 {
			line = string(append(w.rest, head...))
			w.rest = w.rest[:0]
		}
		if err := w.handle(line); err != nil {
			return 0, err
		}
		remaining = tail
	}
	return len(p), nil
}

// finish is for the end of the output: a line that was begun and not ended is an error.
func (w *lineWriter) finish(command string) error {
	if len(w.rest) > 0 {
		return outputError(command, string(w.rest), "the last line is cut off")
	}
	return nil
}
