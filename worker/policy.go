// Policy: what this host lets out and lets in, whoever asks.

package worker

import (
	"path"
	"strings"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/protocol"
)

// Policy is a host's own word on what its workers may do. The zero value allows nothing.
type Policy struct {
	// Send has in what may be sent.
	Send protocol.Filter `yaml:"send" json:"send"`
	// Recv are the places that may be received into.
	Recv []RecvRule `yaml:"recv" json:"recv"`
}

// RecvRule allows jobs to receive below a root.
type RecvRule struct {
	// Root is the filesystem at or below which targets' roots may be.
	Root string `yaml:"root" json:"root"`
	// Jobs are globs (path.Match) of job names; none allows all jobs.
	Jobs []string `yaml:"jobs" json:"jobs"`
}

// Validate tells what is wrong with the policy.
func (p Policy) Validate() error {
	if len(p.Send) > 0 {
		if err := p.Send.Validate(); err != nil {
			return protocol.Usagef("allow.send: %w", err)
		}
	}
	for i, rule := range p.Recv {
		if rule.Root == "" || strings.HasPrefix(rule.Root, "/") || strings.HasSuffix(rule.Root, "/") {
			return protocol.Usagef("allow.recv[%d]: root %q is no dataset name", i, rule.Root)
		}
		for _, glob := range rule.Jobs {
			if _, err := path.Match(glob, ""); err != nil {
				return protocol.Usagef("allow.recv[%d]: jobs: %q is no glob: %w", i, glob, err)
			}
		}
	}
	return nil
}

// allowSend is nil if the filesystem may be sent.
func (p Policy) allowSend(host protocol.Host, filesystem string) error {
	if p.Send.Match(filesystem) {
		return nil
	}
	return &protocol.Failure{
		Kind: protocol.Policy, Host: host,
		Message: "the policy of this host does not allow to send " + filesystem +
			"; add it to worker.allow.send in the host's configuration and restart its worker, or take it out of the job",
	}
}

// allowRecv is nil if the job may receive into the filesystem, which must be below the target's root.
func (p Policy) allowRecv(host protocol.Host, job, root, filesystem string) error {
	if !strings.HasPrefix(filesystem, root+"/") || hasDotComponent(filesystem) {
		return &protocol.Failure{
			Kind: protocol.Policy, Host: host, Message: "asked to receive into " + filesystem + ", which is not below " + root,
		}
	}
	rootAllowed, jobAllowed := p.mayReceive(job, root)
	if jobAllowed {
		return nil
	}
	message := "the policy of this host does not allow to receive below " + root +
		"; add the root to worker.allow.recv in the host's configuration and restart its worker, or change the job's target"
	if rootAllowed {
		message = "the policy of this host does not allow job " + job + " to receive below " + root +
			"; add the job to the jobs of that root in worker.allow.recv and restart the worker, or change the job's target"
	}
	return &protocol.Failure{Kind: protocol.Policy, Host: host, Message: message}
}

// mayReceive tells whether anybody, and whether the job, may receive at or below the filesystem.
func (p Policy) mayReceive(job, filesystem string) (anybody, theJob bool) {
	for _, rule := range p.Recv {
		if filesystem != rule.Root && !strings.HasPrefix(filesystem, rule.Root+"/") {
			continue
		}
		anybody = true
		if len(rule.Jobs) == 0 {
			return true, true
		}
		for _, glob := range rule.Jobs {
			if matched, err := path.Match(glob, job); err == nil && matched {
				return true, true
			}
		}
	}
	return anybody, false
}

// allowRelease is nil if the abstraction may be released: what a sender keeps where the host may send, and what a receiver
// keeps where it may receive. The job is the one it is said to be of; where none is said, its JobID tells, unless the job
// has set that itself.
func (p Policy) allowRelease(host protocol.Host, job string, abstraction abstractions.Abstraction) error {
	refusal := &protocol.Failure{Kind: protocol.Policy, Host: host}
	filesystem := abstraction.Filesystem
	if abstraction.Kind != abstractions.LastReceivedHold {
		if p.Send.Match(filesystem) {
			return nil
		}
		refusal.Message = "the policy of this host does not allow to send " + filesystem + ", so what a sender keeps there stays" +
			"; add it to worker.allow.send in the host's configuration and restart its worker, or release it with zfs on the host"
		return refusal
	}
	if job == "" {
		job = strings.TrimSuffix(string(abstraction.JobID), "."+string(host))
	}
	anybody, theJob := p.mayReceive(job, filesystem)
	switch {
	case theJob:
		return nil
	case anybody:
		refusal.Message = "the policy of this host does not allow job " + job + " to receive into " + filesystem +
			", so what it keeps there stays; say whose it is with --job, add the job to the jobs of that root in" +
			" worker.allow.recv and restart the worker, or release it with zfs on the host"
	default:
		refusal.Message = "the policy of this host does not allow to receive into " + filesystem + ", so what a receiver keeps there" +
			" stays; add a root above it to worker.allow.recv in the host's configuration and restart its worker, or release it" +
			" with zfs on the host"
	}
	return refusal
}

func hasDotComponent(filesystem string) bool {
	for component := range strings.SplitSeq(filesystem, "/") {
		if component == "." || component == ".." || component == "" {
			return true
		}
	}
	return false
}
