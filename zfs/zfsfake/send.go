// zfs send.

package zfsfake

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// sendFlags are the options of zfs send.
type sendFlags struct {
	raw, properties, backup, compressed, large, embedded, saved bool
	dryRun, parsable, progress, intermediate                    bool
	verbosity                                                   int
}

// sending is the send of one snapshot: what it carries is everything in content that was born after fromTXG.
type sending struct {
	dataset  *dataset
	snapshot *snapshot // nil for a live filesystem and for saved state
	toName   string
	fromName string // as it is shown in estimates; "" for a full send
	fromTXG  uint64
	content  *content
	header   streamHeader
}

func (p *process) zfsSend() int {
	var flags sendFlags
	from, resume := "", ""
	hasFrom, hasResume := false, false
	options, operands := getopt(p.args, ":i:I:RsDpVvnPLeht:cwbd:SX:", map[string]rune{
		"props": 'p', "parsable": 'P', "proctitle": 'V', "verbose": 'v', "dryrun": 'n', "large-block": 'L', "embed": 'e',
		"resume": 't', "compressed": 'c', "raw": 'w', "backup": 'b', "saved": 'S', "replicate": 'R', "holds": 'h',
		"skip-missing": 's', "redact": 'd', "dedup": 'D', "exclude": 'X',
	})
	for _, o := range options {
		switch o.letter {
		case 'i', 'I':
			if hasFrom {
				return p.showUsage()
			}
			from, hasFrom, flags.intermediate = o.argument, true, o.letter == 'I'
		case 'p':
			flags.properties = true
		case 'b':
			flags.backup = true
		case 'P':
			flags.parsable = true
		case 'V':
		case 'v':
			flags.verbosity++
			flags.progress = true
		case 'n':
			flags.dryRun = true
		case 'L':
			flags.large = true
		case 'e':
			flags.embedded = true
		case 't':
			resume, hasResume = o.argument, true
		case 'c':
			flags.compressed = true
		case 'w':
			flags.raw, flags.compressed, flags.embedded, flags.large = true, true, true, true
		case 'S':
			flags.saved = true
		case 'R', 's', 'D', 'h', 'd', 'X':
			p.errorf("zfsfake: zfs send -%c is not modelled\n", o.letter)
			return 1
		default:
			return p.invalidOption(o)
		}
	}
	if flags.parsable && flags.verbosity == 0 {
		flags.verbosity = 1
	}
	switch {
	case hasResume && (hasFrom || flags.properties || flags.backup || flags.saved):
		p.errorf("invalid flags combined with -t\n")
		return p.showUsage()
	case hasResume && len(operands) > 0, !hasResume && len(operands) > 1:
		p.errorf("too many arguments\n")
		return p.showUsage()
	case !hasResume && len(operands) == 0:
		p.errorf("missing snapshot argument\n")
		return p.showUsage()
	case flags.saved && (hasFrom || flags.properties || flags.backup || flags.large || flags.embedded || flags.compressed || flags.raw):
		p.errorf("incompatible flags combined with saved send flag\n")
		return p.showUsage()
	case flags.saved && strings.Contains(operands[0], "@"):
		p.errorf("saved send must specify the dataset with partially-received state\n")
		return p.showUsage()
	case flags.saved:
		return p.sendSaved(operands[0], flags)
	case hasResume:
		return p.sendResumed(resume, flags)
	case flags.intermediate:
		return p.sendRange(operands[0], from, flags)
	}
	return p.sendOne(operands[0], from, flags)
}

// sendOne sends one snapshot, in full or from a snapshot or bookmark.
func (p *process) sendOne(name, from string, flags sendFlags) int {
	if from != "" {
		if !strings.ContainsAny(from, "@#") {
			p.errorf("Warning: incremental source didn't specify type, assuming snapshot. Use '@' or '#' prefix to avoid ambiguity.\n")
			from = "@" + from
		}
		if from[0] == '@' || from[0] == '#' {
			dataset, _, _ := strings.Cut(name, "@")
			from = dataset + from
		}
	}
	s, pack, code := p.prepareOne(name, from, flags)
	if code != 0 {
		return code
	}
	defer p.release([]*sending{s})
	if flags.verbosity > 0 && !p.estimate([]*sending{s}, flags, true) {
		return 1
	}
	if flags.dryRun {
		return 0
	}
	return p.transmit([]*sending{s}, pack, flags, 1)
}

// prepareOne resolves what sendOne sends; the answered sending holds the snapshot until it is released.
func (p *process) prepareOne(name, from string, flags sendFlags) (*sending, *packageHeader, int) {
	f := p.fake
	f.state.Lock()
	defer f.state.Unlock()
	o, ok := p.open(name, kindDatasets)
	if !ok {
		return nil, nil, 1
	}
	warning := "warning: cannot send '" + name + "'"
	s := p.newSending(o, flags)
	if from != "" {
		source, found := f.find(from)
		if strings.Contains(from, "@") {
			if source, ok = p.open(from, kindDatasets); !ok {
				return nil, nil, 1
			}
			found = true
		}
		reason := ""
		switch {
		case !found && flags.verbosity > 0:
			reason = "No such process" // the estimate is made first, and shows the error's own words
		case !found:
			reason = "incremental source (" + from + ") does not exist"
		case source.dataset != o.dataset && !o.dataset.descendsFrom(source),
			source.createTXG() >= s.createTXG():
			reason = "not an earlier snapshot from the same fs"
			if source.bookmark != nil && flags.verbosity > 0 {
				reason = "Invalid cross-device link"
			}
		}
		if reason != "" {
			p.errorf("%s: %s\n", warning, reason)
			return nil, nil, 1
		}
		s.fromName, s.fromTXG, s.header.FromGUID = from, source.createTXG(), source.guid()
	}
	if (flags.properties || flags.backup) && !flags.raw && o.dataset.encryption != "" {
		p.errorf("cannot send %s: encrypted dataset %s may not be sent with properties without the raw flag\n",
			name, o.dataset.name)
		p.errorf("%s: backup failed\n", warning)
		return nil, nil, 1
	}
	if !flags.raw && !o.dataset.keyAvailable() && !flags.dryRun {
		p.errorf("%s: dataset key must be loaded\n", warning)
		return nil, nil, 1
	}
	if o.snapshot == nil && (o.dataset.mounted && !o.dataset.volume || o.dataset.inconsistent) {
		p.errorf("%s: target is busy; if a filesystem, it must not be mounted\n", warning)
		return nil, nil, 1
	}
	var pack *packageHeader
	if flags.properties || flags.backup {
		pack = o.dataset.packageOf(s.toName, []*sending{s}, flags)
	}
	s.hold()
	return s, pack, 0
}

func (s *sending) createTXG() uint64 {
	if s.snapshot != nil {
		return s.snapshot.createTXG
	}
	return ^uint64(0)
}

// newSending describes the full send of a snapshot or of a live dataset.
func (p *process) newSending(o object, flags sendFlags) *sending {
	d := o.dataset
	s := &sending{dataset: d, snapshot: o.snapshot}
	s.header = streamHeader{
		Volume: d.volume, Compressed: flags.compressed, LargeBlocks: flags.large && d.hasLargeBlocks(),
		Embedded: flags.embedded,
	}
	if o.snapshot != nil {
		s.toName, s.content = o.snapshot.full(), o.snapshot.content
		s.header.ToGUID, s.header.Creation = o.snapshot.guid, o.snapshot.creation
	} else {
		s.toName, s.content = d.name+"@--head--", d.live.share()
		s.header.ToGUID, s.header.Creation = d.pool.random(), d.pool.now()
	}
	s.header.ToName = s.toName
	if d.volume {
		s.header.Size, _, _ = d.lookup("volsize", false)
	}
	if d.encryption != "" {
		s.header.Embedded = false // encrypted blocks cannot be embedded
		if flags.raw {
			s.header.Raw, s.header.Encryption, s.header.KeyGUID = true, d.encryption, d.keyRoot.keyGUID
			s.header.KeyFormat, _, _ = d.keyRoot.lookup("keyformat", false)
		}
	}
	return s
}

// hasLargeBlocks says whether the dataset has records over 128 KiB, without which -L changes nothing.
func (d *dataset) hasLargeBlocks() bool {
	value, _, _ := d.lookup("recordsize", true)
	size, _ := parseSize(value)
	return size > 128<<10
}

// hold keeps what is sent from being destroyed; the caller holds the fake's state.
func (s *sending) hold() {
	if s.snapshot != nil {
		s.snapshot.senders++
	} else {
		s.dataset.owners++
	}
}

// release undoes hold.
func (p *process) release(sendings []*sending) {
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	for _, s := range sendings {
		if s.snapshot != nil {
			s.snapshot.senders--
		} else {
			s.dataset.owners--
		}
	}
}

// packageOf answers the header of a package, with the properties that -p or -b send.
func (d *dataset) packageOf(toName string, sendings []*sending, flags sendFlags) *packageHeader {
	pack := &packageHeader{ToName: toName, Raw: flags.raw}
	if !flags.properties && !flags.backup {
		return pack
	}
	collect := func(props properties) map[string]string {
		values := map[string]string{}
		for name, property := range props {
			found, known := nativeProperty(name)
			if known && (found.nature == once || found.nature == readOnly || found.name == "volsize") {
				continue
			}
			value := property.received
			if !flags.backup {
				if effective, _, ok := property.effective(); ok {
					value = &effective
				} else {
					value = nil
				}
			}
			if value != nil {
				values[name] = *value
			}
		}
		return values
	}
	pack.Properties = collect(d.props)
	pack.Snapshots = map[string]map[string]string{}
	for _, s := range sendings {
		if s.snapshot != nil && len(s.snapshot.props) > 0 {
			pack.Snapshots[s.snapshot.name] = collect(s.snapshot.props)
		}
	}
	return pack
}

// sendRange is send -I: every snapshot after from up to name, one stream each.
func (p *process) sendRange(name, from string, flags sendFlags) int {
	dataset, to, ok := strings.Cut(name, "@")
	switch {
	case strings.Contains(from, "#"):
		p.errorf("Error: multiple snapshots cannot be sent from a bookmark.\n")
		return 1
	case !ok:
		p.errorf("Error: Unsupported flag with filesystem or bookmark.\n")
		return 1
	}
	sendings, pack, tag, code := p.prepareRange(dataset, to, from, flags)
	if code != 0 && sendings == nil && pack == nil {
		return code
	}
	defer p.release(sendings)
	defer p.releaseTemporary(sendings, tag)
	if code == 0 && flags.verbosity > 0 && !p.estimate(sendings, flags, false) {
		return 1
	}
	switch {
	case flags.dryRun:
		return code
	case code != 0: // the package has been begun before the mistake was noticed
		w := &streamWriter{out: p.out}
		_ = w.header(recordPackage, pack)
		return code
	}
	return p.transmit(sendings, pack, flags, 1)
}

func (p *process) prepareRange(dataset, to, from string, flags sendFlags) ([]*sending, *packageHeader, string, int) {
	f := p.fake
	f.state.Lock()
	defer f.state.Unlock()
	o, ok := p.open(dataset, kindHeads)
	if !ok {
		return nil, nil, "", 1
	}
	d := o.dataset
	fromDataset, fromName, full := strings.Cut(from, "@")
	switch {
	case !full:
		fromName = from
	case fromDataset != "" && fromDataset != dataset:
		p.errorf("incremental source must be in same filesystem\n")
		return nil, nil, "", p.showUsage()
	}
	if fromName == "" {
		p.errorf("cannot send '%s': zero-length incremental source\n", dataset)
		return nil, nil, "", 1
	}
	source, ok := p.open(dataset+"@"+fromName, kindSnapshot)
	if !ok {
		return nil, nil, "", 1
	}
	target, ok := p.open(dataset+"@"+to, kindSnapshot)
	if !ok {
		return nil, nil, "", 1
	}
	if (flags.properties || flags.backup) && !flags.raw && d.encryption != "" {
		p.errorf("cannot send %s@%s: encrypted dataset %s may not be sent with properties without the raw flag\n",
			dataset, to, dataset)
		p.errorf("warning: cannot send '%s@%s': backup failed\n", dataset, to)
		return nil, nil, "", 1
	}
	var sendings []*sending
	previous := source.snapshot
	for _, s := range d.snapshots {
		if s.createTXG <= source.snapshot.createTXG || s.createTXG > target.snapshot.createTXG {
			continue
		}
		next := p.newSending(object{dataset: d, snapshot: s}, flags)
		next.fromName, next.fromTXG, next.header.FromGUID = previous.name, previous.createTXG, previous.guid
		sendings = append(sendings, next)
		previous = s
	}
	pack := d.packageOf(target.name(), sendings, flags)
	if len(sendings) == 0 {
		p.errorf("WARNING: could not send %s@%s:\nincremental source (%s@%s) ", dataset, to, dataset, fromName)
		if source.snapshot == target.snapshot {
			p.errorf("is not earlier than it\n")
		} else {
			p.errorf("does not exist\n")
		}
		if flags.verbosity > 0 {
			p.estimate(nil, flags, false)
		}
		return nil, pack, "", 1
	}
	if !flags.raw && !d.keyAvailable() && !flags.dryRun {
		p.errorf("warning: cannot send '%s': source key must be loaded\n", sendings[0].toName)
		return nil, pack, "", 1
	}
	for _, s := range sendings {
		s.hold()
	}
	tag := ""
	if !flags.dryRun { // zfs send -I holds what it sends under a tag of its own, which goes with the process
		d.pool.sequence++
		tag = fmt.Sprintf(".send-%d-1", 1000+d.pool.sequence)
		for _, s := range sendings {
			if s.snapshot.holds == nil {
				s.snapshot.holds = map[string]int64{}
			}
			s.snapshot.holds[tag] = d.pool.now()
			s.snapshot.tell(HoldPlaced, tag)
		}
	}
	return sendings, pack, tag, 0
}

// releaseTemporary drops the holds of a send -I.
func (p *process) releaseTemporary(sendings []*sending, tag string) {
	if tag == "" {
		return
	}
	p.fake.state.Lock()
	defer p.fake.state.Unlock()
	for _, s := range sendings {
		delete(s.snapshot.holds, tag)
		s.snapshot.tell(HoldReleased, tag)
		s.snapshot.settle()
	}
}

const exitError = 255 // what a libzfs error that main returns as such becomes

// sendResumed is send -t.
func (p *process) sendResumed(text string, flags sendFlags) int {
	t, problem := parseToken(text)
	if problem != "" {
		p.errorf("cannot resume send: %s\n", problem)
		return exitError
	}
	if flags.verbosity > 0 {
		if !p.say(t.print(), flags.dryRun) {
			return 1
		}
	}
	s, code := p.prepareResumed(t, flags)
	if code != 0 {
		return code
	}
	defer p.release([]*sending{s})
	if flags.verbosity > 0 && !p.estimate([]*sending{s}, flags, true) {
		return exitError
	}
	if flags.dryRun {
		return 0
	}
	return p.transmit([]*sending{s}, nil, flags, exitError)
}

func (p *process) prepareResumed(t token, flags sendFlags) (*sending, int) {
	f := p.fake
	f.state.Lock()
	defer f.state.Unlock()
	o, ok := f.byGUID(t.ToName, t.ToGUID, false)
	if !ok {
		reason := "'" + t.ToName + "' used in the initial send no longer exists"
		if _, exists := f.find(t.ToName); exists {
			reason = "'" + t.ToName + "' is no longer the same snapshot used in the initial send"
		}
		p.errorf("cannot resume send: %s\n", reason)
		return nil, exitError
	}
	flags.raw = flags.raw || t.RawOK
	flags.large = flags.large || t.LargeBlockOK
	flags.embedded = flags.embedded || t.EmbedOK
	flags.compressed = flags.compressed || t.CompressOK
	s := p.newSending(o, flags)
	if t.FromGUID != 0 {
		source, ok := f.byGUID(t.ToName, t.FromGUID, true)
		if !ok {
			p.errorf("cannot resume send: incremental source %#x no longer exists\n", t.FromGUID)
			return nil, exitError
		}
		s.fromName, s.fromTXG, s.header.FromGUID = source.name(), source.createTXG(), source.guid()
	}
	if !flags.raw && !o.dataset.keyAvailable() && !flags.dryRun {
		p.errorf("warning: cannot send '%s': source key must be loaded\n", s.toName)
		return nil, exitError
	}
	s.header.Resuming, s.header.Object, s.header.Offset = true, t.Object, t.Offset
	s.hold()
	return s, 0
}

// byGUID looks for a snapshot, or also a bookmark, first in the dataset that name belongs to, then ever further up
// (guid_to_name); the caller holds the fake's state.
func (f *Fake) byGUID(name string, guid uint64, bookmarks bool) (object, bool) {
	name, _, _ = strings.Cut(name, "@")
	for {
		if d := f.dataset(name); d != nil {
			var found object
			d.walk(func(d *dataset) {
				for _, s := range d.snapshots {
					if s.guid == guid && found.dataset == nil {
						found = object{dataset: d, snapshot: s}
					}
				}
				for _, mark := range sortedKeys(d.bookmarks) {
					if b := d.bookmarks[mark]; bookmarks && b.guid == guid && found.dataset == nil {
						found = object{dataset: d, bookmark: b}
					}
				}
			})
			if found.dataset != nil {
				return found, true
			}
		}
		parent, ok := parentName(name)
		if !ok {
			return object{}, false
		}
		name = parent
	}
}

// sendSaved is send -S: what a broken receive has kept.
func (p *process) sendSaved(name string, flags sendFlags) int {
	f := p.fake
	f.state.Lock()
	o, ok := p.open(name, kindDatasets)
	if !ok {
		f.state.Unlock()
		return 1
	}
	d := o.dataset
	if _, partial := d.resumeToken(); !partial {
		f.state.Unlock()
		return 1 // silently, as zfs does
	}
	if d.receive.running {
		f.state.Unlock()
		p.errorf("warning: cannot send '%s': dataset is busy\n", name)
		return 1
	}
	r := d.receive
	s := &sending{dataset: d, toName: name, content: r.content.share(), header: r.header}
	if r.upon != nil {
		s.fromName, s.fromTXG = r.upon.full(), r.upon.createTXG
	}
	s.header.Saved, s.header.Resuming = true, false
	saved := token{
		FromGUID: r.header.FromGUID, ToGUID: r.header.ToGUID, ToName: name, LargeBlockOK: r.header.LargeBlocks,
		EmbedOK: r.header.Embedded, CompressOK: r.header.Compressed, RawOK: r.header.Raw, saved: true,
	}
	s.hold()
	f.state.Unlock()
	defer p.release([]*sending{s})
	if flags.verbosity > 0 { // of saved state there is no estimate, and zfs says so as if there were something to resume
		if !p.say(saved.print(), flags.dryRun) {
			return 1
		}
		p.errorf("cannot resume send: Invalid argument\n")
		if flags.dryRun {
			return 1
		}
	}
	return p.transmit([]*sending{s}, nil, flags, 1)
}

const recordOverhead = 312 // what a record of a real stream costs besides its data

// size is the estimate of a send in bytes.
func (s *sending) size() uint64 {
	total := uint64(2 * recordOverhead)
	_ = s.each(func(_ *file, first bool, _ extent, _, length uint64) error { // never fails: this does not
		if first {
			total += recordOverhead
		}
		if length > 0 {
			total += recordOverhead + length
		}
		return nil
	})
	return total
}

// each visits the files that the send carries and the parts of their extents, in the stream's order; first marks a
// file's first visit, which may be of no data.
func (s *sending) each(visit func(f *file, first bool, e extent, from, length uint64) error) error {
	changed, _ := s.content.since(s.fromTXG)
	for _, f := range changed {
		if s.header.Resuming && f.object < s.header.Object {
			continue
		}
		if err := visit(f, true, extent{}, 0, 0); err != nil {
			return err
		}
		for _, e := range f.extents {
			if e.birth <= s.fromTXG {
				continue
			}
			for from := uint64(0); from < e.length; from += chunkSize {
				if s.header.Resuming && f.object == s.header.Object && e.offset+from < s.header.Offset {
					continue
				}
				if err := visit(f, false, e, from, min(chunkSize, e.length-from)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// say writes to standard output in a dry run, else to standard error.
func (p *process) say(text string, toOutput bool) bool {
	if !toOutput {
		p.errorf("%s", text)
		return true
	}
	_, err := p.out.Write([]byte(text))
	return err == nil
}

// estimate prints what would be sent.
func (p *process) estimate(sendings []*sending, flags sendFlags, single bool) bool {
	var text strings.Builder
	var total uint64
	for _, s := range sendings {
		size := s.size()
		total += size
		switch {
		case flags.parsable && s.fromName != "":
			fmt.Fprintf(&text, "incremental\t%s\t%s\t%d\n", s.fromName, s.toName, size)
		case flags.parsable:
			fmt.Fprintf(&text, "full\t%s\t%d\n", s.toName, size)
		case s.fromName != "":
			from := s.fromName
			if !strings.ContainsAny(from, "@#") {
				from = "@" + from
			}
			fmt.Fprintf(&text, "send from %s to %s estimated size is %s\n", from, s.toName, niceBytes(size))
		default:
			fmt.Fprintf(&text, "full send of %s estimated size is %s\n", s.toName, niceBytes(size))
		}
	}
	switch {
	case flags.parsable:
		fmt.Fprintf(&text, "size\t%d\n", total)
	case single:
		fmt.Fprintf(&text, "total estimated size is %s\n", niceNumber(total))
	default:
		fmt.Fprintf(&text, "total estimated size is %s\n", niceBytes(total))
	}
	return p.say(text.String(), flags.dryRun)
}

// transmit writes the streams. failed is the exit status when that breaks off.
func (p *process) transmit(sendings []*sending, pack *packageHeader, flags sendFlags, failed int) int {
	w := &streamWriter{out: p.out}
	progress := &progress{process: p, flags: flags}
	if pack != nil && w.header(recordPackage, pack) != nil {
		return p.sendFailed(sendings[0], w.err, failed)
	}
	for _, s := range sendings {
		progress.begin(s.toName)
		if err := s.write(w, progress); err != nil {
			return p.sendFailed(s, err, failed)
		}
	}
	if pack != nil && w.record(recordPackageEnd, nil) != nil {
		return p.sendFailed(sendings[len(sendings)-1], w.err, failed)
	}
	return 0
}

func (p *process) sendFailed(s *sending, err error, failed int) int {
	if p.ctx.Err() == nil && !errors.Is(err, syscall.EPIPE) { // that is a SIGPIPE, which says nothing
		p.errorf("warning: cannot send '%s': Input/output error\n", s.toName)
	}
	return failed
}

// write writes the stream of one snapshot.
func (s *sending) write(w *streamWriter, progress *progress) error {
	if err := w.header(recordBegin, s.header); err != nil {
		return err
	}
	_, removed := s.content.since(s.fromTXG)
	for _, path := range removed {
		if err := w.remove(path); err != nil {
			return err
		}
	}
	err := s.each(func(f *file, first bool, e extent, from, length uint64) error {
		if first {
			return w.object(f)
		}
		progress.tick()
		return w.write(f.object, e, from, length)
	})
	if err != nil || s.header.Saved { // a saved stream breaks off where the receive did
		return err
	}
	return w.record(recordEnd, nil)
}

// progress prints how far the stream of a snapshot is, each second, as -v and -P -v ask for it.
type progress struct {
	process *process
	flags   sendFlags
	name    string
	start   int64 // where the snapshot's stream begins in the output
	last    time.Time
}

func (g *progress) begin(name string) {
	g.name, g.start = name, g.process.out.count
	if !g.flags.progress {
		return
	}
	g.last = g.process.fake.clock.Now()
	if !g.flags.parsable {
		g.process.errorf("TIME        SENT   SNAPSHOT %s\n", name)
	}
}

// tick is called before each part of the stream.
func (g *progress) tick() {
	if !g.flags.progress {
		return
	}
	now := g.process.fake.clock.Now()
	if now.Sub(g.last) < time.Second {
		return
	}
	g.last = now
	sent := g.process.out.count - g.start
	if g.flags.parsable {
		g.process.errorf("%s\t%d\t%s\n", now.UTC().Format(time.TimeOnly), sent, g.name)
		return
	}
	g.process.errorf("%s   %5s   %s\n", now.UTC().Format(time.TimeOnly), niceBytes(uint64(sent)), g.name) //nolint:gosec // a count
}
