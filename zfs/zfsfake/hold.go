// hold, holds, release and bookmark.

package zfsfake

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

const maxTagLength = 256

func (p *process) zfsHold() int {
	return p.eachHold("rt", func(d *dataset, snap, tag string, recursive bool) bool {
		var found []*snapshot
		d.visit(recursive, func(d *dataset) {
			if s := d.byName[snap]; s != nil {
				found = append(found, s)
			}
		})
		if len(found) == 0 {
			p.errorf("cannot hold snapshot '%s@%s': dataset does not exist\n", d.name, snap)
			return false
		}
		for _, s := range found {
			reason := ""
			switch {
			case len(tag) > maxTagLength:
				reason = "tag too long"
			case hasHold(s, tag):
				reason = "tag already exists on this dataset"
			case d.pool.readOnly:
				reason = "pool is read-only"
			}
			if reason != "" {
				p.errorf("cannot hold snapshot '%s': %s\n", s.full(), reason)
				return false
			}
		}
		d.pool.nextTXG()
		for _, s := range found {
			if s.holds == nil {
				s.holds = map[string]int64{}
			}
			s.holds[tag] = d.pool.now()
			s.tell(HoldPlaced, tag)
		}
		return true
	})
}

func hasHold(s *snapshot, tag string) bool {
	_, held := s.holds[tag]
	return held
}

func (p *process) zfsRelease() int {
	return p.eachHold("r", func(d *dataset, snap, tag string, recursive bool) bool {
		var found []*snapshot
		reason := ""
		d.visit(recursive, func(d *dataset) {
			switch s := d.byName[snap]; {
			case s == nil:
				reason = "dataset does not exist"
			case !hasHold(s, tag):
				reason = "no such tag on this dataset"
			default:
				found = append(found, s)
			}
		})
		if len(found) == 0 {
			p.errorf("cannot release hold from snapshot '%s@%s': %s\n", d.name, snap, reason)
			return false
		}
		if d.pool.readOnly {
			p.errorf("cannot release: pool is read-only\n")
			return false
		}
		for _, s := range found {
			if s.deferDestroy && len(s.holds) == 1 && len(s.clones) == 0 && s.senders > 0 {
				p.errorf("cannot release hold from snapshot '%s': dataset is busy\n", s.full())
				return false
			}
		}
		d.pool.nextTXG()
		for _, s := range found {
			delete(s.holds, tag)
			s.tell(HoldReleased, tag)
			s.settle()
		}
		return true
	})
}

// eachHold reads the arguments of hold and release and calls change for every snapshot named.
func (p *process) eachHold(optstring string, change func(d *dataset, snap, tag string, recursive bool) bool) int {
	recursive := false
	options, operands := getopt(p.args, optstring, nil)
	for _, o := range options {
		switch o.letter {
		case 'r':
			recursive = true
		case 't':
		default:
			return p.invalidOption(o)
		}
	}
	if len(operands) < 2 {
		return p.showUsage()
	}
	tag := operands[0]
	if strings.Contains(optstring, "t") && strings.HasPrefix(tag, ".") {
		p.errorf("tag may not start with '.'\n")
		return p.showUsage()
	}
	code := 0
	for _, operand := range operands[1:] {
		name, snap, ok := strings.Cut(operand, "@")
		if !ok {
			p.errorf("'%s' is not a snapshot\n", operand)
			code = 1
			continue
		}
		p.fake.state.Lock()
		o, ok := p.open(name, kindHeads)
		if !ok || !change(o.dataset, snap, tag, recursive) {
			code = 1
		}
		p.fake.state.Unlock()
	}
	return code
}

func (p *process) zfsHolds() int {
	recursive, scripted, exact := false, false, false
	letters := "rHp"
	if p.fake.olderThan(2, 2) {
		letters = "rH"
	}
	options, operands := getopt(p.args, letters, nil)
	for _, o := range options {
		switch o.letter {
		case 'r':
			recursive = true
		case 'H':
			scripted = true
		case 'p':
			exact = true
		default:
			return p.invalidOption(o)
		}
	}
	if len(operands) == 0 {
		return p.showUsage()
	}
	var rows [][]string
	found := map[*snapshot]bool{}
	code := 0
	p.fake.state.Lock()
	for _, operand := range operands {
		name, snap, ok := strings.Cut(operand, "@")
		if !ok {
			p.errorf("'%s' is not a snapshot\n", operand)
			code = 1
			continue
		}
		var snapshots []*snapshot
		if recursive {
			o, ok := p.open(name, kindHeads)
			if !ok {
				code = 1
				continue
			}
			o.dataset.walk(func(d *dataset) {
				if s := d.byName[snap]; s != nil {
					snapshots = append(snapshots, s)
				}
			})
		} else {
			o, ok := p.open(operand, kindSnapshot)
			if !ok {
				code = 1
				continue
			}
			snapshots = append(snapshots, o.snapshot)
		}
		for _, s := range snapshots {
			if found[s] {
				continue
			}
			found[s] = true
			for _, tag := range sortedKeys(s.holds) {
				when := fmt.Sprint(s.holds[tag])
				if !exact {
					when = time.Unix(s.holds[tag], 0).UTC().Format("Mon Jan _2 15:04 2006")
				}
				rows = append(rows, []string{s.full(), tag, when})
			}
		}
	}
	p.fake.state.Unlock()
	if !p.printHolds(rows, found, scripted) {
		return 1
	}
	if len(found) == 0 {
		p.errorf("no datasets available\n")
	}
	return code
}

func (p *process) printHolds(rows [][]string, found map[*snapshot]bool, scripted bool) bool {
	if scripted {
		return p.printRows(nil, rows, true)
	}
	names, tags := 0, 0
	for s := range found {
		names = max(names, len(s.full()))
	}
	for _, row := range rows {
		tags = max(tags, len(row[1]))
	}
	var text bytes.Buffer
	for _, row := range append([][]string{{"NAME", "TAG", "TIMESTAMP"}}, rows...) {
		fmt.Fprintf(&text, "%-*s  %-*s  %s\n", names, row[0], tags, row[1], row[2])
	}
	_, err := p.out.Write(text.Bytes())
	return err == nil
}

func (p *process) zfsBookmark() int {
	options, operands := getopt(p.args, "", nil)
	for _, o := range options {
		return p.invalidOption(o)
	}
	switch {
	case len(operands) < 1:
		p.errorf("missing source argument\n")
		return p.showUsage()
	case len(operands) < 2:
		p.errorf("missing bookmark argument\n")
		return p.showUsage()
	}
	from, name := operands[0], operands[1]
	switch {
	case !strings.ContainsAny(from, "@#"):
		p.errorf("invalid source name '%s': must contain a '@' or '#'\n", from)
		return p.showUsage()
	case !strings.Contains(name, "#"):
		p.errorf("invalid bookmark name '%s': must contain a '#'\n", name)
		return p.showUsage()
	}
	short := func(name string) bool { return name[0] == '@' || name[0] == '#' }
	switch {
	case short(from) && short(name):
		p.errorf("either source or bookmark must be specified as full dataset paths")
		return p.showUsage()
	case short(from):
		from = name[:strings.IndexByte(name, '#')] + from
	case short(name):
		name = from[:strings.IndexAny(from, "@#")] + name
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	types := kindSnapshot
	if from[strings.IndexAny(from, "@#")] == '#' {
		types = kindBookmark
	}
	o, ok := p.open(from, types)
	if !ok {
		return p.showUsage()
	}
	if reason := p.fake.makeBookmark(o, name); reason != "" {
		p.errorf("cannot create bookmark '%s': %s\n", name, reason)
		return 1
	}
	return 0
}

// The reasons why bookmarks cannot be made that a channel program has numbers for.
const (
	bookmarkExists        = "bookmark exists"
	bookmarkNameInvalid   = "invalid argument"
	bookmarkElsewhere     = "bookmark is in a different pool"
	bookmarkOfNoAncestor  = "source is not an ancestor of the new bookmark's dataset"
	bookmarkDatasetAbsent = "dataset does not exist"
	bookmarksNotEnabled   = "bookmark feature not enabled"
)

// makeBookmark makes a bookmark of a snapshot or bookmark, or answers why not; the caller holds f.state.
func (f *Fake) makeBookmark(o object, name string) (reason string) {
	datasetName, short, _ := strings.Cut(name, "#")
	d := f.dataset(datasetName)
	switch {
	case nameProblem(name) != "" || strings.Contains(name, "%"):
		return bookmarkNameInvalid
	case strings.SplitN(datasetName, "/", 2)[0] != o.dataset.pool.name:
		return bookmarkElsewhere
	case d == nil:
		return bookmarkDatasetAbsent
	case d.pool.features["bookmarks"] == "disabled",
		o.bookmark != nil && d.pool.features["bookmark_v2"] == "disabled":
		return bookmarksNotEnabled
	case d.bookmarks[short] != nil:
		return bookmarkExists
	case d != o.dataset && !d.descendsFrom(o):
		return bookmarkOfNoAncestor
	case d.pool.readOnly:
		return "pool is read-only"
	}
	b := &bookmark{name: short, guid: o.guid(), createTXG: o.createTXG()}
	if o.snapshot != nil {
		b.creation = o.snapshot.creation
		b.referenced = o.snapshot.content.bytes + emptyDatasetBytes
		d.pool.features["bookmark_v2"], d.pool.features["bookmark_written"] = "active", "active"
	} else {
		b.creation, b.referenced = o.bookmark.creation, o.bookmark.referenced
	}
	d.pool.features["bookmarks"] = "active"
	d.pool.nextTXG()
	d.bookmarks[short] = b
	d.tellBookmark(BookmarkCreated, b)
	return ""
}

// descendsFrom says whether the object is an earlier point of a clone's timeline.
func (d *dataset) descendsFrom(o object) bool {
	for at := d; at.origin != nil; at = at.origin.dataset {
		if at.origin.dataset == o.dataset && o.createTXG() <= at.origin.createTXG {
			return true
		}
	}
	return false
}
