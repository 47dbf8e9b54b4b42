// The lease: a key that at most one process holds at a time.

package history

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// Lease is the history of one lease.
type Lease struct {
	recorder *recorder
	ttl      time.Duration
}

// NewLease makes the empty history of a lease that nobody holds, and that expires when it was not renewed for ttl.
func NewLease(ttl time.Duration) *Lease { return &Lease{newRecorder(), ttl} }

// The operations on a lease. The holder is a term of a process: one that acquires the lease again is another holder.
type (
	acquireLease struct{ holder string }
	renewLease   struct{ holder string }
	releaseLease struct{ holder string }
	readLease    struct{}
)

func (o acquireLease) String() string { return "acquire as " + o.holder }
func (o renewLease) String() string   { return "renew as " + o.holder }
func (o releaseLease) String() string { return "release as " + o.holder }
func (readLease) String() string      { return "read" }

const leaseRegister = "the lease"

// Acquire begins to acquire the lease. The holder names a term of the process: no two terms have the same name. The end is
// false where somebody else holds it.
func (l *Lease) Acquire(process, holder string) *Change {
	return &Change{l.recorder, l.recorder.begin(process, leaseRegister, acquireLease{holder})}
}

// Renew begins to renew the lease. The end is false where the server says that it is not the holder's any more.
func (l *Lease) Renew(process, holder string) *Change {
	return &Change{l.recorder, l.recorder.begin(process, leaseRegister, renewLease{holder})}
}

// Release begins to give the lease up.
func (l *Lease) Release(process, holder string) *Change {
	return &Change{l.recorder, l.recorder.begin(process, leaseRegister, releaseLease{holder})}
}

// HolderReading is a read of who holds the lease that has begun. It has one end.
type HolderReading struct {
	recorder *recorder
	record   *record
}

// Read begins to read who holds the lease, from the server that decides it.
func (l *Lease) Read(process string) *HolderReading {
	return &HolderReading{l.recorder, l.recorder.begin(process, leaseRegister, readLease{})}
}

// Holder ends the read; empty is nobody.
func (r *HolderReading) Holder(holder string) { r.recorder.end(r.record, succeeded, holder) }

// Failed ends the read without a result.
func (r *HolderReading) Failed() { r.recorder.drop(r.record) }

// Check looks for an explanation of the lease's history, as [Cursor.Check] does.
func (l *Lease) Check(directory string) error {
	return l.recorder.check(leaseModel(l.ttl),
		"at most one holds the lease at a time, and who has lost it cannot renew it", directory)
}

// leaseState is who holds the lease, and since when at most the server has counted its time to live: the server cannot have
// taken a renewal before it was asked for.
type leaseState struct {
	holder  string
	renewed time.Duration
	// earliest is when this can have become so at the earliest, where that follows from the time to live of the holder before.
	earliest time.Duration
}

// mayHaveExpired tells whether the lease can have expired at some instant of the operation, of which the end is known.
func (s leaseState) mayHaveExpired(one *record, ttl time.Duration) bool {
	return s.holder == "" || one.endedAt >= s.renewed+ttl
}

func leaseModel(ttl time.Duration) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return leaseState{} },
		Step: func(state, input, _ any) (bool, any) {
			s, one := as[leaseState](state), as[*record](input)
			if one.outcome != unknown && one.endedAt < s.earliest {
				return false, s
			}
			switch operation := one.input.(type) {
			case acquireLease:
				return stepAcquire(s, operation.holder, one, ttl)
			case renewLease:
				return stepRenew(s, operation.holder, one, ttl)
			case releaseLease:
				if one.outcome != refused && s.holder == operation.holder {
					return true, leaseState{}
				}
				return true, s // nothing to give up is given up
			case readLease:
				return stepReadLease(s, one, ttl)
			}
			return false, s
		},
		DescribeOperation: func(input, _ any) string { return describe(as[*record](input)) },
		DescribeState: func(state any) string {
			s := as[leaseState](state)
			return fmt.Sprintf("held by %q since %s", s.holder, s.renewed)
		},
	}
}

func stepAcquire(s leaseState, holder string, one *record, ttl time.Duration) (bool, any) {
	switch {
	case one.outcome == refused:
		return true, s // there are other reasons than another holder
	case one.outcome == succeeded:
		return s.mayHaveExpired(one, ttl), leaseState{holder: holder, renewed: one.calledAt}
	case s.holder == "":
		return true, leaseState{holder: holder, renewed: one.calledAt}
	}
	// If it had its effect, then once the lease had expired.
	at := max(one.calledAt, s.renewed+ttl)
	return true, leaseState{holder: holder, renewed: at, earliest: at}
}

func stepRenew(s leaseState, holder string, one *record, ttl time.Duration) (bool, any) {
	switch {
	case s.holder == holder && one.outcome != refused:
		return true, leaseState{holder: holder, renewed: max(s.renewed, one.calledAt)}
	case s.holder == holder:
		// The server refuses its holder only once the lease has expired.
		return s.mayHaveExpired(one, ttl), leaseState{}
	}
	return one.outcome != succeeded, s
}

func stepReadLease(s leaseState, one *record, ttl time.Duration) (bool, any) {
	seen, _ := one.output.(string)
	switch {
	case one.outcome == unknown || seen == s.holder:
		return true, s
	case seen == "":
		return s.mayHaveExpired(one, ttl), leaseState{}
	}
	return false, s
}
