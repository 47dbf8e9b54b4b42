// zfs list and zfs get.

package zfsfake

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// iteration is zfs_for_each: which objects a listing command visits.
type iteration struct {
	types     kinds
	recursive bool
	limited   bool // by depth
	depth     int
	seen      map[any]bool
	objects   []object
}

// listing is what zfs list and zfs get have in common: the options that say which objects are listed, and how.
type listing struct {
	iteration

	process  *process
	typed    bool // -t was given
	scripted bool // -H
	exact    bool // -p
}

// set takes one of the options -H, -p, -r, -d and -t. It says what is wrong with one that it refuses.
func (l *listing) set(o option) bool {
	switch o.letter {
	case 'H':
		l.scripted = true
	case 'p':
		l.exact = true
	case 'r':
		l.recursive = true
	case 'd':
		depth, err := strconv.Atoi(o.argument)
		if err != nil || depth < 0 {
			l.process.errorf("%s is not an integer\n", o.argument)
			return false
		}
		l.recursive, l.limited, l.depth = true, true, depth
	case 't':
		types, ok := l.process.parseTypes(o.argument)
		l.types, l.typed = types, true
		return ok
	}
	return true
}

// gather finds the objects below the names, or all there are; the caller holds the fake's state.
func (l *listing) gather(names []string) int {
	if (l.types == kindSnapshot || l.types == kindBookmark) && len(names) > 0 && !l.recursive {
		l.recursive, l.limited, l.depth = true, true, 1
	}
	return l.process.iterate(&l.iteration, names)
}

// parseTypes reads -t's argument.
func (p *process) parseTypes(argument string) (kinds, bool) {
	var types kinds
	for _, word := range strings.Split(argument, ",") {
		switch word {
		case "filesystem", "fs":
			types |= kindFilesystem
		case "volume", "vol":
			types |= kindVolume
		case "snapshot", "snap":
			types |= kindSnapshot
		case "bookmark":
			types |= kindBookmark
		case "all":
			types |= kindAll
		default:
			p.errorf("invalid type '%s'\n", word)
			return 0, false
		}
	}
	return types, true
}

// iterate gathers the objects that names mean, or all there are, and sorts them; the caller holds the fake's state.
func (p *process) iterate(it *iteration, names []string) int {
	code := 0
	if len(names) > 1 {
		it.seen = map[any]bool{} // one object may be meant by several names
	}
	if len(names) == 0 {
		it.recursive = true
		for _, name := range p.fake.poolNames() {
			it.visit(object{dataset: p.fake.pools[name].root}, 0)
		}
	}
	arguments := it.types
	if it.recursive {
		arguments |= kindFilesystem
		if it.types&(kindSnapshot|kindBookmark) != 0 {
			arguments |= kindVolume
		}
	}
	for _, name := range names {
		if o, ok := p.open(name, arguments); ok {
			it.visit(o, 0)
		} else {
			code = 1
		}
	}
	sortObjects(it.objects)
	return code
}

func (it *iteration) add(o object) {
	if o.kind()&it.types == 0 {
		return
	}
	var key any = o.dataset
	switch {
	case o.snapshot != nil:
		key = o.snapshot
	case o.bookmark != nil:
		key = o.bookmark
	}
	if it.seen[key] {
		return
	}
	if it.seen != nil {
		it.seen[key] = true
	}
	it.objects = append(it.objects, o)
}

// visit is zfs_callback of zfs_iter.c.
func (it *iteration) visit(o object, depth int) {
	it.add(o)
	if !it.recursive || it.limited && depth >= it.depth || o.snapshot != nil || o.bookmark != nil {
		return
	}
	depth++
	if depth < it.depth || !it.limited || it.types&kindHeads != 0 {
		for _, child := range o.dataset.children {
			it.visit(object{dataset: child}, depth)
		}
	}
	if it.types&kindSnapshot != 0 {
		for _, s := range o.dataset.snapshots {
			it.add(object{dataset: o.dataset, snapshot: s})
		}
	}
	if it.types&kindBookmark != 0 {
		for _, b := range o.dataset.bookmarks {
			it.add(object{dataset: o.dataset, bookmark: b})
		}
	}
}

// sortObjects orders as zfs list does (zfs_compare): by name, snapshots behind their dataset by createtxg. Bookmarks are
// compared by their whole name, so they stand behind the snapshots and need not stand before a sibling's.
func sortObjects(objects []object) {
	keys := make([]string, len(objects))
	index := make([]int, len(objects))
	for i, o := range objects {
		index[i] = i
		keys[i] = o.dataset.name
		if o.bookmark != nil {
			keys[i] = o.name()
		}
	}
	sort.Slice(index, func(a, b int) bool {
		i, j := index[a], index[b]
		if keys[i] != keys[j] {
			return keys[i] < keys[j]
		}
		left, right := objects[i].snapshot, objects[j].snapshot
		switch {
		case left == nil || right == nil:
			return left == nil && right != nil
		case left.createTXG != right.createTXG:
			return left.createTXG < right.createTXG
		}
		return left.name < right.name
	})
	sorted := make([]object, len(objects))
	for to, from := range index {
		sorted[to] = objects[from]
	}
	copy(objects, sorted)
}

// column is a property asked for: a native one, or a user property when native has no name.
type column struct {
	native native
	user   string
}

func (c column) name() string {
	if c.native.name != "" {
		return c.native.name
	}
	return c.user
}

func (c column) get(o object, exact bool) (string, source, bool) {
	if c.native.name != "" {
		return o.native(c.native, exact)
	}
	return o.user(c.user)
}

func (p *process) parseColumns(fields string) ([]column, bool) {
	if fields == "" {
		p.errorf("bad property list: no properties specified\n")
		return nil, false
	}
	var columns []column
	for _, name := range strings.Split(fields, ",") {
		if found, ok := nativeProperty(name); ok && (name != "snapshots_changed" || !p.fake.olderThan(2, 2)) {
			columns = append(columns, column{native: found})
		} else if userProperty(name) {
			columns = append(columns, column{user: name})
		} else {
			p.errorf("bad property list: invalid property '%s'\n", name)
			return nil, false
		}
	}
	return columns, true
}

const listDefaults = "name,used,available,referenced,mountpoint"

func (p *process) zfsList() int {
	l := listing{process: p, iteration: iteration{types: kindHeads}}
	fields := listDefaults
	options, operands := getopt(p.args, "jHS:d:o:prs:t:", map[string]rune{"json": 'j'})
	for _, o := range options {
		switch o.letter {
		case 'o':
			fields = o.argument
		case 'H', 'p', 'r', 'd', 't':
			if !l.set(o) {
				return p.showUsage()
			}
		case 'j', 's', 'S':
			p.errorf("zfsfake: zfs list -%c is not modelled\n", o.letter)
			return 1
		default:
			return p.invalidOption(o)
		}
	}
	if !l.typed && len(operands) > 0 {
		l.types = kindDatasets // a snapshot may be named; listsnapshots is off, so none is found otherwise
	}
	columns, ok := p.parseColumns(fields)
	if !ok {
		return p.showUsage()
	}
	p.fake.state.Lock()
	code := l.gather(operands)
	if !l.typed && l.recursive {
		l.objects = withoutFoundSnapshots(l.objects, operands)
	}
	p.fake.state.Unlock()
	if code == 0 && len(l.objects) == 0 && !l.scripted {
		p.errorf("no datasets available\n")
		return 0
	}
	if !p.print(l.objects, columns, l.scripted, l.exact) {
		return 1
	}
	return code
}

// withoutFoundSnapshots drops the snapshots that were not named.
func withoutFoundSnapshots(objects []object, named []string) []object {
	kept := objects[:0]
	for _, o := range objects {
		if o.snapshot == nil || slices.Contains(named, o.name()) {
			kept = append(kept, o)
		}
	}
	return kept
}

// print writes the table in pieces, so that a long listing neither fills the memory nor keeps others waiting.
func (p *process) print(objects []object, columns []column, scripted, exact bool) bool {
	if !scripted {
		return p.printAligned(objects, columns, exact)
	}
	const piece = 512
	var buffer bytes.Buffer
	for len(objects) > 0 {
		n := min(piece, len(objects))
		p.fake.state.Lock()
		for _, o := range objects[:n] {
			for i, c := range columns {
				if i > 0 {
					buffer.WriteByte('\t')
				}
				buffer.WriteString(c.text(o, exact))
			}
			buffer.WriteByte('\n')
		}
		p.fake.state.Unlock()
		objects = objects[n:]
		if _, err := p.out.Write(buffer.Bytes()); err != nil {
			return false
		}
		buffer.Reset()
	}
	return true
}

func (c column) text(o object, exact bool) string {
	if value, _, ok := c.get(o, exact); ok {
		return value
	}
	return "-"
}

// printAligned writes a table with headers and padded columns.
func (p *process) printAligned(objects []object, columns []column, exact bool) bool {
	rows := [][]string{{}}
	for _, c := range columns {
		header := map[string]string{
			"available": "AVAIL", "referenced": "REFER", "receive_resume_token": "RESUMETOK", "compressratio": "RATIO",
		}[c.name()]
		if header == "" {
			header = strings.ToUpper(c.name())
		}
		rows[0] = append(rows[0], header)
	}
	p.fake.state.Lock()
	for _, o := range objects {
		var row []string
		for _, c := range columns {
			row = append(row, c.text(o, exact))
		}
		rows = append(rows, row)
	}
	p.fake.state.Unlock()
	rightAligned := func(name string) bool {
		switch name {
		case "used", "available", "referenced", "userrefs", "written", "volsize", "quota", "creation", "compressratio":
			return true
		}
		return false
	}
	var text bytes.Buffer
	for _, row := range rows {
		for i, cell := range row {
			width := 0
			for _, other := range rows {
				width = max(width, len(other[i]))
			}
			if i > 0 {
				text.WriteString("  ")
			}
			switch {
			case rightAligned(columns[i].name()):
				fmt.Fprintf(&text, "%*s", width, cell)
			case i == len(row)-1:
				text.WriteString(cell)
			default:
				fmt.Fprintf(&text, "%-*s", width, cell)
			}
		}
		text.WriteByte('\n')
	}
	_, err := p.out.Write(text.Bytes())
	return err == nil
}

func (p *process) zfsGet() int {
	l := listing{process: p, iteration: iteration{types: kindAll}}
	fields := []string{"name", "property", "value", "source"}
	sources := map[string]bool{}
	options, operands := getopt(p.args, ":d:o:s:jrt:Hp", map[string]rune{"json": 'j'})
	for _, o := range options {
		switch o.letter {
		case 'H', 'p', 'r', 'd', 't':
			if !l.set(o) {
				return p.showUsage()
			}
		case 'o':
			fields = strings.Split(o.argument, ",")
			if o.argument == "all" {
				fields = []string{"name", "property", "value", "received", "source"}
			}
			for _, field := range fields {
				if !slices.Contains([]string{"name", "property", "value", "received", "source"}, field) {
					p.errorf("invalid column name '%s'\n", field)
					return p.showUsage()
				}
			}
		case 's':
			for _, word := range strings.Split(o.argument, ",") {
				if !slices.Contains([]string{"local", "default", "inherited", "received", "temporary", "none"}, word) {
					p.errorf("invalid source '%s'\n", word)
					return p.showUsage()
				}
				sources[word] = true
			}
		case 'j':
			p.errorf("zfsfake: zfs get -j is not modelled\n")
			return 1
		default:
			return p.invalidOption(o)
		}
	}
	if len(operands) == 0 {
		p.errorf("missing property argument\n")
		return p.showUsage()
	}
	all := operands[0] == "all"
	var columns []column
	if !all {
		parsed, ok := p.parseColumns(operands[0])
		if !ok {
			return p.showUsage()
		}
		columns = parsed
	}
	var rows [][]string
	p.fake.state.Lock()
	code := l.gather(operands[1:])
	for _, o := range l.objects {
		asked := columns
		if all {
			asked = o.allColumns()
		}
		for _, c := range asked {
			value, from, ok := c.get(o, l.exact)
			if !ok {
				if all {
					continue
				}
				value, from = "-", source{kind: "none"}
			}
			if len(sources) > 0 && !sources[from.kind] {
				continue
			}
			cells := map[string]string{
				"name": o.name(), "property": c.name(), "value": value, "source": from.String(), "received": o.received(c.name()),
			}
			var row []string
			for _, field := range fields {
				row = append(row, cells[field])
			}
			rows = append(rows, row)
		}
	}
	p.fake.state.Unlock()
	if !p.printRows(fields, rows, l.scripted) {
		return 1
	}
	return code
}

// allColumns are the properties that zfs get all shows.
func (o object) allColumns() []column {
	var columns []column
	for _, found := range natives {
		switch found.name {
		case "name", "numclones", "inconsistent", "ivsetguid", "keyguid", "redact_snaps": // hidden, or not modelled
		default:
			columns = append(columns, column{native: found})
		}
	}
	names := map[string]bool{}
	for d := o.dataset; d != nil && o.bookmark == nil; d = d.parent {
		for name := range d.props {
			if userProperty(name) {
				names[name] = true
			}
		}
	}
	if o.snapshot != nil {
		for name := range o.snapshot.props {
			names[name] = true
		}
	}
	for _, name := range sortedKeys(names) {
		columns = append(columns, column{user: name})
	}
	return columns
}

// received answers the value that a property was received with, or a dash.
func (o object) received(name string) string {
	props := o.dataset.props
	if o.snapshot != nil {
		props = o.snapshot.props
	}
	if value := props[name].received; value != nil && o.bookmark == nil {
		return *value
	}
	return "-"
}

func (p *process) printRows(fields []string, rows [][]string, scripted bool) bool {
	var text bytes.Buffer
	if scripted {
		for _, row := range rows {
			text.WriteString(strings.Join(row, "\t"))
			text.WriteByte('\n')
		}
		_, err := p.out.Write(text.Bytes())
		return err == nil
	}
	if len(rows) == 0 {
		return true
	}
	header := make([]string, len(fields))
	for i, field := range fields {
		header[i] = strings.ToUpper(field)
	}
	rows = append([][]string{header}, rows...)
	for _, row := range rows {
		for i, cell := range row {
			if i == len(row)-1 {
				text.WriteString(cell)
				continue
			}
			width := 0
			for _, other := range rows {
				width = max(width, len(other[i]))
			}
			fmt.Fprintf(&text, "%-*s  ", width, cell)
		}
		text.WriteByte('\n')
	}
	_, err := p.out.Write(text.Bytes())
	return err == nil
}

func (p *process) zfsVersion() int {
	text := fmt.Sprintf("zfs-%s\nzfs-kmod-%s\n", p.fake.version, p.fake.version)
	if _, err := p.out.Write([]byte(text)); err != nil {
		return 1
	}
	return 0
}
