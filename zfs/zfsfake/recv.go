// zfs receive: the checks in OpenZFS's order, the state that a broken receive leaves behind, and its errors.

package zfsfake

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// receive is a receive into a dataset: running, or broken off and resumable.
type receive struct {
	running   bool
	resumable bool
	header    streamHeader
	upon      *snapshot // what an incremental stream builds on; nil for a full one
	force     bool
	txg       uint64 // birth of everything received

	content *content
	objects map[uint64]*file // the files of content by object number, made when needed
	any     bool             // whether any record has been received

	object, offset, bytes uint64 // of the last write: the resume point
}

type receiveFlags struct {
	force, resumable, unmounted, dryRun, verbose, prefix, tail bool
	override                                                   map[string]string // -o
	exclude                                                    []string          // -x
}

func (p *process) zfsReceive() int {
	flags := receiveFlags{override: map[string]string{}}
	abort := false
	options, operands := getopt(p.args, ":o:x:dehMnuvFsAc", nil)
	for _, o := range options {
		switch o.letter {
		case 'o':
			if !p.parseProperty(flags.override, o.argument) {
				return p.showUsage()
			}
		case 'x':
			_, twice := flags.override[o.argument]
			switch {
			case strings.Contains(o.argument, "="):
				p.errorf("invalid character '=' in property argument\n")
				return p.showUsage()
			case twice || slices.Contains(flags.exclude, o.argument):
				p.errorf("property '%s' specified multiple times\n", o.argument)
				return p.showUsage()
			}
			flags.exclude = append(flags.exclude, o.argument)
		case 'd', 'e':
			if o.letter == 'd' && flags.tail || o.letter == 'e' && flags.prefix && !flags.tail {
				p.errorf("invalid option combination: -d and -e are mutually exclusive\n")
				return p.showUsage()
			}
			flags.prefix = true
			flags.tail = flags.tail || o.letter == 'e'
		case 'n':
			flags.dryRun = true
		case 'u':
			flags.unmounted = true
		case 'v':
			flags.verbose = true
		case 's':
			flags.resumable = true
		case 'F':
			flags.force = true
		case 'A':
			abort = true
		case 'h', 'M':
		case 'c':
			p.errorf("zfsfake: zfs receive -c is not modelled\n")
			return 1
		default:
			return p.invalidOption(o)
		}
	}
	switch {
	case len(operands) == 0:
		p.errorf("missing snapshot argument\n")
		return p.showUsage()
	case len(operands) > 1:
		p.errorf("too many arguments\n")
		return p.showUsage()
	case abort && (flags.prefix || flags.dryRun || flags.resumable || flags.unmounted):
		p.errorf("invalid option\n")
		return p.showUsage()
	case abort:
		return p.abortReceive(operands[0])
	}
	if name := invalidReceiveProperty(flags); name != "" {
		p.errorf("cannot receive: cannot receive: invalid property '%s'\n", name)
		return 1
	}
	if flags.prefix {
		p.fake.state.Lock()
		found := p.fake.dataset(operands[0]) != nil
		p.fake.state.Unlock()
		if !found {
			p.errorf("cannot receive: specified fs (%s) does not exist\n", operands[0])
			return 1
		}
	}
	if !p.receiveStreams(operands[0], flags) {
		return 1
	}
	return 0
}

// invalidReceiveProperty names a property that -o or -x may not name (zfs_receive_checkprops).
func invalidReceiveProperty(flags receiveFlags) string {
	for _, name := range append(sortedKeys(flags.override), flags.exclude...) {
		found, ok := nativeProperty(name)
		switch {
		case !ok && !userProperty(name):
			return name
		case !ok || found.name == "origin" || encryptionProperty(found.name):
		case found.nature == readOnly || found.nature == once || found.name == "version" || found.name == "volsize":
			return name
		}
	}
	return ""
}

func encryptionProperty(name string) bool {
	switch name {
	case "encryption", "keyformat", "keylocation", "pbkdf2iters":
		return true
	}
	return false
}

// abortReceive is zfs receive -A.
func (p *process) abortReceive(name string) int {
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	o, ok := p.open(name, kindHeads)
	if !ok {
		return p.showUsage()
	}
	d := o.dataset
	switch {
	case d.receive == nil:
		p.errorf("'%s' does not have any resumable receive state to abort\n", name)
		return 1
	case d.receive.running && d.inconsistent:
		p.errorf("cannot destroy '%s': dataset is busy\n", name)
		return 1
	case d.receive.running:
		p.errorf("cannot destroy '%s/%%recv': dataset is busy\n", name)
		return 1
	}
	d.pool.nextTXG()
	if d.inconsistent {
		d.detach()
	}
	d.endReceive()
	return 0
}

// endReceive forgets the receive, and with it what it has kept from being destroyed.
func (d *dataset) endReceive() {
	upon := d.receive.upon
	d.tellPartial(PartialGone)
	d.receive = nil
	if upon != nil {
		upon.settle()
	}
}

// receiveStreams receives what is on standard input: one stream, or a package of them.
func (p *process) receiveStreams(target string, flags receiveFlags) bool {
	r := &streamReader{in: p.in}
	kind, payload, err := r.next()
	if err != nil {
		return p.headerFailed(err)
	}
	if kind != recordPackage {
		return p.receiveStream(r, kind, payload, target, flags, nil)
	}
	pack := &packageHeader{}
	if json.Unmarshal(payload, pack) != nil {
		p.errorf("cannot receive: invalid backup stream\n")
		return false
	}
	for {
		kind, payload, err := r.next()
		switch {
		case err != nil:
			return p.headerFailed(err)
		case kind == recordPackageEnd:
			return true
		case !p.receiveStream(r, kind, payload, target, flags, pack):
			return false
		}
	}
}

// headerFailed says why no stream begins here.
func (p *process) headerFailed(err error) bool {
	switch {
	case p.in.cancelled:
	case errors.Is(err, errMagic), errors.Is(err, errChecksum):
		p.errorf("cannot receive: %v\n", err)
	default:
		p.errorf("cannot receive: failed to read from stream\n")
	}
	return false
}

// receiveStream receives the stream of one snapshot (zfs_receive_one).
func (p *process) receiveStream(
	r *streamReader, kind recordType, payload []byte, target string, flags receiveFlags, pack *packageHeader,
) bool {
	var header streamHeader
	if kind != recordBegin {
		p.errorf("cannot receive: %v\n", errMagic)
		return false
	}
	if json.Unmarshal(payload, &header) != nil || !strings.Contains(header.ToName, "@") {
		p.errorf("cannot receive: invalid stream (bad snapshot name)\n")
		return false
	}
	full, ok := p.destination(target, header.ToName, flags)
	if !ok {
		return false
	}
	name, snap, _ := strings.Cut(full, "@")
	prefix := "cannot receive incremental stream"
	switch {
	case header.Resuming:
		prefix = "cannot receive resume stream"
	case header.FromGUID == 0:
		prefix = "cannot receive new filesystem stream"
	}
	received := &receiving{
		process: p, reader: r, header: header, name: name, snap: snap, prefix: prefix, flags: flags, pack: pack,
		full: header.FromGUID == 0,
	}
	return received.run()
}

// destination answers the snapshot that a stream makes, from the command line's name and the stream's own.
func (p *process) destination(target, toName string, flags receiveFlags) (string, bool) {
	sent, snap, _ := strings.Cut(toName, "@")
	full := target
	switch {
	case flags.prefix && strings.Contains(target, "@"):
		p.errorf("cannot receive: invalid argument - snapshot not allowed with -%s\n", map[bool]string{true: "e", false: "d"}[flags.tail])
		return "", false
	case flags.tail:
		full = target + "/" + sent[strings.LastIndexByte(sent, '/')+1:] + "@" + snap
	case flags.prefix:
		if _, rest, nested := strings.Cut(sent, "/"); nested {
			full = target + "/" + rest
		}
		full += "@" + snap
	case !strings.Contains(target, "@"):
		full = target + "@" + snap
	}
	if typedNameProblem(full, kindSnapshot, false) != "" {
		p.errorf("cannot receive: invalid name\n")
		return "", false
	}
	return full, true
}

// receiving is one stream on its way into a dataset.
type receiving struct {
	process      *process
	reader       *streamReader
	header       streamHeader
	name, snap   string
	prefix       string
	flags        receiveFlags
	pack         *packageHeader
	full         bool
	newDataset   bool // a dataset is made, now or by the receive that this one resumes
	dataset      *dataset
	state        *receive
	oldProps     properties
	room         uint64
	limited      bool
	scratch      []byte
	receivedSize uint64
}

// fail reports an error in the words of zfs receive.
func (g *receiving) fail(format string, args ...any) bool {
	g.process.errorf("%s: %s\n", g.prefix, fmt.Sprintf(format, args...))
	return false
}

func (g *receiving) run() bool {
	p := g.process
	p.fake.state.Lock()
	outcome := g.begin()
	p.fake.state.Unlock()
	switch outcome {
	case receiveRefused:
		return false
	case receiveSkipped:
		return g.skip()
	case receiveBegun:
	}
	if g.flags.verbose {
		what := "incremental"
		if g.full {
			what = "full"
		}
		verb := "receiving"
		if g.flags.dryRun {
			verb = "would receive"
		}
		if _, err := fmt.Fprintf(p.out, "%s %s stream of %s into %s@%s\n", verb, what, g.header.ToName, g.name, g.snap); err != nil {
			g.abandon()
			return false
		}
	}
	if g.flags.dryRun {
		return g.skip()
	}
	if err := g.records(); err != nil {
		return g.broken(err)
	}
	p.fake.state.Lock()
	ok := g.finish()
	p.fake.state.Unlock()
	if ok && g.flags.verbose {
		size := niceBytes(g.receivedSize)
		_, err := fmt.Fprintf(p.out, "received %s stream in 0.01 seconds (%s/sec)\n", size, niceBytes(g.receivedSize*100))
		ok = err == nil
	}
	return ok
}

type beginning int

const (
	receiveRefused beginning = iota
	receiveSkipped           // the snapshot is there already
	receiveBegun
)

// begin checks the stream against the pool and prepares what is received into; the caller holds the fake's state.
func (g *receiving) begin() beginning {
	f := g.process.fake
	wantsNew := g.full && !g.header.Resuming
	d := f.dataset(g.name)
	poolName, _, _ := strings.Cut(g.name, "/")
	if d == nil {
		if !wantsNew || !strings.Contains(g.name, "/") {
			g.fail("destination '%s' does not exist", g.name)
			return receiveRefused
		}
		return g.beginNew(poolName)
	}
	if wantsNew {
		switch {
		case !g.flags.force:
			g.fail("destination '%s' exists\nmust specify -F to overwrite it", g.name)
			return receiveRefused
		case len(d.snapshots) > 0:
			g.fail("destination has snapshots (eg. %s)\nmust destroy them to overwrite it", d.snapshots[0].full())
			return receiveRefused
		case g.header.Volume && d.parent == nil:
			g.fail("destination %s is the root dataset\ncannot overwrite with a ZVOL", g.name)
			return receiveRefused
		case g.header.Volume && len(d.children) > 0:
			g.fail("destination has children (eg. %s)\ncannot overwrite with a ZVOL", d.children[d.childNames()[0]].name)
			return receiveRefused
		}
	}
	if g.header.Resuming && g.full && !d.inconsistent && !g.flags.force {
		g.fail("Resuming recv on existing destination '%s'\nmust specify -F to overwrite it", g.name)
		return receiveRefused
	}
	switch {
	case wantsNew && d.origin != nil:
		g.fail("destination '%s' is a clone\nmust destroy it to overwrite it", g.name)
		return receiveRefused
	case !wantsNew && g.header.Raw && d.encryption == "":
		g.fail("cannot perform raw receive on top of existing unencrypted dataset")
		return receiveRefused
	case wantsNew && (g.header.Raw || d.encryption != ""):
		g.fail("zfs receive -F cannot be used to destroy an encrypted filesystem or overwrite an unencrypted one with " +
			"an encrypted one")
		return receiveRefused
	}
	if g.flags.dryRun {
		return receiveBegun
	}
	if g.header.Resuming {
		return g.beginResumed(d)
	}
	return g.beginExisting(d)
}

func (g *receiving) beginNew(poolName string) beginning {
	p := g.process
	parentDataset, _ := parentName(g.name)
	if g.flags.prefix && !g.flags.tail && p.fake.pools[poolName] != nil && !g.flags.dryRun && !p.createAncestors(g.name) {
		g.fail("unable to restore to destination")
		return receiveRefused
	}
	o, ok := p.open(parentDataset, kindDatasets)
	if !ok {
		g.fail("unable to restore to destination")
		return receiveRefused
	}
	parent := o.dataset
	if parent.volume {
		g.fail("parent '%s' is not a filesystem", parent.name)
		return receiveRefused
	}
	props, ok := g.overrides()
	if !ok {
		return receiveRefused
	}
	if g.flags.dryRun {
		return receiveBegun
	}
	cipher := g.header.Encryption
	if !g.header.Raw {
		withProperties := g.pack != nil && g.pack.Properties != nil
		if _, asked := props["encryption"]; !asked && withProperties && !slices.Contains(g.flags.exclude, "encryption") {
			props["encryption"] = "off"
		}
		_, asked := props["encryption"]
		if !asked && parent.encryption != "" && !parent.keyAvailable() {
			g.fail("inherited key must be loaded")
			return receiveRefused
		}
		cipher, ok = p.checkEncryption(props, parent, p.readKey(props), g.prefix)
		if !ok {
			return receiveRefused
		}
	}
	switch {
	case !g.features(parent.pool):
		return receiveRefused
	case strings.Contains(g.name+g.snap, "%"):
		g.invalid()
		return receiveRefused
	case cipher != "" && g.header.Embedded:
		g.fail("incompatible embedded data stream feature with encrypted receive.")
		return receiveRefused
	}
	d := parent.pool.attach(parent, g.name[strings.LastIndexByte(g.name, '/')+1:], g.header.Volume)
	d.inconsistent = true
	if g.header.Raw {
		d.encryption, d.keyRoot, d.keyGUID = cipher, d, g.header.KeyGUID
		d.props.set("keyformat", g.header.KeyFormat)
		d.props.set("keylocation", "prompt")
		delete(props, "encryption")
	} else {
		d.applyEncryption(parent, cipher, props)
	}
	g.newDataset = true
	g.start(d, newContent(), nil)
	g.applyProperties(d, props)
	return receiveBegun
}

// features checks what the stream needs of the pool.
func (g *receiving) features(pool *pool) bool {
	lacks := func(needed bool, feature string) bool { return needed && pool.features[feature] == "disabled" }
	switch {
	case lacks(g.header.LargeBlocks, "large_blocks"), lacks(g.header.Embedded, "embedded_data"),
		lacks(g.header.Raw, "encryption"), lacks(g.header.Compressed, "lz4_compress"),
		lacks(g.flags.resumable, "extensible_dataset"):
		return g.fail("pool must be upgraded to receive this stream.")
	case pool.readOnly:
		return g.fail("pool is read-only")
	}
	return true
}

// beginExisting is recv_begin_check_existing_impl.
func (g *receiving) beginExisting(d *dataset) beginning {
	switch {
	case !g.features(d.pool):
		return receiveRefused
	case d.receive != nil:
		g.busy(d)
		return receiveRefused
	case d.byName[g.snap] != nil:
		if d.hasGUID(g.header.ToGUID) {
			return receiveSkipped
		}
		g.process.errorf("cannot restore to %s@%s: destination already exists\n", g.name, g.snap)
		return receiveRefused
	}
	props, ok := g.overrides()
	if !ok {
		return receiveRefused
	}
	if g.full {
		g.start(d, newContent(), nil)
		g.applyProperties(d, props)
		return receiveBegun
	}
	if d.encryption != "" && g.header.Embedded {
		g.fail("incompatible embedded data stream feature with encrypted receive.")
		return receiveRefused
	}
	if d.largeBlocks && !g.header.LargeBlocks && !g.header.Raw {
		g.fail("incremental send stream requires -L (--large-block), to match previous receive.")
		return receiveRefused
	}
	var from *snapshot
	for _, s := range d.snapshots {
		if s.guid == g.header.FromGUID {
			from = s
		}
	}
	switch {
	case from == nil:
		g.fail("most recent snapshot of %s does not\nmatch incremental source", g.name)
		return receiveRefused
	case !g.flags.force && (d.modifiedSince(from) || g.header.Raw && d.newest() != from):
		g.fail("destination %s has been modified\nsince most recent snapshot", g.name)
		return receiveRefused
	case g.header.Raw && g.header.KeyGUID != d.keyRoot.keyGUID:
		g.fail("encryption key does not match existing key")
		return receiveRefused
	case !g.header.Raw && !d.keyAvailable():
		g.fail("inherited key must be loaded")
		return receiveRefused
	}
	if !g.flags.force {
		from = d.newest()
	}
	g.start(d, from.content.share(), from)
	g.applyProperties(d, props)
	return receiveBegun
}

// beginResumed is dmu_recv_resume_begin_check.
func (g *receiving) beginResumed(d *dataset) beginning {
	r := d.receive
	switch {
	case !g.features(d.pool):
		return receiveRefused
	case r == nil || !r.resumable || r.header.ToGUID != g.header.ToGUID:
		g.invalid()
		return receiveRefused
	case r.running:
		g.busy(d)
		return receiveRefused
	case r.header.FromGUID != g.header.FromGUID, r.object != g.header.Object, r.offset != g.header.Offset:
		g.invalid()
		return receiveRefused
	}
	props, ok := g.overrides()
	if !ok {
		return receiveRefused
	}
	g.newDataset = d.inconsistent
	r.running, r.objects, r.force = true, nil, g.flags.force
	r.content, r.txg = r.content.writable(), d.pool.nextTXG()
	g.room, g.limited = d.pool.room()
	g.dataset, g.state = d, r
	g.applyProperties(d, props)
	return receiveBegun
}

func (g *receiving) busy(d *dataset) {
	if _, ok := d.resumeToken(); ok {
		g.fail("destination %s contains partially-complete state from \"zfs receive -s\".", g.name)
		return
	}
	g.fail("dataset is busy")
}

// invalid is what libzfs makes of EINVAL, whatever the kernel meant by it.
func (g *receiving) invalid() {
	switch {
	case g.header.Embedded && !g.header.Raw:
		g.fail("incompatible embedded data stream feature with encrypted receive.")
	case g.flags.resumable:
		g.fail("kernel modules must be upgraded to receive this stream.")
	default:
		g.fail("invalid backup stream")
	}
}

func (d *dataset) hasGUID(guid uint64) bool {
	return slices.ContainsFunc(d.snapshots, func(s *snapshot) bool { return s.guid == guid })
}

// overrides checks -o and -x.
func (g *receiving) overrides() (map[string]string, bool) {
	kind := kindFilesystem
	if g.header.Volume {
		kind = kindVolume
	}
	for name := range g.flags.override {
		if found, ok := nativeProperty(name); ok && encryptionProperty(found.name) {
			switch {
			case g.header.Raw:
				g.process.errorf("%s: encryption property '%s' cannot be set or excluded for raw streams.\n", g.prefix, name)
				return nil, false
			case !g.full || g.header.Resuming:
				g.process.errorf("%s: encryption property '%s' cannot be set for incremental streams.\n", g.prefix, name)
				return nil, false
			}
		} else if ok && found.kinds&kind == 0 {
			g.process.errorf("%s: property '%s' does not apply to datasets of this type\n", g.prefix, name)
			return nil, false
		}
	}
	for _, name := range g.flags.exclude {
		if found, ok := nativeProperty(name); ok && encryptionProperty(found.name) && g.header.Raw {
			g.process.errorf("%s: encryption property '%s' cannot be set or excluded for raw streams.\n", g.prefix, name)
			return nil, false
		} else if ok && found.kinds&kind == 0 {
			g.process.errorf("Warning: %s: property '%s' does not apply to datasets of this type\n", g.name, name)
		}
	}
	props, ok := g.process.validProperties(g.flags.override, kind, true, g.prefix)
	if !ok {
		g.fail("invalid property value")
	}
	return props, ok
}

// start makes the state of a receive that begins.
func (g *receiving) start(d *dataset, base *content, upon *snapshot) {
	g.dataset = d
	g.state = &receive{
		running: true, resumable: g.flags.resumable, header: g.header, upon: upon, force: g.flags.force,
		txg: d.pool.nextTXG(), content: base.writable(), object: 1,
	}
	g.room, g.limited = d.pool.room()
	d.receive = g.state
	d.largeBlocks = d.largeBlocks || g.header.LargeBlocks
}

// applyProperties sets the properties of the stream as received ones and those of the command line as local ones.
func (g *receiving) applyProperties(d *dataset, overrides map[string]string) {
	g.oldProps = maps.Clone(d.props)
	if g.pack != nil && g.pack.Properties != nil {
		for name, value := range d.props {
			if _, sent := g.pack.Properties[name]; value.received != nil && !sent {
				d.props.change(name, func(v *property) { v.received, v.inherited = nil, false })
			}
		}
		for name, value := range g.pack.Properties {
			if found, ok := nativeProperty(name); ok && found.kinds&d.headKind() == 0 {
				continue
			}
			d.props.change(name, func(v *property) { v.received = &value })
		}
	}
	for name, value := range overrides {
		d.props.set(name, value)
	}
	for _, name := range g.flags.exclude {
		found, ok := nativeProperty(name)
		switch {
		case ok && (found.nature != inheritable || found.kinds&d.headKind() == 0):
			if found.nature == local {
				d.props.change(found.name, func(v *property) { v.received = nil })
			}
			continue
		case ok:
			name = found.name
		}
		d.props.change(name, func(v *property) { v.inherited = v.local == nil && v.received != nil })
	}
}

// records takes in the stream up to its end.
func (g *receiving) records() error {
	state := g.process.fake
	for {
		kind, payload, err := g.reader.next()
		if err != nil {
			return err
		}
		g.receivedSize += uint64(len(payload)) + recordHeader + recordTrailer
		if kind == recordEnd {
			return nil
		}
		if err := g.record(kind, payload); err != nil {
			return err
		}
		state.state.Lock()
		g.state.any = true
		g.state.bytes += uint64(len(payload)) + recordHeader + recordTrailer
		if kind == recordWrite {
			g.state.object = binary.BigEndian.Uint64(payload)
			g.state.offset = binary.BigEndian.Uint64(payload[8:])
		}
		state.state.Unlock()
	}
}

var errNoSpace = errors.New("out of space")

// record applies one record to the content that is being received, which nobody else sees.
func (g *receiving) record(kind recordType, payload []byte) error {
	r := g.state
	c := r.content
	switch kind {
	case recordRemove:
		path := string(payload)
		if old := c.files[path]; old != nil && !old.removed {
			c.put(&file{path: path, object: old.object, birth: r.txg, removed: true}, r.txg)
			delete(r.objects, old.object)
		}
		return nil
	case recordObject:
		if len(payload) < 16 {
			return errChecksum
		}
		object, size := binary.BigEndian.Uint64(payload), binary.BigEndian.Uint64(payload[8:])
		path := string(payload[16:])
		old := c.files[path]
		made := &file{path: path, object: object, birth: r.txg, size: size}
		if old != nil && old.object == object && !old.removed {
			made.extents = append([]extent(nil), old.extents...)
		}
		c.put(made, r.txg)
		r.remember(made)
		return nil
	case recordWrite:
		if g.scratch == nil {
			g.scratch = make([]byte, chunkSize)
		}
		w, err := parseWrite(payload, g.scratch)
		if err != nil {
			return err
		}
		target := r.file(w.object)
		if target == nil || target.birth != r.txg { // every stream tells of a file before it writes into it
			return errChecksum
		}
		length := uint64(len(w.data))
		if g.limited {
			if length > g.room {
				return errNoSpace
			}
			g.room -= length
		}
		e := extent{offset: w.offset, length: length, birth: r.txg}
		if w.generated {
			e.seed, e.start = w.seed, w.start
		} else {
			e.data = append(make([]byte, 0, len(w.data)), w.data...)
		}
		target.extents = overlay(target.extents, e)
		c.files[target.path] = target
		c.bytes += length
		c.changed = max(c.changed, r.txg)
		return nil
	case recordPackage, recordPackageEnd, recordBegin, recordEnd:
	}
	return errChecksum
}

// file finds a file by its object number.
func (r *receive) file(object uint64) *file {
	if r.objects == nil {
		r.objects = make(map[uint64]*file, len(r.content.files))
		for _, f := range r.content.files {
			if !f.removed {
				r.objects[f.object] = f
			}
		}
	}
	return r.objects[object]
}

func (r *receive) remember(f *file) {
	if r.objects != nil {
		r.objects[f.object] = f
	}
}

// skip reads a stream to its end without receiving it.
func (g *receiving) skip() bool {
	for {
		kind, _, err := g.reader.next()
		switch {
		case err != nil:
			return g.process.headerFailed(err)
		case kind == recordEnd:
			return true
		}
	}
}

// abandon undoes a receive of which nothing is kept.
func (g *receiving) abandon() {
	g.process.fake.state.Lock()
	defer g.process.fake.state.Unlock()
	g.stop(false)
}

// stop ends the receive; keep keeps what was received, where there is anything. The caller holds the fake's state.
func (g *receiving) stop(keep bool) bool {
	d, r := g.dataset, g.state
	r.running = false
	r.objects = nil
	if keep && r.resumable && (r.any || !d.inconsistent) {
		if !d.inconsistent {
			d.props = g.oldProps
		}
		r.content.bytes = recount(r.content)
		d.tellPartial(PartialKept)
		return true
	}
	d.endReceive()
	if d.inconsistent {
		d.detach()
	} else {
		d.props = g.oldProps
	}
	return false
}

func recount(c *content) uint64 {
	var bytes uint64
	for _, f := range c.files {
		bytes += f.allocated()
	}
	return bytes
}

// broken ends a receive whose stream did not come to its end.
func (g *receiving) broken(err error) bool {
	p := g.process
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	kept := g.stop(true)
	switch {
	case p.in.cancelled:
	case errors.Is(err, errNoSpace):
		g.fail("out of space")
	case errors.Is(err, errIncomplete), errors.Is(err, errChecksum), errors.Is(err, errMagic):
		token, _ := g.dataset.resumeToken()
		switch {
		case kept:
			g.fail("checksum mismatch or incomplete stream.\nPartially received snapshot is saved.\n"+
				"A resuming stream can be generated on the sending system by running:\n    zfs send -t %s", token)
		case errors.Is(err, errIncomplete):
			g.openFailed()
			g.fail("incomplete stream")
		default:
			g.openFailed()
			g.fail("checksum mismatch")
		}
	default:
		g.fail("I/O error")
	}
	return false
}

// openFailed says what libzfs says when it looks for the resume token of a new dataset of which nothing was kept.
func (g *receiving) openFailed() {
	if g.flags.resumable && g.process.fake.dataset(g.name) == nil {
		g.process.errorf("cannot open '%s': dataset does not exist\n", g.name)
	}
}

// finish makes the snapshot; the caller holds the fake's state.
func (g *receiving) finish() bool {
	d, r := g.dataset, g.state
	if d.byName[g.snap] != nil {
		g.stop(false)
		g.process.errorf("cannot restore to %s@%s: destination already exists\n", g.name, g.snap)
		return false
	}
	if r.upon != nil {
		later := slices.DeleteFunc(slices.Clone(d.snapshots), func(s *snapshot) bool { return s.createTXG <= r.upon.createTXG })
		switch {
		case !r.force && (len(later) > 0 || d.modifiedSince(r.upon)):
			g.stop(true)
			g.fail("destination %s has been modified\nsince most recent snapshot", g.name)
			return false
		case slices.ContainsFunc(later, func(s *snapshot) bool { return len(s.holds) > 0 || s.senders > 0 }):
			g.stop(true)
			g.fail("dataset is busy")
			return false
		}
		for _, s := range later {
			d.removeSnapshot(s)
		}
	}
	r.content.bytes = recount(r.content)
	d.live = r.content
	d.inconsistent = false
	d.volume = g.header.Volume
	if g.header.Volume && g.header.Size != "" {
		d.props.set("volsize", g.header.Size)
	}
	s := d.addSnapshot(g.snap, g.header.ToGUID, d.pool.nextTXG(), g.header.Creation)
	s.tell(SnapshotReceived, "")
	if g.pack != nil {
		for name, value := range g.pack.Snapshots[strings.SplitN(g.header.ToName, "@", 2)[1]] {
			s.props.change(name, func(v *property) { v.received = &value })
		}
	}
	d.endReceive()
	if g.newDataset && !g.flags.unmounted {
		d.mounted = d.mountable()
	}
	return true
}
