// Package hostfile reads the file that tells zctl what a host is: its name, how it reaches NATS, what its worker may do,
// whether it coordinates, and how it logs. docs/configuration.md is written for operators; here is what they may write.
package hostfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/telemetry"
	"github.com/zfleet/zfleet/worker"
)

// File is a host's configuration.
type File struct {
	Host        protocol.Host `yaml:"host"`
	NATS        NATS          `yaml:"nats"`
	Worker      Worker        `yaml:"worker"`
	Coordinator Coordinator   `yaml:"coordinator"`
	Telemetry   Telemetry     `yaml:"telemetry"`
}

// NATS is how the host reaches NATS, or the NATS server that it runs itself. Without a word of it, the NATS CLI's selected
// context counts, and then nats://127.0.0.1:4222.
type NATS struct {
	// URL is one or more server URLs, separated by commas.
	URL string `yaml:"url"`
	// Context names a context of the NATS CLI.
	Context string `yaml:"context"`
	// Creds, NKey, CA, Cert and Key are paths of files.
	Creds string `yaml:"creds"`
	NKey  string `yaml:"nkey"`
	CA    string `yaml:"ca"`
	Cert  string `yaml:"cert"`
	Key   string `yaml:"key"`
	// Domain is the JetStream domain of the fleet, for a host behind a leaf node.
	Domain string `yaml:"domain"`
	// Embedded is for zctl server alone.
	Embedded *Embedded `yaml:"embedded"`
}

// Embedded is the NATS server that zctl server runs.
type Embedded struct {
	// StoreDir keeps streams and buckets; it outlives the process.
	StoreDir string `yaml:"store_dir"`
	// Listen is "host:port"; empty gives the server no network port.
	Listen string `yaml:"listen"`
}

// Worker is what the host's worker does and may do.
type Worker struct {
	Slots          Slots         `yaml:"slots"`
	Data           Data          `yaml:"data"`
	Allow          worker.Policy `yaml:"allow"`
	BandwidthLimit Bandwidth     `yaml:"bandwidth_limit"`
	Compression    Compression   `yaml:"compression"`
	// Grace is how long running steps may go on when the worker is told to stop; 0 stops them at once.
	Grace protocol.Duration `yaml:"grace"`
	// RunDir is the directory in which the workers of this host keep one another from working on the same filesystem.
	RunDir string `yaml:"run_dir"`
	// MaxDeliveries is how often an item may come and not be finished before it is given up.
	MaxDeliveries int `yaml:"max_deliveries"`
}

// Slots bound how many steps a worker has under way at once.
type Slots struct {
	Send int `yaml:"send"`
	Recv int `yaml:"recv"`
}

// Data is the port on which the worker receives streams.
type Data struct {
	Listen string `yaml:"listen"`
	// Advertise are the addresses that senders are told; empty is those of the machine.
	Advertise []string `yaml:"advertise"`
	TLS       TLS      `yaml:"tls"`
}

// TLS says whether streams are encrypted on the network.
type TLS string

// The choices for TLS.
const (
	TLSRequired TLS = "required"
	TLSOff      TLS = "off"
)

// Bandwidth bounds what the host's worker sends and receives, all jobs together.
type Bandwidth struct {
	Send protocol.BandwidthLimit `yaml:"send"`
	Recv protocol.BandwidthLimit `yaml:"recv"`
}

// Compression is how the worker compresses the streams of jobs that ask for it.
type Compression struct {
	// Threads is how many threads compress one stream; 0 is half the CPUs, and at least 1.
	Threads int `yaml:"threads"`
}

// Coordinator is whether and how the host coordinates.
type Coordinator struct {
	// Enabled is for zctl server; zctl coordinator coordinates in any case.
	Enabled bool `yaml:"enabled"`
	// Replicas is how many NATS servers keep each stream and bucket: 1, 3 or 5; 0 leaves existing ones as they are.
	Replicas int `yaml:"replicas"`
	// Streams is the bucket of streams that go through the object store.
	Streams Streams `yaml:"streams"`
}

// Streams is where streams are that go through the object store.
type Streams struct {
	// MaxBytes bounds what all streams under way have stored together.
	MaxBytes protocol.ByteSize `yaml:"max_bytes"`
	// Storage counts when the bucket is made; a bucket that exists keeps its own.
	Storage Storage `yaml:"storage"`
}

// Storage is where a NATS server keeps a bucket.
type Storage string

// The choices for Storage.
const (
	StorageFile   Storage = "file"
	StorageMemory Storage = "memory"
)

// minStreams is two segments of a stream, without which nothing moves.
const minStreams = 2 * protocol.MinSegment

// Telemetry is how the host's processes tell what they do. Traces are set up by the OTEL_* variables.
type Telemetry struct {
	Logs telemetry.LogOptions `yaml:"logs"`
}

// Default is a host of which nothing has been said yet.
func Default() File {
	return File{
		Worker: Worker{
			Slots: Slots{Send: 4, Recv: 4},
			Data:  Data{Listen: ":8410", TLS: TLSRequired},
			Grace: protocol.Duration(time.Minute), RunDir: "/run/zfleet", MaxDeliveries: protocol.DefaultMaxDeliveries,
		},
		Coordinator: Coordinator{
			Enabled: true, Streams: Streams{MaxBytes: protocol.DefaultStreamsMaxBytes, Storage: StorageFile},
		},
		Telemetry: Telemetry{Logs: telemetry.LogOptions{Level: "info", Format: telemetry.FormatHuman}},
	}
}

// Read reads the file at path. What it does not say has Default's value. It is not validated yet, since flags may add to it.
func Read(path string) (File, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return File{}, protocol.Usagef("host file: %w", err)
	}
	return Parse(path, text)
}

// Parse is Read for text that is there already; path is for errors, which show the place in the text.
func Parse(path string, text []byte) (File, error) {
	file := Default()
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	err := decoder.Decode(&file)
	if errors.Is(err, io.EOF) {
		return Default(), nil // an empty file; decoding has cleared what was there
	}
	if err != nil {
		return File{}, protocol.Usagef("host file %s: %s", path, yaml.FormatError(err, false, true))
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return File{}, protocol.Usagef("host file %s: one file describes one host; it has more than one document", path)
	}
	return file, nil
}

// Validate tells what is wrong, naming the field.
func (f File) Validate() error {
	if err := f.Host.Validate(); err != nil {
		return protocol.Usagef("host: %w", err)
	}
	if err := f.NATS.validate(); err != nil {
		return err
	}
	if err := f.Worker.validate(); err != nil {
		return err
	}
	if err := f.Coordinator.validate(); err != nil {
		return err
	}
	if err := f.Telemetry.Logs.Validate(); err != nil {
		return protocol.Usagef("telemetry.logs: %w", err)
	}
	return nil
}

func (c Coordinator) validate() error {
	switch c.Replicas {
	case 0, 1, 3, 5:
	default:
		return protocol.Usagef("coordinator.replicas is %d: use 1, 3 or 5", c.Replicas)
	}
	if c.Streams.MaxBytes < minStreams || c.Streams.MaxBytes > math.MaxInt64 {
		return protocol.Usagef("coordinator.streams.max_bytes is %s: use at least %s, and better the windows of all streams that are"+
			" under way at once (replication.objects.window in the jobs)", c.Streams.MaxBytes, protocol.ByteSize(minStreams))
	}
	switch c.Streams.Storage {
	case StorageFile, StorageMemory:
	default:
		return protocol.Usagef("coordinator.streams.storage %q: use %s or %s", c.Streams.Storage, StorageFile, StorageMemory)
	}
	return nil
}

func (n NATS) validate() error {
	if (n.Cert == "") != (n.Key == "") {
		return protocol.Usagef("nats.cert and nats.key: set both or none")
	}
	if err := protocol.ValidateDomain(n.Domain); err != nil {
		return protocol.Usagef("nats.domain: %w", err)
	}
	if n.Embedded == nil {
		return nil
	}
	if n.Domain != "" {
		return protocol.Usagef("nats: embedded and domain: a domain is for a host that reaches the fleet's NATS through a leaf node," +
			" and not for the one that runs the fleet's NATS itself")
	}
	if n.URL != "" || n.Context != "" {
		return protocol.Usagef("nats: embedded and url or context: a host runs its own NATS server or uses another, not both")
	}
	if n.Embedded.StoreDir == "" {
		return protocol.Usagef("nats.embedded.store_dir: name the directory that keeps the server's streams")
	}
	if n.Embedded.Listen != "" {
		return validateAddress("nats.embedded.listen", n.Embedded.Listen)
	}
	return nil
}

func (w Worker) validate() error {
	if w.Slots.Send < 1 || w.Slots.Recv < 1 {
		return protocol.Usagef("worker.slots: send is %d and recv is %d: use at least 1 each;"+
			" worker.allow is what keeps a host from sending or receiving", w.Slots.Send, w.Slots.Recv)
	}
	if err := validateAddress("worker.data.listen", w.Data.Listen); err != nil {
		return err
	}
	for i, address := range w.Data.Advertise {
		if err := validateAddress(fmt.Sprintf("worker.data.advertise[%d]", i), address); err != nil {
			return err
		}
	}
	switch w.Data.TLS {
	case TLSRequired, TLSOff:
	default:
		return protocol.Usagef("worker.data.tls %q: use %s, or %s on a network that you trust", w.Data.TLS, TLSRequired, TLSOff)
	}
	if err := w.Allow.Validate(); err != nil {
		return protocol.Usagef("worker.%w", err)
	}
	if err := w.BandwidthLimit.Send.Validate(); err != nil {
		return protocol.Usagef("worker.bandwidth_limit.send: %w", err)
	}
	if err := w.BandwidthLimit.Recv.Validate(); err != nil {
		return protocol.Usagef("worker.bandwidth_limit.recv: %w", err)
	}
	if w.Grace < 0 {
		return protocol.Usagef("worker.grace is %s: use a time like 1m, or 0 to stop running steps at once", w.Grace)
	}
	if !filepath.IsAbs(w.RunDir) {
		return protocol.Usagef("worker.run_dir %q: name the directory from the root on, and the same one for all workers of this host", w.RunDir)
	}
	if w.MaxDeliveries < 1 {
		return protocol.Usagef("worker.max_deliveries is %d: use at least 1, and better %d", w.MaxDeliveries, protocol.DefaultMaxDeliveries)
	}
	if w.Compression.Threads < 0 {
		return protocol.Usagef("worker.compression.threads is %d: use at least 1, or 0 for half the CPUs", w.Compression.Threads)
	}
	return nil
}

func validateAddress(field, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return protocol.Usagef("%s: %q is no address: write it like 10.0.0.1:8410, or :8410 for all interfaces", field, address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return protocol.Usagef("%s: port %q of %q is no number from 0 to 65535", field, port, address)
	}
	return nil
}
