// Inventory: asking a host's workers what is on its pools.

package coordinator

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/zfleet/zfleet/protocol"
)

// inventory is what a host answered.
type inventory struct {
	datasets []protocol.Dataset
	// missing are requested roots that do not exist.
	missing []string
}

// find is the dataset of the given name, or nil.
func (i inventory) find(name string) *protocol.Dataset {
	for n := range i.datasets {
		if i.datasets[n].Name == name {
			return &i.datasets[n]
		}
	}
	return nil
}

// byName indexes the datasets.
func (i inventory) byName() map[string]*protocol.Dataset {
	index := make(map[string]*protocol.Dataset, len(i.datasets))
	for n := range i.datasets {
		index[i.datasets[n].Name] = &i.datasets[n]
	}
	return index
}

// sourceRequest asks the job's source for all that the job replicates.
func sourceRequest(spec protocol.Job) protocol.InventoryRequest {
	return protocol.InventoryRequest{Roots: spec.Source.Filesystems.Roots(), Filter: spec.Source.Filesystems}
}

// targetRequest asks one of the job's targets for all that the job replicates to it.
func targetRequest(spec protocol.Job, target protocol.JobTarget) protocol.InventoryRequest {
	return protocol.InventoryRequest{Roots: []string{target.Root}, Filter: targetFilter(spec.Source.Filesystems, target.Root)}
}

// asker asks workers.
type asker struct {
	conn *nats.Conn
}

// inventory asks the host; pageDeadline is how long it may take from one page to the next. Failures are transient when
// asking again may help.
func (a asker) inventory(
	ctx context.Context, host protocol.Host, request protocol.InventoryRequest, pageDeadline time.Duration,
) (inventory, error) {
	var result inventory
	err := protocol.Ask(ctx, a.conn, host, protocol.VerbInventory, request, pageDeadline, func(page protocol.InventoryPage) {
		for _, dataset := range page.Datasets {
			last := len(result.datasets) - 1
			if last >= 0 && result.datasets[last].Name == dataset.Name {
				result.datasets[last].Versions = append(result.datasets[last].Versions, dataset.Versions...)
				continue
			}
			result.datasets = append(result.datasets, dataset)
		}
		result.missing = append(result.missing, page.Missing...)
	})
	if err != nil {
		return inventory{}, fmt.Errorf("inventory: %w", err)
	}
	return result, nil
}

// estimate asks the host for the sizes of steps, in bytes.
func (a asker) estimate(
	ctx context.Context, host protocol.Host, request protocol.EstimateRequest, deadline time.Duration,
) ([]uint64, error) {
	var sizes []uint64
	err := protocol.Ask(ctx, a.conn, host, protocol.VerbEstimate, request, deadline, func(reply protocol.EstimateReply) {
		sizes = reply.Bytes
	})
	if err != nil {
		return nil, fmt.Errorf("estimates: %w", err)
	}
	if len(sizes) != len(request.Steps) {
		return nil, protocol.Failf(protocol.Permanent, "estimates of %s: asked for %d steps, got %d", host,
			len(request.Steps), len(sizes))
	}
	return sizes, nil
}
