// Pools in files: real ZFS, for those who have it.

package demo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// filePools are two pools of this machine, each in a file of the demo's directory.
type filePools struct {
	dir     string
	command zfs.Runner
	pools   map[protocol.Host]string
	// noDevices says that this machine makes no devices for volumes.
	noDevices bool
}

var _ stage = (*filePools)(nil)

const poolFileSize = 512 << 20

func newFilePools(ctx context.Context, dir string) (*filePools, error) {
	runner := zfs.NewExecRunner()
	if os.Geteuid() != 0 {
		return nil, protocol.Failf(protocol.Permanent, "zctl demo --real makes pools, which only root may; zctl demo without --real needs neither root nor ZFS")
	}
	if _, err := zfs.New(runner).Features(ctx); err != nil {
		return nil, protocol.Failf(protocol.Permanent, "zctl demo --real needs OpenZFS, with its module loaded: %w; zctl demo without --real needs no ZFS", err)
	}
	suffix := strings.ToLower(rand.Text()[:6])
	pools := &filePools{dir: dir, command: runner, pools: map[protocol.Host]string{}}
	for _, host := range []protocol.Host{alpha, bravo} {
		if err := pools.create(ctx, host, fmt.Sprintf("zctl-demo-%s-%s", host, suffix)); err != nil {
			return nil, errors.Join(err, pools.close())
		}
	}
	return pools, nil
}

func (f *filePools) create(ctx context.Context, host protocol.Host, pool string) error {
	path := filepath.Join(f.dir, string(host)+".pool")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the path is the demo's own
	if err != nil {
		return fmt.Errorf("make a file for pool %s: %w", pool, err)
	}
	err = errors.Join(file.Truncate(poolFileSize), file.Close())
	if err != nil {
		return fmt.Errorf("make a file for pool %s: %w", pool, err)
	}
	// cachefile=none: a machine that is switched off in the middle does not look for the pool when it comes back.
	// snapdev=visible: the snapshots of volumes get devices, through which they can be looked at.
	err = f.run(ctx, "zpool", "create", "-o", "cachefile=none", "-O", "mountpoint="+f.mountpoint(host), "-O", "snapdev=visible", pool, path)
	if err != nil {
		return err
	}
	f.pools[host] = pool
	return nil
}

func (f *filePools) mountpoint(host protocol.Host) string {
	return filepath.Join(f.dir, "mnt-"+string(host))
}

func (f *filePools) run(ctx context.Context, args ...string) error {
	result, err := f.command.Run(ctx, zfs.Command{Args: args})
	if err == nil && result.ExitCode != 0 {
		err = errors.New(strings.TrimSpace(string(result.Stderr)))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (f *filePools) describe() string {
	return fmt.Sprintf("Host alpha has pool %s with filesystems, a volume, and data; host bravo has the empty pool %s.\n"+
		"Both are pools of this machine, in files below %s.", f.pools[alpha], f.pools[bravo], f.dir)
}

func (f *filePools) runner(protocol.Host) zfs.Runner { return f.command }

func (f *filePools) source() string { return f.pools[alpha] }

func (f *filePools) root() string { return f.pools[bravo] }

// write writes a file to a filesystem, or to the beginning of a volume. A volume without a device stays as it is.
func (f *filePools) write(dataset string, volume bool, file string, seed, bytes uint64) error {
	path, flags := filepath.Join(f.mountpoint(alpha), strings.TrimPrefix(dataset, f.source()), file), os.O_CREATE|os.O_TRUNC
	if volume {
		path, flags = f.device(dataset), 0
		if path == "" {
			return nil
		}
	}
	out, err := os.OpenFile(path, flags|os.O_WRONLY, 0o600) //nolint:gosec // the path is the demo's own
	if err != nil {
		return fmt.Errorf("write to %s: %w", dataset, err)
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	_, err = io.CopyN(out, mathrand.NewChaCha8(key), int64(bytes)) //nolint:gosec // the sizes are the demo's own
	if volume {
		err = errors.Join(err, out.Sync()) // a snapshot has what has reached the pool
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("write to %s: %w", dataset, err)
	}
	return nil
}

// device is the path of a volume's device, or of its snapshot's; empty where the machine makes none. udev makes the path
// some time after the volume; once it was waited for in vain, nothing is waited for any more.
func (f *filePools) device(volume string) string {
	path := "/dev/zvol/" + volume
	for range 200 {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		if f.noDevices {
			return ""
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.noDevices = true
	return ""
}

// fingerprint mounts the snapshot and sums up its files; a volume's is read through its device, where there is one.
func (f *filePools) fingerprint(ctx context.Context, host protocol.Host, snapshot string) (sum string, err error) {
	dataset, _, _ := strings.Cut(snapshot, "@")
	if strings.HasSuffix(dataset, "/"+volumeName) {
		path := f.device(snapshot)
		if path == "" {
			return "", nil
		}
		return hashFile(path)
	}
	mount, err := os.MkdirTemp(f.dir, "look-")
	if err != nil {
		return "", fmt.Errorf("look into %s: %w", snapshot, err)
	}
	// zfs mount mounts no snapshots; mount(8) does, whatever the mountpoint property says.
	if output, err := exec.CommandContext(ctx, "mount", "-t", "zfs", "-o", "ro", snapshot, mount).CombinedOutput(); err != nil { //nolint:gosec // the names are the demo's own
		return "", fmt.Errorf("mount %s of %s: %w: %s", snapshot, host, err, strings.TrimSpace(string(output)))
	}
	defer func() {
		unmounting, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if output, failure := exec.CommandContext(unmounting, "umount", mount).CombinedOutput(); failure != nil && err == nil { //nolint:gosec // the path is the demo's own
			err = fmt.Errorf("unmount %s: %w: %s", snapshot, failure, strings.TrimSpace(string(output)))
		}
	}()
	return hashTree(mount)
}

// hashFile sums up the contents of one file or device.
func hashFile(path string) (sum string, err error) {
	file, err := os.Open(path) //nolint:gosec // the path is the demo's own
	if err != nil {
		return "", fmt.Errorf("read a volume: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// hashTree sums up the names and contents of all files below dir.
func hashTree(dir string) (string, error) {
	hash := sha256.New()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		file, err := os.Open(path) //nolint:gosec // the path is the demo's own
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(hash, "%q\n", name) // a hash takes everything
		_, err = io.Copy(hash, file)
		return errors.Join(err, file.Close())
	})
	if err != nil {
		return "", fmt.Errorf("read the files of a snapshot: %w", err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func (f *filePools) interruptedSize() uint64 { return 32 << 20 }

func (f *filePools) ackWait() time.Duration { return 10 * time.Second }

// close destroys the pools. It needs no context that is still alive: it is how an interrupted demo cleans up.
func (f *filePools) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var failures []error
	for _, pool := range f.pools {
		failures = append(failures, f.run(ctx, "zpool", "destroy", "-f", pool))
	}
	return errors.Join(failures...)
}
