// What zfs send -vP writes to standard error: how much it expects to send, and once a second how far it is.

package zfs

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Progress is how far a send is.
type Progress struct {
	// Expected is how many bytes zfs send estimates the whole stream to be; of a resumed send, what is left of it. It is 0
	// until zfs send has said so, and where it does not know.
	Expected uint64

	// Sent is how many bytes of the stream have been made. It never falls, and it may exceed Expected.
	Sent uint64

	// Exact says that Sent was counted, while the stream was read. Otherwise Sent is what zfs send reports, once a second
	// and of one snapshot at a time: a snapshot of a range that is through counts with the last report of it or its
	// estimate, whichever is more, and so do all of them once zfs send has succeeded. Nobody counts what passes from zfs send
	// to zfs recv directly.
	Exact bool
}

// sendReport gathers what zfs send -vP reports. The zero value is ready; it is safe for concurrent use.
type sendReport struct {
	mu        sync.Mutex
	lines     lineWriter
	parts     []sendPart // one for each snapshot, in the order in which they are sent
	current   int        // the part that the latest report was of
	through   uint64     // what the parts before it count
	estimated bool       // the estimate is complete
	expected  uint64
	sent      uint64
}

// sendPart is the stream of one snapshot, which may be one of a range.
type sendPart struct {
	snapshot           string
	estimate, reported uint64
}

// counts is how many bytes the part is taken for once it is through.
func (p sendPart) counts() uint64 { return max(p.estimate, p.reported) }

// Write takes a piece of standard error. It never fails.
func (r *sendReport) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines.handle = r.line
	if _, err := r.lines.Write(p); err != nil {
		r.lines.rest = nil // a line that is longer than any of interest
	}
	return len(p), nil
}

// line takes one line.
func (r *sendReport) line(text string) error {
	line := parseSendLine(text)
	switch line.kind {
	case sendLineEstimate:
		r.parts = append(r.parts, sendPart{snapshot: line.snapshot, estimate: line.bytes})
	case sendLineTotal:
		r.expected, r.estimated = line.bytes, true
	case sendLineProgress:
		// While zfs send walks through an increment to estimate it, it reports how far that is, in the same form.
		if r.estimated {
			r.reported(line.snapshot, line.bytes)
		}
	case sendLineToken, sendLineOther:
	}
	return nil
}

// reported takes a report of how far one snapshot's stream is. Its counter begins anew with each snapshot.
func (r *sendReport) reported(snapshot string, bytes uint64) {
	at := slices.IndexFunc(r.parts[r.current:], func(p sendPart) bool { return p.snapshot == snapshot })
	if at < 0 { // one that could not be estimated
		at = min(1, len(r.parts)-r.current)
		r.parts = slices.Insert(r.parts, r.current+at, sendPart{snapshot: snapshot})
	}
	for ; at > 0; at-- {
		r.through += r.parts[r.current].counts()
		r.current++
	}
	part := &r.parts[r.current]
	part.reported = max(part.reported, bytes)
	r.sent = max(r.sent, r.through+part.reported)
}

// finish is for a send that has succeeded.
func (r *sendReport) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum uint64
	for _, part := range r.parts {
		sum += part.counts()
	}
	r.sent = max(r.sent, sum)
}

// progress answers the estimate, 0 if there is none yet, and how much has been sent as far as it is known.
func (r *sendReport) progress() (expected, sent uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.expected, r.sent
}

// sendLine is one line of what zfs send -vP writes, as lib/libzfs/libzfs_sendrecv.c prints it.
type sendLine struct {
	kind     sendLineKind
	snapshot string // the full name, of an estimate and of a report
	bytes    uint64
}

type sendLineKind int

const (
	sendLineOther    sendLineKind = iota // a warning or an error
	sendLineEstimate                     // full TAB to TAB bytes, incremental TAB from TAB to TAB bytes
	sendLineTotal                        // size TAB bytes
	sendLineProgress                     // HH:MM:SS TAB bytes TAB snapshot
	sendLineToken                        // the contents of the resume token of zfs send -t
)

var (
	clockTime  = regexp.MustCompile(`^[0-9]{2}:[0-9]{2}:[0-9]{2}$`)
	tokenEntry = regexp.MustCompile(`^\t[a-z_]+(?: = .*)?$`)
)

// parseSendLine understands one line, without its line feed. An estimate that is no size is 0.
func parseSendLine(text string) sendLine {
	if text == "resume token contents:" || text == "nvlist version: 0" || tokenEntry.MatchString(text) {
		return sendLine{kind: sendLineToken}
	}
	var line sendLine
	var number string
	fields := strings.Split(text, "\t")
	switch {
	case len(fields) == 3 && fields[0] == "full":
		line, number = sendLine{kind: sendLineEstimate, snapshot: fields[1]}, fields[2]
	case len(fields) == 4 && fields[0] == "incremental":
		line, number = sendLine{kind: sendLineEstimate, snapshot: fields[2]}, fields[3]
	case len(fields) == 2 && fields[0] == "size":
		line, number = sendLine{kind: sendLineTotal}, fields[1]
	case len(fields) == 3 && clockTime.MatchString(fields[0]):
		line, number = sendLine{kind: sendLineProgress, snapshot: fields[2]}, fields[1]
	default:
		return sendLine{}
	}
	bytes, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return sendLine{}
	}
	// OpenZFS subtracts what a resumed receive has from an estimate that may be less, and the difference wraps around.
	if bytes <= math.MaxInt64 {
		line.bytes = bytes
	}
	return line
}

// errorOutput is what a command wrote to standard error because something was wrong: all of it, but for zfs send without the
// reports of its progress.
func errorOutput(args []string, result Result) string {
	text := string(result.Stderr)
	if len(args) < 2 || args[0] != "zfs" || args[1] != "send" {
		return text
	}
	if len(text) >= maxStderr {
		_, text, _ = strings.Cut(text, "\n") // the first line is the rest of one
	}
	var kept strings.Builder
	for line := range strings.Lines(text) {
		if parseSendLine(strings.TrimSuffix(line, "\n")).kind == sendLineOther {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
