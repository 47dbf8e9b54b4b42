package protocol_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/zfleet/zfleet/protocol"
)

const minimalJob = `job: prod
source: {host: alpha, filesystems: {"tank/data<": true}}
targets: [{host: bravo, root: backup/alpha}]
`

const fullJob = `job: prod-dr
source: {host: alpha, filesystems: {"tank/data<": true, "tank/data/tmp<": false}}
targets:
  - {host: bravo, root: backup/alpha}
  - {host: charlie, root: dr/alpha, id: zrepl_push_dr}
snapshots: {include: "^(auto|manual)_"}
send: {encrypted: true, raw: true, properties: true, backup_properties: true, compressed: false,
       large_blocks: false, embedded_data: false, saved: true, bandwidth_limit: 100MiB}
recv:
  properties: {override: {mountpoint: none}, inherit: [sharenfs]}
  placeholder: {encryption: inherit}
  force_rollback: true
  bandwidth_limit: {default: 1GiB, "mon-fri 08:00-18:00": 20MiB}
replication:
  protection: {initial: guarantee_nothing, incremental: guarantee_incremental}
  initial: all
  transport: tcp
  compression: zstd-9
  fan_out: {enabled: false, wait: 5s, lag: 6s}
  objects: {segment: 1MiB, window: 16MiB}
  concurrency: {steps: 7}
  deadlines: {inventory: 1s, claim: 2m, offer: 3s, stall: 4s, confirm: 1h30m, absent: 7h}
  attempts: 3
`

func soundJob() protocol.Job {
	job := protocol.DefaultJob()
	job.Name = "prod"
	job.Source = protocol.JobSource{Host: "alpha", Filesystems: protocol.Filter{"tank/data<": true, "tank/data/tmp<": false}}
	job.Targets = []protocol.JobTarget{{Host: "bravo", Root: "backup/alpha"}}
	return job
}

func TestParseJobReadsEveryField(t *testing.T) {
	t.Parallel()
	job, err := protocol.ParseJob([]byte(fullJob))
	require.NoError(t, err)
	require.Equal(t, protocol.Job{
		Name: "prod-dr",
		Source: protocol.JobSource{
			Host: "alpha", Filesystems: protocol.Filter{"tank/data<": true, "tank/data/tmp<": false},
		},
		Targets: []protocol.JobTarget{
			{Host: "bravo", Root: "backup/alpha"}, {Host: "charlie", Root: "dr/alpha", ID: "zrepl_push_dr"},
		},
		Snapshots: protocol.SnapshotSelection{Include: "^(auto|manual)_"},
		Send: protocol.SendOptions{
			Encrypted: true, Raw: true, Properties: true, BackupProperties: true, Saved: true,
			BandwidthLimit: protocol.BandwidthLimit{Default: 100 << 20},
		},
		Recv: protocol.RecvOptions{
			Properties: protocol.RecvProperties{
				Override: map[string]string{"mountpoint": "none"}, Inherit: []string{"sharenfs"},
			},
			Placeholder:   protocol.PlaceholderOptions{Encryption: protocol.PlaceholderInherit},
			ForceRollback: true,
			BandwidthLimit: protocol.BandwidthLimit{Default: 1 << 30, Intervals: []protocol.BandwidthInterval{
				{Days: workdays, From: 8 * 60, To: 18 * 60, Limit: 20 << 20},
			}},
		},
		Replication: protocol.Replication{
			Protection: protocol.ProtectionPolicy{
				Initial: protocol.GuaranteeNothing, Incremental: protocol.GuaranteeIncremental,
			},
			Initial:   protocol.InitialAll,
			Transport: protocol.TransportTCP,
			Delivery: protocol.Delivery{
				Compression: "zstd-9",
				FanOut:      protocol.FanOut{Wait: protocol.Duration(5 * time.Second), Lag: protocol.Duration(6 * time.Second)},
				Objects:     protocol.Objects{Segment: 1 << 20, Window: 16 << 20},
			},
			Concurrency: protocol.Concurrency{Steps: 7},
			Deadlines: protocol.Deadlines{
				Inventory: protocol.Duration(time.Second), Claim: protocol.Duration(2 * time.Minute),
				Offer: protocol.Duration(3 * time.Second), Stall: protocol.Duration(4 * time.Second),
				Confirm: protocol.Duration(90 * time.Minute), Absent: protocol.Duration(7 * time.Hour),
			},
			Attempts: 3,
		},
	}, job)
}

func TestParseJobKeepsTheDefaultsOfWhatIsNotSaid(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text   string
		change func(*protocol.Job)
	}{
		"nothing":          {"", func(*protocol.Job) {}},
		"an empty block":   {"replication:\n", func(*protocol.Job) {}},
		"a null block":     {"send: null\nrecv: ~\n", func(*protocol.Job) {}},
		"an empty map":     {"replication: {deadlines: {}}\n", func(*protocol.Job) {}},
		"one send option":  {"send: {raw: true}\n", func(j *protocol.Job) { j.Send.Raw = true }},
		"one switched off": {"send: {compressed: false}\n", func(j *protocol.Job) { j.Send.Compressed = false }},
		"one protection": {
			"replication: {protection: {initial: guarantee_nothing}}\n",
			func(j *protocol.Job) { j.Replication.Protection.Initial = protocol.GuaranteeNothing },
		},
		"one deadline": {
			"replication: {deadlines: {stall: 90s}}\n",
			func(j *protocol.Job) { j.Replication.Deadlines.Stall = protocol.Duration(90 * time.Second) },
		},
		"a deadline by reference": {
			"replication: {deadlines: {stall: &s 90s, offer: *s}}\n",
			func(j *protocol.Job) {
				j.Replication.Deadlines.Stall = protocol.Duration(90 * time.Second)
				j.Replication.Deadlines.Offer = protocol.Duration(90 * time.Second)
			},
		},
		"a quoted deadline": {
			"replication: {deadlines: {stall: '90s'}}\n",
			func(j *protocol.Job) { j.Replication.Deadlines.Stall = protocol.Duration(90 * time.Second) },
		},
		"one bandwidth for both": {
			"send: {bandwidth_limit: &l {default: 1MiB, sat: 0}}\nrecv: {bandwidth_limit: *l}\n",
			func(j *protocol.Job) {
				j.Send.BandwidthLimit = protocol.BandwidthLimit{Default: 1 << 20, Intervals: []protocol.BandwidthInterval{
					{Days: 1 << time.Saturday, To: 24 * 60},
				}}
				j.Recv.BandwidthLimit = j.Send.BandwidthLimit
			},
		},
		"no bandwidth":  {"send: {bandwidth_limit: ~}\nrecv: {bandwidth_limit:}\n", func(*protocol.Job) {}},
		"rollback only": {"recv: {force_rollback: true}\n", func(j *protocol.Job) { j.Recv.ForceRollback = true }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want, err := protocol.ParseJob([]byte(minimalJob))
			require.NoError(t, err)
			require.Equal(t, want.Replication, protocol.DefaultJob().Replication)
			test.change(&want)
			job, err := protocol.ParseJob([]byte(minimalJob + test.text))
			require.NoError(t, err)
			require.Equal(t, want, job)
		})
	}
}

func TestParseJobSaysWhatIsWrongAndWhere(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		says []string
	}{
		"nothing":                  {"", []string{"there is no job in it"}},
		"a comment only":           {"# nothing\n", []string{"there is no job in it"}},
		"no map":                   {"[]", []string{"[1:1]", "mapping is expected"}},
		"an unknown field":         {minimalJob + "sendd: {raw: true}\n", []string{"[4:1]", `unknown field "sendd"`}},
		"an unknown nested field":  {minimalJob + "replication:\n  protection:\n    initail: x\n", []string{"[6:5]", `"initail"`}},
		"an unknown target field":  {"job: a\nsource: {host: a, filesystems: {x: true}}\ntargets: [{host: b, rot: x}]\n", []string{"[3:21]", `"rot"`}},
		"a field twice":            {minimalJob + "job: c\n", []string{"[4:1]", `"job" already defined at [1:1]`}},
		"a bad duration":           {minimalJob + "replication: {deadlines: {stall: 5x}}\n", []string{"[4:34]", `duration "5x"`, "write it like 30s"}},
		"a duration without unit":  {minimalJob + "replication: {deadlines: {stall: 5}}\n", []string{"[4:34]", `duration "5"`}},
		"a map for a duration":     {minimalJob + "replication: {deadlines: {stall: {a: b}}}\n", []string{"[4:", "duration"}},
		"text for a number":        {minimalJob + "replication: {attempts: x}\n", []string{"[4:25]", "string into"}},
		"text for a boolean":       {minimalJob + "send: {raw: maybe}\n", []string{"[4:13]"}},
		"a bad bandwidth":          {minimalJob + "send: {bandwidth_limit: fast}\n", []string{"[4:25]", `size "fast"`}},
		"a bad interval":           {minimalJob + "send:\n  bandwidth_limit:\n    noon: 1MiB\n", []string{"[6:5]", `interval "noon"`, "mon-fri 08:00-18:00"}},
		"an interval's bandwidth":  {minimalJob + "send: {bandwidth_limit: {'8:00-9:00': fast}}\n", []string{"[4:39]", `size "fast"`}},
		"a second document":        {minimalJob + "---\njob: b\n", []string{"more than one document"}},
		"a broken second document": {minimalJob + "---\njob: [\n", []string{""}},
		"bad YAML":                 {"job: [", []string{"[1:6]"}},
		"a tab":                    {"job: a\n\tb: c\n", []string{"[2:1]"}},
		"too much":                 {minimalJob + "#" + string(make([]byte, protocol.MaxPayload)), []string{"too many for a job"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := protocol.ParseJob([]byte(test.text))
			require.Error(t, err)
			require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
			for _, says := range test.says {
				require.ErrorContains(t, err, says)
			}
		})
	}
}

func TestValidateJob(t *testing.T) {
	t.Parallel()
	require.NoError(t, soundJob().Validate())
	for says, change := range map[string]func(*protocol.Job){
		`name ""`:                  func(j *protocol.Job) { j.Name = "" },
		`name "a/b"`:               func(j *protocol.Job) { j.Name = "a/b" },
		`name "-a"`:                func(j *protocol.Job) { j.Name = "-a" },
		"source.host":              func(j *protocol.Job) { j.Source.Host = "Alpha" },
		"filesystem filter":        func(j *protocol.Job) { j.Source.Filesystems = nil },
		"name at least one target": func(j *protocol.Job) { j.Targets = nil },
		"targets[0]: host name":    func(j *protocol.Job) { j.Targets[0].Host = "a.b" },
		`root ""`:                  func(j *protocol.Job) { j.Targets[0].Root = "" },
		`root "/backup"`:           func(j *protocol.Job) { j.Targets[0].Root = "/backup" },
		`root "backup/"`:           func(j *protocol.Job) { j.Targets[0].Root = "backup/" },
		`root "backup@x"`:          func(j *protocol.Job) { j.Targets[0].Root = "backup@x" },
		`job id "a/b"`:             func(j *protocol.Job) { j.Targets[0].ID = "a/b" },
		`its id "prod.bravo" is that of targets[0] too; set targets[].id`: func(j *protocol.Job) {
			j.Targets = append(j.Targets, protocol.JobTarget{Host: "bravo", Root: "other"})
		},
		"targets[1]: bravo:backup/alpha is the root of targets[0] too": func(j *protocol.Job) {
			j.Targets = append(j.Targets, protocol.JobTarget{Host: "bravo", Root: "backup/alpha", ID: "other"})
		},
		`exclude it ("tank/data/in<": false)`: func(j *protocol.Job) {
			j.Targets[0] = protocol.JobTarget{Host: "alpha", Root: "tank/data/in"}
		},
		"snapshots.include: error parsing regexp": func(j *protocol.Job) { j.Snapshots.Include = "(" },
		"replication.protection.initial":          func(j *protocol.Job) { j.Replication.Protection.Initial = "x" },
		"replication.protection.incremental":      func(j *protocol.Job) { j.Replication.Protection.Incremental = "" },
		`replication.initial "x"`:                 func(j *protocol.Job) { j.Replication.Initial = "x" },
		`replication.transport "x"`:               func(j *protocol.Job) { j.Replication.Transport = "x" },
		"local needs source and target on one host; targets[0] is bravo": func(j *protocol.Job) {
			j.Replication.Transport = protocol.TransportLocal
		},
		`recv.properties.override: "a=b"`: func(j *protocol.Job) {
			j.Recv.Properties.Override = map[string]string{"mountpoint": "none", "a=b": "c"}
		},
		`recv.properties.inherit: ""`:            func(j *protocol.Job) { j.Recv.Properties.Inherit = []string{"a:b", ""} },
		"recv.placeholder.encryption":            func(j *protocol.Job) { j.Recv.Placeholder.Encryption = "x" },
		"send.bandwidth_limit: 100 B per second": func(j *protocol.Job) { j.Send.BandwidthLimit.Default = 100 },
		"recv.bandwidth_limit: 100 B per second": func(j *protocol.Job) { j.Recv.BandwidthLimit.Default = 100 },
		"replication.concurrency.steps is 0":     func(j *protocol.Job) { j.Replication.Concurrency.Steps = 0 },
		"replication.attempts is -1":             func(j *protocol.Job) { j.Replication.Attempts = -1 },
		"replication.deadlines.inventory is 0s":  func(j *protocol.Job) { j.Replication.Deadlines.Inventory = 0 },
		"replication.deadlines.claim is 0s":      func(j *protocol.Job) { j.Replication.Deadlines.Claim = 0 },
		"replication.deadlines.offer is 0s":      func(j *protocol.Job) { j.Replication.Deadlines.Offer = 0 },
		"replication.deadlines.stall is 0s":      func(j *protocol.Job) { j.Replication.Deadlines.Stall = 0 },
		"replication.deadlines.confirm is -1ns":  func(j *protocol.Job) { j.Replication.Deadlines.Confirm = -1 },
		"replication.deadlines.absent is 0s":     func(j *protocol.Job) { j.Replication.Deadlines.Absent = 0 },
	} {
		job := soundJob()
		change(&job)
		err := job.Validate()
		require.ErrorContains(t, err, says)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
	}
}

func TestTargetsOnTheSourceHost(t *testing.T) {
	t.Parallel()
	job := soundJob()
	job.Targets = []protocol.JobTarget{{Host: "alpha", Root: "backup"}, {Host: "alpha", Root: "tank/data/tmp", ID: "b"}}
	job.Replication.Transport = protocol.TransportLocal
	require.NoError(t, job.Validate(), "roots that the filter excludes")
	require.Equal(t, "backup/tank/data", job.Targets[0].Filesystem("tank/data"))
	require.Equal(t, protocol.JobID("prod.alpha"), job.Targets[0].JobIDOf(job.Name))
	require.Equal(t, protocol.JobID("b"), job.Targets[1].JobIDOf(job.Name))
}

func TestCompression(t *testing.T) {
	t.Parallel()
	for compression, level := range map[protocol.Compression]int{"": 0, "none": 0, "zstd": 3, "zstd-1": 1, "zstd-10": 10, "zstd-19": 19} {
		require.NoError(t, compression.Validate(), compression)
		require.Equal(t, level, compression.Level(), compression)
	}
	for _, compression := range []protocol.Compression{"zstd-0", "zstd-20", "zstd-", "zstd-03", "gzip", "zstd-fast"} {
		require.ErrorContains(t, compression.Validate(), "use none, zstd, or zstd-1 to zstd-19")
	}
	require.Equal(t, protocol.CompressionZstd, protocol.Compression("zstd-9").Algorithm())
	require.Equal(t, protocol.CompressionNone, protocol.Compression("").Algorithm())
}

func TestTransportFor(t *testing.T) {
	t.Parallel()
	require.Equal(t, protocol.TransportLocal, protocol.TransportAuto.For("a", "a"))
	require.Equal(t, protocol.TransportAuto, protocol.TransportAuto.For("a", "b"))
	require.Equal(t, protocol.TransportTCP, protocol.TransportTCP.For("a", "a"))
	require.Equal(t, protocol.TransportLocal, protocol.TransportLocal.For("a", "a"))
}

// arbitraryJob draws a job that is valid.
func arbitraryJob(t *rapid.T) protocol.Job {
	job := arbitrary[protocol.Job](t)
	name := rapid.StringMatching(`[a-z]{1,8}(/[a-z0-9_.: -]{0,6}[a-z]){0,3}`)
	duration := rapid.Custom(func(t *rapid.T) protocol.Duration {
		return protocol.Duration(rapid.Int64Range(1, 1<<62).Draw(t, "duration"))
	})
	// goccy/go-yaml, with which the test writes files, does not quote what begins with the indicator of a mapping key.
	text := rapid.StringMatching(`[ -~]{0,12}`).Filter(func(s string) bool { return s != "?" && !strings.HasPrefix(s, "? ") })
	job.Name = rapid.StringMatching(`[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,20}`).Draw(t, "job")
	job.Source.Host = "source"
	job.Source.Filesystems = protocol.Filter(rapid.MapOfN(name, rapid.Bool(), 0, 5).Draw(t, "filter"))
	job.Source.Filesystems[name.Draw(t, "in")+"<"] = true
	job.Targets = nil
	for i, host := range []protocol.Host{"bravo", "charlie", "d-1"}[:rapid.IntRange(1, 3).Draw(t, "targets")] {
		target := protocol.JobTarget{Host: host, Root: name.Draw(t, "root")}
		if rapid.Bool().Draw(t, "id") {
			target.ID = protocol.JobID(rapid.StringMatching(`[a-zA-Z0-9][-a-zA-Z0-9_.: ]{0,20}`).Draw(t, "id")) + protocol.JobID(rune('a'+i))
		}
		job.Targets = append(job.Targets, target)
	}
	job.Snapshots.Include = rapid.SampledFrom([]string{"", "^auto_", `a|b\d+`, `.`, "yes", "1"}).Draw(t, "include")
	job.Recv.Properties = protocol.RecvProperties{
		Override:   rapid.MapOfN(rapid.StringMatching(`o:[a-z:]{1,8}`), text, 0, 3).Draw(t, "override"),
		Inherit:    rapid.SliceOfNDistinct(rapid.StringMatching(`i:[a-z:]{1,8}`), 0, 3, rapid.ID).Draw(t, "inherit"),
		Filesystem: protocol.PropertyChanges{Override: map[string]string{"atime": text.Draw(t, "atime")}},
		Volume:     protocol.PropertyChanges{Inherit: []string{"volmode"}},
	}
	job.Send.BandwidthLimit = arbitraryBandwidth(t)
	job.Recv.BandwidthLimit = arbitraryBandwidth(t)
	job.Recv.Placeholder.Encryption = rapid.SampledFrom([]protocol.PlaceholderEncryption{
		protocol.PlaceholderUnspecified, protocol.PlaceholderOff, protocol.PlaceholderInherit,
	}).Draw(t, "placeholder")
	protections := rapid.SampledFrom([]protocol.Protection{
		protocol.GuaranteeResumability, protocol.GuaranteeIncremental, protocol.GuaranteeNothing,
	})
	job.Replication = protocol.Replication{
		Protection: protocol.ProtectionPolicy{
			Initial: protections.Draw(t, "initial protection"), Incremental: protections.Draw(t, "incremental protection"),
		},
		Initial: rapid.SampledFrom([]protocol.InitialPolicy{
			protocol.InitialMostRecent, protocol.InitialAll, protocol.InitialFail,
		}).Draw(t, "initial"),
		Transport: rapid.SampledFrom([]protocol.Transport{
			protocol.TransportAuto, protocol.TransportTCP, protocol.TransportObject,
		}).Draw(t, "transport"),
		Delivery: protocol.Delivery{
			Compression: rapid.SampledFrom([]protocol.Compression{
				protocol.CompressionNone, protocol.CompressionZstd, "zstd-1", "zstd-19",
			}).Draw(t, "compression"),
			FanOut: protocol.FanOut{
				Enabled: rapid.Bool().Draw(t, "fan-out"), Wait: duration.Draw(t, "wait"), Lag: duration.Draw(t, "lag"),
			},
			Objects: protocol.Objects{
				Segment: protocol.ByteSize(rapid.Uint64Range(protocol.MinSegment, protocol.MaxSegment).Draw(t, "segment")),
				Window:  protocol.ByteSize(rapid.Uint64Range(2*protocol.MaxSegment, protocol.MaxWindow).Draw(t, "window")),
			},
		},
		Concurrency: protocol.Concurrency{Steps: rapid.IntRange(1, 1000).Draw(t, "steps")},
		Deadlines: protocol.Deadlines{
			Inventory: duration.Draw(t, "inventory"), Claim: duration.Draw(t, "claim"), Offer: duration.Draw(t, "offer"),
			Stall: duration.Draw(t, "stall"), Confirm: duration.Draw(t, "confirm"), Absent: duration.Draw(t, "absent"),
		},
		Attempts: rapid.IntRange(1, 1000).Draw(t, "attempts"),
	}
	return job
}

func TestJobFilesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		job := arbitraryJob(t)
		require.NoError(t, job.Validate())
		text, err := yaml.Marshal(job)
		require.NoError(t, err)
		checkSameJob(t, job, func() (protocol.Job, error) { return protocol.ParseJob(text) }, string(text))

		asJSON, err := json.Marshal(job)
		require.NoError(t, err)
		checkSameJob(t, job, func() (again protocol.Job, err error) { return again, json.Unmarshal(asJSON, &again) }, string(asJSON))
	})
}

// What is not written is read as its default, and the defaults of sending are not all off.
func TestAJobFileSaysThatEverySendOptionIsOff(t *testing.T) {
	t.Parallel()
	job := soundJob()
	job.Send = protocol.SendOptions{}
	text, err := yaml.Marshal(job)
	require.NoError(t, err)
	checkSameJob(t, job, func() (protocol.Job, error) { return protocol.ParseJob(text) }, string(text))
}

func checkSameJob(t require.TestingT, job protocol.Job, read func() (protocol.Job, error), text string) {
	again, err := read()
	require.NoError(t, err, "reading %s", text)
	want, err := protocol.Encode(withoutEmpty(job))
	require.NoError(t, err)
	got, err := protocol.Encode(withoutEmpty(again))
	require.NoError(t, err)
	require.Equal(t, want, got, "through %s", text)
}

// withoutEmpty is the job with nil for what is empty, which files do not tell apart.
func withoutEmpty(job protocol.Job) protocol.Job {
	if len(job.Recv.Properties.Override) == 0 {
		job.Recv.Properties.Override = nil
	}
	if len(job.Recv.Properties.Inherit) == 0 {
		job.Recv.Properties.Inherit = nil
	}
	return job
}

func FuzzParseJob(f *testing.F) {
	for _, seed := range []string{
		"", "# x\n", "[]", "job: [", "job: &a {b: *a}", "&a [*a]", "job: a\n\tb: c\n", minimalJob, fullJob,
		minimalJob + "replication:\n", minimalJob + "replication: {deadlines: {stall: &s 90s, offer: *s}}\n",
		minimalJob + "send: null\n", minimalJob + "---\n", minimalJob + "recv: {properties: {override: {a: 1, b: on, c: ~}}}\n",
		minimalJob + "send: {bandwidth_limit: {default: 1MiB, '22:00-6:00': 0, \"sat,sun\": 2M}}\n",
		minimalJob + "snapshots: {include: \"(\"}\n", minimalJob + "targets: []\n", "<<: *x\n", "a: &a [&b [&c [*a, *b, *c]]]\n",
		"job: !!binary aGFsbG8=\n", "job: |\n  x\n", "? [a]\n: b\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		job, err := protocol.ParseJob(text)
		if err != nil {
			require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
			return
		}
		require.NoError(t, job.Validate())
		data, err := protocol.Encode(job)
		require.NoError(t, err)
		checkSameJob(t, job, func() (again protocol.Job, err error) { return again, protocol.Decode(data, &again) }, string(text))
	})
}
