// Frames of the NATS client protocol (https://docs.nats.io/reference/reference-protocols/nats-protocol): as much of it as is
// needed to take whole messages out of a connection.

package faults

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// frame is one frame as it is on the wire. Only those that carry a message have a subject.
type frame struct {
	raw            []byte
	subject, reply string
	// headerAt and payloadAt are where in raw the message's headers begin, and what follows them.
	headerAt, payloadAt int
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
	words := strings.Fields(string(line))
	if len(words) < 3 {
		return f, nil
	}
	// What comes before the reply's subject, and how many sizes come after it, each but the last that of the headers.
	var fixed, sizes int
	switch strings.ToUpper(words[0]) {
	case "PUB":
		fixed, sizes = 2, 1
	case "HPUB":
		fixed, sizes = 2, 2
	case "MSG":
		fixed, sizes = 3, 1
	case "HMSG":
		fixed, sizes = 3, 2
	default:
		return f, nil
	}
	if len(words) != fixed+sizes && len(words) != fixed+sizes+1 {
		return frame{}, fmt.Errorf("the frame %q is none of a message", bytes.TrimSpace(line))
	}
	size, err := sizeIn(words[len(words)-1])
	if err != nil {
		return frame{}, err
	}
	headers := 0
	if sizes == 2 {
		if headers, err = sizeIn(words[len(words)-2]); err != nil {
			return frame{}, err
		}
	}
	if headers > size {
		return frame{}, fmt.Errorf("the frame %q has more headers than message", bytes.TrimSpace(line))
	}
	f.subject = words[1]
	if len(words) > fixed+sizes {
		f.reply = words[fixed]
	}
	f.headerAt, f.payloadAt = len(line), len(line)+headers
	f.raw = append(f.raw, make([]byte, size+len("\r\n"))...)
	_, err = io.ReadFull(r, f.raw[len(line):])
	return f, err
}

func sizeIn(word string) (int, error) {
	size, err := strconv.Atoi(word)
	if err != nil || size < 0 || size > maxFrame {
		return 0, fmt.Errorf("%q is no size of a frame", word)
	}
	return size, nil
}
