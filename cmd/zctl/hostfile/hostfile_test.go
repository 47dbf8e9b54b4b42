package hostfile

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/telemetry"
	"github.com/zfleet/zfleet/worker"
)

func TestAWholeFile(t *testing.T) {
	t.Parallel()
	file, err := Parse("alpha.yaml", []byte(`
host: alpha
nats: {url: "nats://10.0.0.1:4222,nats://10.0.0.2:4222", creds: /etc/zfleet/alpha.creds, domain: hub}
worker:
  slots: {send: 2, recv: 3}
  data: {listen: ":9000", advertise: ["alpha.example:9000"], tls: off}
  allow:
    send: {"tank/data<": true, "tank/data/tmp<": false}
    recv: [{root: backup, jobs: ["prod-*"]}]
  bandwidth_limit: {send: {default: 100MiB, "08:00-18:00": 20MiB}, recv: 1GiB}
  compression: {threads: 2}
  grace: 10m
  run_dir: /var/run/zfleet
  max_deliveries: 7
coordinator: {enabled: false, replicas: 3, streams: {max_bytes: 4GiB, storage: memory}}
telemetry: {logs: {level: debug, format: json}}
`))
	require.NoError(t, err)
	require.NoError(t, file.Validate())
	require.Equal(t, File{
		Host: "alpha",
		NATS: NATS{URL: "nats://10.0.0.1:4222,nats://10.0.0.2:4222", Creds: "/etc/zfleet/alpha.creds", Domain: "hub"},
		Worker: Worker{
			Slots: Slots{Send: 2, Recv: 3},
			Data:  Data{Listen: ":9000", Advertise: []string{"alpha.example:9000"}, TLS: TLSOff},
			Allow: worker.Policy{
				Send: protocol.Filter{"tank/data<": true, "tank/data/tmp<": false},
				Recv: []worker.RecvRule{{Root: "backup", Jobs: []string{"prod-*"}}},
			},
			BandwidthLimit: Bandwidth{
				Send: protocol.BandwidthLimit{
					Default:   100 << 20,
					Intervals: []protocol.BandwidthInterval{{Days: protocol.EveryDay, From: 8 * 60, To: 18 * 60, Limit: 20 << 20}},
				},
				Recv: protocol.BandwidthLimit{Default: 1 << 30},
			},
			Compression:   Compression{Threads: 2},
			Grace:         protocol.Duration(10 * time.Minute),
			RunDir:        "/var/run/zfleet",
			MaxDeliveries: 7,
		},
		Coordinator: Coordinator{Replicas: 3, Streams: Streams{MaxBytes: 4 << 30, Storage: StorageMemory}},
		Telemetry:   Telemetry{Logs: telemetry.LogOptions{Level: "debug", Format: "json"}},
	}, file)
}

func TestAnEmptyFileHasDefaults(t *testing.T) {
	t.Parallel()
	file, err := Parse("alpha.yaml", nil)
	require.NoError(t, err)
	require.Equal(t, Default(), file)
}

func TestFilesThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"host: alpha\nmetrics: x\n":                              `unknown field "metrics"`,
		"host: alpha\nworker:\n  slots: {send: many}\n":          "3 |   slots: {send: many}",
		"host: alpha\nhost: bravo\n":                             "already defined",
		"host: alpha\ncoordinator: {http: \":8411\"}\n":          `unknown field "http"`,
		"host: alpha\ntelemetry: {metrics: \":8412\"}\n":         `unknown field "metrics"`,
		"host: alpha\nworker: {bandwidth_limit: fast}\n":         "worker: {bandwidth_limit: fast}",
		"host: alpha\nworker: {bandwidth_limit: {send: fast}}\n": `size "fast"`,
		"host: alpha\n---\nhost: bravo\n":                        "more than one document",
		"{":                                                      "host file alpha.yaml",
	} {
		_, err := Parse("alpha.yaml", []byte(text))
		require.ErrorContains(t, err, want, "%s", text)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, ""), "%s", text)
	}
}

func TestValidationNamesTheField(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{}":           "host: host name",
		"host: Alpha!": "host: host name",
		"{host: a, nats: {url: x, embedded: {store_dir: /s}}}":      "not both",
		"{host: a, nats: {embedded: {listen: \":4222\"}}}":          "nats.embedded.store_dir",
		"{host: a, nats: {embedded: {store_dir: /s, listen: no}}}":  "nats.embedded.listen",
		"{host: a, nats: {domain: hub.one}}":                        "nats.domain",
		"{host: a, nats: {domain: hub, embedded: {store_dir: /s}}}": "embedded and domain",
		"{host: a, nats: {cert: /c}}":                               "nats.cert and nats.key",
		"{host: a, worker: {slots: {send: 0}}}":                     "worker.slots",
		"{host: a, worker: {data: {listen: \"8410\"}}}":             "worker.data.listen",
		"{host: a, worker: {data: {advertise: [\"b:http\"]}}}":      "worker.data.advertise[0]",
		"{host: a, worker: {data: {tls: maybe}}}":                   "worker.data.tls",
		"{host: a, worker: {allow: {send: {\"tank/*\": true}}}}":    "worker.allow.send",
		"{host: a, worker: {allow: {recv: [{root: /backup}]}}}":     "worker.allow.recv[0]",
		"{host: a, worker: {bandwidth_limit: {send: 1}}}":           "worker.bandwidth_limit.send",
		"{host: a, worker: {bandwidth_limit: {recv: 100}}}":         "worker.bandwidth_limit.recv",
		"{host: a, worker: {compression: {threads: -1}}}":           "worker.compression.threads",
		"{host: a, worker: {grace: -1s}}":                           "worker.grace",
		"{host: a, coordinator: {streams: {max_bytes: 0}}}":         "coordinator.streams.max_bytes",
		"{host: a, coordinator: {streams: {max_bytes: 9000PiB}}}":   "coordinator.streams.max_bytes",
		"{host: a, coordinator: {streams: {storage: tape}}}":        "coordinator.streams.storage",
		"{host: a, coordinator: {replicas: 2}}":                     "coordinator.replicas",
		"{host: a, telemetry: {logs: {level: loud}}}":               "telemetry.logs",
		"{host: a, telemetry: {logs: {format: xml, level: debug}}}": "telemetry.logs",
	} {
		file, err := Parse("alpha.yaml", []byte(text))
		require.NoError(t, err, "%s", text)
		err = file.Validate()
		require.ErrorContains(t, err, want, "%s", text)
		require.Equal(t, protocol.Usage, protocol.KindOf(err, ""), "%s", text)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("host: alpha\nworker: {slots: {send: 2}}\n"))
	f.Add([]byte("host: [a, b"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("fuzz.yaml", text)
		if err != nil {
			require.Equal(t, protocol.Usage, protocol.KindOf(err, ""), "%v", err)
			return
		}
		if err := file.Validate(); err != nil {
			require.Equal(t, protocol.Usage, protocol.KindOf(err, ""), "%v", err)
		}
	})
}
