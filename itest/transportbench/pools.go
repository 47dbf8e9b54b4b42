//go:build linux

// The pools of a host: in memory, but for the streams, which processes of their own write and read.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/zfleet/zfleet/zfs"
	"github.com/zfleet/zfleet/zfs/zfsfake"
)

// The names in the pools. Every host has both pools.
const (
	sourcePool    = "tank"
	sourceDataset = "tank/data"
	targetPool    = "backup"
)

// pools is a Runner.
type pools struct {
	fake *zfsfake.Fake
	// children starts this program in a role.
	children zfs.Runner
	// stream is what zfs send writes.
	stream emitSpec
	// dir is where stand-ins leave the fake's own streams.
	dir string
	// tell is called for each stream that is sent or has arrived.
	tell func(report)

	received atomic.Int64
}

var _ zfs.Runner = (*pools)(nil)

// newPools makes the pools, and in the source pool a filesystem with a snapshot.
func newPools(ctx context.Context, spec workerSpec, tell func(report)) (*pools, error) {
	children, err := self()
	if err != nil {
		return nil, err
	}
	p := &pools{
		fake: zfsfake.New(), children: children, stream: emitSpec{Content: spec.Content, Size: spec.Size}, dir: spec.Dir, tell: tell,
	}
	p.fake.CreatePool(sourcePool)
	p.fake.CreatePool(targetPool)
	for _, args := range [][]string{{"zfs", "create", sourceDataset}, {"zfs", "snapshot", sourceDataset + "@1"}} {
		result, err := p.fake.Run(ctx, zfs.Command{Args: args})
		if err != nil || result.ExitCode != 0 {
			return nil, fmt.Errorf("%s: %w (%s)", strings.Join(args, " "), err, result.Stderr)
		}
	}
	return p, nil
}

// self is a Runner that starts this program in a role: "zfs emit {…}".
func self() (zfs.Runner, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return zfs.NewExecRunner(zfs.WithExecutable("zfs", program)), nil
}

// roleCommand is the command for a stand-in.
func roleCommand(role string, spec any) (zfs.Command, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return zfs.Command{}, fmt.Errorf("write down the role %s: %w", role, err)
	}
	return zfs.Command{Args: []string{"zfs", role, string(text)}}, nil
}

// Run runs a command on the fake, unless it sends or receives.
func (p *pools) Run(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	dry := func(arg string) bool { return strings.HasPrefix(arg, "-n") }
	switch {
	case len(command.Args) > 2 && command.Args[1] == "send" && !slices.ContainsFunc(command.Args, dry):
		return p.send(ctx, command)
	case len(command.Args) > 2 && command.Args[1] == "recv" && command.Stdin != nil:
		return p.receive(ctx, command)
	}
	return p.fake.Run(ctx, command)
}

// send takes the fake's stream, and has the stand-in write it and all the rest to where the command would write.
func (p *pools) send(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	output := command.Stdout
	file, isFile := output.(*os.File)
	if isFile {
		defer func() { _ = file.Close() }() // a Runner closes the files that it is given
	}
	own := &bytes.Buffer{}
	command.Stdout = own
	result, err := p.fake.Run(ctx, command)
	if err != nil || result.ExitCode != 0 {
		return result, err
	}
	input, err := fileOf(p.dir, own.Bytes())
	if err != nil {
		return zfs.Result{}, err
	}
	standIn, err := roleCommand(roleEmit, p.stream)
	if err != nil {
		return zfs.Result{}, errors.Join(err, input.Close())
	}
	standIn.Stdin, standIn.Stdout, standIn.Stderr = input, output, command.Stderr
	p.tell(report{Sent: true})
	return p.children.Run(ctx, standIn)
}

// fileOf gives a file with the data, at its beginning, that is gone once it is closed.
func fileOf(dir string, data []byte) (*os.File, error) {
	file, err := os.CreateTemp(dir, "own")
	if err != nil {
		return nil, fmt.Errorf("keep the fake's stream: %w", err)
	}
	_, err = file.Write(data)
	if err == nil {
		_, err = file.Seek(0, 0)
	}
	if err = errors.Join(err, os.Remove(file.Name())); err != nil {
		return nil, fmt.Errorf("keep the fake's stream: %w", errors.Join(err, file.Close()))
	}
	return file, nil
}

// receive has the stand-in read the stream, and gives the fake its own part of it.
func (p *pools) receive(ctx context.Context, command zfs.Command) (zfs.Result, error) {
	own := filepath.Join(p.dir, fmt.Sprintf("received-%d", p.received.Add(1)))
	standIn, err := roleCommand(roleConsume, consumeSpec{Content: p.stream.Content, Own: own})
	if err != nil {
		return zfs.Result{}, errors.Join(err, command.Stdin.Close())
	}
	said := &bytes.Buffer{}
	standIn.Stdin, standIn.Stdout, standIn.Stderr = command.Stdin, said, command.Stderr
	result, err := p.children.Run(ctx, standIn)
	if err != nil || result.ExitCode != 0 {
		return result, err
	}
	arrived := &transfer{}
	if err := json.Unmarshal(said.Bytes(), arrived); err != nil {
		return zfs.Result{}, fmt.Errorf("what the stand-in for zfs recv says: %w", err)
	}
	if command.Stdin, err = os.Open(own); err != nil {
		return zfs.Result{}, fmt.Errorf("receive the fake's stream: %w", err)
	}
	p.tell(report{Received: arrived})
	return p.fake.Run(ctx, command)
}
