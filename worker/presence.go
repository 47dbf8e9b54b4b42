// Presence: telling the fleet that this worker lives, and what its host can do.

package worker

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/zfleet/zfleet/protocol"
)

const (
	// poolsEvery is how often the pools are listed again for the presence.
	poolsEvery = time.Minute
)

// present tells the presence until ctx ends, and takes it back then.
func (w *Worker) present(ctx context.Context) {
	draining := w.draining
	ticker := time.NewTicker(w.config.PresenceTTL / 3)
	defer ticker.Stop()
	var pools []protocol.PoolInfo
	var listed time.Time
	told := ""
	for {
		if time.Since(listed) >= poolsEvery {
			if fresh, err := w.pools(ctx); err == nil {
				pools, listed = fresh, time.Now()
			} else if ctx.Err() == nil {
				w.logger.WarnContext(ctx, "the pools cannot be listed", slog.Any("error", err))
			}
		}
		switch err := w.tellPresence(ctx, pools); {
		case ctx.Err() != nil:
		case err == nil:
			told = ""
		case err.Error() != told:
			told = err.Error()
			w.logger.WarnContext(ctx, "the fleet was not told that this worker lives; trying on", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			w.takeLeave(ctx)
			return
		case <-draining:
			draining = nil // it stays closed, and is told once
		case <-ticker.C:
		}
	}
}

func (w *Worker) drains() bool {
	select {
	case <-w.draining:
		return true
	default:
		return false
	}
}

func (w *Worker) pools(ctx context.Context) ([]protocol.PoolInfo, error) {
	listed, err := w.config.ZFS.Pools(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the pools: %w", err)
	}
	pools := make([]protocol.PoolInfo, 0, len(listed))
	for _, pool := range listed {
		pools = append(pools, protocol.PoolInfo{
			Name: pool.Name, Size: pool.Size, Free: pool.Free, Health: pool.Health, ReadOnly: pool.ReadOnly,
		})
	}
	return pools, nil
}

func (w *Worker) tellPresence(ctx context.Context, pools []protocol.PoolInfo) error {
	features, err := w.config.ZFS.Features(ctx)
	if err != nil {
		return err
	}
	presence := protocol.Presence{
		Host: w.config.Host, Worker: w.config.Name, Version: w.config.Version, Protocols: []int{protocol.ProtocolVersion},
		ZFS: features.Version,
		Features: map[string]bool{
			"snapshots_changed": features.SnapshotsChanged, "resumable_recv": features.ResumableRecv,
			"bookmark_clone": features.BookmarkClone, "encryption": features.Encryption,
			"channel_programs": features.ChannelPrograms, "large_blocks": features.LargeBlocks, "saved_send": features.SavedSend,
		},
		Pools: pools, Addresses: w.listener.Addresses(), TLS: w.listener.TLS(), Fingerprint: w.listener.Fingerprint(),
		SendSlots: w.config.Slots.Send, RecvSlots: w.config.Slots.Recv, Draining: w.drains(), Started: w.started, Seen: time.Now().UTC(),
	}
	data, err := protocol.EncodeValue(presence)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.config.PresenceTTL/3)
	defer cancel()
	_, err = protocol.PutTTL(ctx, w.config.Resources.JetStream, protocol.BucketHosts,
		protocol.HostKey(w.config.Host, w.config.Name), data, w.config.PresenceTTL, nil)
	return err
}

func (w *Worker) takeLeave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	// What is left behind is a marker that says when; a plain deletion would leave one for ever for each process that ever ran.
	err := w.config.Resources.Hosts.Purge(ctx, protocol.HostKey(w.config.Host, w.config.Name),
		jetstream.PurgeTTL(protocol.HostMarkerTTL))
	if err != nil {
		w.logger.DebugContext(ctx, "the presence was not taken back and will expire", slog.Any("error", err))
	}
}
