// zctl abstractions release-all and release-stale: letting go of what replication keeps on the hosts' disks.

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zfleet/zfleet/abstractions"
	"github.com/zfleet/zfleet/cmd/zctl/table"
	"github.com/zfleet/zfleet/fleet"
	"github.com/zfleet/zfleet/protocol"
)

func (p *program) releaseAllCommand() *cobra.Command {
	var release releasing
	command := &cobra.Command{
		Use:   "release-all [HOST...] (--job JOB | --job-id ID)",
		Short: "Release all holds and destroy all bookmarks of a job or JobID",
		Long: `Release-all releases every hold and destroys every bookmark that replication keeps for a job, or
for a JobID. It is for jobs and targets that are given up: without its cursor, a filesystem can only
be replicated incrementally as long as a snapshot is left that both sides have.

Cursors of v1, which belong to all jobs, stay unless they are named with --kind cursor-v1.`,
		RunE: func(command *cobra.Command, args []string) error {
			if release.owner.job == "" && release.owner.jobID == "" {
				return protocol.Usagef("say whose holds and bookmarks are to go, with --job or --job-id; zctl abstractions list shows them")
			}
			return p.release(command.Context(), "release-all", release, args)
		},
	}
	release.add(command)
	return command
}

func (p *program) releaseStaleCommand() *cobra.Command {
	release := releasing{stale: true}
	command := &cobra.Command{
		Use:   "release-stale [HOST...]",
		Short: "Release holds and destroy bookmarks that no step and no cursor needs any more",
		Long: `Release-stale releases holds and destroys bookmarks that nothing needs any more: for each JobID on
each filesystem, step holds and step bookmarks older than the cursor, all cursors but the newest,
tentative cursors that the cursor has overtaken, and all last-received holds but the newest. Steps
do the same for their own filesystem; this is for what is left of others.`,
		RunE: func(command *cobra.Command, args []string) error {
			return p.release(command.Context(), "release-stale", release, args)
		},
	}
	release.add(command)
	return command
}

// releasing is what both commands are told.
type releasing struct {
	connection         connectionFlags
	output             outputFormat
	owner              ownerFlags
	kinds              []string
	stale              bool
	dryRun, yes, force bool
}

func (r *releasing) add(command *cobra.Command) {
	r.owner.add(command)
	addKinds(command, &r.kinds)
	command.Flags().BoolVar(&r.dryRun, "dry-run", false, "only show what would go")
	command.Flags().BoolVar(&r.yes, "yes", false, "do not ask")
	command.Flags().BoolVar(&r.force, "force", false, "release also what a running step uses")
	r.connection.add(command)
	r.output.add(command)
}

func (p *program) release(ctx context.Context, name string, r releasing, args []string) error {
	owner, err := r.owner.parse(args)
	if err != nil {
		return err
	}
	if err := checkKinds(r.kinds); err != nil {
		return err
	}
	if !r.dryRun && !r.yes && !p.interactive() {
		return protocol.Usagef("nobody can be asked, since standard input is no terminal: look with --dry-run what would go," +
			" and then say --yes")
	}
	ctx, s, err := p.open(ctx, "abstractions "+name, r.connection)
	if err != nil {
		return err
	}
	defer s.close()
	found, listError := owner.find(ctx, s, r.kinds, r.stale)
	if found == nil {
		return listError
	}
	if !r.stale && len(r.kinds) == 0 {
		found = slices.DeleteFunc(found, func(info protocol.AbstractionInfo) bool {
			return info.Kind == string(abstractions.CursorV1)
		})
	}
	options := fleet.ReleaseOptions{Job: owner.job, Stale: r.stale, DryRun: true, Force: r.force}
	results := s.Release(ctx, found, options)
	if !r.dryRun && countOutcome(results, protocol.Released) > 0 {
		if !r.yes {
			sure, err := p.confirm(ctx, results)
			if err != nil {
				return err
			}
			if !sure {
				return protocol.Failf(protocol.Cancelled, "nothing was released: it was not confirmed")
			}
		}
		options.DryRun = false
		results = s.Release(ctx, found, options)
	}
	printing := p.print(r.output, results, func(w io.Writer) { writeReleases(w, results, r.dryRun) })
	return printed(printing, p.releaseVerdict(results, listError))
}

// confirm shows what would go, and asks.
func (p *program) confirm(ctx context.Context, results []protocol.ReleaseResult) (bool, error) {
	writeReleases(p.errOut, results, true)
	return p.ask(ctx, fmt.Sprintf("Release %s?", releasable(countOutcome(results, protocol.Released))))
}

func releasable(n int) string {
	if n == 1 {
		return "this one"
	}
	return "these " + strconv.Itoa(n)
}

func countOutcome(results []protocol.ReleaseResult, outcome protocol.ReleaseOutcome) int {
	n := 0
	for _, result := range results {
		if result.Outcome == outcome {
			n++
		}
	}
	return n
}

// releaseVerdict is what the results, and what could not even be looked at, mean to the caller.
func (p *program) releaseVerdict(results []protocol.ReleaseResult, unseen error) error {
	bad := 0
	for _, result := range results {
		if !result.Outcome.Good() {
			bad++
		}
	}
	if unseen != nil {
		return p.inPart(bad < len(results), unseen)
	}
	switch {
	case bad == 0:
		return nil
	case bad < len(results):
		return &outcome{exitPartial}
	}
	return &outcome{exitFailed}
}

// writeReleases writes what became of each, the reasons below, and a summary.
func writeReleases(w io.Writer, results []protocol.ReleaseResult, dryRun bool) {
	if len(results) == 0 {
		_, _ = fmt.Fprintln(w, "There is nothing to release.")
		return
	}
	var rows [][]string
	var reasons []string
	for _, result := range results {
		word := string(result.Outcome)
		if dryRun && result.Outcome == protocol.Released {
			word = "would go"
		}
		rows = append(rows, append(abstractionCells(result.AbstractionInfo), word))
		if result.Note != "" {
			reasons = append(reasons, fmt.Sprintf("%s stays: %s", result.Name, result.Note))
		}
		if result.Failure != nil {
			reasons = append(reasons, fmt.Sprintf("%s was %s: %s", result.Name, outcomeOfFailure(result.Outcome), result.Failure.Error()))
		}
	}
	table.Write(w, append(abstractionHeader(), "OUTCOME"), rows)
	if len(reasons) > 0 {
		_, _ = fmt.Fprintln(w)
	}
	for _, reason := range slices.Compact(reasons) {
		_, _ = fmt.Fprintln(w, reason)
	}
	var counts []string
	for _, outcome := range []protocol.ReleaseOutcome{
		protocol.Released, protocol.ReleaseGone, protocol.ReleaseKept, protocol.ReleaseRefused, protocol.ReleaseFailed,
	} {
		if n := countOutcome(results, outcome); n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, outcome))
		}
	}
	if dryRun {
		_, _ = fmt.Fprintf(w, "\n%d would go. Nothing was changed.\n", countOutcome(results, protocol.Released))
		return
	}
	_, _ = fmt.Fprintf(w, "\n%s\n", strings.Join(counts, ", "))
}

func outcomeOfFailure(outcome protocol.ReleaseOutcome) string {
	if outcome == protocol.ReleaseRefused {
		return "refused"
	}
	return "not released"
}
