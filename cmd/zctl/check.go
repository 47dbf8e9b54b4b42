// zctl check: looks over a host file, the host itself, and a job file, and says what to mend.

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/cmd/zctl/hostfile"
	"github.com/zfleet/zfleet/cmd/zctl/progress"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// finding is the answer to one question.
type finding struct {
	Check  string       `json:"check"`
	Result checkOutcome `json:"result"`
	Detail string       `json:"detail,omitempty"`
}

type checkOutcome string

const (
	checkOK      checkOutcome = "ok"
	checkWarning checkOutcome = "warning"
	checkFailed  checkOutcome = "failed"
)

// checker gathers findings.
type checker struct{ findings []finding }

func (c *checker) ok(check, format string, args ...any) {
	c.findings = append(c.findings, finding{check, checkOK, fmt.Sprintf(format, args...)})
}

func (c *checker) warn(check, format string, args ...any) {
	c.findings = append(c.findings, finding{check, checkWarning, fmt.Sprintf(format, args...)})
}

func (c *checker) fail(check string, err error) {
	c.findings = append(c.findings, finding{check, checkFailed, err.Error()})
}

func (c *checker) count(result checkOutcome) int {
	count := 0
	for _, finding := range c.findings {
		if finding.Result == result {
			count++
		}
	}
	return count
}

func (p *program) checkCommand() *cobra.Command {
	var flags daemonFlags
	var work workerFlags
	var output outputFormat
	var jobFile string
	var offline bool
	command := &cobra.Command{
		Use:     "check [--config FILE] [-f JOBFILE]",
		GroupID: groupLook,
		Short:   "Check a host file and this host, or a job file, and say what to mend",
		Long: `Check reads the host file and looks at this host: is OpenZFS there, do the pools and roots of the
policy exist, are the ports free, can worker.run_dir be written, is NATS reachable, and is there a
fleet. With -f it checks a job file, and whether the job's hosts are there. Nothing is changed.

Exit codes: 0 all is well or there are only warnings, 1 something has to be mended.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			ctx := command.Context()
			c := &checker{}
			var job *protocol.Job
			if jobFile != "" {
				job = p.checkJob(c, jobFile)
			}
			file, err := p.hostFile(flags)
			if err == nil {
				work.apply(&file)
				err = file.Validate()
			}
			aboutHost := jobFile == "" || flags.config != ""
			switch {
			case err != nil && aboutHost:
				c.fail("host file", err)
			case aboutHost:
				p.checkHost(ctx, c, flags, file)
			}
			if !offline && (err == nil || !aboutHost) {
				p.checkFleet(ctx, c, file, job)
			}
			if err := p.print(output, c.findings, func(w io.Writer) { writeFindings(w, c) }); err != nil {
				return err
			}
			if c.count(checkFailed) > 0 {
				return &outcome{exitFailed}
			}
			return nil
		},
	}
	command.Flags().StringVarP(&jobFile, "file", "f", "", `job file to check; "-" is standard input`)
	command.Flags().BoolVar(&offline, "offline", false, "do not look at NATS and the fleet")
	flags.add(command)
	work.add(command)
	flags.connection.add(command)
	output.add(command)
	return command
}

func writeFindings(w io.Writer, c *checker) {
	var rows [][]string
	for _, finding := range c.findings {
		rows = append(rows, []string{string(finding.Result), finding.Check, strings.ReplaceAll(finding.Detail, "\n", " ")})
	}
	table.Write(w, []string{"RESULT", "CHECK", "DETAIL"}, rows)
	_, _ = fmt.Fprintf(w, "\n%d ok, %s, %d failed\n", c.count(checkOK), progress.Count(c.count(checkWarning), "warning"), c.count(checkFailed))
}

func (p *program) checkJob(c *checker, path string) *protocol.Job {
	job, err := p.jobOf(path, jobFlags{})
	if err != nil {
		c.fail("job file", err)
		return nil
	}
	c.ok("job file", "job %s from %s to %d target(s)", job.Name, job.Source.Host, len(job.Targets))
	return &job
}

// checkHost looks at what the file says and at the machine itself.
func (p *program) checkHost(ctx context.Context, c *checker, flags daemonFlags, file hostfile.File) {
	source := "flags and defaults"
	if flags.config != "" {
		source = flags.config
	}
	c.ok("host file", "host %s, from %s", file.Host, source)
	if len(file.Worker.Allow.Send) == 0 && len(file.Worker.Allow.Recv) == 0 {
		c.warn("policy", "the host may neither send nor receive; set worker.allow")
	}
	if file.Worker.Data.TLS == hostfile.TLSOff {
		c.warn("data port", "tls is off: streams and their secrets can be read on the network")
	}
	checkPort(ctx, c, "data port", "worker.data.listen", file.Worker.Data.Listen)
	if embedded := file.NATS.Embedded; embedded != nil {
		if embedded.Listen != "" {
			checkPort(ctx, c, "NATS port", "nats.embedded.listen", embedded.Listen)
		}
		checkDirectory(c, "NATS store", "nats.embedded.store_dir", embedded.StoreDir)
	}
	checkDirectory(c, "run directory", "worker.run_dir", file.Worker.RunDir)
	checkPools(ctx, c, zfs.New(p.runner(file.Host)), file)
}

func checkPort(ctx context.Context, c *checker, check, field, address string) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		c.warn(check, "%s %s cannot be opened: %v; if zctl runs on this host already, it is zctl that has it", field, address, err)
		return
	}
	if err := listener.Close(); err != nil {
		c.fail(check, fmt.Errorf("%s %s: %w", field, address, err))
		return
	}
	c.ok(check, "%s is free", address)
}

// checkDirectory looks whether the directory can be written, at the nearest one that exists: check makes none.
func checkDirectory(c *checker, check, field, dir string) {
	existing := dir
	for {
		info, err := os.Stat(existing)
		if err == nil && !info.IsDir() {
			c.fail(check, fmt.Errorf("%s %s: %s is no directory", field, dir, existing))
			return
		}
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) || existing == filepath.Dir(existing) {
			c.fail(check, fmt.Errorf("%s: %w", field, err))
			return
		}
		existing = filepath.Dir(existing)
	}
	if err := writable(existing); err != nil {
		c.fail(check, fmt.Errorf("%s %s: %s cannot be written: %w", field, dir, existing, err))
		return
	}
	c.ok(check, "%s can be written", dir)
}

// checkPools looks for OpenZFS and for what the policy names.
func checkPools(ctx context.Context, c *checker, system *zfs.System, file hostfile.File) {
	features, err := system.Features(ctx)
	if err != nil {
		c.fail("OpenZFS", fmt.Errorf("%w; is OpenZFS installed, and its module loaded?", err))
		return
	}
	c.ok("OpenZFS", "version %s", features.Version)
	pools, err := system.Pools(ctx)
	if err != nil {
		c.fail("pools", err)
		return
	}
	for _, pool := range pools {
		switch {
		case pool.ReadOnly:
			c.warn("pool "+pool.Name, "it is read-only: it cannot keep cursors, and nothing can be received into it")
		case pool.Health != "ONLINE":
			c.warn("pool "+pool.Name, "its health is %s; look at: zpool status %s", pool.Health, pool.Name)
		default:
			c.ok("pool "+pool.Name, "%s", pool.Health)
		}
	}
	for _, pattern := range sortedPatterns(file.Worker.Allow.Send) {
		name := strings.TrimSuffix(pattern, "<")
		if name != "" {
			checkDataset(ctx, c, system, "worker.allow.send", name)
		}
	}
	for _, rule := range file.Worker.Allow.Recv {
		checkDataset(ctx, c, system, "worker.allow.recv", rule.Root)
	}
}

func sortedPatterns(filter protocol.Filter) []string {
	var patterns []string
	for pattern, in := range filter {
		if in {
			patterns = append(patterns, pattern)
		}
	}
	sort.Strings(patterns)
	return patterns
}

func checkDataset(ctx context.Context, c *checker, system *zfs.System, field, name string) {
	check := field + " " + name
	_, err := system.List(ctx, zfs.ListQuery{Datasets: []string{name}})
	var missing *zfs.DatasetDoesNotExist
	switch {
	case errors.As(err, &missing):
		c.fail(check, fmt.Errorf("the dataset does not exist; create it with: zfs create %s", name))
	case err != nil:
		c.fail(check, err)
	default:
		c.ok(check, "it exists")
	}
}

// checkFleet looks whether NATS answers, whether there is a fleet, and whether the job's hosts are in it.
func (p *program) checkFleet(ctx context.Context, c *checker, file hostfile.File, job *protocol.Job) {
	conn, js, err := protocol.Connect(ctx, connectOptions(file, "check", openWait, nil))
	if err != nil {
		if file.NATS.Embedded != nil {
			c.warn("NATS", "%v; that is as it should be while zctl server does not run", err)
			return
		}
		c.fail("NATS", err)
		return
	}
	defer conn.Close()
	c.ok("NATS", "%s, version %s", conn.ConnectedUrlRedacted(), conn.ConnectedServerVersion())
	resources, err := openResources(ctx, js)
	if err != nil {
		c.warn("fleet", "%v", err)
		return
	}
	client := fleet.New(conn, resources, fleet.Options{By: "zctl check"})
	leader, err := client.Leader(ctx)
	switch {
	case err != nil:
		c.fail("coordinator", err)
	case leader == nil:
		c.warn("coordinator", "%v", fleet.ErrNoCoordinator)
	default:
		c.ok("coordinator", "%s on %s", leader.Holder, leader.Host)
	}
	if job != nil {
		checkJobHosts(ctx, c, client, *job)
	}
}

func checkJobHosts(ctx context.Context, c *checker, client *fleet.Client, job protocol.Job) {
	present, err := client.Hosts(ctx)
	if present == nil {
		c.fail("hosts", err)
		return
	}
	there := map[protocol.Host]bool{}
	for _, presence := range present {
		there[presence.Host] = true
	}
	hosts := []protocol.Host{job.Source.Host}
	for _, target := range job.Targets {
		hosts = append(hosts, target.Host)
	}
	seen := map[protocol.Host]bool{}
	for _, host := range hosts {
		if seen[host] {
			continue
		}
		seen[host] = true
		if there[host] {
			c.ok("host "+string(host), "its worker is there")
		} else {
			c.warn("host "+string(host), "no worker of it is there; start one on it with: zctl worker --host %s", host)
		}
	}
}
