//go:build linux

// Command transportbench compares the ways that a stream can take from one host to another: a bare pipe, which is the most
// there can be, the pipe inside one worker, TCP without and with TLS, the object store in memory and in files, compressed
// streams, and one stream for several receivers. It measures, in one run and on one machine, bytes per second, processor
// time per GiB, and peak memory, and prints a table for docs/benchmarks.md.
//
//	go run ./itest/transportbench -size 4GiB -rounds 3
//
// # What runs
//
// The program starts itself in several roles. For each way it starts a NATS server (role server) and a worker for each host
// (role worker), fresh ones, so that their peak memory is that way's; the coordinator is in the first process, and is not
// counted. The workers are what zctl runs, over pools in memory (zfsfake). Only the streams are not the fake's: where a
// worker runs zfs send or zfs recv, a process (role emit, role consume) stands in, which writes or reads a stream of the
// chosen length at once, through the very pipe that zfs would be given. So pipes have other processes at their ends, as in
// production, and what those cost is not counted with the worker.
//
// A stream is as zfs send writes it: a header of 312 bytes and a payload of 128 KiB, over and over, each written by itself. In
// front of it is the fake's own small stream, which the other side's fake receives in the end, so that all that zfleet does
// around a stream is done. The consumer compares every byte, and the order and number of records: a way that loses or changes
// something fails, and is no number in the table.
//
// # What the numbers are
//
//   - Bytes per second are from the stream's first write to the last receiver's end of the stream.
//   - Processor time is what /proc says for a process, user and system, from before the job until after it.
//   - Peak memory is VmHWM of a process, the pages of its code that it has touched included.
//   - Of several rounds, the medians are shown, and the largest peak.
//
// A bare pipe between two programs is far faster than what zfs recv can take, so the ratio to it is a worst case.
// TestRealThroughput in package itest measures the same on real pools.
package main
