//go:build linux

// On real OpenZFS, in the virtual machine of itest/vm. For Linux only, since it looks into pipes.

package zfs

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/zfleet/zfleet/zfs/zfstest"
)

// realZFS is the System of this host's OpenZFS; commands beside its own are run with must.
type realZFS struct {
	*System

	t      *testing.T
	runner Runner
}

func newReal(t *testing.T) realZFS {
	t.Helper()
	zfstest.RequireReal(t)
	runner := NewExecRunner()
	return realZFS{System: New(runner), t: t, runner: runner}
}

// must runs a command that only prepares the test.
func (r realZFS) must(args ...string) string {
	r.t.Helper()
	var stdout bytes.Buffer
	result, err := r.runner.Run(r.ctx(), Command{Args: args, Stdout: &stdout})
	require.NoError(r.t, err)
	require.NoError(r.t, commandFailure(args, result))
	return stdout.String()
}

// ctx bounds what an emulated machine may take for one operation.
func (r realZFS) ctx() context.Context {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	r.t.Cleanup(cancel)
	return ctx
}

// write puts random bytes into a file of a filesystem that is mounted where it inherits it.
func (r realZFS) write(dataset, file string, size int) {
	r.t.Helper()
	mountpoint := r.must("zfs", "get", "-Hp", "-o", "value", "mountpoint", dataset)
	content := make([]byte, size)
	_, err := rand.Read(content)
	require.NoError(r.t, err)
	require.NoError(r.t, os.WriteFile(filepath.Join(mountpoint[:len(mountpoint)-1], file), content, 0o600))
}

func (r realZFS) get(dataset string) Dataset {
	r.t.Helper()
	d, err := r.Get(r.ctx(), dataset)
	require.NoError(r.t, err)
	return d
}

// ref is the version as the dataset has it.
func (r realZFS) ref(dataset string, versionType VersionType, name string) VersionRef {
	r.t.Helper()
	version, ok := r.get(dataset).Version(versionType, name)
	require.True(r.t, ok, "%s has %s%s", dataset, versionType.separator(), name)
	return VersionRef{Type: versionType, Name: name, GUID: version.GUID}
}

// send starts a validated send.
func (r realZFS) send(args SendArgs) *SendStream {
	r.t.Helper()
	valid, err := r.ValidateSend(r.ctx(), args)
	require.NoError(r.t, err)
	stream, err := r.Send(r.ctx(), valid)
	require.NoError(r.t, err)
	return stream
}

// replicate sends and receives, by way of the file descriptor.
func (r realZFS) replicate(args SendArgs, recv RecvArgs) error {
	r.t.Helper()
	stream := r.send(args)
	err := r.Recv(r.ctx(), recv, stream.File())
	if err == nil {
		require.NoError(r.t, stream.Wait())
	}
	closeErr := stream.Close()
	if err == nil {
		require.NoError(r.t, closeErr)
	}
	return err
}

// snapshots makes a filesystem with a snapshot for each name, and size new bytes in each.
func (r realZFS) snapshots(dataset string, size int, names ...string) {
	r.t.Helper()
	r.must("zfs", "create", dataset)
	for _, name := range names {
		r.write(dataset, name, size)
		require.NoError(r.t, r.Snapshot(r.ctx(), dataset+"@"+name))
	}
}

func TestRealFeaturesAndPools(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	features, err := r.Features(r.ctx())
	require.NoError(t, err)
	require.NotEmpty(t, features.KernelVersion)
	require.True(t, features.SnapshotsChanged)
	pools, err := r.Pools(r.ctx())
	require.NoError(t, err)
	for _, p := range pools {
		if p.Name == pool {
			require.Equal(t, "ONLINE", p.Health)
			require.NotZero(t, p.Size)
			require.NotZero(t, p.Free)
			require.True(t, p.Features["bookmark_v2"])
			require.False(t, p.ReadOnly)
			return
		}
	}
	require.Fail(t, "the pool is not listed", "%v", pools)
}

func TestRealList(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	fs := pool + "/fs"
	r.snapshots(fs, 4096, "a", "b")
	r.must("zfs", "create", fs+"/with space:and.more-_")
	r.must("zfs", "create", "-V", "4M", fs+"/vol")
	r.must("zfs", "clone", fs+"@a", pool+"/clone")
	require.NoError(t, r.Hold(r.ctx(), "tag", fs+"@a"))
	require.NoError(t, r.Bookmark(r.ctx(), fs+"@b", fs+"#mark"))
	require.NoError(t, r.CreatePlaceholder(r.ctx(), fs+"/p", PlaceholderArgs{}))
	require.NoError(t, r.CreatePlaceholder(r.ctx(), fs+"/p/q", PlaceholderArgs{}))
	r.must("zfs", "create", fs+"/p/q/inherits")

	datasets, err := r.List(r.ctx(), ListQuery{Datasets: []string{pool}, Recursive: true, Versions: true})
	require.NoError(t, err)
	byName := map[string]Dataset{}
	var names []string
	for _, d := range datasets {
		byName[d.Name] = d
		names = append(names, d.Name)
	}
	require.Equal(t, []string{
		pool, pool + "/clone", fs, fs + "/p", fs + "/p/q", fs + "/p/q/inherits", fs + "/vol", fs + "/with space:and.more-_",
	}, names)
	require.Equal(t, fs+"@a", byName[pool+"/clone"].Origin)
	require.Equal(t, Volume, byName[fs+"/vol"].Type)
	require.Equal(t, "off", byName[fs].Encryption)
	require.Empty(t, byName[fs].KeyStatus)
	require.True(t, byName[fs].Mounted)
	require.True(t, byName[fs+"/p"].Placeholder)
	require.True(t, byName[fs+"/p/q"].Placeholder)
	require.False(t, byName[fs+"/p/q/inherits"].Placeholder)
	require.False(t, byName[fs+"/p"].Mounted)
	require.NotZero(t, byName[fs].SnapshotsChanged)
	require.Zero(t, byName[fs+"/p"].SnapshotsChanged)

	versions := byName[fs].Versions
	require.Len(t, versions, 3)
	require.Equal(t, []string{"@a", "#mark", "@b"}, []string{versions[0].Rel(), versions[1].Rel(), versions[2].Rel()})
	require.Equal(t, uint64(1), versions[0].UserRefs)
	require.Equal(t, versions[2].GUID, versions[1].GUID)
	require.Equal(t, versions[2].CreateTXG, versions[1].CreateTXG)
	require.WithinDuration(t, time.Now(), versions[0].Creation, time.Hour)

	require.Equal(t, byName[fs], r.get(fs), "Get answers as List does")
	shallow, err := r.List(r.ctx(), ListQuery{Datasets: []string{fs}, Recursive: true, Depth: 1, Versions: true, NoSnapshots: true})
	require.NoError(t, err)
	require.Len(t, shallow, 4)
	require.Len(t, shallow[0].Versions, 1)

	_, err = r.List(r.ctx(), ListQuery{Datasets: []string{fs, pool + "/none"}})
	var missing *DatasetDoesNotExist
	require.ErrorAs(t, err, &missing)
	require.Equal(t, pool+"/none", missing.Dataset)
	_, err = r.Get(r.ctx(), "zfleet_no_such_pool/x")
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
	all, err := r.List(r.ctx(), ListQuery{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), len(datasets))
}

func TestRealSendAndRecv(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	from, to := source+"/fs", target+"/fs"
	r.snapshots(from, 1<<20, "a", "b", "c", "d")
	require.NoError(t, r.Bookmark(r.ctx(), from+"@a", from+"#a"))
	flags := SendFlags{Compressed: true, LargeBlocks: true, EmbeddedData: true}

	full := SendArgs{Dataset: from, To: r.ref(from, Snapshot, "a"), Flags: flags}
	valid, err := r.ValidateSend(r.ctx(), full)
	require.NoError(t, err)
	size, err := r.EstimateSend(r.ctx(), valid)
	require.NoError(t, err)
	require.Greater(t, size, uint64(1<<20))
	recv := RecvArgs{Dataset: to, Resumable: true, Override: map[string]string{"mountpoint": "none"}, Inherit: []string{"sharenfs"}}
	require.NoError(t, r.replicate(full, recv))

	mark := r.ref(from, Bookmark, "a")
	require.NoError(t, r.replicate(SendArgs{Dataset: from, From: &mark, To: r.ref(from, Snapshot, "b"), Flags: flags}, recv))
	b := r.ref(from, Snapshot, "b")
	ranged := SendArgs{Dataset: from, From: &b, To: r.ref(from, Snapshot, "d"), Intermediate: true, Flags: flags}
	require.NoError(t, r.replicate(ranged, recv))
	require.NoError(t, r.replicate(ranged, recv), "what was received before is ignored")

	for _, name := range []string{"a", "b", "c", "d"} {
		require.Equal(t, r.ref(from, Snapshot, name), r.ref(to, Snapshot, name))
	}
	require.Equal(t, "none\n", r.must("zfs", "get", "-Hp", "-o", "value", "mountpoint", to))

	gone := r.ref(from, Snapshot, "a")
	require.NoError(t, r.Destroy(r.ctx(), from+"@a"))
	_, err = r.ValidateSend(r.ctx(), SendArgs{Dataset: from, To: gone})
	var wrong *SendArgsError
	require.ErrorAs(t, err, &wrong)
	require.Equal(t, SendVersionMissing, wrong.Problem)
	stream, err := r.Send(r.ctx(), valid) // validated before the snapshot was destroyed
	require.NoError(t, err)
	_, err = io.ReadAll(stream)
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
	require.ErrorIs(t, stream.Close(), ErrDatasetDoesNotExist)
}

func TestRealResumeAfterACut(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	from, to := source+"/fs", target+"/fs"
	r.snapshots(from, 8<<20, "a", "b")
	a := r.ref(from, Snapshot, "a")
	for _, args := range []SendArgs{
		{Dataset: from, To: a, Flags: SendFlags{Compressed: true, LargeBlocks: true, EmbeddedData: true}},
		{Dataset: from, From: &a, To: r.ref(from, Snapshot, "b"), Flags: SendFlags{Raw: true}},
	} {
		const cut = 5 << 20
		cause := errors.New("the connection broke")
		stream := r.send(args)
		err := r.Recv(r.ctx(), RecvArgs{Dataset: to, Resumable: true},
			io.MultiReader(io.LimitReader(stream, cut), failingReader{cause}))
		require.NoError(t, stream.Close())
		var failed *RecvError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, RecvInterrupted, failed.Kind, "%v", err)
		require.ErrorIs(t, err, cause)
		require.NotEmpty(t, failed.ResumeToken)
		require.Equal(t, failed.ResumeToken, r.get(to).ReceiveResumeToken)

		again := args
		err = r.replicate(again, RecvArgs{Dataset: to, Resumable: true})
		require.ErrorAs(t, err, &failed)
		if args.From != nil {
			require.Equal(t, RecvPartialStatePresent, failed.Kind)
		}

		again.ResumeToken = r.get(to).ReceiveResumeToken
		token, err := r.DecodeResumeToken(r.ctx(), again.ResumeToken)
		require.NoError(t, err)
		require.Equal(t, args.To.GUID, token.ToGUID)
		require.Equal(t, args.From != nil, token.HasFromGUID)
		require.Positive(t, token.Bytes)
		require.NoError(t, token.Matches(args))
		valid, err := r.ValidateSend(r.ctx(), again)
		require.NoError(t, err)
		size, err := r.EstimateSend(r.ctx(), valid)
		require.NoError(t, err)
		require.Less(t, size, uint64(5<<20), "only the rest is sent")
		require.NoError(t, r.replicate(again, RecvArgs{Dataset: to, Resumable: true}))
		require.Equal(t, args.To, r.ref(to, Snapshot, args.To.Name))
		require.Empty(t, r.get(to).ReceiveResumeToken)
		_, err = r.ValidateSend(r.ctx(), SendArgs{Dataset: from, To: VersionRef{Type: Snapshot, Name: "a", GUID: 1}})
		require.ErrorContains(t, err, "is another snapshot now")
	}
}

func TestRealResumeTokens(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	from, to := source+"/fs", target+"/fs"
	r.snapshots(from, 4<<20, "a")
	args := SendArgs{Dataset: from, To: r.ref(from, Snapshot, "a")}
	interrupt := func(args SendArgs, after int64) {
		stream := r.send(args)
		err := r.Recv(r.ctx(), RecvArgs{Dataset: to, Resumable: true}, io.LimitReader(stream, after))
		require.NoError(t, stream.Close())
		var failed *RecvError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, RecvInterrupted, failed.Kind, "%v", err)
	}
	interrupt(args, 2<<20)
	first := args
	first.ResumeToken = r.get(to).ReceiveResumeToken
	interrupt(first, 1<<20)
	err := r.replicate(first, RecvArgs{Dataset: to, Resumable: true})
	var failed *RecvError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, RecvResumeMismatch, failed.Kind, "the state has grown since: %v", err)

	// Saved state can be sent on, as far as it goes.
	token, err := r.DecodeResumeToken(r.ctx(), r.get(to).ReceiveResumeToken)
	require.NoError(t, err)
	saved := r.send(SendArgs{Dataset: to, To: VersionRef{Type: Snapshot, GUID: token.ToGUID}, Flags: SendFlags{Saved: true}})
	content, err := io.ReadAll(saved)
	require.NoError(t, err)
	require.NotEmpty(t, content)
	require.NoError(t, saved.Close())

	r.must("zfs", "destroy", "-r", from)
	_, err = r.DecodeResumeToken(r.ctx(), first.ResumeToken)
	require.NoError(t, err, "a host without the dataset can decode it")
	_, err = r.DecodeResumeToken(r.ctx(), "1-abc-e0-1234")
	require.ErrorIs(t, err, ErrResumeTokenCorrupt)

	require.NoError(t, r.AbortRecv(r.ctx(), to))
	require.NoError(t, r.AbortRecv(r.ctx(), to), "the filesystem is gone with its only state")
	_, err = r.Get(r.ctx(), to)
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
}

// openzfs/zfs#12500: a zfs send that is blocked on a full pipe can not be killed.
func TestRealSendStreamCloseWhileThePipeIsFull(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	fs := pool + "/fs"
	r.snapshots(fs, 16<<20, "a")
	args := SendArgs{Dataset: fs, To: r.ref(fs, Snapshot, "a")}

	stream := r.send(args)
	waitUntilFull(t, stream)
	require.NoError(t, stream.Close())
	require.ErrorIs(t, stream.Close(), os.ErrClosed)

	valid, err := r.ValidateSend(r.ctx(), args)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(r.ctx())
	stream, err = r.Send(ctx, valid)
	require.NoError(t, err)
	waitUntilFull(t, stream)
	cancel()
	require.ErrorIs(t, stream.Wait(), context.Canceled)
	require.ErrorIs(t, stream.Close(), context.Canceled)

	stream = r.send(args)
	blocked := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, stream)
		blocked <- err
	}()
	_ = stream.Close() // it may have come to its end by itself
	if err := <-blocked; err != nil {
		require.ErrorIs(t, err, os.ErrClosed)
	}
	require.NoError(t, r.Destroy(r.ctx(), fs+"@a"), "nothing holds on to the snapshot")
}

// waitUntilFull waits until nothing more fits into the stream's pipe: until its content has stopped growing (TIOCINQ is FIONREAD).
func waitUntilFull(t *testing.T, stream *SendStream) {
	t.Helper()
	last := 0
	require.Eventually(t, func() bool {
		connection, err := stream.reader.SyscallConn()
		require.NoError(t, err)
		var waiting int
		require.NoError(t, connection.Control(func(fd uintptr) {
			waiting, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		}))
		require.NoError(t, err)
		full := waiting > 0 && waiting == last
		last = waiting
		return full
	}, time.Minute, 500*time.Millisecond, "the pipe does not fill")
}

func TestRealRecvErrors(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target, small := zfstest.NewPool(t), zfstest.NewPool(t), zfstest.NewPool(t, zfstest.Size(80<<20))
	from, to := source+"/fs", target+"/fs"
	r.snapshots(from, 1<<20, "a", "b", "c")
	a, b, c := r.ref(from, Snapshot, "a"), r.ref(from, Snapshot, "b"), r.ref(from, Snapshot, "c")
	full := SendArgs{Dataset: from, To: a}
	kind := func(want RecvErrorKind, args SendArgs, recv RecvArgs) {
		t.Helper()
		err := r.replicate(args, recv)
		var failed *RecvError
		require.ErrorAs(t, err, &failed)
		require.Equal(t, want, failed.Kind, "%v", err)
	}
	kind(RecvDestinationMissing, full, RecvArgs{Dataset: target + "/no/parent"})
	kind(RecvDestinationMissing, SendArgs{Dataset: from, From: &a, To: b}, RecvArgs{Dataset: to})
	require.NoError(t, r.replicate(full, RecvArgs{Dataset: to}))
	kind(RecvDestinationExists, full, RecvArgs{Dataset: to})
	kind(RecvNoSuchSnapshot, SendArgs{Dataset: from, From: &b, To: c}, RecvArgs{Dataset: to})
	r.must("zfs", "mount", to)
	r.write(to, "local", 4096)
	kind(RecvDestinationModified, SendArgs{Dataset: from, From: &a, To: b}, RecvArgs{Dataset: to})
	require.NoError(t, r.replicate(SendArgs{Dataset: from, From: &a, To: b}, RecvArgs{Dataset: to, Rollback: true}))

	r.write(from, "large", 100<<20)
	require.NoError(t, r.Snapshot(r.ctx(), from+"@large"))
	kind(RecvNoSpace, SendArgs{Dataset: from, To: r.ref(from, Snapshot, "large")}, RecvArgs{Dataset: small + "/fs"})

	err := r.Recv(r.ctx(), RecvArgs{Dataset: target + "/x"}, bytes.NewReader(make([]byte, 1<<16)))
	var failed *RecvError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, RecvInvalidStream, failed.Kind, "%v", err)
	err = r.Recv(r.ctx(), RecvArgs{Dataset: target + "/x"}, bytes.NewReader(nil))
	require.ErrorAs(t, err, &failed)
	require.Equal(t, RecvInterrupted, failed.Kind, "%v", err)

	stream := r.send(full)
	content, err := io.ReadAll(stream)
	require.NoError(t, err)
	require.NoError(t, stream.Close())
	content[len(content)/2] ^= 1
	err = r.Recv(r.ctx(), RecvArgs{Dataset: target + "/x"}, bytes.NewReader(content))
	require.ErrorAs(t, err, &failed)
	require.Equal(t, RecvChecksumMismatch, failed.Kind, "%v", err)
}

func TestRealRecvIntoABusyDataset(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	from, to := source+"/fs", target+"/fs"
	r.snapshots(from, 2<<20, "a", "b")
	a := r.ref(from, Snapshot, "a")
	require.NoError(t, r.replicate(SendArgs{Dataset: from, To: a}, RecvArgs{Dataset: to}))
	next := SendArgs{Dataset: from, From: &a, To: r.ref(from, Snapshot, "b")}

	// A receive whose stream stops coming keeps the dataset busy until it is ended.
	stream := r.send(next)
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(r.ctx())
	ended := make(chan error, 1)
	go func() { ended <- r.Recv(ctx, RecvArgs{Dataset: to, Resumable: true}, reader) }()
	_, err := io.CopyN(writer, stream, 1<<20)
	require.NoError(t, err)
	require.NoError(t, stream.Close())

	// OpenZFS calls it partially received state, although it is still being received.
	require.Eventually(t, func() bool {
		err := r.replicate(next, RecvArgs{Dataset: to})
		var failed *RecvError
		return errors.As(err, &failed) && failed.Kind == RecvPartialStatePresent
	}, time.Minute, time.Second)
	require.ErrorContains(t, r.AbortRecv(r.ctx(), to), "is busy")
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.NotEmpty(t, r.get(to).ReceiveResumeToken, "a killed receive keeps what it has")
	err = r.Destroy(r.ctx(), to+"@a")
	require.ErrorContains(t, err, "it is the incremental source of partially received state")
	require.NoError(t, r.AbortRecv(r.ctx(), to))
	require.NoError(t, r.AbortRecv(r.ctx(), to))
	require.NoError(t, r.replicate(next, RecvArgs{Dataset: to}))
}

func TestRealEncryption(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	source, target := zfstest.NewPool(t), zfstest.NewPool(t)
	key := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(key, []byte("twelve chars"), 0o600))
	from := source + "/enc"
	r.must("zfs", "create", "-o", "encryption=on", "-o", "keyformat=passphrase", "-o", "keylocation=file://"+key, from)
	require.NoError(t, r.Snapshot(r.ctx(), from+"@a"))
	r.write(from, "b", 4096)
	require.NoError(t, r.Snapshot(r.ctx(), from+"@b"))
	require.Equal(t, "available", r.get(from).KeyStatus)
	require.Equal(t, from, r.get(from).EncryptionRoot)
	require.True(t, r.get(from).Encrypted())
	a, b := r.ref(from, Snapshot, "a"), r.ref(from, Snapshot, "b")
	yes, no := true, false
	raw := SendArgs{Dataset: from, To: a, Flags: SendFlags{Raw: true}, Encrypted: &yes}
	require.NoError(t, r.replicate(raw, RecvArgs{Dataset: target + "/raw"}))
	require.NoError(t, r.replicate(SendArgs{Dataset: from, To: a, Encrypted: &no}, RecvArgs{Dataset: target + "/clear"}))
	var failed *RecvError
	require.ErrorAs(t, r.replicate(SendArgs{Dataset: from, From: &a, To: b, Flags: SendFlags{Raw: true}}, RecvArgs{Dataset: target + "/clear"}), &failed)
	require.Equal(t, RecvEncryption, failed.Kind, "%v", failed)
	require.ErrorAs(t, r.replicate(SendArgs{Dataset: from, From: &a, To: b}, RecvArgs{Dataset: target + "/raw"}), &failed)
	require.Equal(t, RecvEncryption, failed.Kind, "%v", failed)
	r.must("zfs", "create", target+"/plain")
	require.ErrorAs(t, r.replicate(raw, RecvArgs{Dataset: target + "/plain", Rollback: true}), &failed)
	require.Equal(t, RecvForceIntoEncrypted, failed.Kind, "%v", failed)

	r.must("zfs", "unmount", from)
	r.must("zfs", "unload-key", from)
	_, err := r.ValidateSend(r.ctx(), SendArgs{Dataset: from, To: a})
	require.ErrorContains(t, err, "zfs load-key "+from)
}

func TestRealHoldsBookmarksAndDestroyAreIdempotent(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	fs := pool + "/fs"
	r.snapshots(fs, 4096, "a", "b", "c", "d")
	ctx := r.ctx()
	for range 2 {
		require.NoError(t, r.Hold(ctx, "tag", fs+"@a", fs+"@b"))
		require.NoError(t, r.Bookmark(ctx, fs+"@a", fs+"#a"))
		require.NoError(t, r.Bookmark(ctx, fs+"#a", fs+"#copy"))
	}
	err := r.Hold(ctx, "tag", fs+"@none", fs+"@c", pool+"/none@x")
	require.ErrorIs(t, err, ErrDatasetDoesNotExist)
	require.ErrorContains(t, err, fs+"@none")
	holds, err := r.Holds(ctx, fs+"@a", fs+"@c", fs+"@d", fs+"@none")
	require.NoError(t, err)
	require.Len(t, holds, 2, "what exists was held")
	require.WithinDuration(t, time.Now(), holds[0].Created, time.Hour)

	var taken *BookmarkExists
	require.ErrorAs(t, r.Bookmark(ctx, fs+"@b", fs+"#a"), &taken)
	require.Equal(t, r.ref(fs, Snapshot, "a").GUID, taken.GUID)
	require.Equal(t, r.ref(fs, Snapshot, "b").GUID, taken.WantGUID)
	require.ErrorIs(t, r.Bookmark(ctx, fs+"@none", fs+"#none"), ErrDatasetDoesNotExist)
	require.ErrorIs(t, r.Bookmark(ctx, fs+"#none", fs+"#none2"), ErrDatasetDoesNotExist)

	r.must("zfs", "clone", fs+"@d", pool+"/clone")
	err = r.Destroy(ctx, fs+"@a", fs+"@b", fs+"@c", fs+"@d", fs+"@none", fs+"#copy", fs+"#none")
	var failed *DestroyError
	require.ErrorAs(t, err, &failed)
	require.Len(t, failed.Failed, 4)
	var held *SnapshotHeld
	require.ErrorAs(t, failed.Failed[fs+"@a"], &held)
	require.Equal(t, []string{"tag"}, held.Tags)
	var cloned *SnapshotHasClones
	require.ErrorAs(t, failed.Failed[fs+"@d"], &cloned)
	require.Equal(t, []string{pool + "/clone"}, cloned.Clones)

	for range 2 {
		require.NoError(t, r.Release(ctx, "tag", fs+"@a", fs+"@b", fs+"@c", fs+"@none", pool+"/none@x"))
		require.NoError(t, r.Destroy(ctx, fs+"@a", fs+"@b", fs+"@c", fs+"#a", pool+"/none@x", pool+"/none#x"))
	}
	require.Len(t, r.get(fs).Versions, 1)
	var exists *SnapshotExists
	require.ErrorAs(t, r.Snapshot(ctx, pool+"/clone@d", fs+"@d"), &exists)
	require.Equal(t, fs+"@d", exists.Snapshot)
	require.Empty(t, r.get(pool+"/clone").Versions, "none was taken")
	require.ErrorIs(t, r.Snapshot(ctx, pool+"/none@x"), ErrDatasetDoesNotExist)
}

func TestRealDestroyOfMany(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	fs := zfstest.NewPool(t) + "/fs"
	r.must("zfs", "create", fs)
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprintf("%s@%d", fs, i))
	}
	require.NoError(t, r.Snapshot(r.ctx(), names[0]))
	for _, name := range names[1:] {
		require.NoError(t, r.Snapshot(r.ctx(), name))
	}
	require.NoError(t, r.Hold(r.ctx(), "tag", names[7]))
	var failed *DestroyError
	require.ErrorAs(t, r.Destroy(r.ctx(), names...), &failed)
	require.Len(t, failed.Failed, 1)
	require.Contains(t, failed.Failed, names[7])
	require.Len(t, r.get(fs).Versions, 1)
}

func TestRealPlaceholders(t *testing.T) {
	t.Parallel()
	r := newReal(t)
	pool := zfstest.NewPool(t)
	ctx := r.ctx()
	for range 2 {
		require.NoError(t, r.CreatePlaceholder(ctx, pool+"/p", PlaceholderArgs{Encryption: PlaceholderOff}))
	}
	d := r.get(pool + "/p")
	require.True(t, d.Placeholder)
	require.False(t, d.Mounted)
	require.NoError(t, r.SetPlaceholder(ctx, pool+"/p", false))
	require.False(t, r.get(pool+"/p").Placeholder)
	require.NoError(t, r.SetPlaceholder(ctx, pool+"/p", true))
	require.True(t, r.get(pool+"/p").Placeholder)
	var missing *DatasetDoesNotExist
	require.ErrorAs(t, r.CreatePlaceholder(ctx, pool+"/no/child", PlaceholderArgs{}), &missing)
	require.Equal(t, pool+"/no", missing.Dataset)
	require.ErrorIs(t, r.CreatePlaceholder(ctx, "zfleet_no_such_pool/x", PlaceholderArgs{}), ErrDatasetDoesNotExist)
	require.ErrorIs(t, r.SetPlaceholder(ctx, pool+"/none", true), ErrDatasetDoesNotExist)
	r.must("zfs", "create", "-V", "4M", pool+"/vol")
	var taken *DatasetExists
	require.ErrorAs(t, r.CreatePlaceholder(ctx, pool+"/vol", PlaceholderArgs{}), &taken)
}
