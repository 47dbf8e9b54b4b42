// Claim locks: one worker process of a host at a time works on a place, and an older claim does not come after a newer one.
//
// A place has a file in a directory that the host's workers share, named by a hash of what the place is. A claim works under
// an exclusive lock on it (flock(2)), from before its first look at the pool until its end was told and its zfs commands are
// reaped. The kernel frees the lock of a process that dies, and no other: a worker that is cut off from NATS, or stopped for an
// hour, keeps it, however often its item is delivered to others meanwhile. Descriptors are closed on exec, so that a zfs command
// that outlives its worker (one that is stuck in the kernel) keeps no lock; it keeps the dataset busy, and the next claim's
// step fails for that, and is tried again.
//
// Under the lock the file has the record of the claim that holds it, or held it last, with its fencing token. It refuses what
// came late: a claim whose worker was stopped for so long that its item went to another, and an item that a newer one
// has overtaken. Whoever waits for a lock may leave a request beside it that the holder stop, which it looks for every second.

package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zfleet/zfleet/protocol"
)

// place is what there is at most one step at a time for: a filesystem that is received into, or that is sent from for a
// JobID, which is empty for the former.
type place struct {
	role       protocol.Role
	jobID      protocol.JobID
	filesystem string
}

// placesOf are what the item's step works on.
func placesOf(item protocol.WorkItem) []place {
	receiving := place{role: protocol.RoleRecv, filesystem: item.Step.TargetFilesystem}
	if item.Role == protocol.RoleRecv {
		return []place{receiving}
	}
	sending := place{role: protocol.RoleSend, jobID: item.JobID, filesystem: item.Step.Filesystem}
	if item.Transport == protocol.TransportLocal {
		return []place{sending, receiving}
	}
	return []place{sending}
}

// compare orders places: who needs several takes them in this order, so that no two wait for each other.
func (p place) compare(other place) int {
	return strings.Compare(p.key(), other.key())
}

func (p place) key() string {
	return string(p.role) + "\x00" + string(p.jobID) + "\x00" + p.filesystem
}

// ofAllJobs tells whether the place is a sender's that stands for all JobIDs: no claim has such a place.
func (p place) ofAllJobs() bool { return p.role == protocol.RoleSend && p.jobID == "" }

// claimToken is a fencing token: claims on items of one work stream are in order of their items, and claims on one item in
// order of their deliveries.
type claimToken struct {
	// Stream is when the work stream was made, which tells it from one of the same name before or after it: each counts its
	// items from 1.
	Stream   time.Time `json:"stream"`
	Item     uint64    `json:"item"`
	Delivery uint64    `json:"delivery"`
}

// before tells whether a claim is older than another of the same stream.
func (t claimToken) before(other claimToken) bool {
	return t.Item < other.Item || t.Item == other.Item && t.Delivery < other.Delivery
}

// claimRecord is what a place's file says of the claim that holds it, or held it last. The zero value is of a place that nobody
// has held.
type claimRecord struct {
	Token claimToken       `json:"token"`
	Ref   protocol.StepRef `json:"ref"`
	Job   string           `json:"job"`
	// JobID, Role and Filesystem are the place's, but that a receiver has its JobID too.
	JobID      protocol.JobID `json:"job_id"`
	Role       protocol.Role  `json:"role"`
	Filesystem string         `json:"filesystem"`
	// Worker and PID are the process's.
	Worker string    `json:"worker"`
	PID    int       `json:"pid"`
	Since  time.Time `json:"since"`
	// Holding is false once the claim has left in order. One that has not, and has no lock either, has died.
	Holding bool `json:"holding,omitempty"`
	// Confirmed says that the try's receiver has confirmed its stream.
	Confirmed bool `json:"confirmed,omitempty"`
	// Ended says that the end of the try was told.
	Ended bool `json:"ended,omitempty"`
	// Deaths is how many claims on this item have died before this one.
	Deaths uint64 `json:"deaths,omitempty"`
}

// holder names the process for people.
func (r claimRecord) holder() string { return fmt.Sprintf("worker %s (process %d)", r.Worker, r.PID) }

// admit tells whether a claim may have a place, by the record of the claim that holds it or held it last; nil if it may. It is
// errOtherStream where that cannot be told, because the two are of different streams.
func admit(last, ours claimRecord) error {
	sameTask := last.Ref.Plan == ours.Ref.Plan && last.Ref.Task == ours.Ref.Task
	switch {
	case last == (claimRecord{}):
		return nil
	case last.Ref == ours.Ref && last.Ended:
		return errEnded
	case sameTask && last.Ref.Attempt > ours.Ref.Attempt:
		return errSuperseded
	case sameTask && last.Ref.Attempt < ours.Ref.Attempt:
		// Whatever their items' order: a coordinator that was deposed may publish an old try's item after a new one's.
		return nil
	case !last.Token.Stream.Equal(ours.Token.Stream):
		return errOtherStream
	case last.Token.Item == ours.Token.Item && ours.Token.before(last.Token):
		return errStale
	case ours.Token.before(last.Token) && sameTask:
		return errSuperseded
	case ours.Token.before(last.Token):
		return protocol.Failf(protocol.Transient, "%s: step %s of job %s, which was asked for later, was worked on before this one",
			ours.Filesystem, last.Ref, last.Job)
	}
	return nil
}

// yields tells whether a claim that holds a place is to stop for one that waits for it: for a newer try of its task, and for a
// newer run of its job, since a job's runs do not overlap.
func yields(holder, waiting claimRecord) bool {
	if holder.Ref.Plan == waiting.Ref.Plan && holder.Ref.Task == waiting.Ref.Task {
		return holder.Ref.Attempt < waiting.Ref.Attempt
	}
	newer := !holder.Token.Stream.Equal(waiting.Token.Stream) || holder.Token.before(waiting.Token)
	return newer && holder.JobID == waiting.JobID && holder.Ref.Plan != waiting.Ref.Plan
}

// follow is the record of a claim that takes the place after another. It keeps what is known of its item.
func follow(last, ours claimRecord) claimRecord {
	sameItem := last.Token.Stream.Equal(ours.Token.Stream) && last.Token.Item == ours.Token.Item
	switch {
	case sameItem && last.Holding:
		ours.Deaths = last.Deaths + 1
	case sameItem:
		ours.Deaths = last.Deaths
	default:
		ours.Deaths = ours.Token.Delivery - min(1, ours.Token.Delivery) // those before it had it, as far as is known here
	}
	ours.Confirmed = last.Ref == ours.Ref && last.Confirmed
	ours.Holding, ours.Ended = true, false
	return ours
}

const (
	// claimRecordSize is how long a record is in its file, in bytes. It is written at once, so that whoever dies while it
	// writes leaves the old one or the new one.
	claimRecordSize = 4096
	// lockPoll is how often a lock that is waited for is tried, and stopPoll how often its holder looks whether it shall stop.
	lockPoll = 50 * time.Millisecond
	stopPoll = time.Second
	// claimIdle is how long the file of a place stays that nobody works on, and sweepClaimsEvery how often they are swept.
	claimIdle        = 24 * time.Hour
	sweepClaimsEvery = time.Hour

	lockSuffix = ".claim"
	stopSuffix = ".stop"
)

// claimLocks are the places of one host, as one of its worker processes sees them.
type claimLocks struct {
	dir    string
	host   protocol.Host
	worker string
}

// check tells whether the directory will do, and makes it where it is missing.
func (l *claimLocks) check() error {
	unusable := func(err error) error {
		return protocol.Failf(protocol.Permanent, "the directory %s, in which the workers of this host keep one another from working on"+
			" the same filesystem, cannot be used: %w. Let worker.run_dir in the host file (or --run-dir) be a directory of a local file"+
			" system that all workers of this host share and may write to", l.dir, err)
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return unusable(err)
	}
	probe := place{role: "probe", filesystem: l.worker}
	lock, err := l.try(probe)
	switch {
	case err != nil:
		return unusable(err)
	case lock == nil:
		return unusable(errors.New("a lock is held there by a worker of the same name"))
	}
	err = lock.write(claimRecord{Role: probe.role, Worker: l.worker, PID: os.Getpid()})
	if removeError := lock.remove(); err == nil {
		err = removeError
	}
	if err != nil {
		return unusable(err)
	}
	return nil
}

// path is the file of a place. Machines may have workers of several hosts, which have nothing to do with each other.
func (l *claimLocks) path(at place) string {
	sum := sha256.Sum256([]byte(string(l.host) + "\x00" + at.key()))
	return filepath.Join(l.dir, hex.EncodeToString(sum[:16])+lockSuffix)
}

// try takes the lock of a place; nil means that somebody holds it.
func (l *claimLocks) try(at place) (*claimLock, error) { return l.tryFile(l.path(at)) }

func (l *claimLocks) tryFile(path string) (*claimLock, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // a path of our own making
		if err != nil {
			return nil, fmt.Errorf("open a claim's file: %w", err)
		}
		lock := &claimLock{path: path, file: file}
		if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			closeError := file.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, closeError
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// Between the opening and the locking, whoever sweeps may have removed the file. Who comes next makes another one, and
		// the lock on this one keeps nobody away.
		if err := lock.inPlace(); errors.Is(err, errClaimFileGone) {
			lock.release()
			continue
		} else if err != nil {
			lock.release()
			return nil, err
		}
		if lock.record, err = readClaim(file); err != nil {
			lock.release()
			return nil, err
		}
		return lock, nil
	}
}

// wait takes the lock of a place, however long that takes. Until then, holds is called with the record of its holder again and
// again; its error ends the waiting.
func (l *claimLocks) wait(ctx context.Context, at place, holds func(claimRecord) error) (*claimLock, error) {
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		lock, err := l.try(at)
		if lock != nil || err != nil {
			return lock, err
		}
		if record, err := l.look(at); err == nil {
			if err := holds(record); err != nil {
				return nil, err
			}
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// look reads a place's record without its lock. It may be that of a claim before the holder's.
func (l *claimLocks) look(at place) (claimRecord, error) {
	file, err := os.Open(l.path(at))
	if err != nil {
		return claimRecord{}, fmt.Errorf("look at a claim: %w", err)
	}
	record, err := readClaim(file)
	return record, errors.Join(err, file.Close())
}

// ask asks the holder of a place to stop for the given claim.
func (l *claimLocks) ask(at place, waiting claimRecord) error {
	path := strings.TrimSuffix(l.path(at), lockSuffix) + stopSuffix
	asked, err := readRequestToStop(path)
	if err == nil && asked.Token == waiting.Token {
		return nil
	}
	data, err := encodeClaim(waiting)
	if err != nil {
		return err
	}
	// Others may ask at the same time, and the holder may read: each sees one request or the other.
	temporary, err := os.CreateTemp(l.dir, "request-*")
	if err != nil {
		return fmt.Errorf("ask for a place: %w", err)
	}
	_, err = temporary.Write(data)
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("ask for a place: %w", err), os.Remove(temporary.Name()))
	}
	return nil
}

// sweep removes the files of places on which nobody has worked for claimIdle. A claim that is older than that and comes back may
// then find no newer one; its item has long gone to another worker.
func (l *claimLocks) sweep(now time.Time) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("sweep the claims: %w", err)
	}
	var failures []error
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || now.Sub(info.ModTime()) < claimIdle {
			continue // one that is gone by now was somebody else's to sweep
		}
		path := filepath.Join(l.dir, entry.Name())
		if !strings.HasSuffix(path, lockSuffix) {
			if strings.HasPrefix(entry.Name(), "request-") {
				failures = append(failures, removeFile(path))
			}
			continue
		}
		lock, err := l.tryFile(path)
		switch {
		case err != nil:
			failures = append(failures, err)
		case lock != nil && now.Sub(lock.modified()) < claimIdle:
			lock.release()
		case lock != nil:
			failures = append(failures, lock.remove())
		}
	}
	return errors.Join(failures...)
}

// reserve keeps steps from beginning at the places, in any process, until the caller calls leave; they wait. Places where a step is
// under way, or which somebody else has reserved, are not reserved: they are in inUse, with what they are in use by. A
// sender's place with no JobID is that of all JobIDs: it is in use by any of them, and cannot be reserved.
func (l *claimLocks) reserve(places []place) (inUse map[place]string, leave func()) {
	inUse = map[place]string{}
	reserved := map[place]*claimLock{}
	ofAllJobs := map[string]place{}
	for _, wanted := range places {
		switch {
		case wanted.ofAllJobs():
			ofAllJobs[wanted.filesystem] = wanted
		case reserved[wanted] == nil && inUse[wanted] == "":
			lock, err := l.try(wanted)
			switch {
			case err != nil:
				inUse[wanted] = err.Error()
			case lock == nil:
				inUse[wanted] = l.user(wanted)
			default:
				reserved[wanted] = lock
			}
		}
	}
	leave = func() {
		for _, lock := range reserved {
			lock.release()
		}
	}
	if len(ofAllJobs) > 0 {
		if err := l.usersOf(ofAllJobs, reserved, inUse); err != nil {
			for _, wanted := range ofAllJobs {
				inUse[wanted] = err.Error()
			}
		}
	}
	return inUse, leave
}

// user is what holds a place, for people.
func (l *claimLocks) user(at place) string {
	record, err := l.look(at)
	if err != nil || !record.Holding {
		return "another request of an operator"
	}
	return "step " + record.Ref.String() + " of job " + record.Job
}

// usersOf notes by which steps filesystems are being sent, whatever the JobID. What is reserved is not.
func (l *claimLocks) usersOf(wanted map[string]place, reserved map[place]*claimLock, inUse map[place]string) error {
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("look at the claims: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), lockSuffix) {
			continue
		}
		file, err := os.Open(filepath.Join(l.dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at a claim: %w", err)
		}
		record, err := readClaim(file)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
		at, found := wanted[record.Filesystem]
		if !found || record.Role != protocol.RoleSend || !record.Holding {
			continue
		}
		held := place{role: record.Role, jobID: record.JobID, filesystem: record.Filesystem}
		if reserved[held] != nil || l.path(held) != filepath.Join(l.dir, entry.Name()) {
			continue // ours, or another host's on the same machine
		}
		lock, err := l.try(held)
		switch {
		case err != nil:
			return err
		case lock == nil:
			inUse[at] = l.user(held)
		default:
			lock.release() // its holder has died
		}
	}
	return nil
}

// claimLock is a place whose lock this process holds.
type claimLock struct {
	path string

	mu   sync.Mutex
	file *os.File
	// record is what the file says; before take, it is that of the last holder.
	record claimRecord
}

// take makes the place the given claim's.
func (k *claimLock) take(ours claimRecord) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := removeFile(strings.TrimSuffix(k.path, lockSuffix) + stopSuffix); err != nil {
		return fmt.Errorf("take a place: %w", err)
	}
	return k.write(follow(k.record, ours))
}

// change changes the claim's record.
func (k *claimLock) change(change func(*claimRecord)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	record := k.record
	change(&record)
	return k.write(record)
}

// now is the claim's record.
func (k *claimLock) now() claimRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record
}

func (k *claimLock) write(record claimRecord) error {
	data, err := encodeClaim(record)
	if err != nil {
		return err
	}
	if _, err := k.file.WriteAt(data, 0); err != nil {
		return fmt.Errorf("note a claim: %w", err)
	}
	k.record = record
	return nil
}

// valid tells whether the claim still is the one that the host's workers find at its place. The lock makes it so, unless
// somebody has removed its file.
func (k *claimLock) valid() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.inPlace(); err != nil {
		return err
	}
	found, err := readClaim(k.file)
	if err != nil {
		return err
	}
	if found.Token != k.record.Token || found.Ref != k.record.Ref || found.PID != k.record.PID || found.Worker != k.record.Worker {
		return fmt.Errorf("%w: %s has taken its place", errClaimFileGone, found.holder())
	}
	return nil
}

// inPlace tells whether the file is still the one that others find.
func (k *claimLock) inPlace() error {
	opened, err := k.file.Stat()
	if err != nil {
		return fmt.Errorf("look at a claim: %w", err)
	}
	found, err := os.Stat(k.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(opened, found) {
		return errClaimFileGone
	}
	if err != nil {
		return fmt.Errorf("look at a claim: %w", err)
	}
	return nil
}

// mustStop tells whether a claim that goes first has asked for the place.
func (k *claimLock) mustStop() bool {
	asked, err := readRequestToStop(strings.TrimSuffix(k.path, lockSuffix) + stopSuffix)
	return err == nil && yields(k.now(), asked)
}

// modified is when the record was last written.
func (k *claimLock) modified() time.Time {
	info, err := k.file.Stat()
	if err != nil {
		return time.Now()
	}
	return info.ModTime()
}

// release frees the lock.
func (k *claimLock) release() {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Closing frees the lock only once no descriptor of the file is left, and a command that is just being started has one
	// until it is executed.
	_ = unix.Flock(int(k.file.Fd()), unix.LOCK_UN)
	_ = k.file.Close() // there is nothing to write back
}

// remove removes the file and frees the lock.
func (k *claimLock) remove() error {
	defer k.release()
	return errors.Join(removeFile(strings.TrimSuffix(k.path, lockSuffix)+stopSuffix), removeFile(k.path))
}

func removeFile(path string) error {
	err := os.Remove(path) //nolint:gosec // a path of our own making
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readRequestToStop(path string) (claimRecord, error) {
	data, err := os.ReadFile(path) //nolint:gosec // a path of our own making
	if err != nil {
		return claimRecord{}, err
	}
	return decodeClaim(data)
}

// readClaim reads the record of a place. One that is none counts for nothing: it is not of our making.
func readClaim(file *os.File) (claimRecord, error) {
	data := make([]byte, claimRecordSize)
	n, err := file.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return claimRecord{}, fmt.Errorf("read a claim: %w", err)
	}
	record, err := decodeClaim(data[:n])
	if err != nil {
		return claimRecord{}, nil //nolint:nilerr // see above; a file that was made in this moment is empty, too
	}
	return record, nil
}

func decodeClaim(data []byte) (claimRecord, error) {
	var record claimRecord
	if err := json.Unmarshal(data, &record); err != nil {
		return claimRecord{}, fmt.Errorf("read a claim: %w", err)
	}
	return record, nil
}

func encodeClaim(record claimRecord) ([]byte, error) {
	data, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("note a claim: %w", err)
	}
	if len(data) > claimRecordSize {
		return nil, protocol.Failf(protocol.Permanent, "%s: the names in its step are too long", record.Filesystem)
	}
	return append(data, bytes.Repeat([]byte{'\n'}, claimRecordSize-len(data))...), nil
}
