package history

import (
	"errors"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var one, two, three = Position{101, 1}, Position{102, 2}, Position{103, 3}

const place = "prod.bravo tank/data on disk"

func requireViolation(t *testing.T, err error, register string) *Violation {
	t.Helper()
	var violation *Violation
	require.ErrorAs(t, err, &violation)
	require.Equal(t, register, violation.Register)
	require.Less(t, violation.Explained, len(violation.Operations), "some operation disagrees with the others")
	return violation
}

func TestACursorThatMovesForwardIsExplained(t *testing.T) {
	t.Parallel()
	h := NewCursor()
	before := h.Read("looker", place)
	h.Move("alpha-1", place, one).End(true)
	before.None()
	h.Read("looker", place).At(one)
	h.Move("alpha-1", place, two).End(true)
	h.Move("alpha-2", place, two).End(true) // a repeated step
	h.Move("alpha-2", place, one).End(false)
	h.Read("looker", place).At(two)
	h.Read("looker", place).Failed()
	h.ReadCopy("looker", place).At(one)
	h.ReadCopy("looker", place).None()
	h.Move("alpha-1", "another cursor", one).End(true)
	h.Read("looker", "another cursor").At(one)
	h.Remove("operator", place).End(true)
	h.Read("looker", place).None()
	require.NoError(t, h.Check(t.TempDir()))
}

func TestBrokenHistoriesOfACursorAreRefused(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(*Cursor){
		"moved back": func(h *Cursor) {
			h.Move("alpha-1", place, two).End(true)
			h.Move("alpha-2", place, one).End(true)
		},
		"seen moving back": func(h *Cursor) {
			h.Move("alpha-1", place, one).End(true)
			h.Move("alpha-1", place, two).End(true)
			h.Read("looker", place).At(two)
			h.Read("looker", place).At(one)
		},
		"lost a move": func(h *Cursor) {
			h.Move("alpha-1", place, one).End(true)
			h.Read("looker", place).None()
		},
		"a refused move seen": func(h *Cursor) {
			h.Move("alpha-1", place, one).End(false)
			h.Read("looker", place).At(one)
		},
		"another version of the same age": func(h *Cursor) {
			h.Move("alpha-1", place, one).End(true)
			h.Move("alpha-1", place, Position{GUID: 999, CreateTXG: one.CreateTXG}).End(true)
		},
		"seen, and then not": func(h *Cursor) {
			h.Move("alpha-1", place, one) // killed
			h.Read("looker", place).At(one)
			h.Read("looker", place).None()
		},
		"a copy of what never was": func(h *Cursor) {
			h.Move("alpha-1", place, one).End(true)
			h.ReadCopy("looker", place).At(two)
		},
		"the removed one is back": func(h *Cursor) {
			h.Move("alpha-1", place, one).End(true)
			h.Remove("operator", place).End(true)
			h.Read("looker", place).At(one)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := NewCursor()
			h.Move("alpha-1", "a right one", one).End(true)
			broken(h)
			violation := requireViolation(t, h.Check(t.TempDir()), place)
			require.FileExists(t, violation.Visualisation)
			page, err := os.ReadFile(violation.Visualisation)
			require.NoError(t, err)
			require.Contains(t, string(page), "alpha-1: move to 10")
			require.Contains(t, violation.Error(), "moves only forward")
			require.Contains(t, violation.Error(), "alpha-1: move to 10")
		})
	}
}

func TestWhatNobodyKnowsMayHaveHappenedOrNot(t *testing.T) {
	t.Parallel()
	seen, unseen, refused := NewCursor(), NewCursor(), NewCursor()
	seen.Move("alpha-1", place, two).Unknown()
	seen.Read("looker", place).None()
	seen.Read("looker", place).At(two)
	require.NoError(t, seen.Check(""))

	unseen.Move("alpha-1", place, one).End(true)
	unseen.Move("alpha-1", place, two) // killed
	unseen.Read("looker", place).At(one)
	unseen.Move("alpha-2", place, three).End(true)
	require.NoError(t, unseen.Check(""))

	refused.Move("alpha-1", place, two).End(true)
	refused.Move("alpha-2", place, one).Unknown()
	refused.Read("looker", place).At(two)
	require.NoError(t, refused.Check(""))
}

// A register behind a lock is linearizable, whatever the goroutines do.
func TestConcurrentHistoriesOfARightCursorAreExplained(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := NewCursor()
		programs := rapid.SliceOfN(rapid.SliceOfN(rapid.IntRange(0, 6), 1, 12), 2, 4).Draw(t, "programs")
		var mu sync.Mutex
		var now Position
		var running sync.WaitGroup
		for _, program := range programs {
			process := string(rune('a' + len(program)))
			running.Go(func() {
				for _, operation := range program {
					if operation == 0 {
						reading := h.Read(process, place)
						mu.Lock()
						seen := now
						mu.Unlock()
						if seen == (Position{}) {
							reading.None()
						} else {
							reading.At(seen)
						}
						continue
					}
					to := Position{uint64(100 + operation), uint64(operation)}
					move := h.Move(process, place, to)
					mu.Lock()
					forward := now.CreateTXG <= to.CreateTXG
					if forward {
						now = to
					}
					mu.Unlock()
					if operation == 6 {
						move.Unknown()
					} else {
						move.End(forward)
					}
				}
			})
		}
		running.Wait()
		if err := h.Check(""); err != nil {
			t.Fatal(err)
		}
	})
}

const ttl = 10 * time.Second

func TestALeaseThatExpiresIsExplained(t *testing.T) {
	t.Parallel()
	var h *Lease
	synctest.Test(t, func(*testing.T) {
		h = NewLease(ttl)
		h.Read("looker").Holder("")
		h.Acquire("a", "a-1").End(true)
		h.Acquire("b", "b-1").End(false)
		h.Read("looker").Holder("a-1")
		time.Sleep(ttl / 2)
		h.Renew("a", "a-1").End(true)
		time.Sleep(ttl / 2)
		h.Acquire("b", "b-1").End(false)
		time.Sleep(ttl / 2)
		h.Acquire("b", "b-1").End(true)
		h.Renew("a", "a-1").End(false)
		h.Read("looker").Holder("b-1")
		h.Release("b", "b-1").End(true)
		h.Read("looker").Holder("")
		h.Acquire("a", "a-2").End(true)
		h.Read("looker").Failed()
	})
	require.NoError(t, h.Check(""))
}

func TestAnAcquisitionWhoseAnswerWasLostIsExplained(t *testing.T) {
	t.Parallel()
	h := NewLease(ttl)
	h.Acquire("a", "a-1").Unknown()
	h.Acquire("b", "b-1").End(false)
	h.Read("looker").Holder("a-1")
	h.Renew("a", "a-1").End(true)
	h.Release("a", "a-1").Unknown()
	h.Acquire("b", "b-2").End(true)
	require.NoError(t, h.Check(""))
}

func TestBrokenHistoriesOfTheLeaseAreRefused(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]func(*Lease){
		"two holders": func(h *Lease) {
			h.Acquire("a", "a-1").End(true)
			h.Acquire("b", "b-1").End(true)
		},
		"acquired while it was renewed": func(h *Lease) {
			h.Acquire("a", "a-1").End(true)
			time.Sleep(ttl / 2)
			h.Renew("a", "a-1").End(true)
			time.Sleep(ttl * 3 / 4)
			h.Acquire("b", "b-1").End(true)
		},
		"renewed by who has lost it": func(h *Lease) {
			h.Acquire("a", "a-1").End(true)
			time.Sleep(2 * ttl)
			h.Acquire("b", "b-1").End(true)
			h.Renew("a", "a-1").End(true)
		},
		"renewed after it was given up": func(h *Lease) {
			h.Acquire("a", "a-1").End(true)
			h.Release("a", "a-1").End(true)
			h.Renew("a", "a-1").End(true)
		},
		"its holder refused": func(h *Lease) {
			h.Acquire("a", "a-1").End(true)
			h.Renew("a", "a-1").End(false)
		},
		"its holder not seen": func(h *Lease) {
			h.Acquire("a", "a-1").End(true)
			h.Read("looker").Holder("")
		},
		"another seen": func(h *Lease) {
			h.Acquire("a", "a-1").End(true)
			h.Acquire("b", "b-1").Unknown()
			h.Read("looker").Holder("b-1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h *Lease
			synctest.Test(t, func(*testing.T) {
				h = NewLease(ttl)
				broken(h)
			})
			require.Contains(t, requireViolation(t, h.Check(""), leaseRegister).Error(), "a: acquire as a-1: done")
		})
	}
}

func TestOneViolationForEachBrokenRegister(t *testing.T) {
	t.Parallel()
	h := NewCursor()
	for _, register := range []string{"first", "second", "third"} {
		h.Move("alpha-1", register, two).End(true)
		if register != "second" {
			h.Move("alpha-1", register, one).End(true)
		}
	}
	joined, ok := h.Check("").(interface{ Unwrap() []error })
	require.True(t, ok)
	found := 0
	for _, err := range joined.Unwrap() {
		var violation *Violation
		if errors.As(err, &violation) {
			found++
		}
	}
	require.Equal(t, 2, found)
}
