// Frames of the NATS client protocol (https://docs.nats.io/reference/reference-protocols/nats-protocol): as much of it as is
// needed to take whole messages out of a connection.

package faults

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
)

// frame is one frame as it is on the wire. Only those that carry a message have a subject.
type frame struct {
	raw     []byte
	subject string
}

// maxFrame is more than any NATS server takes.
const maxFrame = 64 << 20

// readFrame reads the next frame of either direction.
func readFrame(r *bufio.Reader) (frame, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return frame{}, err
	}
	f := frame{raw: line}
	words := bytes.Fields(line)
	if len(words) < 3 {
		return f, nil
	}
	switch string(bytes.ToUpper(words[0])) {
	case "PUB", "HPUB", "MSG", "HMSG":
	default:
		return f, nil
	}
	size, err := strconv.Atoi(string(words[len(words)-1]))
	if err != nil || size < 0 || size > maxFrame {
		return frame{}, fmt.Errorf("the frame %q has no size", bytes.TrimSpace(line))
	}
	f.subject = string(words[1])
	f.raw = append(f.raw, make([]byte, size+len("\r\n"))...)
	_, err = io.ReadFull(r, f.raw[len(line):])
	return f, err
}
