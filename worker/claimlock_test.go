package worker

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

func locksOf(dir, worker string) *claimLocks {
	return &claimLocks{dir: dir, host: "alpha", worker: worker}
}

func tokens() *rapid.Generator[claimToken] {
	return rapid.Custom(func(t *rapid.T) claimToken {
		return claimToken{Item: rapid.Uint64Range(1, 4).Draw(t, "item"), Delivery: rapid.Uint64Range(1, 4).Draw(t, "delivery")}
	})
}

func TestTokensHaveAnOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := tokens().Draw(t, "a"), tokens().Draw(t, "b"), tokens().Draw(t, "c")
		before := 0
		for _, holds := range []bool{a.before(b), b.before(a), a == b} {
			if holds {
				before++
			}
		}
		require.Equal(t, 1, before, "exactly one of: a is before b, b before a, they are the same")
		if a.before(b) && b.before(c) {
			require.True(t, a.before(c), "what is before comes before all that comes after")
		}
		if a.Item < b.Item {
			require.True(t, a.before(b), "items count first")
		}
	})
}

// claims of a few tasks and tries, with tokens as the stream gives them.
func claimRecords() *rapid.Generator[claimRecord] {
	return rapid.Custom(func(t *rapid.T) claimRecord {
		return claimRecord{
			Token: tokens().Draw(t, "token"), JobID: "prod.bravo", Job: "prod", Filesystem: "tank/data", Worker: "alpha-1",
			Ref: protocol.StepRef{
				Plan:    protocol.PlanID(rapid.SampledFrom([]string{"p", "q"}).Draw(t, "plan")),
				Task:    rapid.IntRange(0, 1).Draw(t, "task"),
				Attempt: rapid.IntRange(1, 3).Draw(t, "attempt"),
			},
		}
	})
}

// Whatever comes in whatever order, what is admitted to a place only grows newer, by the tries of a task and otherwise by the
// tokens, and an end is an end.
func TestAPlaceAdmitsOnlyWhatIsNewer(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var last claimRecord
		for range rapid.IntRange(1, 20).Draw(t, "claims") {
			ours := claimRecords().Draw(t, "claim")
			refusal := admit(last, ours)
			if refusal != nil {
				continue
			}
			sameTask := last.Ref.Plan == ours.Ref.Plan && last.Ref.Task == ours.Ref.Task
			if sameTask {
				require.GreaterOrEqual(t, ours.Ref.Attempt, last.Ref.Attempt)
			}
			if !sameTask || ours.Ref.Attempt == last.Ref.Attempt {
				require.False(t, ours.Token.before(last.Token), "%+v came after %+v", ours.Token, last.Token)
			}
			require.False(t, last.Ref == ours.Ref && last.Ended, "%s had ended", ours.Ref)
			last = follow(last, ours)
			require.True(t, last.Holding)
			switch rapid.IntRange(0, 2).Draw(t, "end") {
			case 0:
				last.Holding, last.Ended = false, true
			case 1:
				last.Holding = false
			}
		}
	})
}

func TestWhatIsRefusedAndWhy(t *testing.T) {
	t.Parallel()
	old, recent := time.Unix(1, 0).UTC(), time.Unix(2, 0).UTC()
	last := claimRecord{
		Token: claimToken{Stream: old, Item: 5, Delivery: 2}, Ref: protocol.StepRef{Plan: "p", Task: 1, Attempt: 2}, JobID: "prod.bravo",
		Job: "prod", Worker: "alpha-1",
	}
	with := func(item, delivery uint64, attempt int, plan protocol.PlanID) claimRecord {
		ours := last
		ours.Token.Item, ours.Token.Delivery, ours.Ref.Attempt, ours.Ref.Plan = item, delivery, attempt, plan
		return ours
	}
	require.NoError(t, admit(claimRecord{}, with(1, 1, 1, "p")), "nobody was there")
	require.NoError(t, admit(last, last), "the same delivery")
	require.NoError(t, admit(last, with(5, 3, 2, "p")), "its worker has died")
	require.NoError(t, admit(last, with(6, 1, 3, "p")))
	require.NoError(t, admit(last, with(6, 1, 1, "q")))
	require.ErrorIs(t, admit(last, with(5, 1, 2, "p")), errStale)
	require.ErrorIs(t, admit(last, with(4, 9, 1, "p")), errSuperseded)
	require.ErrorIs(t, admit(last, with(6, 1, 1, "p")), errSuperseded, "a leader that was deposed published it late")
	require.ErrorIs(t, admit(last, with(4, 1, 7, "q")), &protocol.Failure{Kind: protocol.Transient}, "another run tries again")
	elsewhere := with(1, 1, 1, "q")
	elsewhere.Token.Stream = recent
	require.ErrorIs(t, admit(last, elsewhere), errOtherStream)
	last.Ended = true
	require.ErrorIs(t, admit(last, with(5, 3, 2, "p")), errEnded)
	require.ErrorIs(t, admit(last, with(9, 1, 2, "p")), errEnded, "the item was published anew")
	require.NoError(t, admit(last, with(6, 1, 3, "p")), "the next try is another")
}

func TestWhoYieldsToWhom(t *testing.T) {
	t.Parallel()
	holder := claimRecord{
		Token: claimToken{Item: 5, Delivery: 2}, Ref: protocol.StepRef{Plan: "p", Task: 1, Attempt: 2}, JobID: "prod.bravo",
	}
	with := func(change func(*claimRecord)) claimRecord {
		waiting := holder
		waiting.Token.Item = 6
		change(&waiting)
		return waiting
	}
	require.True(t, yields(holder, with(func(r *claimRecord) { r.Ref.Attempt = 3 })))
	require.True(t, yields(holder, with(func(r *claimRecord) { r.Ref.Plan, r.Ref.Attempt = "q", 1 })))
	require.False(t, yields(holder, with(func(r *claimRecord) { r.Token.Item, r.Token.Delivery = 5, 3 })), "the same try goes on")
	require.False(t, yields(holder, with(func(r *claimRecord) { r.JobID, r.Ref.Plan = "other", "q" })), "another job waits")
	require.False(t, yields(holder, with(func(r *claimRecord) { r.Token.Item, r.Ref.Plan = 4, "q" })), "an older one never goes first")
	require.False(t, yields(holder, with(func(r *claimRecord) { r.Ref.Task, r.Ref.Attempt = 2, 3 })))
}

func TestALockIsOneProcesss(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := locksOf(dir, "alpha-1"), locksOf(dir, "alpha-2")
	require.NoError(t, one.check())
	at := place{role: protocol.RoleSend, jobID: "prod.bravo", filesystem: "tank/data"}
	lock, err := one.try(at)
	require.NoError(t, err)
	require.NotNil(t, lock)
	again, err := two.try(at)
	require.NoError(t, err)
	require.Nil(t, again)
	for _, other := range []place{
		{role: protocol.RoleSend, jobID: "dr", filesystem: "tank/data"},
		{role: protocol.RoleRecv, filesystem: "tank/data"},
		{role: protocol.RoleSend, jobID: "prod.bravo", filesystem: "tank/data/www"},
	} {
		free, err := two.try(other)
		require.NoError(t, err)
		require.NotNil(t, free, "%+v is another place", other)
		free.release()
	}
	elsewhere := &claimLocks{dir: dir, host: "bravo", worker: "bravo-1"}
	free, err := elsewhere.try(at)
	require.NoError(t, err)
	require.NotNil(t, free, "two hosts may share a directory")
	free.release()
	lock.release()
	again, err = two.try(at)
	require.NoError(t, err)
	require.NotNil(t, again)
	again.release()
}

func TestTheNextClaimKnowsWhatBecameOfTheLast(t *testing.T) {
	t.Parallel()
	locks := locksOf(t.TempDir(), "alpha-1")
	require.NoError(t, locks.check())
	at := place{role: protocol.RoleRecv, filesystem: "backup/tank"}
	claim := func(item, delivery uint64) claimRecord {
		return claimRecord{
			Token: claimToken{Stream: time.Unix(1, 5).UTC(), Item: item, Delivery: delivery},
			Ref:   protocol.StepRef{Plan: "p", Attempt: int(item)}, Worker: "alpha-1",
		}
	}
	var now claimRecord
	hold := func(ours claimRecord, leave func(*claimRecord)) {
		lock, err := locks.try(at)
		require.NoError(t, err)
		require.NotNil(t, lock)
		require.NoError(t, lock.take(ours))
		require.NoError(t, lock.valid())
		now = lock.now()
		if leave != nil {
			require.NoError(t, lock.change(leave))
		}
		lock.release()
		found, err := locks.look(at)
		require.NoError(t, err)
		require.Equal(t, lock.now(), found)
	}
	hold(claim(5, 1), nil) // dies
	hold(claim(5, 2), func(r *claimRecord) { r.Confirmed = true })
	require.EqualValues(t, 1, now.Deaths)
	require.False(t, now.Confirmed)
	hold(claim(5, 3), func(r *claimRecord) { r.Holding = false }) // is stopped in order
	require.EqualValues(t, 2, now.Deaths)
	require.True(t, now.Confirmed, "the next claim on the same try knows of the confirmation")
	hold(claim(5, 4), nil)
	require.EqualValues(t, 2, now.Deaths, "an item that was given back is not held against it")
	hold(claim(6, 3), nil)
	require.EqualValues(t, 2, now.Deaths, "of what happened elsewhere, only the deliveries are known")
	require.False(t, now.Confirmed)
}

func TestAWorkerNeedsAUsableDirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	err := locksOf(filepath.Join(file, "claims"), "alpha-1").check()
	require.ErrorIs(t, err, &protocol.Failure{Kind: protocol.Permanent})
	require.ErrorContains(t, err, "worker.run_dir")
	dir := filepath.Join(t.TempDir(), "made", "by", "the", "worker")
	require.NoError(t, locksOf(dir, "alpha-1").check())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestAClaimWhoseFileIsGoneIsNoneAnyMore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := locksOf(dir, "alpha-1"), locksOf(dir, "alpha-2")
	at := place{role: protocol.RoleRecv, filesystem: "backup/tank"}
	lock, err := one.try(at)
	require.NoError(t, err)
	require.NoError(t, lock.take(claimRecord{Worker: "alpha-1"}))
	defer lock.release()
	require.NoError(t, lock.valid())
	require.NoError(t, os.Remove(one.path(at)))
	require.ErrorIs(t, lock.valid(), errClaimFileGone)
	other, err := two.try(at)
	require.NoError(t, err)
	require.NotNil(t, other)
	defer other.release()
	require.ErrorIs(t, lock.valid(), errClaimFileGone, "another file is not the claim's")
}

func TestAHolderHearsWhoGoesFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := locksOf(dir, "alpha-1"), locksOf(dir, "alpha-2")
	at := place{role: protocol.RoleRecv, filesystem: "backup/tank"}
	claim := func(item uint64, attempt int) claimRecord {
		return claimRecord{
			Token: claimToken{Item: item, Delivery: 1}, Ref: protocol.StepRef{Plan: "p", Attempt: attempt}, JobID: "prod.bravo",
		}
	}
	lock, err := one.try(at)
	require.NoError(t, err)
	require.NoError(t, lock.take(claim(5, 2)))
	require.False(t, lock.mustStop())
	require.NoError(t, two.ask(at, claim(4, 1)))
	require.False(t, lock.mustStop(), "an older try has nothing to say")
	require.NoError(t, two.ask(at, claim(6, 3)))
	require.NoError(t, two.ask(at, claim(6, 3)))
	require.True(t, lock.mustStop())
	lock.release()
	next, err := two.try(at)
	require.NoError(t, err)
	require.NoError(t, next.take(claim(6, 3)))
	defer next.release()
	require.False(t, next.mustStop(), "who asked does not stop for itself")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "the request is answered")
}

func TestSweepingLeavesWhatIsInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	locks := locksOf(dir, "alpha-1")
	held, idle, recent := place{filesystem: "held"}, place{filesystem: "idle"}, place{filesystem: "recent"}
	for _, at := range []place{held, idle, recent} {
		lock, err := locks.try(at)
		require.NoError(t, err)
		require.NoError(t, lock.take(claimRecord{Filesystem: at.filesystem}))
		require.NoError(t, locks.ask(at, claimRecord{}))
		if at == held {
			t.Cleanup(lock.release)
		} else {
			lock.release()
		}
		if at != recent {
			long := time.Now().Add(-2 * claimIdle)
			require.NoError(t, os.Chtimes(locks.path(at), long, long))
		}
	}
	require.NoError(t, locks.sweep(time.Now()))
	for at, want := range map[place]bool{held: true, idle: false, recent: true} {
		_, err := os.Stat(locks.path(at))
		require.Equal(t, want, err == nil, "the file of %s", at.filesystem)
		_, err = os.Stat(strings.TrimSuffix(locks.path(at), lockSuffix) + stopSuffix)
		require.Equal(t, want, err == nil, "the request beside %s", at.filesystem)
	}
}

// Whoever has a lock is alone, however often its file is removed by others that had it.
func TestOneAtATimeWhileFilesComeAndGo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := place{role: protocol.RoleRecv, filesystem: "backup/tank"}
	var inside atomic.Int32
	var everybody sync.WaitGroup
	for n := range 8 {
		locks := locksOf(dir, fmt.Sprintf("alpha-%d", n))
		everybody.Go(func() {
			for taken := 0; taken < 50; {
				lock, err := locks.try(at)
				if err != nil {
					t.Error(err)
					return
				}
				if lock == nil {
					continue
				}
				if inside.Add(1) != 1 {
					t.Error("two have the lock")
				}
				inside.Add(-1)
				if taken++; taken%2 == n%2 {
					lock.release()
				} else if err := lock.remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	everybody.Wait()
}

func TestWaitingEndsWithWhatItsCallerSees(t *testing.T) {
	t.Parallel()
	locks := locksOf(t.TempDir(), "alpha-1")
	at := place{role: protocol.RoleRecv, filesystem: "backup/tank"}
	lock, err := locks.try(at)
	require.NoError(t, err)
	require.NoError(t, lock.take(claimRecord{Worker: "alpha-1", PID: 7}))
	_, err = locks.wait(t.Context(), at, func(holder claimRecord) error {
		require.Equal(t, 7, holder.PID)
		return errStale
	})
	require.ErrorIs(t, err, errStale)
	ctx, cancel := context.WithCancelCause(t.Context())
	_, err = locks.wait(ctx, at, func(claimRecord) error {
		cancel(errSuperseded)
		return nil
	})
	require.ErrorIs(t, err, errSuperseded)
	next, err := locks.wait(t.Context(), at, func(claimRecord) error {
		lock.release()
		return nil
	})
	require.NoError(t, err)
	next.release()
}

func TestReservations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, two := locksOf(dir, "alpha-1"), locksOf(dir, "alpha-2")
	sending := place{role: protocol.RoleSend, jobID: "prod.bravo", filesystem: "tank/data"}
	ofAnyJob := place{role: protocol.RoleSend, filesystem: "tank/data"}
	receiving := place{role: protocol.RoleRecv, filesystem: "tank/data"}
	elsewhere := place{role: protocol.RoleSend, jobID: "prod.bravo", filesystem: "tank/other"}
	step, err := one.try(sending)
	require.NoError(t, err)
	require.NoError(t, step.take(claimRecord{
		Ref: protocol.StepRef{Plan: "p", Task: 1, Attempt: 1}, Job: "prod", Role: protocol.RoleSend, JobID: "prod.bravo",
		Filesystem: "tank/data",
	}))
	inUse, free := two.reserve([]place{sending, ofAnyJob, receiving, elsewhere, elsewhere})
	by := "step p/1-0#1 of job prod"
	require.Equal(t, map[place]string{sending: by, ofAnyJob: by}, inUse, "by a step of another process, too")
	again, freeNothing := one.reserve([]place{elsewhere})
	require.Equal(t, map[place]string{elsewhere: "another request of an operator"}, again)
	freeNothing()
	lock, err := one.try(receiving)
	require.NoError(t, err)
	require.Nil(t, lock, "a step waits for it")
	free()
	step.release() // as the kernel does when its process dies
	inUse, free = two.reserve([]place{sending, ofAnyJob, receiving, elsewhere})
	require.Empty(t, inUse)
	free()
}

func TestAnythingMayBeInAClaimsFile(t *testing.T) {
	t.Parallel()
	locks := locksOf(t.TempDir(), "alpha-1")
	at := place{role: protocol.RoleRecv, filesystem: "backup/tank"}
	require.NoError(t, os.WriteFile(locks.path(at), []byte("{nonsense"), 0o600))
	lock, err := locks.try(at)
	require.NoError(t, err)
	require.Zero(t, lock.now())
	require.NoError(t, lock.take(claimRecord{Filesystem: strings.Repeat("x", 255)}))
	require.ErrorContains(t, lock.take(claimRecord{Filesystem: strings.Repeat("x", claimRecordSize)}), "too long")
	require.NoError(t, lock.valid())
	lock.release()
}

// asHolder has the test binary hold a lock, in the directory that it names.
const asHolder = "ZFLEET_TEST_HOLDS_CLAIM"

// holdClaim is what the process does: it says that it has the lock, and keeps it until it is killed or its input ends. Its answer
// is the exit code.
func holdClaim(dir string) int {
	lock, err := locksOf(dir, "alpha-1").try(heldElsewhere())
	if err == nil && lock != nil {
		err = lock.take(claimRecord{Worker: "alpha-1", PID: os.Getpid()})
	}
	fmt.Println("has it:", lock != nil && err == nil)
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return 0
}

func heldElsewhere() place { return place{role: protocol.RoleRecv, filesystem: "backup/tank"} }

func TestTheLockOfAProcessThatDiesIsFree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), asHolder+"="+dir)
	input, err := holder.StdinPipe()
	require.NoError(t, err)
	output, err := holder.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, holder.Start())
	said, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "has it: true\n", said)

	locks := locksOf(dir, "alpha-2")
	lock, err := locks.try(heldElsewhere())
	require.NoError(t, err)
	require.Nil(t, lock, "it is the other process's")
	record, err := locks.look(heldElsewhere())
	require.NoError(t, err)
	require.Equal(t, holder.Process.Pid, record.PID)

	// A child of a process that holds a lock does not keep it.
	child := exec.Command("sleep", "60")
	held, err := locks.try(place{filesystem: "ours"})
	require.NoError(t, err)
	require.NoError(t, child.Start())
	held.release()
	held, err = locks.try(place{filesystem: "ours"})
	require.NoError(t, err)
	require.NotNil(t, held)
	held.release()
	require.NoError(t, child.Process.Kill())
	_ = child.Wait() // killed

	require.NoError(t, holder.Process.Kill())
	_ = holder.Wait() // killed
	_ = input.Close() // the process is gone
	lock, err = locks.try(heldElsewhere())
	require.NoError(t, err)
	require.NotNil(t, lock, "at once")
	require.True(t, lock.now().Holding, "and who comes next knows that it has died")
	lock.release()
}
