package zfstest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// variable is the environment variable that says that real OpenZFS is there and its absence a failure.
	variable = "ZFLEET_TEST_ZFS"

	// prefix begins the name of every pool made here.
	prefix = "zfleet_test_"

	defaultSize = 512 << 20

	// commandTimeout bounds one zpool command. It is generous because the virtual machine is emulated in software.
	commandTimeout = 2 * time.Minute
)

// RequireReal skips the test, and says how to run it, unless ZFLEET_TEST_ZFS=real promises real OpenZFS. If it is
// promised and not there, or the test has not the rights to use it, the test fails.
func RequireReal(t testing.TB) {
	t.Helper()
	switch value := os.Getenv(variable); value {
	case "real":
	case "":
		t.Skipf("needs real ZFS: run it in the virtual machine with `task vm:test` (or as root with %s=real)", variable)
	default:
		t.Fatalf("%s=%q is not known: set it to real, or not at all", variable, value)
	}
	if os.Geteuid() != 0 {
		t.Fatalf("%s=real, but pools can only be made by root", variable)
	}
	// "zfs version" fails when the kernel module is not loaded, unlike "zfs -V" of some versions.
	if output, err := run(t, "zfs", "version"); err != nil {
		t.Fatalf("%s=real, but OpenZFS does not work here: %v\n%s", variable, err, output)
	}
}

// An Option changes how [NewPool] makes a pool.
type Option func(*pool)

// Size sets the size of the pool's only device in bytes, 512 MiB if not given. The file behind it is sparse. OpenZFS
// wants at least 64 MiB.
func Size(bytes int64) Option {
	return func(p *pool) { p.size = bytes }
}

// Args adds arguments to "zpool create", before the pool's name: "-o", "feature@bookmark_v2=disabled", for example.
func Args(args ...string) Option {
	return func(p *pool) { p.args = append(p.args, args...) }
}

type pool struct {
	size int64
	args []string
}

// NewPool creates a pool on a sparse file and returns its name, which is unique. Its root filesystem is mounted at
// [Mountpoint], other filesystems below it as they inherit. When the test ends the pool is destroyed with all
// that is in it, whatever is still mounted or open; the test fails if that does not work.
func NewPool(t testing.TB, options ...Option) string {
	t.Helper()
	p := pool{size: defaultSize}
	for _, option := range options {
		option(&p)
	}

	name := prefix + randomToken(t)
	directory := t.TempDir()
	device := filepath.Join(directory, name+".img")
	if err := createSparse(device, p.size); err != nil {
		t.Fatalf("create the file behind pool %s: %v", name, err)
	}

	// The alternate root keeps the mounts, those of filesystems received with a mountpoint property included,
	// inside the test's directory. It also implies cachefile=none, so that no other process imports the pool.
	args := []string{"create", "-f", "-R", filepath.Join(directory, "root"), "-O", "atime=off"}
	args = append(args, p.args...)
	args = append(args, name, device)
	if output, err := run(t, "zpool", args...); err != nil {
		t.Fatalf("zpool %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	// Registered after TempDir's own cleanup, hence run before it.
	t.Cleanup(func() { destroy(t, name) })
	return name
}

// Mountpoint returns the directory where the root filesystem of a pool made by [NewPool] is mounted.
func Mountpoint(t testing.TB, name string) string {
	t.Helper()
	output, err := run(t, "zfs", "get", "-Hp", "-o", "value", "mountpoint", name)
	if err != nil {
		t.Fatalf("mountpoint of pool %s: %v\n%s", name, err, output)
	}
	return strings.TrimSuffix(output, "\n")
}

// destroy retries while the pool is busy: a process that the test has just killed takes a moment to let go.
func destroy(t testing.TB, name string) {
	t.Helper()
	const attempts = 10
	for attempt := 1; ; attempt++ {
		output, err := run(t, "zpool", "destroy", "-f", name)
		switch {
		case err == nil || strings.Contains(output, "no such pool"):
			return
		case attempt == attempts || !strings.Contains(output, "busy"):
			t.Errorf("zpool destroy -f %s: %v\n%s", name, err, output)
			return
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// run returns what the command wrote to standard output and standard error. It takes no context of the test's, which
// has ended when pools are destroyed.
func run(t testing.TB, command string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	output, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped after %s: %w", commandTimeout, ctx.Err())
	}
	return string(output), err
}

func createSparse(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := file.Truncate(size); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

func randomToken(t testing.TB) string {
	t.Helper()
	var token [6]byte
	if _, err := rand.Read(token[:]); err != nil {
		t.Fatalf("random pool name: %v", err)
	}
	return hex.EncodeToString(token[:])
}
