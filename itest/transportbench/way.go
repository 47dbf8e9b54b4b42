//go:build linux

// The ways that are compared.

package main

import (
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// way is one way for a stream.
type way struct {
	// name is a row's in the table; key is what files and flags call it.
	name, key string
	// transport is empty for the bare pipe, which needs no fleet.
	transport   protocol.Transport
	tls         bool
	compression protocol.Compression
	// storage is where the object store keeps segments.
	storage jetstream.StorageType
	content content
	// receivers is how many hosts receive the stream; a local way has none besides the sender's.
	receivers int
}

// ways are all of them, in the order of the table.
func ways() []way {
	plain := way{compression: protocol.CompressionNone, content: noise, receivers: 1}
	with := func(name, key string, change func(*way)) way {
		w := plain
		w.name, w.key = name, key
		change(&w)
		return w
	}
	return []way{
		with("a bare pipe", "pipe", func(*way) {}),
		with("local", "local", func(w *way) { w.transport = protocol.TransportLocal }),
		with("tcp, TLS off", "tcp", func(w *way) { w.transport = protocol.TransportTCP }),
		with("tcp, TLS", "tls", func(w *way) { w.transport, w.tls = protocol.TransportTCP, true }),
		with("object, in memory", "object-memory", func(w *way) {
			w.transport, w.storage = protocol.TransportObject, jetstream.MemoryStorage
		}),
		with("object, in files", "object-file", func(w *way) {
			w.transport, w.storage = protocol.TransportObject, jetstream.FileStorage
		}),
		with("tcp, TLS, zstd to half", "tls-zstd", func(w *way) {
			w.transport, w.tls, w.compression, w.content = protocol.TransportTCP, true, protocol.CompressionZstd, halves
		}),
		with("object, in memory, zstd to half", "object-zstd", func(w *way) {
			w.transport, w.storage = protocol.TransportObject, jetstream.MemoryStorage
			w.compression, w.content = protocol.CompressionZstd, halves
		}),
		with("tcp, TLS, to 3 hosts", "tls-3", func(w *way) { w.transport, w.tls, w.receivers = protocol.TransportTCP, true, 3 }),
		with("object, in memory, to 3 hosts", "object-3", func(w *way) {
			w.transport, w.storage, w.receivers = protocol.TransportObject, jetstream.MemoryStorage, 3
		}),
	}
}

// bare says that there is no fleet.
func (w way) bare() bool { return w.transport == "" }

// The hosts. A local way has only the first.
const sender protocol.Host = "alpha"

func (w way) targets() []protocol.Host {
	if w.transport == protocol.TransportLocal {
		return []protocol.Host{sender}
	}
	return []protocol.Host{"bravo", "charlie", "delta"}[:w.receivers]
}

// hosts are all that need a worker.
func (w way) hosts() []protocol.Host {
	if w.transport == protocol.TransportLocal {
		return []protocol.Host{sender}
	}
	return append([]protocol.Host{sender}, w.targets()...)
}

// job is the job that sends the stream. It is not tried again: what fails is no measurement.
func (w way) job() protocol.Job {
	job := protocol.DefaultJob()
	job.Name = "bench"
	job.Source = protocol.JobSource{Host: sender, Filesystems: protocol.Filter{sourceDataset: true}}
	for _, host := range w.targets() {
		job.Targets = append(job.Targets, protocol.JobTarget{Host: host, Root: targetPool})
	}
	job.Replication.Transport, job.Replication.Compression, job.Replication.Attempts = w.transport, w.compression, 1
	return job
}

// checkPath compares the way that the sender says it has found with this one.
func (w way) checkPath(path protocol.Path) error {
	compressed := path.Compression != "" && path.Compression != protocol.CompressionNone
	switch {
	case path.Transport != w.transport || path.Reverse,
		w.transport == protocol.TransportTCP && path.TLS != w.tls,
		compressed != (w.compression != protocol.CompressionNone),
		path.Receivers != w.receivers:
		return fmt.Errorf("the stream went another way: %s", path)
	}
	return nil
}
