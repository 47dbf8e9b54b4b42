// zpool list and zpool get.

package zfsfake

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// poolProperties are the pool properties that the fake knows, in zpool get all's order.
var poolProperties = []string{
	"size", "capacity", "altroot", "health", "guid", "version", "bootfs", "delegation", "autoreplace", "cachefile",
	"failmode", "listsnapshots", "autoexpand", "dedupratio", "free", "allocated", "readonly", "ashift", "comment",
	"expandsize", "freeing", "fragmentation", "leaked", "multihost", "checkpoint", "load_guid", "autotrim",
	"compatibility", "bcloneused", "bclonesaved", "bcloneratio",
}

var poolAliases = map[string]string{
	"alloc": "allocated", "cap": "capacity", "frag": "fragmentation", "expandsz": "expandsize", "ckpoint": "checkpoint",
	"dedup": "dedupratio", "rdonly": "readonly",
}

// property answers a pool's property and its source as zpool prints it.
func (p *pool) property(name string, exact bool) (value, from string, ok bool) {
	size := func(n uint64) (string, string, bool) {
		if exact {
			return strconv.FormatUint(n, 10), "-", true
		}
		return niceNumber(n), "-", true
	}
	onOff := func(b bool) string {
		if b {
			return "on"
		}
		return "off"
	}
	if feature, isFeature := strings.CutPrefix(name, "feature@"); isFeature {
		state, known := p.features[feature]
		return state, "local", known
	}
	switch name {
	case "name":
		return p.name, "-", true
	case "size":
		return size(p.size)
	case "free":
		return size(p.free())
	case "allocated":
		return size(p.used())
	case "capacity":
		percent := strconv.FormatUint(p.used()*100/max(p.size, 1), 10)
		if !exact {
			percent += "%"
		}
		return percent, "-", true
	case "fragmentation":
		if exact {
			return "0", "-", true
		}
		return "0%", "-", true
	case "health":
		return "ONLINE", "-", true
	case "guid":
		return strconv.FormatUint(p.guid, 10), "-", true
	case "load_guid":
		return strconv.FormatUint(splitmix(p.guid), 10), "-", true
	case "readonly":
		return onOff(p.readOnly), "-", true
	case "delegation":
		return "on", "default", true
	case "autoreplace", "listsnapshots", "autoexpand", "multihost", "autotrim", "compatibility":
		return "off", "default", true
	case "failmode":
		return "wait", "default", true
	case "ashift":
		return "0", "default", true
	case "dedupratio", "bcloneratio":
		if exact {
			return "1.00", "-", true
		}
		return "1.00x", "-", true
	case "freeing", "leaked", "bcloneused", "bclonesaved":
		return "0", "-", true
	case "expandsize", "checkpoint":
		return "-", "-", true
	case "altroot", "version", "bootfs", "cachefile", "comment":
		return "-", "default", true
	}
	return "", "", false
}

// poolsNamed opens the pools that are named, or all; the caller holds the fake's state.
func (p *process) poolsNamed(names []string) ([]*pool, int) {
	code := 0
	var found []*pool
	if len(names) == 0 {
		for _, name := range p.fake.poolNames() {
			found = append(found, p.fake.pools[name])
		}
	}
	for _, name := range names {
		if opened := p.fake.pools[name]; opened != nil {
			found = append(found, opened)
		} else {
			p.errorf("cannot open '%s': no such pool\n", name)
			code = 1
		}
	}
	return found, code
}

func (p *process) zpoolGet() int {
	fields := []string{"name", "property", "value", "source"}
	scripted, exact := false, false
	options, operands := getopt(p.args, ":jHpo:", map[string]rune{"json": 'j'})
	for _, o := range options {
		switch o.letter {
		case 'H':
			scripted = true
		case 'p':
			exact = true
		case 'o':
			fields = strings.Split(o.argument, ",")
			if o.argument == "all" {
				fields = []string{"name", "property", "value", "source"}
			}
		case 'j':
			p.errorf("zfsfake: zpool get -j is not modelled\n")
			return 1
		default:
			return p.invalidOption(o)
		}
	}
	if len(operands) == 0 {
		p.errorf("missing property argument\n")
		return p.showUsage()
	}
	var names []string
	if operands[0] == "all" {
		names = append(names, poolProperties...)
		for _, feature := range poolFeatures {
			names = append(names, "feature@"+feature)
		}
	} else {
		for _, name := range strings.Split(operands[0], ",") {
			if full, ok := poolAliases[name]; ok {
				name = full
			}
			names = append(names, name)
		}
	}
	var rows [][]string
	p.fake.state.Lock()
	pools, code := p.poolsNamed(operands[1:])
	for _, found := range pools {
		for _, name := range names {
			value, from, ok := found.property(name, exact)
			switch {
			case !ok && strings.HasPrefix(name, "feature@"):
				continue
			case !ok:
				p.errorf("bad property list: invalid property '%s'\n", name)
				p.fake.state.Unlock()
				return p.showUsage()
			}
			cells := map[string]string{"name": found.name, "property": name, "value": value, "source": from}
			var row []string
			for _, field := range fields {
				row = append(row, cells[field])
			}
			rows = append(rows, row)
		}
	}
	p.fake.state.Unlock()
	if !p.printRows(fields, rows, scripted) {
		return 1
	}
	return code
}

const poolListDefaults = "name,size,allocated,free,checkpoint,expandsize,fragmentation,capacity,dedupratio,health,altroot"

func (p *process) zpoolList() int {
	fields := poolListDefaults
	scripted, exact := false, false
	options, operands := getopt(p.args, ":gjHLo:pPT:v", map[string]rune{"json": 'j'})
	for _, o := range options {
		switch o.letter {
		case 'H':
			scripted = true
		case 'p':
			exact = true
		case 'o':
			fields = o.argument
		case 'g', 'L', 'P':
		case 'j', 'T', 'v':
			p.errorf("zfsfake: zpool list -%c is not modelled\n", o.letter)
			return 1
		default:
			return p.invalidOption(o)
		}
	}
	names := strings.Split(fields, ",")
	var rows [][]string
	p.fake.state.Lock()
	pools, code := p.poolsNamed(operands)
	for _, found := range pools {
		var row []string
		for _, name := range names {
			if full, ok := poolAliases[name]; ok {
				name = full
			}
			value, _, ok := found.property(name, exact)
			if !ok {
				p.errorf("bad property list: invalid property '%s'\n", name)
				p.fake.state.Unlock()
				return p.showUsage()
			}
			row = append(row, value)
		}
		rows = append(rows, row)
	}
	p.fake.state.Unlock()
	if len(rows) == 0 && code == 0 {
		if !scripted {
			p.errorf("no pools available\n")
		}
		return 0
	}
	if scripted {
		if !p.printRows(names, rows, true) {
			return 1
		}
		return code
	}
	var text bytes.Buffer
	header := make([]string, len(names))
	for i, name := range names {
		header[i] = strings.ToUpper(name)
	}
	for _, row := range append([][]string{header}, rows...) {
		fmt.Fprintln(&text, strings.Join(row, "  "))
	}
	if _, err := p.out.Write(text.Bytes()); err != nil {
		return 1
	}
	return code
}
