// The pools of both sides, as far as replication knows them.

package model

import (
	"math/bits"
	"strconv"
	"strings"
)

// Version is a snapshot of the one filesystem: its guid, createtxg and name in one. They count from 1; 0 is none.
type Version uint8

// Set is a set of versions.
type Set uint8

// SetOf is the set of the versions.
func SetOf(versions ...Version) Set {
	var s Set
	for _, v := range versions {
		s |= 1 << v
	}
	return s &^ 1
}

// Has tells whether the version is in the set.
func (s Set) Has(v Version) bool { return v != 0 && s>>v&1 == 1 }

// Newest is the newest version in the set; 0 if it is empty.
func (s Set) Newest() Version {
	if s == 0 {
		return 0
	}
	return Version(bits.Len8(uint8(s)) - 1)
}

// Versions are those in the set, the oldest first.
func (s Set) Versions() []Version {
	var versions []Version
	for v := Version(1); v < 8; v++ {
		if s.Has(v) {
			versions = append(versions, v)
		}
	}
	return versions
}

func (s Set) String() string {
	words := make([]string, 0, 7)
	for _, v := range s.Versions() {
		words = append(words, strconv.Itoa(int(v)))
	}
	return "{" + strings.Join(words, " ") + "}"
}

// Source is the sender's filesystem: its snapshots, and what the JobID has put there.
type Source struct {
	Snapshots Set
	// Held are the snapshots with a step hold.
	Held Set
	// StepBookmarks, Tentative and Cursors are the versions of which there is such a bookmark.
	StepBookmarks, Tentative, Cursors Set
}

// Bookmarks are the versions of which there is any bookmark.
func (s Source) Bookmarks() Set { return s.StepBookmarks | s.Tentative | s.Cursors }

// Protected are the versions that nobody but the JobID's own steps can take away.
func (s Source) Protected() Set { return s.Held&s.Snapshots | s.Bookmarks() }

// Target is the receiver's filesystem.
type Target struct {
	Exists    bool
	Snapshots Set
	// Held are the snapshots with a last-received hold.
	Held Set
	// PartialTo is the snapshot of which there is a part, 0 if there is none; PartialFrom is what it increments.
	PartialTo, PartialFrom Version
}

// Protection is the job's.
type Protection int

// The protections that guarantee something.
const (
	Resumability Protection = iota
	Incremental
)

func (p Protection) String() string {
	return [...]string{"guarantee_resumability", "guarantee_incremental"}[p]
}
