// Abstractions: what replication keeps on the hosts' disks, asked from the hosts themselves, and released by them.

package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

// Abstractions asks the hosts for the holds and bookmarks that replication keeps: the given hosts, or all that are there.
// They come in the order of the hosts, and of each host in order of filesystem and age. What one host cannot answer is an
// error beside the answers of the others; so is a root that no host has.
func (c *Client) Abstractions(ctx context.Context, request protocol.AbstractionsRequest, hosts ...protocol.Host) (
	[]protocol.AbstractionInfo, error,
) {
	var found []protocol.AbstractionInfo
	err := c.askHosts(ctx, hosts, request.Roots, func(host protocol.Host) (answer listing, err error) {
		var of []protocol.AbstractionInfo
		err = protocol.Ask(ctx, c.conn, host, protocol.VerbAbstractions, request, c.hostTimeout, func(page protocol.AbstractionsPage) {
			for _, info := range page.Abstractions {
				info.Host = host
				of = append(of, info)
			}
			answer.add(page.Missing, page.Failures)
		})
		slices.SortStableFunc(of, func(a, b protocol.AbstractionInfo) int {
			return cmp.Or(
				strings.Compare(a.Filesystem, b.Filesystem), cmp.Compare(a.CreateTXG, b.CreateTXG), strings.Compare(a.Kind, b.Kind),
				strings.Compare(a.Name, b.Name), strings.Compare(a.Tag, b.Tag),
			)
		})
		found = append(found, of...)
		return answer, err
	})
	return found, err
}

// ReleaseOptions are how abstractions are released.
type ReleaseOptions struct {
	// Job is the name of the job that they are of; empty where it is not known.
	Job string
	// Stale keeps what a step or a cursor needs by then.
	Stale bool
	// DryRun only tells what would become of each.
	DryRun bool
	// Force releases also what a running step uses.
	Force bool
}

// Release has the hosts release exactly the given abstractions, and tells what became of each, in their order. Where a host
// does not answer, its abstractions fail for that reason; some of them may have gone all the same.
func (c *Client) Release(ctx context.Context, given []protocol.AbstractionInfo, options ReleaseOptions) []protocol.ReleaseResult {
	results := make([]protocol.ReleaseResult, len(given))
	byHost := map[protocol.Host][]int{}
	for i, info := range given {
		results[i] = protocol.ReleaseResult{AbstractionInfo: info}
		byHost[info.Host] = append(byHost[info.Host], i)
	}
	for host, indexes := range sortedByKey(byHost) {
		var failure *protocol.Failure
		for some := range slices.Chunk(indexes, protocol.MaxReleases) {
			if failure == nil {
				failure = c.releaseOn(ctx, host, given, some, options, results)
			}
			for _, i := range some {
				if results[i].Outcome == "" {
					results[i].Outcome, results[i].Failure = protocol.ReleaseFailed, failure
				}
			}
		}
	}
	return results
}

// releaseOn fills in the results of what the indexes name, as far as the host answers.
func (c *Client) releaseOn(
	ctx context.Context, host protocol.Host, given []protocol.AbstractionInfo, indexes []int, options ReleaseOptions,
	results []protocol.ReleaseResult,
) *protocol.Failure {
	request := protocol.ReleaseRequest{Job: options.Job, Stale: options.Stale, DryRun: options.DryRun, Force: options.Force}
	for _, i := range indexes {
		request.Abstractions = append(request.Abstractions, given[i])
	}
	answered := 0
	err := protocol.Ask(ctx, c.conn, host, protocol.VerbRelease, request, c.hostTimeout, func(page protocol.ReleasePage) {
		for _, result := range page.Results {
			if answered < len(indexes) {
				results[indexes[answered]] = result
				answered++
			}
		}
	})
	if err == nil && answered < len(indexes) {
		err = protocol.Failf(protocol.Permanent, "it told of %d only, of %d that were to go", answered, len(indexes))
	}
	if err == nil {
		return nil
	}
	return ofHost(host, err)
}

// Migrate has the hosts destroy replication cursors of v1 that are superseded, and tells what became of each: the given
// hosts, or all that are there. What one host cannot answer is an error beside the answers of the others; so is a root that
// no host has.
func (c *Client) Migrate(ctx context.Context, request protocol.MigrateRequest, hosts ...protocol.Host) (
	[]protocol.ReleaseResult, error,
) {
	var results []protocol.ReleaseResult
	err := c.askHosts(ctx, hosts, request.Roots, func(host protocol.Host) (answer listing, err error) {
		err = protocol.Ask(ctx, c.conn, host, protocol.VerbMigrate, request, c.hostTimeout, func(page protocol.ReleasePage) {
			for _, result := range page.Results {
				result.Host = host
				results = append(results, result)
			}
			answer.add(page.Missing, page.Failures)
		})
		return answer, err
	})
	slices.SortStableFunc(results, func(a, b protocol.ReleaseResult) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), strings.Compare(a.Filesystem, b.Filesystem))
	})
	return results, err
}

// listing is what a host's listing lacks.
type listing struct {
	missing  []string
	failures []error
}

func (l *listing) add(missing []string, failures []protocol.Failure) {
	l.missing = append(l.missing, missing...)
	for i := range failures {
		l.failures = append(l.failures, &failures[i])
	}
}

// askHosts asks the hosts, or all that are there, one after another. The error has all that went wrong.
func (c *Client) askHosts(
	ctx context.Context, hosts []protocol.Host, roots []string, ask func(protocol.Host) (listing, error),
) error {
	var failures []error
	if len(hosts) == 0 {
		present, err := c.Hosts(ctx)
		if err != nil {
			return err
		}
		for _, presence := range present {
			hosts = append(hosts, presence.Host)
		}
		hosts = slices.Compact(hosts)
	}
	missing := map[string]int{}
	answered := 0
	for _, host := range hosts {
		answer, err := ask(host)
		if err != nil {
			failures = append(failures, ofHost(host, err))
			continue
		}
		answered++
		failures = append(failures, answer.failures...)
		for _, root := range answer.missing {
			missing[root]++
		}
	}
	for _, root := range roots {
		if answered > 0 && missing[root] == answered {
			failures = append(failures, protocol.Failf(protocol.Permanent, "%s does not exist on any of the hosts asked (%s)", root, joined(hosts)))
		}
	}
	return errors.Join(failures...)
}

func joined(hosts []protocol.Host) string {
	names := make([]string, 0, len(hosts))
	for _, host := range hosts {
		names = append(names, string(host))
	}
	return strings.Join(names, ", ")
}

// ofHost is a host's failure to answer about abstractions.
func ofHost(host protocol.Host, err error) *protocol.Failure {
	return protocol.AsFailure(fmt.Errorf("abstractions of host %s: %w (zctl hosts lists the hosts that are there)", host, err),
		protocol.Transient)
}
