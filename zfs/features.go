// What this host's OpenZFS and its pools can do.

package zfs

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Features say what the OpenZFS of this host can do. What a pool can do depends on its feature flags as well: [Pool].
type Features struct {
	// Version is that of the commands, KernelVersion that of the kernel module, such as "2.3.2". KernelVersion is empty
	// where the module is not loaded.
	Version, KernelVersion string

	// SnapshotsChanged: datasets have the property snapshots_changed (OpenZFS 2.2).
	SnapshotsChanged bool

	// ResumableRecv: zfs recv -s and resume tokens (0.7).
	ResumableRecv bool

	// BookmarkClone: zfs bookmark can copy a bookmark (2.0).
	BookmarkClone bool

	// Encryption: native encryption and raw sends (0.8).
	Encryption bool

	// ChannelPrograms: zfs program (0.8), with zfs.sync.bookmark only from 2.0 on.
	ChannelPrograms bool

	// LargeBlocks: zfs send -L (0.7).
	LargeBlocks bool

	// CompressedSend: zfs send -c (0.7).
	CompressedSend bool

	// BackupProperties: zfs send -b (0.8).
	BackupProperties bool

	// SavedSend: zfs send -S, of a partially received state (2.0).
	SavedSend bool

	// HoldsParsable: zfs holds -p prints seconds since the epoch (2.2).
	HoldsParsable bool
}

// Features asks the host once and remembers the answer; a question that failed is asked again.
func (s *System) Features(ctx context.Context) (Features, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.features != nil {
		return *s.features, nil
	}
	output, err := s.output(ctx, "zfs", "version")
	// Without the kernel module the version of the commands is printed all the same, and the exit status is 1.
	if err != nil && output == "" {
		return Features{}, fmt.Errorf("find out the version of OpenZFS: %w", err)
	}
	features, err := parseVersionOutput(output)
	if err != nil {
		return Features{}, err
	}
	s.features = &features
	return features, nil
}

// versionLine matches "zfs-2.3.2-1~bpo12+2" and "zfs-kmod-2.3.2-1~bpo12+2".
var versionLine = regexp.MustCompile(`^(zfs|zfs-kmod)-([0-9]+)\.([0-9]+)(\.[0-9]+)?([^0-9.].*)?$`)

// parseVersionOutput reads what zfs version prints.
func parseVersionOutput(output string) (Features, error) {
	var features Features
	var oldest [2]int // major and minor of the older of the two, which limits what works
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\r\n")
		match := versionLine.FindStringSubmatch(line)
		if match == nil {
			continue // development builds print more
		}
		major, majorErr := strconv.Atoi(match[2])
		minor, minorErr := strconv.Atoi(match[3])
		if majorErr != nil || minorErr != nil {
			return Features{}, outputError("zfs version", line, "the version is not a number")
		}
		version := match[2] + "." + match[3] + match[4]
		if match[1] == "zfs" {
			features.Version = version
		} else {
			features.KernelVersion = version
		}
		if parsed := [2]int{major, minor}; oldest == [2]int{} || less(parsed, oldest) {
			oldest = parsed
		}
	}
	if features.Version == "" {
		return Features{}, outputError("zfs version", output, "there is no line with the version of zfs")
	}
	since := func(major, minor int) bool { return !less(oldest, [2]int{major, minor}) }
	features.ResumableRecv = since(0, 7)
	features.LargeBlocks = since(0, 7)
	features.CompressedSend = since(0, 7)
	features.BackupProperties = since(0, 8)
	features.Encryption = since(0, 8)
	features.ChannelPrograms = since(0, 8)
	features.BookmarkClone = since(2, 0)
	features.SavedSend = since(2, 0)
	features.SnapshotsChanged = since(2, 2)
	features.HoldsParsable = since(2, 2)
	return features, nil
}

func less(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }
