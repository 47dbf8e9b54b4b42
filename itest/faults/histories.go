// Histories: what processes did to the lease and to cursors, for the checks of package history when all is over.

package faults

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/itest/history"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// leaseHistory follows the requests for the lease on the wires of the processes. It is safe for concurrent use.
type leaseHistory struct {
	lease *history.Lease

	mu sync.Mutex
	// terms is the last term of each process, and held tells whether it has begun: whether the lease was given to it.
	terms map[string]string
	held  map[string]bool
	// asked are the requests under way, by the subject of their answers.
	asked map[string]*leaseRequest
}

// leaseRequest is a request for the lease whose answer has not come.
type leaseRequest struct {
	change        *history.Change
	process, term string
	renewal       bool
}

func newLeaseHistory() *leaseHistory {
	return &leaseHistory{
		lease: history.NewLease(leaseTTL), terms: map[string]string{}, held: map[string]bool{}, asked: map[string]*leaseRequest{},
	}
}

const leaseSubject = "$KV." + protocol.BucketLeader + "." + protocol.LeaderKey

// sent takes a message from a process's client.
func (l *leaseHistory) sent(process string, f frame) {
	if f.subject != leaseSubject || f.reply == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.asked[f.reply] != nil {
		return // the same once more
	}
	var lease protocol.Lease
	if f.header("KV-Operation") != "" {
		l.asked[f.reply] = &leaseRequest{change: l.lease.Release(process, process), process: process}
		return
	}
	if protocol.DecodeValue(f.payload(), &lease) != nil {
		return
	}
	term := lease.Since.String()
	if l.terms[process] != term {
		// With a new term, what the process may hold of the one before is over.
		l.lease.Release(process, process).End(true)
		l.terms[process], l.held[process] = term, false
	}
	request := &leaseRequest{process: process, term: term, renewal: l.held[process]}
	if request.renewal {
		request.change = l.lease.Renew(process, process)
	} else {
		request.change = l.lease.Acquire(process, process)
	}
	l.asked[f.reply] = request
}

// answered takes a message for a process's client.
func (l *leaseHistory) answered(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := l.asked[f.subject]
	if asked == nil {
		return
	}
	delete(l.asked, f.subject)
	var answer struct {
		Sequence uint64 `json:"seq"`
		Error    *struct {
			Code jetstream.ErrorCode `json:"err_code"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(f.payload(), &answer); {
	case err != nil:
		asked.change.Unknown() // nobody is there to answer; what was asked may have come to somebody all the same
	case answer.Error == nil:
		l.held[asked.process] = l.held[asked.process] || asked.term == l.terms[asked.process]
		asked.change.End(answer.Sequence > 0)
	case !asked.renewal && (answer.Error.Code == jetstream.JSErrCodeStreamWrongLastSequence ||
		answer.Error.Code == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		asked.change.End(false)
	default:
		// A renewal may also be refused to the holder, who has not heard of the one before.
		asked.change.Unknown()
	}
}

// moves begins the moves of cursors that a command of a process makes; end ends them when the command has.
func (o *observer) moves(process string, at place, args []string) (end func(zfs.Result, error)) {
	var changes []*history.Change
	for _, arg := range args {
		filesystem, name, isBookmark := strings.Cut(arg, "#")
		kind, guid, id, ours := abstractions.ParseBookmarkName(name)
		if !isBookmark || !ours || kind != abstractions.Cursor || args[1] == "destroy" {
			continue
		}
		if position, known := o.positionOf(place{at.host, filesystem}, guid); known {
			changes = append(changes, o.cursors.Move(process, cursorName(place{at.host, filesystem}, id), position))
		}
	}
	return func(result zfs.Result, err error) {
		for _, change := range changes {
			if err == nil && result.ExitCode == 0 {
				change.End(true)
			} else {
				change.Unknown()
			}
		}
	}
}

func cursorName(at place, id protocol.JobID) string {
	return "the cursor of " + string(id) + " on " + at.String()
}

// positionOf is a version's, if it is known.
func (o *observer) positionOf(at place, guid uint64) (history.Position, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	txg, known := o.txgs[at][guid]
	return history.Position{GUID: guid, CreateTXG: txg}, known
}

// readCursors reads all cursors from the pools, when all is over.
func (o *observer) readCursors() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.pairs {
		reading := o.cursors.Read("harness", cursorName(p.source, p.id))
		newest := history.Position{}
		for name, guid := range o.shadowOf(p.source).bookmarks {
			kind, _, id, ours := abstractions.ParseBookmarkName(name)
			if txg := o.txgs[p.source][guid]; ours && kind == abstractions.Cursor && id == p.id && txg >= newest.CreateTXG {
				newest = history.Position{GUID: guid, CreateTXG: txg}
			}
		}
		if newest.GUID == 0 {
			reading.None()
		} else {
			reading.At(newest)
		}
	}
}

// checkHistories requires that what the processes did to the lease and to cursors can be explained. Where many requests stayed
// without an answer, there may be too many explanations to look for one in time; such histories are counted.
func (f *fleet) checkHistories() {
	f.observer.readCursors()
	for _, err := range []error{f.leases.lease.Check(f.options.Histories), f.observer.cursors.Check(f.options.Histories)} {
		switch {
		case errors.Is(err, history.ErrUndecided):
			f.undecided++
			f.timeline.add("harness", "%v", err)
		case err != nil:
			f.timeline.violate("invariant 1 and the lease: %v", err)
		}
	}
}

// header is the value of a message's first header of that name, empty if there is none.
func (f frame) header(name string) string {
	for line := range strings.SplitSeq(string(f.raw[f.headerAt:f.payloadAt]), "\r\n") {
		if key, value, found := strings.Cut(line, ":"); found && strings.EqualFold(key, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// payload is what follows a message's headers.
func (f frame) payload() []byte { return f.raw[f.payloadAt : len(f.raw)-len("\r\n")] }
