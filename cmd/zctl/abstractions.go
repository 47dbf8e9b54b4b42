// zctl abstractions: the holds and bookmarks that replication keeps on the hosts' disks.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) abstractionsCommand() *cobra.Command {
	group := &cobra.Command{
		Use:     "abstractions",
		GroupID: groupLook,
		Short:   "Look at, and release, the holds and bookmarks that replication keeps on disk",
		Args:    cobra.NoArgs,
		RunE:    func(command *cobra.Command, _ []string) error { return command.Help() },
	}
	group.AddCommand(p.abstractionsListCommand(), p.releaseAllCommand(), p.releaseStaleCommand())
	return group
}

// ownerFlags say whose holds and bookmarks are meant, and where.
type ownerFlags struct {
	hosts, filesystems, roots []string
	job, jobID                string
}

func (f *ownerFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringArrayVar(&f.hosts, "host", nil, "only those on this host; may be repeated")
	flags.StringVar(&f.job, "job", "", "only those of this submitted job, on its hosts")
	flags.StringVar(&f.jobID, "job-id", "", `only those of this JobID ("<job>.<target host>" unless the job sets it)`)
	flags.StringArrayVar(&f.filesystems, "fs", nil, `only those of this filesystem; with "<" at the end, all below it too; may be repeated`)
	flags.StringArrayVar(&f.roots, "root", nil, "only those at or below this filesystem; may be repeated")
}

// owner is whose holds and bookmarks are meant, and where.
type owner struct {
	hosts  []protocol.Host
	job    string
	ids    []protocol.JobID
	roots  []string
	filter protocol.Filter
}

// parse checks what is given; hosts may be given as arguments, too.
func (f ownerFlags) parse(args []string) (owner, error) {
	o := owner{job: f.job}
	if f.job != "" && f.jobID != "" {
		return o, protocol.Usagef("give either --job or --job-id: a job has the job ids of its targets")
	}
	for _, name := range slices.Concat(args, f.hosts) {
		host, err := protocol.ParseHost(name)
		if err != nil {
			return o, err
		}
		o.hosts = append(o.hosts, host)
	}
	if f.jobID != "" {
		id, err := protocol.ParseJobID(f.jobID)
		if err != nil {
			return o, err
		}
		o.ids = []protocol.JobID{id}
	}
	if len(f.filesystems)+len(f.roots) == 0 {
		return o, nil
	}
	o.filter = protocol.Filter{}
	for _, pattern := range f.filesystems {
		o.filter[pattern] = true
	}
	for _, root := range f.roots {
		o.filter[root+"<"] = true
	}
	o.roots = o.filter.Roots()
	return o, o.filter.Validate()
}

// ofJob looks up the job ids of the job that was given, and its hosts where none was.
func (o *owner) ofJob(ctx context.Context, s *session) (protocol.Job, error) {
	job, err := s.Job(ctx, o.job)
	if err != nil {
		return job, fmt.Errorf("%w; of a job that is not submitted any more, give the job id: --job-id", err)
	}
	hosts := []protocol.Host{job.Source.Host}
	for _, target := range job.Targets {
		o.ids = append(o.ids, target.JobIDOf(job.Name))
		if !slices.Contains(hosts, target.Host) {
			hosts = append(hosts, target.Host)
		}
	}
	if len(o.hosts) == 0 {
		o.hosts = hosts
	}
	return job, nil
}

// find asks the hosts.
func (o *owner) find(ctx context.Context, s *session, kinds []string, stale bool) ([]protocol.AbstractionInfo, error) {
	if o.job != "" {
		if _, err := o.ofJob(ctx, s); err != nil {
			return nil, err
		}
	}
	found, err := s.Abstractions(ctx, protocol.AbstractionsRequest{
		JobIDs: o.ids, Kinds: kinds, Roots: o.roots, Filter: o.filter, Stale: stale,
	}, o.hosts...)
	if found == nil {
		found = []protocol.AbstractionInfo{}
	}
	return found, err
}

// checkKinds tells whether there are such kinds.
func checkKinds(kinds []string) error {
	for _, name := range kinds {
		if _, err := abstractions.ParseKind(name); err != nil {
			return err
		}
	}
	return nil
}

func addKinds(command *cobra.Command, kinds *[]string) {
	command.Flags().StringArrayVar(kinds, "kind", nil, "only those of this kind; may be repeated")
}

func (p *program) abstractionsListCommand() *cobra.Command {
	var connection connectionFlags
	var output outputFormat
	var flags ownerFlags
	var kinds []string
	var stale bool
	command := &cobra.Command{
		Use:   "list [HOST...]",
		Short: "List step holds, cursors and last-received holds as they are on disk",
		Long: `List asks the workers of the given hosts, or of all that are there, for the holds and bookmarks
that replication keeps on their pools. The kinds are step-hold, step-bookmark, cursor, cursor-v1,
tentative-cursor and last-received-hold.`,
		RunE: func(command *cobra.Command, args []string) error {
			owner, err := flags.parse(args)
			if err != nil {
				return err
			}
			if err := checkKinds(kinds); err != nil {
				return err
			}
			ctx, s, err := p.open(command.Context(), "abstractions list", connection)
			if err != nil {
				return err
			}
			defer s.close()
			found, err := owner.find(ctx, s, kinds, stale)
			if found == nil {
				return err
			}
			return printed(p.print(output, found, func(w io.Writer) { writeAbstractions(w, found) }), p.inPart(len(found) > 0, err))
		},
	}
	flags.add(command)
	addKinds(command, &kinds)
	command.Flags().BoolVar(&stale, "stale", false, "only what no step and no cursor needs any more")
	connection.add(command)
	output.add(command)
	return command
}

// inPart is the error of what was done in part, after it has been told; without anything done, it is the error itself.
func (p *program) inPart(anything bool, err error) error {
	if err == nil || !anything {
		return err
	}
	_, _ = fmt.Fprintf(p.errOut, "zctl: %v\n", err) // there is nobody left to tell
	return &outcome{exitPartial}
}

func writeAbstractions(w io.Writer, found []protocol.AbstractionInfo) {
	rows := make([][]string, 0, len(found))
	for _, info := range found {
		rows = append(rows, abstractionCells(info))
	}
	table.Write(w, abstractionHeader(), rows)
}

func abstractionHeader() []string { return []string{"HOST", "KIND", "JOB ID", "NAME", "TAG"} }

func abstractionCells(info protocol.AbstractionInfo) []string {
	return []string{string(info.Host), info.Kind, string(info.JobID), info.Name, info.Tag}
}
