// The proof: both sides hold the same.

package demo

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/zfleet/zfleet/protocol"
	"github.com/zfleet/zfleet/zfs"
)

// prove compares every snapshot of alpha with bravo's: by guid, which ZFS keeps for a received snapshot only, and by content.
func (p *play) prove(ctx context.Context, job protocol.Job) error {
	p.title("Both sides are equal")
	there, err := zfs.New(p.stage.runner(alpha)).List(ctx, zfs.ListQuery{
		Datasets: []string{p.stage.source()}, Recursive: true, Versions: true, NoBookmarks: true,
	})
	if err != nil {
		return fmt.Errorf("list %s on alpha: %w", p.stage.source(), err)
	}
	copies := zfs.New(p.stage.runner(bravo))
	var rows [][]string
	for _, dataset := range there {
		landed := job.Targets[0].Filesystem(dataset.Name)
		received, err := copies.List(ctx, zfs.ListQuery{Datasets: []string{landed}, Depth: 1, Versions: true, NoBookmarks: true})
		if err != nil {
			return fmt.Errorf("list %s on bravo: %w", landed, err)
		}
		contents, err := p.compare(ctx, dataset, landed, received)
		if err != nil {
			return err
		}
		rows = append(rows, []string{dataset.Name, landed, strconv.Itoa(len(dataset.Versions)), "equal", contents})
	}
	p.table([]string{"ON ALPHA", "ON BRAVO", "SNAPSHOTS", "GUIDS", "CONTENTS"}, rows)
	return nil
}

// compare compares the snapshots of one dataset, and says what came of the contents.
func (p *play) compare(ctx context.Context, dataset zfs.Dataset, landed string, received []zfs.Dataset) (string, error) {
	guids := map[string]uint64{}
	for _, copied := range received {
		if copied.Name != landed {
			continue
		}
		for _, version := range copied.Versions {
			guids[version.Name] = version.GUID
		}
	}
	if len(guids) != len(dataset.Versions) {
		return "", fmt.Errorf("%s has %d snapshots, and its copy %s has %d", dataset.Name, len(dataset.Versions), landed, len(guids))
	}
	contents := "equal"
	for _, version := range dataset.Versions {
		if guids[version.Name] != version.GUID {
			return "", fmt.Errorf("%s has guid %d, and its copy on %s has %d", version.Full(dataset.Name), version.GUID, landed, guids[version.Name])
		}
		ours, err := p.stage.fingerprint(ctx, alpha, version.Full(dataset.Name))
		if err != nil {
			return "", err
		}
		theirs, err := p.stage.fingerprint(ctx, bravo, version.Full(landed))
		if err != nil {
			return "", err
		}
		if ours == "" || theirs == "" {
			contents = "not compared"
			continue
		}
		if ours != theirs {
			return "", fmt.Errorf("%s and its copy on %s have different contents", version.Full(dataset.Name), landed)
		}
	}
	if contents == "equal" && len(dataset.Versions) > 0 {
		last := dataset.Versions[len(dataset.Versions)-1]
		sum, err := p.stage.fingerprint(ctx, bravo, last.Full(landed))
		if err != nil {
			return "", err
		}
		contents += " (" + strings.TrimSpace(sum[:min(12, len(sum))]) + "…)"
	}
	return contents, nil
}
