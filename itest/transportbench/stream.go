//go:build linux

// The streams: what the stand-ins for zfs send and zfs recv write and compare.

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

const (
	headerLength  = 312       // of a record's header in a send stream (dmu_replay_record_t)
	payloadLength = 128 << 10 // the record size that filesystems have by default
	contentLength = 16 << 20  // payloads repeat after so much: more than zstd looks back at its default level
	maxOwn        = 1 << 20   // the fake's stream of an empty filesystem is a few KiB
)

// content is what the payloads are like.
type content string

const (
	// noise does not compress.
	noise content = "noise"
	// halves compresses to half: every second 2 KiB are zeros.
	halves content = "halves"
)

// make gives what the payloads are cut from.
func (c content) make() ([]byte, error) {
	data := make([]byte, contentLength)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(data); err != nil {
		return nil, fmt.Errorf("make random bytes: %w", err)
	}
	switch c {
	case noise:
	case halves:
		const half = 2 << 10
		for at := 0; at < len(data); at += 2 * half {
			clear(data[at : at+half])
		}
	default:
		return nil, fmt.Errorf("there is no content %q", c)
	}
	return data, nil
}

// payload is that of the record of the given number.
func payload(data []byte, number int64) []byte {
	at := number * payloadLength % int64(len(data))
	return data[at : at+payloadLength]
}

// preamble begins a stream. The fake's own stream follows it, and then the records.
type preamble struct {
	// Began is when the stream began, on the machine's monotonic clock.
	Began time.Duration
	// Own is the length of the fake's own stream.
	Own int64
	// Records is how many records follow.
	Records int64
}

// transfer is a stream that arrived.
type transfer struct {
	Bytes int64         `json:"bytes"`
	Began time.Duration `json:"began_ns"`
	Ended time.Duration `json:"ended_ns"`
}

// emit writes a stream with at least size bytes of records.
func emit(w io.Writer, own []byte, c content, size int64) error {
	data, err := c.make()
	if err != nil {
		return err
	}
	p := preamble{Own: int64(len(own)), Records: (size + payloadLength - 1) / payloadLength}
	if p.Began, err = now(); err != nil {
		return err
	}
	if err := binary.Write(w, binary.LittleEndian, p); err != nil {
		return fmt.Errorf("write the preamble: %w", err)
	}
	if _, err := w.Write(own); err != nil {
		return fmt.Errorf("write the fake's stream: %w", err)
	}
	header := make([]byte, headerLength)
	for number := range p.Records {
		binary.LittleEndian.PutUint64(header, uint64(number))
		for _, part := range [][]byte{header, payload(data, number)} {
			if _, err := w.Write(part); err != nil {
				return fmt.Errorf("write record %d: %w", number, err)
			}
		}
	}
	return nil
}

// consume reads a stream to its end and compares it with what it must be. It gives the fake's own stream.
func consume(r io.Reader, c content) (own []byte, t transfer, err error) {
	data, err := c.make()
	if err != nil {
		return nil, transfer{}, err
	}
	var p preamble
	if err := binary.Read(r, binary.LittleEndian, &p); err != nil {
		return nil, transfer{}, fmt.Errorf("read the preamble: %w", err)
	}
	if p.Own < 0 || p.Own > maxOwn {
		return nil, transfer{}, fmt.Errorf("the preamble announces %d bytes of the fake's stream", p.Own)
	}
	own = make([]byte, p.Own)
	if _, err := io.ReadFull(r, own); err != nil {
		return nil, transfer{}, fmt.Errorf("read the fake's stream: %w", err)
	}
	header, body := make([]byte, headerLength), make([]byte, payloadLength)
	for number := range p.Records {
		for _, part := range [][]byte{header, body} {
			if _, err := io.ReadFull(r, part); err != nil {
				return nil, transfer{}, fmt.Errorf("read record %d of %d: %w", number, p.Records, err)
			}
		}
		if binary.LittleEndian.Uint64(header) != uint64(number) || !bytes.Equal(body, payload(data, number)) {
			return nil, transfer{}, fmt.Errorf("record %d of %d is not what was sent", number, p.Records)
		}
	}
	if n, err := r.Read(header); !errors.Is(err, io.EOF) {
		return nil, transfer{}, fmt.Errorf("%d bytes follow the last record (%w)", n, err)
	}
	ended, err := now()
	if err != nil {
		return nil, transfer{}, err
	}
	length := int64(binary.Size(p)) + p.Own + p.Records*(headerLength+payloadLength)
	return own, transfer{Bytes: length, Began: p.Began, Ended: ended}, nil
}

// now is the time on the clock that all processes of the machine share.
func now() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
