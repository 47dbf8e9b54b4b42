// Hosts, leader and cursors: what the fleet says of itself.

package fleet

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

// Hosts are the workers that are there, in order of host and worker. A worker that died is gone after a while. Some may
// come beside an *UnreadableError.
func (c *Client) Hosts(ctx context.Context) ([]protocol.Presence, error) {
	hosts, err := list[protocol.Presence](ctx, c, c.resources.Hosts)
	slices.SortFunc(hosts, func(a, b protocol.Presence) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Worker, b.Worker))
	})
	return hosts, err
}

// AbsentHost is a host of which no worker is there any more.
type AbsentHost struct {
	Host protocol.Host `json:"host"`
	// Seen is when one was there last: up to 30 seconds early, where it took its leave.
	Seen time.Time `json:"seen"`
}

// AbsentHosts are the hosts of which no worker is there, but one was in the last 30 days, in order.
func (c *Client) AbsentHosts(ctx context.Context) ([]AbsentHost, error) {
	entries, err := c.entries(ctx, c.resources.Hosts, ">")
	if err != nil {
		return nil, c.explain(err, "list bucket %s", protocol.BucketHosts)
	}
	here, seen := map[protocol.Host]bool{}, map[protocol.Host]time.Time{}
	for key, entry := range entries {
		host, _, err := protocol.ParseHostKey(key)
		if err != nil {
			continue // Hosts tells about keys that are none of a worker
		}
		if entry.Operation() == jetstream.KeyValuePut {
			here[host] = true
			continue
		}
		// The marker came when what the worker had said last did not count any more.
		if last := entry.Created().Add(-protocol.PresenceTTL); last.After(seen[host]) {
			seen[host] = last
		}
	}
	absent := []AbsentHost{}
	for host, last := range sortedByKey(seen) {
		if !here[host] {
			absent = append(absent, AbsentHost{Host: host, Seen: last.UTC()})
		}
	}
	return absent, nil
}

// Leader is who coordinates; nil when nobody does.
func (c *Client) Leader(ctx context.Context) (*protocol.Lease, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	value, _, err := c.get(ctx, protocol.BucketLeader, protocol.LeaderKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil //nolint:nilnil // nobody leads, and that is no error
	}
	if err != nil {
		return nil, c.explain(err, "find out who coordinates")
	}
	var lease protocol.Lease
	if err := protocol.DecodeValue(value, &lease); err != nil {
		return nil, protocol.Failf(protocol.Permanent, "find out who coordinates: %w", err)
	}
	return &lease, nil
}

// Cursors are the fleet's views of the replication cursors: those of one job, or all for the empty name, in order of job,
// target and filesystem. Some may come beside an *UnreadableError.
func (c *Client) Cursors(ctx context.Context, job string) ([]protocol.Cursor, error) {
	keys := ">"
	if job != "" {
		keys = protocol.JobKey(job) + ".>"
	}
	cursors, err := list[protocol.Cursor](ctx, c, c.resources.Cursors, keys)
	slices.SortFunc(cursors, func(a, b protocol.Cursor) int {
		return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Target, b.Target), cmp.Compare(a.JobID, b.JobID),
			cmp.Compare(a.Filesystem, b.Filesystem))
	})
	return cursors, err
}
