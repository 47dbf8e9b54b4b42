// Resume tokens: one that is not of the very send that the step would make is refused, its partial state is abandoned, and
// the step begins anew.

package itest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

func TestTokens(t *testing.T) {
	t.Parallel()
	onFakes(t, tokenScenarios())
}

func TestRealTokens(t *testing.T) { onRealPools(t, tokenScenarios()) }

// mismatch is a partial state that is not of the step.
type mismatch struct {
	// encrypted says that the filesystem is.
	encrypted bool
	// send are the options of the send that was interrupted.
	send func(*scene) []string
	job  func(*protocol.Job)
	// refused is what the sender says of the token; empty where the receiver sees by itself that the state is of no use.
	refused string
}

func tokenScenarios() map[string]scenario {
	scenarios := map[string]scenario{"the very send": func(c *scene) {
		c.partial(mismatch{send: of("-L", "-c", "-e")})
		c.Submit(c.job(func(job *protocol.Job) { job.Snapshots.Include = "^s1$" }))
		detail := c.MustRun("prod")
		done, failures := c.tries(detail.Plan.ID)
		require.Empty(c.t, failures)
		require.Len(c.t, done, 1)
		require.True(c.t, done[0].Resumed)
	}}
	for name, m := range map[string]mismatch{
		"compressed, and the step is not": {
			send: of("-L", "-c", "-e"), job: func(job *protocol.Job) { job.Send.Compressed = false }, refused: "of a compressed send",
		},
		"compressed, and the step is not, through the object store": {
			send: of("-L", "-c", "-e"), refused: "of a compressed send",
			job: func(job *protocol.Job) {
				job.Send.Compressed, job.Replication.Transport = false, protocol.TransportObject
			},
		},
		"not compressed, and the step is": {send: of("-L", "-e"), refused: "this is a compressed send"},
		"embedded data, and the step has none": {
			send: of("-L", "-c", "-e"), job: func(job *protocol.Job) { job.Send.EmbeddedData = false },
			refused: "of a embedded-data send",
		},
		"raw, and the step is in the clear": {encrypted: true, send: of("-w"), refused: "of a raw send"},
		"in the clear, and the step is raw": {
			encrypted: true, send: of("-L", "-c"), job: encrypted, refused: "of a send in the clear",
		},
		"of another filesystem with the same snapshot": {
			send: func(c *scene) []string {
				c.copyData()
				return []string{"-L", "-c", "-e", c.sourcePool + "/copy@s1"}
			},
			refused: "of the dataset",
		},
		"of another snapshot": {send: func(c *scene) []string { return []string{"-L", "-c", "-e", c.data + "@s2"} }},
		"of another filesystem": {send: func(c *scene) []string {
			c.command(c.source, "create", c.sourcePool+"/other")
			c.snapshot(c.sourcePool+"/other", "s1", 7)
			return []string{"-L", "-c", "-e", c.sourcePool + "/other@s1"}
		}},
	} {
		scenarios[name] = func(c *scene) {
			c.partial(m)
			c.Submit(c.job(m.job))
			c.requireBegunAnew(m.refused)
		}
	}
	scenarios["an increment from another version"] = func(c *scene) {
		c.partial(mismatch{})
		c.Submit(c.job(func(job *protocol.Job) { job.Snapshots.Include = "^s1$" }))
		c.MustRun("prod")
		c.snapshot(c.data, "s3", 3)
		c.forge(c.received(c.data), "-L", "-c", "-e", "-i", "@s1", c.data+"@s3")
		c.Submit(c.job(nil))
		c.requireBegunAnew("")
	}
	scenarios["an increment, compressed, and the step is not"] = func(c *scene) {
		c.partial(mismatch{})
		c.Submit(c.job(func(job *protocol.Job) { job.Snapshots.Include = "^s1$" }))
		c.MustRun("prod")
		c.forge(c.received(c.data), "-L", "-c", "-e", "-i", "@s1", c.data+"@s2")
		c.Submit(c.job(func(job *protocol.Job) { job.Send.Compressed = false }))
		c.requireBegunAnew("of a compressed send")
	}
	scenarios["locally, compressed, and the step is not"] = func(c *scene) {
		local := c.sourcePool + "/local"
		c.command(c.source, "create", "-p", local+"/"+c.sourcePool)
		c.command(c.source, "create", c.data)
		c.snapshot(c.data, "s1", 1)
		c.forgeOn(c.source, local+"/"+c.data, "-L", "-c", "-e", c.data+"@s1")
		c.Submit(c.job(func(job *protocol.Job) {
			job.Targets = []protocol.JobTarget{{Host: "alpha", Root: local}}
			job.Send.Compressed = false
		}))
		detail := c.MustRun("prod")
		done, failures := c.tries(detail.Plan.ID)
		require.Len(c.t, done, 1)
		require.False(c.t, done[0].Resumed)
		require.Contains(c.t, failures, "of a compressed send")
		require.Equal(c.t, c.guids(c.source, c.data), c.guids(c.source, local+"/"+c.data))
	}
	return scenarios
}

// of sends the filesystem's first snapshot with the flags.
func of(flags ...string) func(*scene) []string {
	return func(c *scene) []string { return append(flags[:len(flags):len(flags)], c.data+"@s1") }
}

// partial makes the filesystem with two snapshots, and leaves the mismatch's partial state of it on the target.
func (c *scene) partial(m mismatch) {
	c.t.Helper()
	c.command(c.target, "create", c.root)
	c.command(c.target, "create", "-u", c.received(c.sourcePool))
	if m.encrypted {
		c.encryptionRoot(c.source, c.data)
	} else {
		c.command(c.source, "create", c.data)
	}
	c.snapshot(c.data, "s1", 1)
	if m.job == nil || m.refused == "" {
		c.snapshot(c.data, "s2", 2)
	}
	if m.send != nil {
		c.forge(c.received(c.data), m.send(c)...)
	}
}

// copyData makes a copy of data, with the same guids, on the source.
func (c *scene) copyData() {
	c.t.Helper()
	c.pipe(c.stopSource, []string{"zfs", "send", c.data + "@s1"}, []string{"zfs", "recv", "-u", c.sourcePool + "/copy"})
}

// requireBegunAnew requires that a run abandons the partial state, for the reason, and then sends all.
func (c *scene) requireBegunAnew(refused string) {
	c.t.Helper()
	detail := c.MustRun("prod")
	done, failures := c.tries(detail.Plan.ID)
	require.NotEmpty(c.t, done)
	for _, progress := range done {
		require.False(c.t, progress.Resumed, "nothing was resumed")
	}
	require.Contains(c.t, failures, refused)
	require.NotContains(c.t, failures, string(protocol.Permanent))
	if refused == "" {
		require.Empty(c.t, failures, "the receiver sees by itself that the partial state is of no use")
	}
	c.requireReceived(c.data)
	require.Equal(c.t, "-", c.property(c.target, c.received(c.data), "receive_resume_token"))
}

func TestGarbageTokenIsAbandoned(t *testing.T) {
	t.Parallel()
	c := newFakeScene(t)
	c.partial(mismatch{send: of("-L", "-c", "-e")})
	c.bravo.Inject(zfsfake.Fault{
		Match:  zfsfake.Command("zfs", "send").With("-nvt"),
		Before: &zfsfake.Failure{ExitCode: 1, Stderr: "cannot resume send: resume token is corrupt (incorrect checksum)\n"},
	})
	c.Submit(c.job(nil))
	c.requireBegunAnew("")
}

func TestTokenThatCouldNotBeReadIsNotAbandoned(t *testing.T) {
	t.Parallel()
	c := newFakeScene(t)
	c.partial(mismatch{send: of("-L", "-c", "-e")})
	c.Submit(c.job(func(job *protocol.Job) { job.Snapshots.Include = "^s1$" }))
	// The first two looks are the inventory's and the receiver's own.
	c.bravo.Inject(zfsfake.Fault{
		Match: zfsfake.Command("zfs", "send").With("-nvt"), Skip: 1, Times: 1,
		Before: &zfsfake.Failure{ExitCode: 1, Stderr: "internal error: out of memory\n"},
	})
	detail := c.MustRun("prod")
	done, failures := c.tries(detail.Plan.ID)
	require.Contains(t, failures, "out of memory")
	require.Len(t, done, 1)
	require.True(t, done[0].Resumed, "the partial state is still there")
}
