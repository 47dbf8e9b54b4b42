// Creating bookmarks.

package zfs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrBookmarkCloneUnsupported says that this OpenZFS cannot copy a bookmark (2.0 can).
var ErrBookmarkCloneUnsupported = errors.New("this OpenZFS cannot copy bookmarks; 2.0 and later can")

// BookmarkExists says that the name is taken by a bookmark of another snapshot.
type BookmarkExists struct {
	Bookmark string

	// GUID is of the bookmark that exists, WantGUID of the one that should have been created.
	GUID, WantGUID uint64
}

// Error names both.
func (e *BookmarkExists) Error() string {
	return fmt.Sprintf("the bookmark %s exists already and is of another snapshot (guid %d, wanted %d)", e.Bookmark, e.GUID, e.WantGUID)
}

// Bookmark creates a bookmark (full name) of a snapshot, or copies another bookmark (source, full name) of the same
// dataset. If it exists and has the source's guid, that is success; if it has another, a [*BookmarkExists]. A source that
// does not exist is a [*DatasetDoesNotExist].
func (s *System) Bookmark(ctx context.Context, source, bookmark string) error {
	sourceDataset, sourceType, _, err := SplitVersion(source)
	if err != nil {
		return err
	}
	if err := ValidateBookmark(bookmark); err != nil {
		return err
	}
	if dataset, _, _, _ := SplitVersion(bookmark); dataset != sourceDataset {
		return fmt.Errorf("the bookmark %s cannot be of %s: they are of different datasets", bookmark, source)
	}
	if sourceType == Bookmark {
		features, err := s.Features(ctx)
		if err != nil {
			return err
		}
		if !features.BookmarkClone {
			return fmt.Errorf("bookmark %s: %w", source, ErrBookmarkCloneUnsupported)
		}
	}
	err = s.run(ctx, Command{Args: []string{"zfs", "bookmark", source, bookmark}})
	var failed *CommandError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed) && strings.Contains(failed.Stderr, "bookmark exists"):
		return s.acceptBookmark(ctx, source, bookmark)
	}
	return fmt.Errorf("bookmark %s as %s: %w", source, bookmark, err)
}

// acceptBookmark is for a bookmark that exists already.
func (s *System) acceptBookmark(ctx context.Context, source, bookmark string) error {
	output, err := s.output(ctx, "zfs", "get", "-Hp", "-o", "name,value", "guid", source, bookmark)
	if err != nil {
		return fmt.Errorf("compare the bookmark %s, which exists, with %s: %w", bookmark, source, err)
	}
	guids, err := parseGUIDs(output)
	if err != nil {
		return err
	}
	want, wantOK := guids[source]
	have, haveOK := guids[bookmark]
	if !wantOK || !haveOK {
		return outputError("zfs get", output, "the guids of %s and %s are not both there", source, bookmark)
	}
	if want != have {
		return &BookmarkExists{Bookmark: bookmark, GUID: have, WantGUID: want}
	}
	return nil
}

// parseGUIDs reads the lines "name TAB guid".
func parseGUIDs(output string) (map[string]uint64, error) {
	guids := map[string]uint64{}
	for line := range strings.Lines(output) {
		line = strings.TrimSuffix(line, "\n")
		name, value, ok := strings.Cut(line, "\t")
		if !ok {
			return nil, outputError("zfs get", line, "there are not 2 columns")
		}
		guid, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return nil, outputError("zfs get", line, "the guid is not a number")
		}
		guids[name] = guid
	}
	return guids, nil
}
