// The commands that make, change and rename datasets: create, clone, snapshot, rollback, rename, set, inherit, mount, and
// keys.

package zfsfake

import (
	"bufio"
	"os"
	"slices"
	"strconv"
	"strings"
)

// parseProperty reads name=value into values.
func (p *process) parseProperty(values map[string]string, argument string) bool {
	name, value, ok := strings.Cut(argument, "=")
	if !ok {
		p.errorf("missing '=' for property=value argument\n")
		return false
	}
	if _, twice := values[name]; twice {
		p.errorf("property '%s' specified multiple times\n", name)
		return false
	}
	values[name] = value
	return true
}

// validProperties checks values for an object of a type and answers them under their full names with sizes in bytes
// (zfs_valid_proplist). creating allows what can be set only once. prefix begins the error.
func (p *process) validProperties(values map[string]string, kind kinds, creating bool, prefix string) (map[string]string, bool) {
	result := make(map[string]string, len(values))
	for _, name := range sortedKeys(values) {
		value := values[name]
		if userProperty(name) {
			if len(name) >= 256 {
				p.errorf("%s: property name '%s' is too long\n", prefix, name)
				return nil, false
			}
			result[name] = value
			continue
		}
		found, ok := nativeProperty(name)
		switch {
		case kind == kindSnapshot:
			p.errorf("%s: this property can not be modified for snapshots\n", prefix)
			return nil, false
		case !ok:
			p.errorf("%s: invalid property '%s'\n", prefix, name)
			return nil, false
		case found.kinds&kind == 0:
			p.errorf("%s: '%s' does not apply to datasets of this type\n", prefix, name)
			return nil, false
		case found.nature == readOnly, found.nature == once && !creating:
			p.errorf("%s: '%s' is readonly\n", prefix, name)
			return nil, false
		}
		switch found.name {
		case "quota", "reservation", "refquota", "refreservation":
			if value == "none" {
				value = "0"
			}
			fallthrough
		case "volsize", "volblocksize", "recordsize":
			size, ok := parseSize(value)
			if !ok {
				p.errorf("%s: bad numeric value '%s'\n", prefix, value)
				return nil, false
			}
			value = strconv.FormatUint(size, 10)
		default:
			if found.values != "" && !slices.Contains(strings.Fields(found.values), value) {
				p.errorf("%s: '%s' must be one of '%s'\n", prefix, name,
					strings.ReplaceAll(found.values, " ", " | "))
				return nil, false
			}
		}
		if found.name == "mountpoint" && value != "none" && value != "legacy" && !strings.HasPrefix(value, "/") {
			p.errorf("%s: 'mountpoint' must be an absolute path, 'none', or 'legacy'\n", prefix)
			return nil, false
		}
		result[found.name] = value
	}
	return result, true
}

// parentFor finds the filesystem below which name can be made (check_parents).
func (p *process) parentFor(name string) (*dataset, bool) {
	prefix := "cannot create '" + name + "'"
	parent, ok := parentName(name)
	if !ok {
		p.errorf("%s: missing dataset name\n", prefix)
		return nil, false
	}
	poolName, _, _ := strings.Cut(name, "/")
	d := p.fake.dataset(parent)
	switch {
	case p.fake.pools[poolName] == nil:
		p.errorf("%s: no such pool '%s'\n", prefix, poolName)
	case d == nil:
		p.errorf("%s: parent does not exist\n", prefix)
	case d.volume:
		p.errorf("%s: parent is not a filesystem\n", prefix)
	default:
		return d, true
	}
	return nil, false
}

func (p *process) zfsCreate() int {
	values := map[string]string{}
	volume, parents, unmounted, volumeOnly := false, false, false, false
	size := ""
	options, operands := getopt(p.args, ":PV:b:nso:puv", nil)
	for _, o := range options {
		switch o.letter {
		case 'V':
			volume, size = true, o.argument
			if _, ok := parseSize(size); !ok {
				p.errorf("bad volume size '%s': bad numeric value '%s'\n", size, size)
				return 1
			}
		case 'b':
			volumeOnly = true
			values["volblocksize"] = o.argument
		case 's':
			volumeOnly = true
		case 'o':
			if !p.parseProperty(values, o.argument) {
				return 1
			}
		case 'p':
			parents = true
		case 'u':
			unmounted = true
		case 'P', 'v', 'n':
			p.errorf("zfsfake: zfs create -%c is not modelled\n", o.letter)
			return 1
		case ':':
			p.errorf("missing size argument\n")
			return p.showUsage()
		default:
			return p.invalidOption(o)
		}
	}
	kind, word := kindFilesystem, "filesystem"
	if volume {
		kind, word = kindVolume, "volume"
	}
	switch {
	case volumeOnly && !volume:
		p.errorf("'-s' and '-b' can only be used when creating a volume\n")
		return p.showUsage()
	case unmounted && volume:
		p.errorf("'-u' can only be used when creating a filesystem\n")
		return p.showUsage()
	case len(operands) == 0:
		p.errorf("missing %s argument\n", word)
		return p.showUsage()
	case len(operands) > 1:
		p.errorf("too many arguments\n")
		return p.showUsage()
	}
	name := operands[0]
	passphrase := p.readKey(values)
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	if parents && typedNameProblem(name, kind, true) == "" {
		if o, ok := p.fake.find(name); ok && o.kind() == kind {
			return 0
		}
		if !p.createAncestors(name) {
			return 1
		}
	}
	if volume {
		values["volsize"] = size
	}
	d, ok := p.create(name, kind, values, passphrase)
	if !ok {
		return 1
	}
	d.mounted = !unmounted && d.mountable()
	return 0
}

// createAncestors makes what is missing above name (zfs create -p).
func (p *process) createAncestors(name string) bool {
	components := strings.Split(name, "/")
	for n := 2; n < len(components); n++ {
		ancestor := strings.Join(components[:n], "/")
		if p.fake.dataset(ancestor) != nil {
			continue
		}
		d, ok := p.create(ancestor, kindFilesystem, nil, false)
		if !ok {
			return false
		}
		d.mounted = d.mountable()
	}
	return true
}

// create is zfs_create; the caller holds the fake's state.
func (p *process) create(name string, kind kinds, values map[string]string, key bool) (*dataset, bool) {
	prefix := "cannot create '" + name + "'"
	if problem := typedNameProblem(name, kind, true); problem != "" {
		p.errorf("%s: %s\n", prefix, problem)
		return nil, false
	}
	if strings.Count(name, "/") >= maxNesting {
		p.errorf("%s: maximum name nesting depth exceeded\n", prefix)
		return nil, false
	}
	parent, ok := p.parentFor(name)
	if !ok {
		return nil, false
	}
	if _, taken := p.fake.find(name); taken {
		p.errorf("%s: dataset already exists\n", prefix)
		return nil, false
	}
	props, ok := p.validProperties(values, kind, true, prefix)
	if !ok {
		return nil, false
	}
	if kind == kindVolume {
		size, _ := strconv.ParseUint(props["volsize"], 10, 64)
		block := uint64(16384)
		if text, ok := props["volblocksize"]; ok {
			block, _ = strconv.ParseUint(text, 10, 64)
		}
		if size == 0 {
			p.errorf("%s: volume size cannot be zero\n", prefix)
			return nil, false
		}
		if block > 0 && size%block != 0 {
			size += block - size%block
		}
		props["volsize"] = strconv.FormatUint(size, 10)
	}
	if parent.pool.readOnly {
		p.errorf("%s: pool is read-only\n", prefix)
		return nil, false
	}
	encryption, ok := p.checkEncryption(props, parent, key, prefix)
	if !ok {
		return nil, false
	}
	base := name[strings.LastIndexByte(name, '/')+1:]
	d := parent.pool.attach(parent, base, kind == kindVolume)
	d.applyEncryption(parent, encryption, props)
	for property, value := range props {
		d.props.set(property, value)
	}
	return d, true
}

// readKey reads the key that create or load-key asks for on standard input, where it is to come from there, and says
// whether one was given. The fake keeps no keys: any will do.
func (p *process) readKey(values map[string]string) bool {
	location, asked := values["keylocation"]
	if path, ok := strings.CutPrefix(location, "file://"); ok {
		_, err := os.Stat(path)
		return err == nil
	}
	if values["keyformat"] == "" || asked && location != "prompt" {
		return false
	}
	line, _ := bufio.NewReaderSize(p.in, 16).ReadString('\n')
	return line != ""
}

// checkEncryption answers the cipher that a new dataset gets ("" for none), or says why it cannot be made so.
func (p *process) checkEncryption(props map[string]string, parent *dataset, key bool, prefix string) (string, bool) {
	cipher, asked := props["encryption"]
	if cipher == "on" {
		cipher = "aes-256-gcm"
	}
	_, ownKey := props["keyformat"]
	switch {
	case asked && cipher == "off":
		if ownKey {
			p.errorf("%s: Encryption required to set encryption parameters.\n%s: encryption failure\n", prefix, prefix)
			return "", false
		}
		return "", true
	case !asked && parent.encryption == "" && !ownKey:
		return "", true
	case !asked && parent.encryption == "":
		p.errorf("%s: Encryption must be turned on to set encryption properties.\n", prefix)
		return "", false
	case asked && parent.encryption == "" && !ownKey:
		p.errorf("%s: Keyformat required for new encryption root.\n", prefix)
		return "", false
	case ownKey && !key:
		p.errorf("%s: Failed to read key material.\n", prefix)
		return "", false
	case !ownKey && !parent.keyAvailable():
		p.errorf("%s: encryption root's key is not loaded or provided\n", prefix)
		return "", false
	}
	if !asked {
		cipher = parent.encryption
	}
	return cipher, true
}

// applyEncryption gives d its cipher and its encryption root, and takes what concerns them out of props.
func (d *dataset) applyEncryption(parent *dataset, cipher string, props map[string]string) {
	delete(props, "encryption")
	d.encryption = cipher
	if cipher == "" {
		return
	}
	if _, own := props["keyformat"]; !own {
		d.keyRoot = parent.keyRoot
		return
	}
	d.keyRoot, d.keyLoaded, d.keyGUID = d, true, d.pool.random()
	if _, ok := props["keylocation"]; !ok {
		props["keylocation"] = "prompt"
	}
	if props["keyformat"] == "passphrase" && props["pbkdf2iters"] == "" {
		props["pbkdf2iters"] = "350000"
	}
}

func (p *process) zfsClone() int {
	values := map[string]string{}
	parents := false
	options, operands := getopt(p.args, "o:pu", nil)
	for _, o := range options {
		switch o.letter {
		case 'o':
			if !p.parseProperty(values, o.argument) {
				return 1
			}
		case 'p':
			parents = true
		case 'u':
		default:
			return p.invalidOption(o)
		}
	}
	switch {
	case len(operands) == 0:
		p.errorf("missing source dataset argument\n")
		return p.showUsage()
	case len(operands) == 1:
		p.errorf("missing target dataset argument\n")
		return p.showUsage()
	case len(operands) > 2:
		p.errorf("too many arguments\n")
		return p.showUsage()
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	origin, ok := p.open(operands[0], kindSnapshot)
	if !ok {
		return 1
	}
	name := operands[1]
	if parents && !p.createAncestors(name) {
		return 1
	}
	prefix := "cannot create '" + name + "'"
	if problem := typedNameProblem(name, kindFilesystem, true); problem != "" {
		p.errorf("%s: %s\n", prefix, problem)
		return 1
	}
	parent, ok := p.parentFor(name)
	if !ok {
		return 1
	}
	props, ok := p.validProperties(values, origin.dataset.headKind(), true, prefix)
	switch {
	case !ok:
		return 1
	case parent.pool != origin.dataset.pool:
		p.errorf("%s: source and target pools differ\n", prefix)
		return 1
	case p.fake.dataset(name) != nil:
		p.errorf("%s: dataset already exists\n", prefix)
		return 1
	}
	d := parent.pool.attach(parent, name[strings.LastIndexByte(name, '/')+1:], origin.dataset.volume)
	d.live, d.origin = origin.snapshot.content.share(), origin.snapshot
	d.encryption, d.keyRoot = origin.dataset.encryption, origin.dataset.keyRoot
	origin.snapshot.clones = append(origin.snapshot.clones, d)
	for property, value := range props {
		d.props.set(property, value)
	}
	d.mounted = d.mountable()
	return 0
}

func (d *dataset) headKind() kinds {
	if d.volume {
		return kindVolume
	}
	return kindFilesystem
}

func (p *process) zfsSnapshot() int {
	values := map[string]string{}
	recursive := false
	options, operands := getopt(p.args, "ro:", nil)
	for _, o := range options {
		switch o.letter {
		case 'o':
			if !p.parseProperty(values, o.argument) {
				return 1
			}
		case 'r':
			recursive = true
		default:
			return p.invalidOption(o)
		}
	}
	if len(operands) == 0 {
		p.errorf("missing snapshot argument\n")
		return p.showUsage()
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	type target struct {
		dataset *dataset
		name    string
	}
	var targets []target
	seen := map[string]bool{}
	for _, operand := range operands {
		name, snap, ok := strings.Cut(operand, "@")
		if !ok {
			return p.showUsage()
		}
		o, ok := p.open(name, kindHeads)
		if !ok {
			return p.showUsage()
		}
		o.dataset.visit(recursive, func(d *dataset) {
			if full := d.name + "@" + snap; !seen[full] && (!recursive || !d.inconsistent) {
				seen[full] = true
				targets = append(targets, target{d, snap})
			}
		})
	}
	fail := func() int {
		if recursive || len(operands) > 1 {
			p.errorf("no snapshots were created\n")
		}
		return 1
	}
	for _, t := range targets {
		full := t.dataset.name + "@" + t.name
		if problem := typedNameProblem(full, kindSnapshot, true); problem != "" {
			p.errorf("cannot create snapshot '%s': %s\n", full, problem)
			return fail()
		}
	}
	props, ok := p.validProperties(values, kindSnapshot, true, "cannot create snapshots ")
	if !ok {
		return fail()
	}
	datasets := map[*dataset]bool{}
	for _, t := range targets {
		if datasets[t.dataset] {
			p.errorf("cannot create snapshots : multiple snapshots of same fs not allowed\n")
			return fail()
		}
		datasets[t.dataset] = true
	}
	failed := false
	for _, t := range targets {
		reason := ""
		switch {
		case t.dataset.pool != targets[0].dataset.pool:
			p.errorf("cannot create snapshots : multiple snapshots of same fs not allowed\n") // as EXDEV is read
			return fail()
		case t.dataset.pool.readOnly:
			reason = "pool is read-only"
		case t.dataset.inconsistent:
			reason = "dataset is busy"
		case t.dataset.byName[t.name] != nil:
			reason = "dataset already exists"
		}
		if reason != "" {
			p.errorf("cannot create snapshot '%s@%s': %s\n", t.dataset.name, t.name, reason)
			failed = true
		}
	}
	if failed {
		return fail()
	}
	pool := targets[0].dataset.pool
	txg := pool.nextTXG()
	for _, t := range targets {
		s := t.dataset.addSnapshot(t.name, pool.random(), txg, pool.now())
		s.tell(SnapshotCreated, "")
		for property, value := range props {
			s.props.set(property, value)
		}
	}
	return 0
}

func (p *process) zfsRollback() int {
	recursive, clones := false, false
	options, operands := getopt(p.args, "rRf", nil)
	for _, o := range options {
		switch o.letter {
		case 'r':
			recursive = true
		case 'R':
			recursive, clones = true, true
		case 'f':
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
	case clones:
		p.errorf("zfsfake: zfs rollback -R is not modelled\n")
		return 1
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	o, ok := p.open(operands[0], kindSnapshot)
	if !ok {
		return 1
	}
	d, s := o.dataset, o.snapshot
	var later []string
	var snapshots []*snapshot
	for _, other := range d.snapshots {
		if other.createTXG > s.createTXG {
			later = append(later, other.full())
			snapshots = append(snapshots, other)
		}
	}
	var bookmarks []string
	for _, name := range sortedKeys(d.bookmarks) {
		if d.bookmarks[name].createTXG > s.createTXG {
			later = append(later, d.name+"#"+name)
			bookmarks = append(bookmarks, name)
		}
	}
	if len(later) > 0 && !recursive {
		p.errorf("cannot rollback to '%s': more recent snapshots or bookmarks exist\n", o.name())
		p.errorf("use '-r' to force deletion of the following snapshots and bookmarks:\n")
		for _, name := range later {
			p.errorf("%s\n", name)
		}
		return 1
	}
	for _, other := range snapshots {
		if len(other.clones) > 0 {
			p.errorf("cannot rollback to '%s': clones of previous snapshots exist\n", o.name())
			p.errorf("use '-R' to force deletion of the following clones and dependents:\n")
			for _, clone := range other.clones {
				p.errorf("%s\n", clone.name)
			}
			return 1
		}
	}
	failed := false
	for _, other := range snapshots {
		if len(other.holds) > 0 || other.senders > 0 {
			p.errorf("cannot destroy '%s': dataset is busy\n", other.full())
			failed = true
			continue
		}
		d.removeSnapshot(other)
	}
	for _, name := range bookmarks {
		d.tellBookmark(BookmarkDestroyed, d.bookmarks[name])
		delete(d.bookmarks, name)
	}
	switch {
	case failed:
		return 1
	case d.receive != nil && d.receive.running:
		p.errorf("cannot rollback '%s': dataset is busy\n", d.name)
		return 1
	case d.pool.readOnly:
		p.errorf("cannot rollback '%s': pool is read-only\n", d.name)
		return 1
	}
	d.pool.nextTXG()
	d.live = s.content.share()
	return 0
}

func (p *process) zfsRename() int {
	recursive, parents := false, false
	options, operands := getopt(p.args, "pruf", nil)
	for _, o := range options {
		switch o.letter {
		case 'p':
			parents = true
		case 'r':
			recursive = true
		case 'u', 'f':
		default:
			return p.invalidOption(o)
		}
	}
	switch {
	case len(operands) < 1:
		p.errorf("missing source dataset argument\n")
		return p.showUsage()
	case len(operands) < 2:
		p.errorf("missing target dataset argument\n")
		return p.showUsage()
	case len(operands) > 2:
		p.errorf("too many arguments\n")
		return p.showUsage()
	case recursive && !strings.Contains(operands[0], "@"):
		p.errorf("source dataset for recursive rename must be a snapshot\n")
		return p.showUsage()
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	o, ok := p.open(operands[0], kindDatasets)
	if !ok {
		return 1
	}
	if o.snapshot != nil {
		return p.renameSnapshot(o.snapshot, operands[1], recursive)
	}
	if parents && !p.createAncestors(operands[1]) {
		return 1
	}
	return p.renameDataset(o.dataset, operands[1])
}

func (p *process) renameSnapshot(s *snapshot, target string, recursive bool) int {
	switch name, snap, full := strings.Cut(target, "@"); {
	case !full:
		target = s.dataset.name + "@" + target
	case name == "":
		target = s.dataset.name + "@" + snap
	case name != s.dataset.name:
		p.errorf("cannot rename to '%s': snapshots must be part of same dataset\n", target)
		return 1
	}
	if target == s.full() {
		return 0
	}
	if problem := typedNameProblem(target, kindSnapshot, true); problem != "" {
		p.errorf("cannot rename to '%s': %s\n", target, problem)
		return 1
	}
	_, to, _ := strings.Cut(target, "@")
	from := s.name
	var renamed []*snapshot
	s.dataset.visit(recursive, func(d *dataset) {
		if found := d.byName[from]; found != nil {
			renamed = append(renamed, found)
		}
	})
	for _, r := range renamed {
		if r.dataset.byName[to] != nil {
			reason := "dataset already exists"
			if recursive {
				reason = "a child dataset already has a snapshot with the new name"
			}
			p.errorf("cannot rename '%s': %s\n", r.full(), reason)
			return 1
		}
	}
	for _, r := range renamed {
		delete(r.dataset.byName, r.name)
		r.name = to
		r.dataset.byName[to] = r
		r.dataset.snapshotsChanged = r.dataset.pool.now()
	}
	s.dataset.pool.nextTXG()
	return 0
}

func (p *process) renameDataset(d *dataset, target string) int {
	prefix := "cannot rename to '" + target + "'"
	if target == d.name {
		return 0
	}
	if problem := typedNameProblem(target, d.headKind(), true); problem != "" {
		p.errorf("%s: %s\n", prefix, problem)
		return 1
	}
	parent, ok := p.parentFor(target)
	switch {
	case !ok:
		return 1
	case parent.pool != d.pool || d.parent == nil:
		p.errorf("%s: datasets must be within same pool\n", prefix)
		return 1
	case strings.HasPrefix(target, d.name+"/"):
		p.errorf("%s: New dataset name cannot be a descendant of current dataset name\n", prefix)
		return 1
	case p.fake.dataset(target) != nil:
		p.errorf("cannot rename '%s': dataset already exists\n", d.name)
		return 1
	case d.keyRoot != nil && d.keyRoot != d && parent.keyRoot != d.keyRoot:
		p.errorf("cannot rename '%s': cannot move encrypted child outside of its encryption root\n", d.name)
		return 1
	}
	busy := false
	d.walk(func(d *dataset) { busy = busy || d.owners > 0 || d.receive != nil && d.receive.running })
	if busy {
		p.errorf("cannot rename '%s': dataset is busy\n", d.name)
		return 1
	}
	delete(d.parent.children, d.base())
	old := d.name
	d.walk(func(d *dataset) { d.name = target + strings.TrimPrefix(d.name, old) })
	d.parent = parent
	parent.children[d.base()] = d
	d.pool.nextTXG()
	return 0
}

func (p *process) zfsSet() int {
	options, operands := getopt(p.args, "u", nil)
	for _, o := range options {
		if o.letter != 'u' {
			return p.invalidOption(o)
		}
	}
	first := -1
	for i, operand := range operands {
		switch {
		case !strings.Contains(operand, "="):
			if first < 0 {
				first = i
			}
		case first > 0:
			p.errorf("invalid argument order\n")
			return p.showUsage()
		}
	}
	switch {
	case len(operands) == 0:
		p.errorf("missing arguments\n")
		return p.showUsage()
	case len(operands) == 1 && first == 0:
		p.errorf("missing property=value argument(s)\n")
		return p.showUsage()
	case first < 0:
		p.errorf("missing dataset name(s)\n")
		return p.showUsage()
	}
	values := map[string]string{}
	for _, operand := range operands[:first] {
		if !p.parseProperty(values, operand) {
			return 255
		}
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	it := iteration{types: kindDatasets}
	code := p.iterate(&it, operands[first:])
	for _, o := range it.objects {
		prefix := "cannot set property for '" + o.name() + "'"
		props, ok := p.validProperties(values, o.kind(), false, prefix)
		switch {
		case !ok:
			code = 255
			continue
		case o.dataset.pool.readOnly:
			p.errorf("%s: pool is read-only\n", prefix)
			code = 255
			continue
		}
		o.dataset.pool.nextTXG()
		for name, value := range props {
			o.properties().set(name, value)
		}
		if o.snapshot == nil && o.dataset.mounted {
			o.dataset.mounted = props["canmount"] != "off" && o.dataset.mountableAt()
		}
	}
	return code
}

func (d *dataset) mountableAt() bool {
	point, _, _ := d.mountpoint()
	return strings.HasPrefix(point, "/")
}

func (o object) properties() *properties {
	if o.snapshot != nil {
		return &o.snapshot.props
	}
	return &o.dataset.props
}

func (p *process) zfsInherit() int {
	recursive, received := false, false
	options, operands := getopt(p.args, "rS", nil)
	for _, o := range options {
		switch o.letter {
		case 'r':
			recursive = true
		case 'S':
			received = true
		default:
			return p.invalidOption(o)
		}
	}
	switch len(operands) {
	case 0:
		p.errorf("missing property argument\n")
		return p.showUsage()
	case 1:
		p.errorf("missing dataset argument\n")
		return p.showUsage()
	}
	name := operands[0]
	if found, ok := nativeProperty(name); ok {
		switch {
		case found.nature == readOnly || found.nature == once:
			p.errorf("%s property is read-only\n", name)
			return 1
		case found.nature == local && !received:
			p.errorf("'%s' property cannot be inherited\n", name)
			if strings.HasSuffix(found.name, "quota") || strings.HasSuffix(found.name, "reservation") {
				p.errorf("use 'zfs set %s=none' to clear\n", name)
				p.errorf("use 'zfs inherit -S %s' to revert to received value\n", name)
			}
			return 1
		}
		name = found.name
	} else if !userProperty(name) {
		p.errorf("invalid property '%s'\n", name)
		return p.showUsage()
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	it := iteration{types: kindDatasets, recursive: recursive}
	code := p.iterate(&it, operands[1:])
	for _, o := range it.objects {
		o.dataset.pool.nextTXG()
		o.properties().inherit(name, received)
	}
	return code
}

func (p *process) zfsMount() int {
	_, operands := getopt(p.args, ":ajRlvo:Of", nil)
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	for _, name := range operands {
		o, ok := p.open(name, kindFilesystem)
		switch {
		case !ok:
			return 1
		case o.dataset.mounted:
			p.errorf("cannot mount '%s': filesystem already mounted\n", name)
			return 1
		case !o.dataset.keyAvailable():
			p.errorf("cannot mount '%s': encryption key not loaded\n", name)
			return 1
		}
		o.dataset.mounted = true
	}
	return 0
}

func (p *process) zfsUnmount() int {
	_, operands := getopt(p.args, "afu", nil)
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	for _, name := range operands {
		o, ok := p.open(name, kindFilesystem)
		switch {
		case !ok:
			return 1
		case !o.dataset.mounted:
			p.errorf("cannot unmount '%s': not currently mounted\n", name)
			return 1
		}
		o.dataset.mounted = false
	}
	return 0
}

func (p *process) zfsLoadKey() int {
	_, operands := getopt(p.args, "nraL:", nil)
	return p.changeKey(operands, "load", true)
}

func (p *process) zfsUnloadKey() int {
	_, operands := getopt(p.args, "ra", nil)
	return p.changeKey(operands, "unload", false)
}

func (p *process) changeKey(operands []string, verb string, loaded bool) int {
	if len(operands) != 1 {
		p.errorf("Missing dataset argument or '-a'.\n")
		return p.showUsage()
	}
	if loaded {
		_, _ = bufio.NewReaderSize(p.in, 16).ReadString('\n')
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	o, ok := p.open(operands[0], kindHeads)
	if !ok {
		return 1
	}
	d := o.dataset
	reason := ""
	switch {
	case d.keyRoot == nil:
		reason = "'" + d.name + "' is not encrypted."
	case d.keyRoot != d:
		reason = "Keys must be " + verb + "ed for encryption root of '" + d.name + "' (" + d.keyRoot.name + ")."
	case d.keyLoaded == loaded && loaded:
		reason = "Key already loaded for '" + d.name + "'."
	case d.keyLoaded == loaded:
		reason = "Key already unloaded for '" + d.name + "'."
	case !loaded && d.mounted:
		reason = "'" + d.name + "' is busy."
	}
	if reason != "" {
		p.errorf("Key %s error: %s\n", verb, reason)
		return 255
	}
	d.keyLoaded = loaded
	return 0
}

// SetKeyLoaded loads or unloads the key of the encryption root that dataset belongs to.
func (f *Fake) SetKeyLoaded(dataset string, loaded bool) {
	f.state.Lock()
	defer f.state.Unlock()
	if d := f.dataset(dataset); d != nil && d.keyRoot != nil {
		d.keyRoot.keyLoaded = loaded
	}
}
