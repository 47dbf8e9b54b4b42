// Placeholders: filesystems that exist only to hold a received child.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// PlaceholderEncryption is the encryption of a placeholder.
type PlaceholderEncryption string

// The encryption of placeholders.
const (
	// PlaceholderInherit leaves it to the parent; it is what the zero value means as well.
	PlaceholderInherit PlaceholderEncryption = "inherit"

	// PlaceholderOff creates it unencrypted, also below an encrypted parent.
	PlaceholderOff PlaceholderEncryption = "off"
)

// PlaceholderArgs say how to create a placeholder.
type PlaceholderArgs struct {
	Encryption PlaceholderEncryption
}

// CreatePlaceholder creates a filesystem that is never mounted, marked with the user property zrepl:placeholder=on. Its
// parent must exist. A filesystem that exists already, placeholder or not, is left as it is and no error; a volume is a
// [*DatasetExists].
func (s *System) CreatePlaceholder(ctx context.Context, dataset string, args PlaceholderArgs) error {
	if err := ValidateDataset(dataset); err != nil {
		return err
	}
	argv := []string{"zfs", "create", "-u"}
	switch args.Encryption {
	case "", PlaceholderInherit:
	case PlaceholderOff:
		argv = append(argv, "-o", "encryption=off")
	default:
		return fmt.Errorf("create the placeholder %s: %q is no encryption setting", dataset, args.Encryption)
	}
	argv = append(argv, "-o", "canmount=off", "-o", "mountpoint=none", "-o", PlaceholderProperty+"=on", dataset)
	err := s.run(ctx, Command{Args: argv})
	var failed *CommandError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &failed):
	case strings.Contains(failed.Stderr, "dataset already exists"):
		return s.acceptExisting(ctx, dataset)
	case strings.Contains(failed.Stderr, "parent does not exist"):
		parent, _ := parentOf(dataset)
		err = &DatasetDoesNotExist{Dataset: parent, Command: failed}
	}
	return fmt.Errorf("create the placeholder %s: %w", dataset, err)
}

// acceptExisting is for a placeholder whose name is taken.
func (s *System) acceptExisting(ctx context.Context, dataset string) error {
	existing, err := s.List(ctx, ListQuery{Datasets: []string{dataset}})
	if err != nil {
		return fmt.Errorf("create the placeholder %s, which exists already: %w", dataset, err)
	}
	if len(existing) != 1 || existing[0].Type != Filesystem {
		return &DatasetExists{Dataset: dataset}
	}
	return nil
}

// DatasetExists says that a name is taken by something that cannot be used.
type DatasetExists struct{ Dataset string }

// Error names it.
func (e *DatasetExists) Error() string {
	return fmt.Sprintf("%q exists already and is not a filesystem; rename or destroy it", e.Dataset)
}

// SetPlaceholder marks a filesystem as a placeholder, or, once it has been received, as none. "off" is set rather than the
// property removed, because that would let the parent's "on" be inherited.
func (s *System) SetPlaceholder(ctx context.Context, dataset string, on bool) error {
	if err := ValidateDataset(dataset); err != nil {
		return err
	}
	value := "off"
	if on {
		value = "on"
	}
	if err := s.run(ctx, Command{Args: []string{"zfs", "set", PlaceholderProperty + "=" + value, dataset}}); err != nil {
		return fmt.Errorf("mark %s as placeholder or not: %w", dataset, err)
	}
	return nil
}
