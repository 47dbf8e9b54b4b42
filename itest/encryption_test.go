// Encryption: raw streams to hosts without keys, plain streams into encrypted roots, and what is refused.

package itest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
)

func TestEncryption(t *testing.T) {
	t.Parallel()
	onFakes(t, encryptionScenarios())
}

func TestRealEncryption(t *testing.T) { onRealPools(t, encryptionScenarios()) }

func encryptionScenarios() map[string]scenario {
	return map[string]scenario{
		"raw to a keyless receiver":                     rawToKeylessReceiver,
		"encrypted refuses what is not":                 encryptedRefusesWhatIsNot,
		"in the clear needs the key":                    inTheClearNeedsTheKey,
		"into an encrypted root with inherit":           intoEncryptedRootWithInherit,
		"into an encrypted root with off":               intoEncryptedRootWithOff,
		"into an encrypted root unspecified":            intoEncryptedRootUnspecified,
		"below a filesystem whose key is not loaded":    belowAFilesystemWithoutKey,
		"no embedded data into an encrypted root":       noEmbeddedDataIntoEncryptedRoot,
		"an interrupted raw step of encrypted data":     interruptedRawStep,
		"an interrupted raw step of what is not so":     interruptedRawStepOfUnencrypted,
		"raw of filesystems encrypted and not":          rawOfBoth,
		"a volume, raw, to a keyless receiver":          rawVolume,
		"a placeholder is not replaced by an encrypted": placeholderIsNotReplacedByEncrypted,
	}
}

func encrypted(job *protocol.Job) { job.Send.Encrypted = true }

func rawToKeylessReceiver(c *scene) {
	child := c.data + "/child"
	c.command(c.target, "create", c.root)
	c.encryptionRoot(c.source, c.data)
	c.command(c.source, "create", child)
	c.snapshot(c.data, "s1", 1)
	c.snapshot(child, "s1", 2)
	c.Submit(c.job(encrypted))
	c.MustRun("prod")
	c.snapshot(c.data, "s2", 3)
	c.snapshot(child, "s2", 4)
	// Raw sends need no key on the source, either.
	c.command(c.source, "unmount", child)
	c.command(c.source, "unmount", c.data)
	c.command(c.source, "unload-key", c.data)
	c.command(c.source, "snapshot", c.data+"@s3")
	c.MustRun("prod")
	c.requireReceived(c.data, child)
	for _, dataset := range []string{c.data, child} {
		require.Equal(c.t, "aes-256-gcm", c.property(c.target, c.received(dataset), "encryption"))
		require.Equal(c.t, "unavailable", c.property(c.target, c.received(dataset), "keystatus"))
	}
}

func rawVolume(c *scene) {
	volume := c.sourcePool + "/data/volume"
	c.command(c.target, "create", c.root)
	c.encryptionRoot(c.source, c.data)
	c.command(c.source, "create", "-s", "-V", "16M", volume)
	c.command(c.source, "snapshot", volume+"@s1")
	c.Submit(c.job(func(job *protocol.Job) {
		encrypted(job)
		job.Source.Filesystems = protocol.Filter{volume: true}
		job.Recv.Properties.Override = map[string]string{"canmount": "off", "readonly": "on"}
	}))
	c.MustRun("prod")
	c.command(c.source, "snapshot", volume+"@s2")
	c.MustRun("prod")
	c.requireReceived(volume)
	require.Equal(c.t, "unavailable", c.property(c.target, c.received(volume), "keystatus"))
	require.Equal(c.t, "on", c.property(c.target, c.received(volume), "readonly"))
}

func encryptedRefusesWhatIsNot(c *scene) {
	secret := c.data + "/secret"
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.encryptionRoot(c.source, secret)
	c.snapshot(c.data, "s1", 1)
	c.snapshot(secret, "s1", 2)
	c.Submit(c.job(func(job *protocol.Job) {
		encrypted(job)
		job.Source.Filesystems = protocol.Filter{c.data: true}
	}))
	c.requireFailed(c.Run("prod"), c.data, protocol.Permanent, "it is not encrypted")
	c.Submit(c.job(func(job *protocol.Job) {
		encrypted(job)
		job.Source.Filesystems = protocol.Filter{secret: true}
	}))
	c.MustRun("prod")
	c.requireReceived(secret)
}

func inTheClearNeedsTheKey(c *scene) {
	c.command(c.target, "create", c.root)
	c.encryptionRoot(c.source, c.data)
	c.snapshot(c.data, "s1", 1)
	c.command(c.source, "unmount", c.data)
	c.command(c.source, "unload-key", c.data)
	c.Submit(c.job(nil))
	c.requireFailed(c.Run("prod"), c.data, protocol.Permanent, "its key is not loaded", "zfs load-key "+c.data)
	require.Empty(c.t, c.holds(c.source, c.dataset(c.data)), "nothing was begun")

	c.command(c.source, "load-key", c.data)
	c.MustRun("prod")
	c.requireReceived(c.data)
	require.Equal(c.t, "off", c.property(c.target, c.received(c.data), "encryption"), "it is decrypted on its way")
}

func (c *scene) intoEncryptedRoot(encryption protocol.PlaceholderEncryption) {
	c.t.Helper()
	c.encryptionRoot(c.target, c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	c.Submit(c.job(func(job *protocol.Job) {
		job.Recv.Placeholder.Encryption = encryption
		job.Send.EmbeddedData = false
	}))
}

func intoEncryptedRootWithInherit(c *scene) {
	c.intoEncryptedRoot(protocol.PlaceholderInherit)
	c.MustRun("prod")
	c.snapshot(c.data, "s2", 2)
	c.MustRun("prod")
	c.requireReceived(c.data)
	for _, dataset := range []string{c.received(c.sourcePool), c.received(c.data)} {
		require.Equal(c.t, c.root, c.property(c.target, dataset, "encryptionroot"), "encryption of %s", dataset)
	}
}

func intoEncryptedRootWithOff(c *scene) {
	c.intoEncryptedRoot(protocol.PlaceholderOff)
	c.MustRun("prod")
	c.requireReceived(c.data)
	require.Equal(c.t, "off", c.property(c.target, c.received(c.sourcePool), "encryption"))
}

func intoEncryptedRootUnspecified(c *scene) {
	c.intoEncryptedRoot(protocol.PlaceholderUnspecified)
	c.requireFailed(c.Run("prod"), c.data, protocol.Permanent, "recv.placeholder.encryption", c.received(c.sourcePool))
	// Where no placeholder is needed, nothing has to be specified.
	c.command(c.target, "create", "-u", c.received(c.sourcePool))
	c.MustRun("prod")
	c.requireReceived(c.data)
	require.Equal(c.t, c.root, c.property(c.target, c.received(c.data), "encryptionroot"))
}

func belowAFilesystemWithoutKey(c *scene) {
	child := c.data + "/middle/child"
	c.command(c.target, "create", c.root)
	c.encryptionRoot(c.source, c.data)
	c.command(c.source, "create", "-p", child)
	c.snapshot(c.data, "s1", 1)
	c.snapshot(child, "s1", 2)
	inherit := func(job *protocol.Job) {
		encrypted(job)
		job.Source.Filesystems = protocol.Filter{c.data: true, child: true}
		job.Recv.Placeholder.Encryption = protocol.PlaceholderInherit
	}
	c.Submit(c.job(inherit))
	detail := c.Run("prod")
	require.Equal(c.t, protocol.TaskDone, c.task(detail, c.data).State)
	c.requireFailed(detail, child, protocol.Permanent, "zfs load-key "+c.received(c.data), "recv.placeholder.encryption: off")
	c.Submit(c.job(func(job *protocol.Job) {
		inherit(job)
		job.Recv.Placeholder.Encryption = protocol.PlaceholderOff
	}))
	c.MustRun("prod")
	c.requireReceived(c.data, child)
}

func noEmbeddedDataIntoEncryptedRoot(c *scene) {
	c.encryptionRoot(c.target, c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	inherit := func(job *protocol.Job) { job.Recv.Placeholder.Encryption = protocol.PlaceholderInherit }
	c.Submit(c.job(inherit))
	c.requireFailed(c.Run("prod"), c.data, protocol.Permanent, "send.embedded_data: false")
}

func interruptedRawStep(c *scene) {
	c.command(c.target, "create", c.root)
	c.encryptionRoot(c.source, c.data)
	c.snapshot(c.data, "s1", 1)
	c.command(c.target, "create", "-u", c.received(c.sourcePool))
	c.forge(c.received(c.data), "-w", c.data+"@s1")
	c.Submit(c.job(encrypted))
	c.requireResumed(c.data)
}

func interruptedRawStepOfUnencrypted(c *scene) {
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.snapshot(c.data, "s1", 1)
	c.command(c.target, "create", "-u", c.received(c.sourcePool))
	c.forge(c.received(c.data), "-w", c.data+"@s1")
	c.Submit(c.job(func(job *protocol.Job) { job.Send.Raw = true }))
	c.requireResumed(c.data)
}

// requireResumed requires that the only step of a run goes on with the partial state, at the first try.
func (c *scene) requireResumed(dataset string) {
	c.t.Helper()
	detail := c.MustRun("prod")
	done, failures := c.tries(detail.Plan.ID)
	require.Empty(c.t, failures)
	require.Len(c.t, done, 1)
	require.True(c.t, done[0].Resumed, "the step was resumed")
	require.Less(c.t, done[0].Bytes, uint64(scenarioBytes), "what had arrived is not sent again")
	c.requireReceived(dataset)
}

func rawOfBoth(c *scene) {
	secret := c.data + "/secret"
	c.command(c.target, "create", c.root)
	c.command(c.source, "create", c.data)
	c.encryptionRoot(c.source, secret)
	c.snapshot(c.data, "s1", 1)
	c.snapshot(secret, "s1", 2)
	c.Submit(c.job(func(job *protocol.Job) { job.Send.Raw = true }))
	c.MustRun("prod")
	c.snapshot(c.data, "s2", 3)
	c.snapshot(secret, "s2", 4)
	c.MustRun("prod")
	c.requireReceived(c.data, secret)
	require.Equal(c.t, "off", c.property(c.target, c.received(c.data), "encryption"))
	require.Equal(c.t, "unavailable", c.property(c.target, c.received(secret), "keystatus"))
}

func placeholderIsNotReplacedByEncrypted(c *scene) {
	child := c.data + "/child"
	c.command(c.target, "create", c.root)
	c.encryptionRoot(c.source, c.data)
	c.command(c.source, "create", child)
	c.snapshot(c.data, "s1", 1)
	c.snapshot(child, "s1", 2)
	c.Submit(c.job(func(job *protocol.Job) {
		encrypted(job)
		job.Source.Filesystems = protocol.Filter{child: true}
	}))
	c.MustRun("prod")
	c.Submit(c.job(encrypted))
	c.requireFailed(c.Run("prod"), c.data, protocol.Permanent, "is a placeholder", "zfs rename")
	c.requireReceived(child)
}
