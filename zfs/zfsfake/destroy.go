// zfs destroy.

package zfsfake

import "strings"

type destruction struct {
	deferred  bool
	recursive bool
	clones    bool
	dryRun    bool
}

func (p *process) zfsDestroy() int {
	var how destruction
	options, operands := getopt(p.args, "vpndfrR", nil)
	for _, o := range options {
		switch o.letter {
		case 'd':
			how.deferred = true
		case 'r':
			how.recursive = true
		case 'R':
			how.recursive, how.clones = true, true
		case 'n':
			how.dryRun = true
		case 'f':
		case 'v', 'p':
			p.errorf("zfsfake: zfs destroy -%c is not modelled\n", o.letter)
			return 1
		default:
			return p.invalidOption(o)
		}
	}
	switch {
	case len(operands) == 0:
		p.errorf("missing dataset argument\n")
		return p.showUsage()
	case len(operands) > 1:
		p.errorf("too many arguments\n")
		return p.showUsage()
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	name := operands[0]
	switch {
	case strings.Contains(name, "@"):
		return p.destroySnapshots(name, how)
	case strings.Contains(name, "#"):
		return p.destroyBookmark(name, how)
	}
	return p.destroyDataset(name, how)
}

// destroySnapshots destroys fs@a,b%c: all of them or none.
func (p *process) destroySnapshots(operand string, how destruction) int {
	name, spec, _ := strings.Cut(operand, "@")
	o, ok := p.open(name, kindHeads)
	if !ok {
		return 1
	}
	var chosen []*snapshot
	seen := map[*snapshot]bool{}
	malformed := false
	o.dataset.visit(how.recursive, func(d *dataset) {
		found, ok := d.specified(spec)
		malformed = malformed || !ok
		for _, s := range found {
			if !seen[s] {
				seen[s] = true
				chosen = append(chosen, s)
			}
		}
	})
	if malformed {
		return 1
	}
	if !how.clones && !how.deferred {
		cloned := false
		for _, s := range chosen {
			if clones := s.cloneNames(); len(clones) > 0 {
				cloned = true
				p.errorf("cannot destroy '%s': snapshot has dependent clones\n", s.full())
				p.errorf("use '-R' to destroy the following datasets:\n")
				for _, clone := range clones {
					p.errorf("%s\n", clone)
				}
			}
		}
		if cloned {
			return 1
		}
	}
	switch {
	case len(chosen) == 0:
		p.errorf("could not find any snapshots to destroy; check snapshot names.\n")
		return 1
	case how.dryRun:
		return 0
	}
	if how.clones {
		for _, s := range chosen {
			for len(s.clones) > 0 {
				if p.destroyDataset(s.clones[0].name, how) != 0 {
					return 1
				}
			}
		}
	}
	return p.destroyAll(chosen, how.deferred)
}

// destroyAll is lzc_destroy_snaps: everything is checked before anything goes.
func (p *process) destroyAll(chosen []*snapshot, deferred bool) int {
	code := 0
	for _, s := range chosen {
		reason := ""
		switch {
		case s.dataset.pool.readOnly:
			reason = "pool is read-only"
		case s.senders > 0:
			reason = "dataset is busy"
		case !deferred && len(s.holds) > 0:
			reason = "it's being held. Run 'zfs holds -r " + s.full() + "' to see holders."
		case !deferred && len(s.cloneNames()) > 0:
			reason = "snapshot is cloned"
		}
		if reason != "" {
			p.errorf("cannot destroy snapshot %s: %s\n", s.full(), reason)
			code = 1
		}
	}
	if code != 0 {
		return code
	}
	for _, s := range chosen {
		s.dataset.pool.nextTXG()
		s.deferDestroy = true
		s.settle()
	}
	return 0
}

// cloneNames names what depends on s: clones, and the hidden one that an incremental receive, running or broken off,
// keeps below its dataset.
func (s *snapshot) cloneNames() []string {
	var names []string
	if r := s.dataset.receive; r != nil && r.upon == s {
		names = append(names, s.dataset.name+"/%recv")
	}
	for _, clone := range s.clones {
		names = append(names, clone.name)
	}
	return names
}

// settle removes a snapshot whose destruction was put off once nothing needs it any more.
func (s *snapshot) settle() {
	if s.deferDestroy && len(s.holds) == 0 && len(s.cloneNames()) == 0 && s.dataset.byName[s.name] == s {
		s.dataset.removeSnapshot(s)
	}
}

// specified answers the snapshots that a list of names and ranges such as a,b%c means; names that are not there are
// passed over. It is false for a range that cannot be understood.
func (d *dataset) specified(spec string) ([]*snapshot, bool) {
	var found []*snapshot
	for _, word := range strings.Split(spec, ",") {
		first, last, isRange := strings.Cut(word, "%")
		if !isRange {
			if s := d.byName[word]; s != nil {
				found = append(found, s)
			}
			continue
		}
		from, to := d.byName[first], d.byName[last]
		if first != "" && from == nil || last != "" && to == nil {
			continue
		}
		for _, s := range d.snapshots {
			if (from == nil || s.createTXG >= from.createTXG) && (to == nil || s.createTXG <= to.createTXG) {
				found = append(found, s)
			}
		}
	}
	return found, true
}

func (p *process) destroyBookmark(name string, how destruction) int {
	switch {
	case how.dryRun:
		p.errorf("dryrun is not supported with bookmark\n")
		return 255
	case how.deferred:
		p.errorf("defer destroy is not supported with bookmark\n")
		return 255
	case how.recursive:
		p.errorf("recursive is not supported with bookmark\n")
		return 255
	}
	o, ok := p.fake.find(name)
	switch {
	case !ok || o.bookmark == nil:
		p.errorf("bookmark '%s' does not exist.\n", name)
		return 1
	case o.dataset.pool.readOnly:
		p.errorf("cannot destroy bookmark: pool is read-only\n")
		return 30 // EROFS: the error itself becomes the exit status
	}
	delete(o.dataset.bookmarks, o.bookmark.name)
	o.dataset.tellBookmark(BookmarkDestroyed, o.bookmark)
	o.dataset.pool.nextTXG()
	return 0
}

func (p *process) destroyDataset(name string, how destruction) int {
	types := kindDatasets
	if how.deferred {
		types = kindSnapshot
	}
	o, ok := p.open(name, types)
	if !ok {
		return 1
	}
	d := o.dataset
	if d.parent == nil && !how.recursive {
		p.errorf("cannot destroy '%s': operation does not apply to pools\n", name)
		p.errorf("use 'zfs destroy -r %s' to destroy all datasets in the pool\n", name)
		p.errorf("use 'zpool destroy %s' to destroy the pool itself\n", name)
		return 1
	}
	if !how.recursive && len(d.dependents()) > 0 {
		p.errorf("cannot destroy '%s': %s has children\n", name, d.kind())
		p.errorf("use '-r' to destroy the following datasets:\n")
		for _, dependent := range d.dependents() {
			p.errorf("%s\n", dependent)
		}
		return 1
	}
	var clones []*dataset
	d.walk(func(below *dataset) {
		for _, s := range below.snapshots {
			for _, clone := range s.clones {
				if clone != d && !strings.HasPrefix(clone.name, d.name+"/") {
					clones = append(clones, clone)
				}
			}
		}
	})
	if len(clones) > 0 && !how.clones {
		p.errorf("cannot destroy '%s': %s has dependent clones\n", name, d.kind())
		p.errorf("use '-R' to destroy the following datasets:\n")
		for _, clone := range clones {
			p.errorf("%s\n", clone.name)
		}
		return 1
	}
	if how.dryRun {
		return 0
	}
	for _, clone := range clones {
		if p.destroyDataset(clone.name, how) != 0 {
			return 1
		}
	}
	return p.destroyTree(d)
}

// dependents names what is below d as zfs destroy lists it.
func (d *dataset) dependents() []string {
	var names []string
	if d.receive != nil && !d.inconsistent {
		names = append(names, d.name+"/%recv")
	}
	for _, child := range d.childNames() {
		names = append(names, d.children[child].dependents()...)
		names = append(names, d.children[child].name)
	}
	for _, s := range d.snapshots {
		names = append(names, s.full())
	}
	return names
}

// destroyTree destroys d and all below it, leaving what is held.
func (p *process) destroyTree(d *dataset) int {
	code := 0
	if d.receive != nil && !d.inconsistent {
		if d.receive.running {
			p.errorf("cannot destroy '%s/%%recv': dataset is busy\n", d.name)
			code = 1
		} else {
			d.endReceive()
		}
	}
	for _, child := range d.childNames() {
		if p.destroyTree(d.children[child]) != 0 {
			code = 1
		}
	}
	if len(d.snapshots) > 0 {
		all := append([]*snapshot(nil), d.snapshots...)
		if p.destroyAll(all, false) != 0 {
			return 1 // the dataset is not tried
		}
	}
	if d.parent == nil {
		return code
	}
	reason := ""
	switch {
	case d.pool.readOnly:
		reason = "pool is read-only"
	case len(d.snapshots) > 0 || d.owners > 0 || d.receive != nil && d.receive.running:
		reason = "dataset is busy"
	case len(d.children) > 0:
		reason = "dataset already exists"
	}
	if reason != "" {
		p.errorf("cannot destroy '%s': %s\n", d.name, reason)
		return 1
	}
	d.detach()
	d.pool.nextTXG()
	return code
}
