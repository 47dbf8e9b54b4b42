// Jobs: what the operator submits.

package protocol

import "regexp"

// Job is what the operator submits: a source, the filesystems, the targets, and how to replicate. The YAML names are the
// operator's (docs/configuration.md).
type Job struct {
	Name        string            `msgpack:"job" json:"job" yaml:"job"`
	Source      JobSource         `msgpack:"source" json:"source" yaml:"source"`
	Targets     []JobTarget       `msgpack:"targets" json:"targets" yaml:"targets"`
	Snapshots   SnapshotSelection `msgpack:"snapshots" json:"snapshots" yaml:"snapshots,omitempty"`
	Send        SendOptions       `msgpack:"send" json:"send" yaml:"send"`
	Recv        RecvOptions       `msgpack:"recv" json:"recv" yaml:"recv,omitempty"`
	Replication Replication       `msgpack:"replication" json:"replication" yaml:"replication,omitempty"`
}

// JobSource is where a job's filesystems are.
type JobSource struct {
	Host        Host   `msgpack:"host" json:"host" yaml:"host"`
	Filesystems Filter `msgpack:"filesystems" json:"filesystems" yaml:"filesystems"`
}

// JobTarget is one (host, root filesystem) that a job replicates to.
type JobTarget struct {
	Host Host `msgpack:"host" json:"host" yaml:"host"`
	// Root is the filesystem below which the source's filesystems land, each under its whole source path. It must exist.
	Root string `msgpack:"root" json:"root" yaml:"root"`
	// ID overrides the JobID, to adopt existing cursors.
	ID JobID `msgpack:"id,omitempty" json:"id,omitempty" yaml:"id,omitempty"`
}

// JobIDOf is the target's JobID in the job of the given name.
func (t JobTarget) JobIDOf(job string) JobID {
	if t.ID != "" {
		return t.ID
	}
	return DefaultJobID(job, t.Host)
}

// Filesystem is where the source's filesystem lands: <root>/<source path>.
func (t JobTarget) Filesystem(source string) string { return t.Root + "/" + source }

// SnapshotSelection says which snapshots are replicated.
type SnapshotSelection struct {
	// Include is a regular expression (RE2) that a snapshot's name must match; empty takes all.
	Include string `msgpack:"include,omitempty" json:"include,omitempty" yaml:"include,omitempty"`
}

// SendOptions are a job's options for zfs send. They travel with every step.
type SendOptions struct {
	Encrypted        bool `msgpack:"encrypted" json:"encrypted" yaml:"encrypted"`
	Raw              bool `msgpack:"raw" json:"raw" yaml:"raw"`
	Properties       bool `msgpack:"properties" json:"properties" yaml:"properties"`
	BackupProperties bool `msgpack:"backup_properties" json:"backup_properties" yaml:"backup_properties"`
	Compressed       bool `msgpack:"compressed" json:"compressed" yaml:"compressed"`
	LargeBlocks      bool `msgpack:"large_blocks" json:"large_blocks" yaml:"large_blocks"`
	EmbeddedData     bool `msgpack:"embedded_data" json:"embedded_data" yaml:"embedded_data"`
	Saved            bool `msgpack:"saved" json:"saved" yaml:"saved"`
	// BandwidthLimit bounds what the source host sends for the job, all its steps together.
	BandwidthLimit BandwidthLimit `msgpack:"bandwidth_limit" json:"bandwidth_limit" yaml:"bandwidth_limit"`
}

// RecvOptions are a job's options for zfs recv. They travel with every step.
type RecvOptions struct {
	Properties  RecvProperties     `msgpack:"properties" json:"properties" yaml:"properties,omitempty"`
	Placeholder PlaceholderOptions `msgpack:"placeholder" json:"placeholder" yaml:"placeholder,omitempty"`
	// ForceRollback allows the receiver to give up what was written to the target since the last common version (zfs recv
	// -F).
	ForceRollback bool `msgpack:"force_rollback" json:"force_rollback" yaml:"force_rollback"`
	// BandwidthLimit bounds what each target host receives for the job, all its steps together.
	BandwidthLimit BandwidthLimit `msgpack:"bandwidth_limit" json:"bandwidth_limit" yaml:"bandwidth_limit"`
}

// PlaceholderOptions say how filesystems are created that only hold a replicated child.
type PlaceholderOptions struct {
	Encryption PlaceholderEncryption `msgpack:"encryption" json:"encryption" yaml:"encryption"`
}

// PlaceholderEncryption is how a placeholder under an encrypted parent is made.
type PlaceholderEncryption string

// The choices for placeholders. Unspecified fails with an explanation only where a placeholder is needed below an
// encrypted parent.
const (
	PlaceholderUnspecified PlaceholderEncryption = "unspecified"
	PlaceholderOff         PlaceholderEncryption = "off"
	PlaceholderInherit     PlaceholderEncryption = "inherit"
)

// Replication says how a job's steps are made and run.
type Replication struct {
	Protection ProtectionPolicy `msgpack:"protection" json:"protection" yaml:"protection"`
	Initial    InitialPolicy    `msgpack:"initial" json:"initial" yaml:"initial"`
	Transport  Transport        `msgpack:"transport" json:"transport" yaml:"transport"`
	// Delivery is how streams are carried, whatever the transport.
	Delivery    `yaml:",inline"`
	Concurrency Concurrency `msgpack:"concurrency" json:"concurrency" yaml:"concurrency"`
	Deadlines   Deadlines   `msgpack:"deadlines" json:"deadlines" yaml:"deadlines"`
	// Attempts is how often a step is tried before its filesystem fails, when the failures are transient.
	Attempts int `msgpack:"attempts" json:"attempts" yaml:"attempts"`
}

// InitialPolicy says what is sent when the target has nothing of a filesystem.
type InitialPolicy string

// The initial policies.
const (
	InitialMostRecent InitialPolicy = "most_recent"
	InitialAll        InitialPolicy = "all"
	InitialFail       InitialPolicy = "fail"
)

// Delivery says how streams are carried. It travels with every step.
type Delivery struct {
	// Compression is done to streams between hosts.
	Compression Compression `msgpack:"compression" json:"compression" yaml:"compression"`
	// FanOut is about streams that several targets need.
	FanOut FanOut `msgpack:"fan_out" json:"fan_out" yaml:"fan_out"`
	// Objects is about streams that go through the object store.
	Objects Objects `msgpack:"objects" json:"objects" yaml:"objects"`
}

// FanOut says how one zfs send serves all targets that need the same stream.
type FanOut struct {
	// Enabled has it so; without, each target gets a zfs send of its own.
	Enabled bool `msgpack:"enabled" json:"enabled" yaml:"enabled"`
	// Wait is how long the first receiver that is ready waits for the others. Those that are late go on alone.
	Wait Duration `msgpack:"wait" json:"wait" yaml:"wait"`
	// Lag is how long one receiver may hold back all others before it is dropped, and goes on alone.
	Lag Duration `msgpack:"lag" json:"lag" yaml:"lag"`
}

// Objects says how a stream goes through the object store.
type Objects struct {
	// Segment is how much of a stream is one object.
	Segment ByteSize `msgpack:"segment" json:"segment" yaml:"segment"`
	// Window is how much of a stream may be stored and not yet taken by every receiver.
	Window ByteSize `msgpack:"window" json:"window" yaml:"window"`
}

// The bounds of Objects.
const (
	MinSegment = 64 << 10
	MaxSegment = 256 << 20
	MaxWindow  = 16 << 30
)

func (d Delivery) validate() error {
	if err := d.Compression.Validate(); err != nil {
		return Usagef("replication.%w", err)
	}
	if d.FanOut.Wait <= 0 || d.FanOut.Lag <= 0 {
		return Usagef("replication.fan_out: wait is %s and lag is %s: use positive durations", d.FanOut.Wait, d.FanOut.Lag)
	}
	if d.Objects.Segment < MinSegment || d.Objects.Segment > MaxSegment {
		return Usagef("replication.objects.segment is %s: use %s to %s", d.Objects.Segment, ByteSize(MinSegment), ByteSize(MaxSegment))
	}
	if d.Objects.Window < 2*d.Objects.Segment || d.Objects.Window > MaxWindow {
		return Usagef("replication.objects.window is %s: use at least two segments (%s) and at most %s", d.Objects.Window,
			2*d.Objects.Segment, ByteSize(MaxWindow))
	}
	return nil
}

// Transport is how a stream gets from sender to receiver.
type Transport string

// The transports.
const (
	// TransportAuto is local where source and target are one host. Otherwise it is what works: a connection to the receiver,
	// one from it, or the object store, in this order.
	TransportAuto Transport = "auto"
	// TransportTCP is a direct connection between sender and receiver, whichever of them can reach the other.
	TransportTCP Transport = "tcp"
	// TransportObject is the object store of NATS.
	TransportObject Transport = "object"
	// TransportLocal is a pipe on one host.
	TransportLocal Transport = "local"
)

// For is the transport that t means between two hosts. Auto stays what it is between different ones: the sender finds out.
func (t Transport) For(source, target Host) Transport {
	if t == TransportAuto && source == target {
		return TransportLocal
	}
	return t
}

// Concurrency bounds what a plan does at once.
type Concurrency struct {
	// Steps is how many steps of one plan are under way at once.
	Steps int `msgpack:"steps" json:"steps" yaml:"steps"`
}

// Deadlines bound every wait of a plan.
type Deadlines struct {
	// Inventory is how long a host may take from one page of its inventory to the next.
	Inventory Duration `msgpack:"inventory" json:"inventory" yaml:"inventory"`
	// Claim is how long a work item may lie unclaimed before the attempt counts as failed.
	Claim Duration `msgpack:"claim" json:"claim" yaml:"claim"`
	// Offer is how long a receiver that claimed a step may take to offer, and then waits for the sender to connect.
	Offer Duration `msgpack:"offer" json:"offer" yaml:"offer"`
	// Stall is how long a stream may stand still.
	Stall Duration `msgpack:"stall" json:"stall" yaml:"stall"`
	// Confirm is how long the receiver may take from the stream's end to its confirmation.
	Confirm Duration `msgpack:"confirm" json:"confirm" yaml:"confirm"`
	// Absent is how long a plan waits for a host that has no worker running.
	Absent Duration `msgpack:"absent" json:"absent" yaml:"absent"`
}

var jobNamePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,62}$`)

// Validate tells what is wrong with the job, naming the field; call ApplyDefaults first.
func (j Job) Validate() error {
	if !jobNamePattern.MatchString(j.Name) {
		return Usagef("job: name %q: use 1 to 63 letters, digits and any of _.:-, beginning with a letter or digit", j.Name)
	}
	if err := j.Source.Host.Validate(); err != nil {
		return Usagef("job %s: source.host: %w", j.Name, err)
	}
	if err := j.Source.Filesystems.Validate(); err != nil {
		return Usagef("job %s: source.filesystems: %w", j.Name, err)
	}
	if len(j.Targets) == 0 {
		return Usagef("job %s: targets: name at least one target (host and root)", j.Name)
	}
	seen, places := map[JobID]int{}, map[string]int{}
	for i, target := range j.Targets {
		if err := target.validate(j.Name); err != nil {
			return Usagef("job %s: targets[%d]: %w", j.Name, i, err)
		}
		id := target.JobIDOf(j.Name)
		if before, found := seen[id]; found {
			return Usagef("job %s: targets[%d]: its id %q is that of targets[%d] too; set targets[].id so that every target"+
				" keeps its own cursor", j.Name, i, id, before)
		}
		seen[id] = i
		place := string(target.Host) + ":" + target.Root
		if before, found := places[place]; found {
			return Usagef("job %s: targets[%d]: %s is the root of targets[%d] too; two targets cannot receive into one filesystem",
				j.Name, i, place, before)
		}
		places[place] = i
		if target.Host == j.Source.Host && overlaps(j.Source.Filesystems, target.Root) {
			return Usagef("job %s: targets[%d]: root %s is itself among the source's filesystems on %s; exclude it (%q: false)",
				j.Name, i, target.Root, target.Host, target.Root+"<")
		}
	}
	if _, err := regexp.Compile(j.Snapshots.Include); err != nil {
		return Usagef("job %s: snapshots.include: %w", j.Name, err)
	}
	return j.validatePolicies()
}

func overlaps(filter Filter, root string) bool { return filter.Match(root + "/x") }

func (t JobTarget) validate(job string) error {
	if err := t.Host.Validate(); err != nil {
		return err
	}
	if !isDatasetName(t.Root) {
		return Usagef("root %q is no dataset name", t.Root)
	}
	return t.JobIDOf(job).Validate()
}

func (j Job) validatePolicies() error {
	replication := j.Replication
	if err := replication.Protection.Initial.Validate(); err != nil {
		return Usagef("job %s: replication.protection.initial: %w", j.Name, err)
	}
	if err := replication.Protection.Incremental.Validate(); err != nil {
		return Usagef("job %s: replication.protection.incremental: %w", j.Name, err)
	}
	switch replication.Initial {
	case InitialMostRecent, InitialAll, InitialFail:
	default:
		return Usagef("job %s: replication.initial %q: use most_recent, all or fail", j.Name, replication.Initial)
	}
	switch replication.Transport {
	case TransportAuto, TransportTCP, TransportObject:
	case TransportLocal:
		for i, target := range j.Targets {
			if target.Host != j.Source.Host {
				return Usagef("job %s: replication.transport: local needs source and target on one host; targets[%d] is %s",
					j.Name, i, target.Host)
			}
		}
	default:
		return Usagef("job %s: replication.transport %q: use auto, tcp, object or local", j.Name, replication.Transport)
	}
	if err := replication.Delivery.validate(); err != nil {
		return Usagef("job %s: %w", j.Name, err)
	}
	switch j.Recv.Placeholder.Encryption {
	case PlaceholderUnspecified, PlaceholderOff, PlaceholderInherit:
	default:
		return Usagef("job %s: recv.placeholder.encryption %q: use unspecified, off or inherit", j.Name,
			j.Recv.Placeholder.Encryption)
	}
	if err := j.Recv.Properties.validate(); err != nil {
		return Usagef("job %s: %w", j.Name, err)
	}
	if err := j.Send.BandwidthLimit.Validate(); err != nil {
		return Usagef("job %s: send.bandwidth_limit: %w", j.Name, err)
	}
	if err := j.Recv.BandwidthLimit.Validate(); err != nil {
		return Usagef("job %s: recv.bandwidth_limit: %w", j.Name, err)
	}
	if replication.Concurrency.Steps < 1 {
		return Usagef("job %s: replication.concurrency.steps is %d: use at least 1", j.Name, replication.Concurrency.Steps)
	}
	if replication.Attempts < 1 {
		return Usagef("job %s: replication.attempts is %d: use at least 1", j.Name, replication.Attempts)
	}
	deadlines := replication.Deadlines
	for _, deadline := range []struct {
		name  string
		value Duration
	}{
		{"inventory", deadlines.Inventory},
		{"claim", deadlines.Claim},
		{"offer", deadlines.Offer},
		{"stall", deadlines.Stall},
		{"confirm", deadlines.Confirm},
		{"absent", deadlines.Absent},
	} {
		if deadline.value <= 0 {
			return Usagef("job %s: replication.deadlines.%s is %s: use a positive duration", j.Name, deadline.name, deadline.value)
		}
	}
	return nil
}
