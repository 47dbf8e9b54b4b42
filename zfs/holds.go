// User holds: they keep snapshots from being destroyed.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Hold is a user hold.
type Hold struct {
	// Snapshot is the full name.
	Snapshot string

	Tag string

	// Created has whole seconds; whole minutes, in the local time zone, before OpenZFS 2.2.
	Created time.Time
}

// maxHolds is how many snapshots go into one zfs hold or zfs release: few enough that, should each of them fail, all the
// messages fit into the standard error that a Runner keeps. Each hold is a transaction of its own anyway, whatever the
// number on one command line (zfs_main.c, zfs_do_hold_rele_impl).
const maxHolds = 128

// Hold puts a hold on each of the snapshots (full names). A snapshot that has a hold with this tag is no error. For each
// snapshot that does not exist there is a [*DatasetDoesNotExist] in the error; the others are held all the same.
func (s *System) Hold(ctx context.Context, tag string, snapshots ...string) error {
	return s.holdOrRelease(ctx, "hold", tag, snapshots, func(failed *CommandError) error {
		return holdFailure(failed, func(line string) bool {
			return strings.HasSuffix(line, ": tag already exists on this dataset")
		})
	})
}

// Release removes the tag's hold from each of the snapshots (full names). A snapshot that has no such hold, or that does
// not exist, is no error.
func (s *System) Release(ctx context.Context, tag string, snapshots ...string) error {
	return s.holdOrRelease(ctx, "release", tag, snapshots, func(failed *CommandError) error {
		return holdFailure(failed, func(line string) bool {
			return strings.HasSuffix(line, ": no such tag on this dataset") || doesNotExist.MatchString(line)
		})
	})
}

func (s *System) holdOrRelease(
	ctx context.Context, verb, tag string, snapshots []string, failure func(*CommandError) error,
) error {
	if err := ValidateHoldTag(tag); err != nil {
		return err
	}
	if err := validateSnapshots(snapshots); err != nil {
		return err
	}
	var problems []error
	for batch := range batches(snapshots, maxArguments, maxHolds) {
		err := s.run(ctx, Command{Args: append([]string{"zfs", verb, tag}, batch...)})
		var failed *CommandError
		if errors.As(err, &failed) {
			err = failure(failed)
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%s with the tag %s: %w", verb, tag, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(problems...)
}

// holdFailure leaves out of a failure what is harmless: nil if that is all of it.
func holdFailure(failed *CommandError, harmless func(line string) bool) error {
	var problems []error
	explained := true
	seen := false
	for line := range strings.Lines(failed.Stderr) {
		line = strings.TrimSpace(line)
		match := doesNotExist.FindStringSubmatch(line)
		switch {
		case line == "":
			continue
		case harmless(line):
		case match != nil:
			problems = append(problems, &DatasetDoesNotExist{Dataset: match[1], Command: failed})
		default:
			explained = false
		}
		seen = true
	}
	if !seen || !explained {
		problems = append(problems, failed)
	}
	return errors.Join(problems...)
}

func validateSnapshots(snapshots []string) error {
	for _, snapshot := range snapshots {
		if err := ValidateSnapshot(snapshot); err != nil {
			return err
		}
	}
	return nil
}

// Holds lists the holds of the snapshots (full names), many per command. A snapshot that does not exist has none.
func (s *System) Holds(ctx context.Context, snapshots ...string) ([]Hold, error) {
	if err := validateSnapshots(snapshots); err != nil {
		return nil, err
	}
	features, err := s.Features(ctx)
	if err != nil {
		return nil, err
	}
	options := "-H"
	if features.HoldsParsable {
		options = "-Hp"
	}
	var holds []Hold
	for batch := range batches(snapshots, maxArguments, maxHolds) {
		lines := lineWriter{handle: func(line string) error {
			hold, err := parseHold(line)
			if err == nil {
				holds = append(holds, hold)
			}
			return err
		}}
		err := s.run(ctx, Command{Args: append([]string{"zfs", "holds", options}, batch...), Stdout: &lines})
		var failed *CommandError
		if errors.As(err, &failed) {
			err = holdFailure(failed, doesNotExist.MatchString)
		}
		if err != nil {
			return nil, fmt.Errorf("list holds: %w", err)
		}
		if err := lines.finish("zfs holds"); err != nil {
			return nil, err
		}
	}
	return holds, nil
}

// holdTime is how zfs holds prints the time without -p: strftime's "%a %b %e %H:%M %Y".
const holdTime = "Mon Jan _2 15:04 2006"

// parseHold reads the line "snapshot TAB tag TAB time".
func parseHold(line string) (Hold, error) {
	const command = "zfs holds"
	// The tag is what is between the first and the last tab: others may choose tags with tabs.
	first, last := strings.IndexByte(line, '\t'), strings.LastIndexByte(line, '\t')
	if first == last {
		return Hold{}, outputError(command, line, "there are not 3 columns")
	}
	hold := Hold{Snapshot: line[:first], Tag: line[first+1 : last]}
	when := line[last+1:]
	if err := ValidateSnapshot(hold.Snapshot); err != nil {
		return Hold{}, outputError(command, line, "%v", err)
	}
	if hold.Tag == "" {
		return Hold{}, outputError(command, line, "the tag is empty")
	}
	if seconds, err := strconv.ParseInt(when, 10, 64); err == nil {
		hold.Created = time.Unix(seconds, 0)
		return hold, nil
	}
	created, err := time.ParseInLocation(holdTime, when, time.Local)
	if err != nil {
		return Hold{}, outputError(command, line, "the time is neither in seconds nor a date")
	}
	hold.Created = created
	return hold, nil
}
