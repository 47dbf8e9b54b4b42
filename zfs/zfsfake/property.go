// Properties: the table of native ones, inheritance, sources, and how values are printed.

package zfsfake

import (
	"strconv"
	"strings"
	"time"
)

// kinds is a set of object types.
type kinds uint8

const (
	kindFilesystem kinds = 1 << iota
	kindVolume
	kindSnapshot
	kindBookmark

	kindDatasets = kindFilesystem | kindVolume | kindSnapshot
	kindHeads    = kindFilesystem | kindVolume
	kindAll      = kindDatasets | kindBookmark
)

// nature says how a property is set.
type nature uint8

const (
	inheritable nature = iota
	local              // settable, not inherited
	once               // settable at creation only
	readOnly
)

type native struct {
	name     string
	short    string // the other name that zfs accepts
	nature   nature
	kinds    kinds
	standard string // the default
	values   string // the accepted values, separated by space; "" for anything
}

// natives are the native properties that the fake knows, in zfs get all's order as far as it matters.
var natives = []native{
	{"type", "", readOnly, kindAll, "", ""},
	{"creation", "", readOnly, kindAll, "", ""},
	{"used", "", readOnly, kindDatasets, "", ""},
	{"available", "avail", readOnly, kindHeads, "", ""},
	{"referenced", "refer", readOnly, kindDatasets | kindBookmark, "", ""},
	{"compressratio", "ratio", readOnly, kindAll, "", ""},
	{"mounted", "", readOnly, kindFilesystem, "", ""},
	{"origin", "", readOnly, kindHeads, "", ""},
	{"quota", "", local, kindFilesystem, "0", ""},
	{"reservation", "reserv", local, kindHeads, "0", ""},
	{"volsize", "", local, kindVolume | kindSnapshot, "", ""},
	{"volblocksize", "volblock", once, kindVolume, "16384", ""},
	{"recordsize", "recsize", inheritable, kindFilesystem, "131072", ""},
	{"mountpoint", "", inheritable, kindFilesystem, "", ""},
	{"sharenfs", "", inheritable, kindFilesystem, "off", ""},
	{"checksum", "", inheritable, kindHeads, "on", "on off fletcher2 fletcher4 sha256 sha512 skein edonr blake3"},
	{"compression", "compress", inheritable, kindHeads, "on", ""},
	{"atime", "", inheritable, kindFilesystem, "on", "on off"},
	{"devices", "", inheritable, kindFilesystem | kindSnapshot, "on", "on off"},
	{"exec", "", inheritable, kindFilesystem | kindSnapshot, "on", "on off"},
	{"setuid", "", inheritable, kindFilesystem | kindSnapshot, "on", "on off"},
	{"readonly", "rdonly", inheritable, kindHeads, "off", "on off"},
	{"zoned", "", inheritable, kindFilesystem, "off", "on off"},
	{"snapdir", "", inheritable, kindFilesystem, "hidden", "disabled hidden visible"},
	{"aclmode", "", inheritable, kindFilesystem, "discard", "discard groupmask passthrough restricted"},
	{"aclinherit", "", inheritable, kindFilesystem, "restricted", "discard noallow restricted passthrough passthrough-x"},
	{"createtxg", "", readOnly, kindAll, "", ""},
	{"canmount", "", local, kindFilesystem, "on", "on off noauto"},
	{"xattr", "", inheritable, kindFilesystem | kindSnapshot, "sa", "on off dir sa"},
	{"copies", "", inheritable, kindHeads, "1", "1 2 3"},
	{"version", "", local, kindFilesystem | kindSnapshot, "5", ""},
	{"utf8only", "", once, kindFilesystem | kindSnapshot, "off", "on off"},
	{"normalization", "", once, kindFilesystem | kindSnapshot, "none", "none formC formD formKC formKD"},
	{"casesensitivity", "case", once, kindFilesystem | kindSnapshot, "sensitive", "sensitive insensitive mixed"},
	{"nbmand", "", inheritable, kindFilesystem | kindSnapshot, "off", "on off"},
	{"sharesmb", "", inheritable, kindFilesystem, "off", ""},
	{"refquota", "", local, kindFilesystem, "0", ""},
	{"refreservation", "refreserv", local, kindHeads, "0", ""},
	{"guid", "", readOnly, kindAll, "", ""},
	{"primarycache", "", inheritable, kindDatasets, "all", "all none metadata"},
	{"secondarycache", "", inheritable, kindDatasets, "all", "all none metadata"},
	{"prefetch", "", inheritable, kindDatasets, "all", "none metadata all"},
	{"usedbysnapshots", "usedsnap", readOnly, kindHeads, "", ""},
	{"usedbydataset", "usedds", readOnly, kindHeads, "", ""},
	{"usedbychildren", "usedchild", readOnly, kindHeads, "", ""},
	{"usedbyrefreservation", "usedrefreserv", readOnly, kindHeads, "", ""},
	{"logbias", "", inheritable, kindHeads, "latency", "latency throughput"},
	{"objsetid", "", readOnly, kindDatasets, "", ""},
	{"dedup", "", inheritable, kindHeads, "off", ""},
	{"mlslabel", "", inheritable, kindDatasets, "none", ""},
	{"sync", "", inheritable, kindHeads, "standard", "standard always disabled"},
	{"dnodesize", "dnsize", inheritable, kindFilesystem, "legacy", "legacy auto 1k 2k 4k 8k 16k"},
	{"refcompressratio", "refratio", readOnly, kindDatasets, "", ""},
	{"written", "", readOnly, kindDatasets, "", ""},
	{"logicalused", "lused", readOnly, kindHeads, "", ""},
	{"logicalreferenced", "lrefer", readOnly, kindDatasets | kindBookmark, "", ""},
	{"volmode", "", inheritable, kindHeads, "default", "default full geom dev none"},
	{"filesystem_limit", "", local, kindFilesystem, "none", ""},
	{"snapshot_limit", "", local, kindHeads, "none", ""},
	{"snapdev", "", inheritable, kindHeads, "hidden", "hidden visible"},
	{"acltype", "", inheritable, kindFilesystem | kindSnapshot, "off", "off nfsv4 posix noacl posixacl"},
	{"context", "", local, kindDatasets, "none", ""},
	{"fscontext", "", local, kindDatasets, "none", ""},
	{"defcontext", "", local, kindDatasets, "none", ""},
	{"rootcontext", "", local, kindDatasets, "none", ""},
	{"relatime", "", inheritable, kindFilesystem, "on", "on off"},
	{"redundant_metadata", "redund_md", inheritable, kindHeads, "all", "all most some none"},
	{"overlay", "", inheritable, kindFilesystem, "on", "on off"},
	{"encryption", "", once, kindDatasets, "off", "on off aes-128-ccm aes-192-ccm aes-256-ccm aes-128-gcm aes-192-gcm aes-256-gcm"},
	{"keylocation", "", local, kindHeads, "none", ""},
	{"keyformat", "", once, kindHeads, "none", "none raw hex passphrase"},
	{"pbkdf2iters", "", once, kindHeads, "0", ""},
	{"encryptionroot", "encroot", readOnly, kindDatasets, "", ""},
	{"keystatus", "", readOnly, kindDatasets, "", ""},
	{"special_small_blocks", "", inheritable, kindFilesystem, "0", ""},
	{"snapshots_changed", "", readOnly, kindHeads, "", ""},
	{"direct", "", inheritable, kindFilesystem, "standard", "disabled standard always"},
	{"longname", "", inheritable, kindFilesystem, "off", "on off"},
	{"receive_resume_token", "resumetok", readOnly, kindHeads, "", ""},
	{"redact_snaps", "", readOnly, kindAll, "", ""},
	{"userrefs", "", readOnly, kindSnapshot, "", ""},
	{"defer_destroy", "", readOnly, kindSnapshot, "", ""},
	{"clones", "", readOnly, kindSnapshot, "", ""},
	{"name", "", readOnly, kindAll, "", ""},
	{"numclones", "", readOnly, kindSnapshot, "", ""},
	{"inconsistent", "", readOnly, kindDatasets, "", ""},
	{"ivsetguid", "", readOnly, kindDatasets | kindBookmark, "", ""},
	{"keyguid", "", readOnly, kindDatasets, "", ""},
}

// nativeProperty finds a native property by either of its names.
func nativeProperty(name string) (native, bool) {
	for i := range natives {
		if natives[i].name == name || natives[i].short != "" && natives[i].short == name {
			return natives[i], true
		}
	}
	return native{}, false
}

// userProperty says whether name can be that of a user property: a colon in it, and nothing but lower-case letters,
// digits and -_.: (zfs_prop_user).
func userProperty(name string) bool {
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:", rune(c)) {
			return false
		}
	}
	return strings.Contains(name, ":")
}

// property is what is set on one dataset under one name.
type property struct {
	local     *string
	received  *string
	inherited bool // explicitly inherited, although a received value is there (zfs inherit, zfs recv -x)
}

type properties map[string]property

func (p *properties) change(name string, change func(*property)) {
	if *p == nil {
		*p = properties{}
	}
	value := (*p)[name]
	change(&value)
	if value == (property{}) {
		delete(*p, name)
		return
	}
	(*p)[name] = value
}

func (p *properties) set(name, value string) {
	p.change(name, func(v *property) { v.local, v.inherited = &value, false })
}

// inherit drops a local value; a received one is passed over from then on, unless back asks to return to it.
func (p *properties) inherit(name string, back bool) {
	p.change(name, func(v *property) {
		v.local = nil
		v.inherited = v.received != nil && !back
	})
}

func (v property) effective() (value string, received, ok bool) {
	switch {
	case v.local != nil:
		return *v.local, false, true
	case v.received != nil && !v.inherited:
		return *v.received, true, true
	}
	return "", false, false
}

// source is where a value comes from.
type source struct {
	kind string // "local", "received", "default", "inherited", "none"
	from string // of inherited: the dataset
}

func (s source) String() string {
	switch s.kind {
	case "none":
		return "-"
	case "inherited":
		return "inherited from " + s.from
	}
	return s.kind
}

// lookup finds a value set on d or an ancestor.
func (d *dataset) lookup(name string, inherits bool) (string, source, bool) {
	for at := d; at != nil; at = at.parent {
		if len(at.props) > 0 {
			if value, received, ok := at.props[name].effective(); ok {
				switch {
				case at != d:
					return value, source{"inherited", at.name}, true
				case received:
					return value, source{kind: "received"}, true
				}
				return value, source{kind: "local"}, true
			}
		}
		if !inherits {
			break
		}
	}
	return "", source{kind: "none"}, false
}

// user answers a user property of an object; snapshots inherit from their dataset, bookmarks have none.
func (o object) user(name string) (string, source, bool) {
	switch {
	case o.bookmark != nil:
		return "", source{kind: "none"}, false
	case o.snapshot == nil:
		return o.dataset.lookup(name, true)
	}
	if value, received, ok := o.snapshot.props[name].effective(); ok {
		if received {
			return value, source{kind: "received"}, true
		}
		return value, source{kind: "local"}, true
	}
	value, from, ok := o.dataset.lookup(name, true)
	if ok && from.kind != "inherited" {
		from = source{"inherited", o.dataset.name}
	}
	return value, from, ok
}

// native answers a native property as zfs prints it; ok is false where it prints a dash. exact is -p.
func (o object) native(p native, exact bool) (string, source, bool) {
	none := source{kind: "none"}
	if p.kinds&o.kind() == 0 {
		return "", none, false
	}
	d, s, b := o.dataset, o.snapshot, o.bookmark
	number := func(n uint64) (string, source, bool) { return strconv.FormatUint(n, 10), none, true }
	size := func(n uint64) (string, source, bool) {
		if exact {
			return strconv.FormatUint(n, 10), none, true
		}
		return niceBytes(n), none, true
	}
	moment := func(seconds int64, layout string) (string, source, bool) {
		if exact {
			return strconv.FormatInt(seconds, 10), none, true
		}
		return time.Unix(seconds, 0).UTC().Format(layout), none, true
	}
	switch p.name {
	case "name":
		return o.name(), none, true
	case "type":
		return o.typeName(), none, true
	case "creation":
		seconds := d.creation
		switch {
		case s != nil:
			seconds = s.creation
		case b != nil:
			seconds = b.creation
		}
		return moment(seconds, "Mon Jan _2 15:04 2006")
	case "guid":
		return number(o.guid())
	case "createtxg":
		return number(o.createTXG())
	case "objsetid":
		if s != nil {
			return number(s.objset)
		}
		return number(d.objset)
	case "used", "logicalused":
		if s != nil {
			return size(0)
		}
		return size(d.usedRecursively())
	case "referenced", "logicalreferenced":
		switch {
		case s != nil:
			return size(s.content.bytes + emptyDatasetBytes)
		case b != nil:
			return size(b.referenced)
		}
		return size(d.referenced())
	case "usedbydataset":
		return size(d.referenced())
	case "usedbysnapshots":
		return size(d.usedBySnapshots())
	case "usedbychildren":
		return size(d.usedRecursively() - d.referenced() - d.usedBySnapshots())
	case "usedbyrefreservation":
		return size(0)
	case "available":
		return size(d.pool.free())
	case "written":
		if s != nil {
			return size(s.content.bytes)
		}
		return size(d.live.bytes)
	case "compressratio", "refcompressratio":
		if exact {
			return "1.00", none, true
		}
		return "1.00x", none, true
	case "mounted":
		return yes(d.mounted), none, true
	case "origin":
		if d.origin == nil {
			return "", none, false
		}
		return d.origin.full(), none, true
	case "clones":
		var names []string
		for _, clone := range s.clones {
			names = append(names, clone.name)
		}
		return strings.Join(names, ","), none, len(names) > 0
	case "numclones":
		return number(uint64(len(s.clones)))
	case "userrefs":
		return number(uint64(len(s.holds)))
	case "defer_destroy":
		// boolean_table, not yes and no: the property is an index.
		if s.deferDestroy {
			return "on", none, true
		}
		return "off", none, true
	case "inconsistent":
		if s == nil && d.inconsistent {
			return number(1)
		}
		return number(0)
	case "receive_resume_token":
		token, ok := d.resumeToken()
		return token, none, ok
	case "snapshots_changed":
		if d.snapshotsChanged == 0 {
			return "", none, false
		}
		return moment(d.snapshotsChanged, "Mon Jan _2 15:04:05 2006")
	case "redact_snaps", "ivsetguid", "keyguid":
		return "", none, false
	case "encryption":
		if d.encryption == "" {
			return "off", source{kind: "default"}, true
		}
		return d.encryption, none, true
	case "encryptionroot":
		if d.keyRoot == nil {
			return "", none, false
		}
		return d.keyRoot.name, none, true
	case "keystatus":
		switch {
		case d.keyRoot == nil:
			return "", none, false
		case d.keyRoot.keyLoaded:
			return "available", none, true
		}
		return "unavailable", none, true
	case "keylocation":
		if d.keyRoot != nil && d.keyRoot != d {
			return "none", source{kind: "default"}, true
		}
	case "keyformat", "pbkdf2iters":
		if d.keyRoot != nil {
			value, _, ok := d.keyRoot.lookup(p.name, false)
			return value, none, ok
		}
		return p.standard, source{kind: "default"}, true
	case "mountpoint":
		return d.mountpoint()
	}
	return d.settable(p, exact)
}

// settable answers a property that can be set, or its default.
func (d *dataset) settable(p native, exact bool) (string, source, bool) {
	value, from, ok := d.lookup(p.name, p.nature == inheritable)
	if !ok {
		value, from = p.standard, source{kind: "default"}
		if p.nature == once && p.name != "volblocksize" {
			from = source{kind: "none"}
		}
	}
	switch p.name {
	case "quota", "reservation", "refquota", "refreservation", "volsize", "volblocksize", "recordsize":
		n, err := strconv.ParseUint(value, 10, 64)
		switch {
		case err != nil:
		case exact:
			value = strconv.FormatUint(n, 10)
		case n == 0 && p.name != "volsize":
			value = "none"
		default:
			value = niceBytes(n)
		}
	}
	return value, from, true
}

// mountpoint answers where d would be mounted: what is inherited continues with the rest of the name.
func (d *dataset) mountpoint() (string, source, bool) {
	value, from, ok := d.lookup("mountpoint", true)
	if !ok {
		return "/" + d.name, source{kind: "default"}, true
	}
	if from.kind == "inherited" && strings.HasPrefix(value, "/") {
		value = strings.TrimSuffix(value, "/") + strings.TrimPrefix(d.name, from.from)
	}
	return value, from, true
}

// mountable says whether zfs mounts d without being asked again.
func (d *dataset) mountable() bool {
	if d.volume || !d.keyAvailable() {
		return false
	}
	if value, _, ok := d.lookup("canmount", false); ok && value != "on" {
		return false
	}
	point, _, _ := d.mountpoint()
	return strings.HasPrefix(point, "/")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// niceBytes prints a size as zfs_nicebytes does: at most five characters, units of 1024.
func niceBytes(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + "B"
	}
	return niceNumber(n)
}

// niceNumber is zfs_nicenum.
func niceNumber(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	value, unit := n, 0
	for value >= 1024 {
		value /= 1024
		unit++
	}
	suffix := string("BKMGTPE"[unit])
	base := uint64(1) << (10 * unit)
	if n%base == 0 {
		return strconv.FormatUint(value, 10) + suffix
	}
	for digits := 2; digits >= 0; digits-- {
		text := strconv.FormatFloat(float64(n)/float64(base), 'f', digits, 64) + suffix
		if len(text) <= 5 {
			return text
		}
	}
	return strconv.FormatUint(value, 10) + suffix
}

// parseSize reads a number with an optional unit, such as 16M (zfs_nicestrtonum).
func parseSize(text string) (uint64, bool) {
	end := 0
	for end < len(text) && (text[end] >= '0' && text[end] <= '9' || text[end] == '.') {
		end++
	}
	value, err := strconv.ParseFloat(text[:end], 64)
	if err != nil || value < 0 {
		return 0, false
	}
	unit := strings.ToUpper(text[end:])
	if unit == "" || unit == "B" {
		return uint64(value), true
	}
	power := strings.IndexByte("BKMGTPE", unit[0])
	if power < 0 || unit[1:] != "" && unit[1:] != "B" && unit[1:] != "IB" {
		return 0, false
	}
	return uint64(value * float64(uint64(1)<<(10*power))), true
}
