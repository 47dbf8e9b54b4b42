// Scenes: the stands that the tests of sending and receiving run on, with fake and with real pools.

package itest_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/itest/testfleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
	"github.com/zfleet/zfleet/zfs/zfstest"
)

// scene is a stand with the filesystem data on the source and root on the target, whose workers run.
type scene struct {
	*stand

	data, root string
	// alter writes to a filesystem of the target, and altered tells whether what it wrote is still there.
	alter   func(filesystem string)
	altered func(filesystem string) bool
	// content is what the file that write writes holds on the given side.
	content func(system *zfs.System, filesystem string) []byte
	// alpha and bravo are nil with real pools.
	alpha, bravo *zfsfake.Fake
	// third makes a third host, charlie, with a pool of its own.
	third func() (testfleet.Host, string)
}

// scenario is what a test shows, on fake and on real pools alike.
type scenario func(*scene)

// onFakes runs each scenario on fake pools.
func onFakes(t *testing.T, scenarios map[string]scenario) {
	t.Helper()
	for name, play := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(newFakeScene(t))
		})
	}
}

// onRealPools runs each scenario on real pools.
func onRealPools(t *testing.T, scenarios map[string]scenario) {
	t.Helper()
	zfstest.RequireReal(t)
	for name, play := range scenarios {
		t.Run(name, func(t *testing.T) { play(newRealScene(t)) })
	}
}

func newFakeScene(t *testing.T) *scene {
	t.Helper()
	c := &scene{alpha: zfsfake.New(), bravo: zfsfake.New()}
	c.alpha.CreatePool("tank")
	c.bravo.CreatePool("backup")
	c.stand = newStand(t, c.alpha, c.bravo)
	c.sourcePool, c.targetPool = "tank", "backup"
	c.write = func(filesystem string, generation uint64, size int) {
		require.NoError(t, c.alpha.Generate(filesystem, "data", generation, uint64(size)))
	}
	c.alter = func(filesystem string) {
		require.NoError(t, c.bravo.Write(filesystem, "foreign", []byte("written on the target")))
	}
	c.altered = func(filesystem string) bool {
		_, err := c.bravo.Read(filesystem, "foreign")
		return err == nil
	}
	c.content = func(system *zfs.System, filesystem string) []byte {
		fake := c.alpha
		if system == c.target && system != c.source {
			fake = c.bravo
		}
		data, err := fake.Read(filesystem, "data")
		require.NoError(t, err)
		return data
	}
	c.third = func() (testfleet.Host, string) {
		charlie := zfsfake.New()
		charlie.CreatePool("vault")
		return testfleet.Host{Name: "charlie", Runner: charlie, Policy: testfleet.AllowAll("vault")}, "vault"
	}
	c.set()
	return c
}

func newRealScene(t *testing.T) *scene {
	t.Helper()
	c := &scene{stand: newRealStand(t)}
	// What is received is not mounted, and inherits from placeholders that it has no mountpoint.
	mounted := func(filesystem string, look func(path string) error) error {
		c.command(c.target, "set", "mountpoint=/altered", filesystem)
		if c.property(c.target, filesystem, "mounted") != "yes" {
			c.command(c.target, "mount", filesystem)
		}
		defer c.command(c.target, "unmount", filesystem)
		return look(filepath.Join(c.property(c.target, filesystem, "mountpoint"), "foreign"))
	}
	c.alter = func(filesystem string) {
		require.NoError(t, mounted(filesystem, func(path string) error {
			return os.WriteFile(path, []byte("written on the target"), 0o600)
		}))
	}
	c.altered = func(filesystem string) bool {
		return mounted(filesystem, func(path string) error {
			_, err := os.Stat(path)
			return err
		}) == nil
	}
	c.content = func(_ *zfs.System, filesystem string) []byte {
		if strings.HasPrefix(filesystem, c.sourcePool+"/data") {
			data, err := os.ReadFile(filepath.Join(c.property(c.source, filesystem, "mountpoint"), "data"))
			require.NoError(t, err)
			return data
		}
		var data []byte
		require.NoError(t, mounted(filesystem, func(path string) error {
			var err error
			data, err = os.ReadFile(filepath.Join(filepath.Dir(path), "data"))
			return err
		}))
		return data
	}
	c.third = func() (testfleet.Host, string) {
		pool := zfstest.NewPool(t)
		return testfleet.Host{Name: "charlie", Runner: zfs.NewExecRunner(), Policy: testfleet.AllowAll(pool)}, pool
	}
	c.set()
	return c
}

func (c *scene) set() {
	c.t.Helper()
	c.data, c.root = c.sourcePool+"/data", c.targetPool+"/alpha"
	c.startWorkers()
}

// received is where the source's dataset lands.
func (c *scene) received(dataset string) string { return c.root + "/" + dataset }

// job is a job from all below data to root, changed.
func (c *scene) job(change func(*protocol.Job)) protocol.Job {
	job := testfleet.Job("prod", "alpha", protocol.Filter{c.data + "<": true}, protocol.JobTarget{Host: "bravo", Root: c.root})
	job.Replication.Attempts = 20
	if change != nil {
		change(&job)
	}
	return job
}

// snapshot writes to the filesystem and takes a snapshot of it.
func (c *scene) snapshot(filesystem, name string, generation uint64) {
	c.t.Helper()
	c.write(filesystem, generation, scenarioBytes)
	c.command(c.source, "snapshot", filesystem+"@"+name)
}

// property is a property's value.
func (c *scene) property(system *zfs.System, dataset, name string) string {
	c.t.Helper()
	return strings.TrimSpace(c.output(system, "get", "-Hp", "-o", "value", name, dataset))
}

func (c *scene) runnerOf(system *zfs.System) zfs.Runner {
	if system == c.target {
		return c.stopTarget
	}
	return c.stopSource
}

// output runs a zfs command and returns what it prints.
func (c *scene) output(system *zfs.System, args ...string) string {
	c.t.Helper()
	var output bytes.Buffer
	result, err := c.runnerOf(system).Run(c.t.Context(), zfs.Command{Args: append([]string{"zfs"}, args...), Stdout: &output})
	require.NoError(c.t, err)
	require.Zero(c.t, result.ExitCode, "zfs %s: %s", strings.Join(args, " "), result.Stderr)
	return output.String()
}

// encryptionRoot creates an encrypted filesystem.
func (c *scene) encryptionRoot(system *zfs.System, filesystem string) {
	c.t.Helper()
	key := filepath.Join(c.t.TempDir(), "key")
	require.NoError(c.t, os.WriteFile(key, []byte("a passphrase"), 0o600))
	c.command(system, "create", "-o", "encryption=on", "-o", "keyformat=passphrase", "-o", "keylocation=file://"+key, filesystem)
}

// requireReceived requires that the target has the same snapshots of each dataset as the source.
func (c *scene) requireReceived(datasets ...string) {
	c.t.Helper()
	for _, dataset := range datasets {
		require.Equal(c.t, c.guids(c.source, dataset), c.guids(c.target, c.received(dataset)), "snapshots of %s", dataset)
	}
}

func (c *scene) guids(system *zfs.System, dataset string) []uint64 {
	c.t.Helper()
	found, err := system.Get(c.t.Context(), dataset)
	require.NoError(c.t, err)
	var all []uint64
	for _, v := range found.Versions {
		if v.Type == zfs.Snapshot {
			all = append(all, v.GUID)
		}
	}
	return all
}

// forge leaves on the target the partial state of a send with the given options, as an interrupted receive does.
func (c *scene) forge(into string, send ...string) {
	c.t.Helper()
	c.forgeOn(c.target, into, send...)
}

// forgeOn does so on the target or on the source itself.
func (c *scene) forgeOn(system *zfs.System, into string, send ...string) {
	c.t.Helper()
	var stream bytes.Buffer
	result, err := c.stopSource.Run(c.t.Context(), zfs.Command{Args: append([]string{"zfs", "send"}, send...), Stdout: &stream})
	require.NoError(c.t, err)
	require.Zero(c.t, result.ExitCode, "zfs send %v: %s", send, result.Stderr)
	path := filepath.Join(c.t.TempDir(), "stream")
	require.NoError(c.t, os.WriteFile(path, stream.Bytes()[:stream.Len()/2], 0o600))
	file, err := os.Open(path)
	require.NoError(c.t, err)
	result, err = c.runnerOf(system).Run(c.t.Context(), zfs.Command{Args: []string{"zfs", "recv", "-u", "-s", into}, Stdin: file})
	require.NoError(c.t, err)
	require.NotZero(c.t, result.ExitCode, "half a stream was received")
	require.NotEqual(c.t, "-", c.property(system, into, "receive_resume_token"), "%s", result.Stderr)
}

// tries are what became of the tries of a plan's steps: the progress of those that were done, in order, and the failures of
// those that were not, by their text.
func (c *scene) tries(id protocol.PlanID) (done []protocol.Progress, failures string) {
	c.t.Helper()
	for record, err := range c.Client.Events(c.t.Context(), fleet.EventQuery{Plan: id}) {
		require.NoError(c.t, err)
		switch {
		case record.Event == nil:
		case record.Event.Kind == protocol.EventDone:
			done = append(done, *record.Event.Progress)
		case record.Event.Kind == protocol.EventFailed:
			failures += string(record.Event.Failure.Kind) + ": " + record.Event.Failure.Error() + "\n"
		}
	}
	return done, failures
}

// task is the plan's task of a filesystem.
func (c *scene) task(detail fleet.PlanDetail, filesystem string) protocol.Task {
	c.t.Helper()
	for _, task := range detail.Tasks {
		if task.Filesystem == filesystem {
			return task
		}
	}
	require.Fail(c.t, "there is no task of "+filesystem, "%s", testfleet.Explain(detail))
	return protocol.Task{}
}

// requireFailed requires that the filesystem failed for a reason of the kind that says so much.
func (c *scene) requireFailed(detail fleet.PlanDetail, filesystem string, kind protocol.FailureKind, texts ...string) {
	c.t.Helper()
	task := c.task(detail, filesystem)
	require.NotNil(c.t, task.Failure, "%s", testfleet.Explain(detail))
	require.NotEqual(c.t, protocol.TaskDone, task.State, "%s", testfleet.Explain(detail))
	require.Equal(c.t, kind, task.Failure.Kind, "%s", testfleet.Explain(detail))
	for _, text := range texts {
		require.Contains(c.t, task.Failure.Message, text)
	}
}

func (c *scene) dataset(name string) zfs.Dataset {
	c.t.Helper()
	found, err := c.source.Get(c.t.Context(), name)
	require.NoError(c.t, err)
	return found
}

// command runs a zfs command that must succeed.
func (c *scene) command(system *zfs.System, args ...string) {
	c.t.Helper()
	c.output(system, args...)
}

// pipe runs a command of the source into one of the given host.
func (c *scene) pipe(runner zfs.Runner, from, into []string) {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "stream")
	file, err := os.Create(path)
	require.NoError(c.t, err)
	result, err := c.stopSource.Run(c.t.Context(), zfs.Command{Args: from, Stdout: file})
	require.NoError(c.t, err)
	require.Zero(c.t, result.ExitCode, "%v: %s", from, result.Stderr)
	file, err = os.Open(path)
	require.NoError(c.t, err)
	result, err = runner.Run(c.t.Context(), zfs.Command{Args: into, Stdin: file})
	require.NoError(c.t, err)
	require.Zero(c.t, result.ExitCode, "%v: %s", into, result.Stderr)
}
