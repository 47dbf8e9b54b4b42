// What filesystems and volumes contain: files made of extents, shared between heads and snapshots until one changes.

package zfsfake

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sort"
	"strings"
	"sync"
)

// content is the state of a head or a snapshot. Once shared it is never changed; a head that wants to write makes a copy
// of the map first. Files are never changed after they were put in.
type content struct {
	files      map[string]*file
	shared     bool
	bytes      uint64
	changed    uint64 // txg of the last change
	nextObject uint64
}

// file is a file, the whole of a volume (path ""), or the memory of a file that was removed.
type file struct {
	path    string
	object  uint64
	birth   uint64 // txg in which it was made, resized or removed
	size    uint64
	extents []extent // by offset, not overlapping
	removed bool

	once sync.Once
	sum  [sha256.Size]byte
}

// extent is a run of bytes: given ones, or generated ones when data is nil.
type extent struct {
	offset uint64
	length uint64
	birth  uint64
	data   []byte
	seed   uint64
	start  uint64 // where in the seed's endless stream the run begins
}

const firstObject = 2 // object 1 stands for the filesystem itself (the master node)

func newContent() *content { return &content{files: map[string]*file{}, nextObject: firstObject} }

// share marks c as seen by a snapshot and answers it.
func (c *content) share() *content {
	c.shared = true
	return c
}

// writable answers c, or a copy when c is shared.
func (c *content) writable() *content {
	if !c.shared {
		return c
	}
	clone := &content{files: make(map[string]*file, len(c.files)+1), bytes: c.bytes, changed: c.changed, nextObject: c.nextObject}
	for path, f := range c.files {
		clone.files[path] = f
	}
	return clone
}

// put stores f under its path in c, which must be writable.
func (c *content) put(f *file, txg uint64) {
	if old := c.files[f.path]; old != nil {
		c.bytes -= old.allocated()
	}
	c.files[f.path] = f
	c.bytes += f.allocated()
	if f.object >= c.nextObject {
		c.nextObject = f.object + 1
	}
	if txg > c.changed {
		c.changed = txg
	}
}

// bytesMissingFrom counts the bytes of files that later does not have in the same form.
func (c *content) bytesMissingFrom(later *content) uint64 {
	var missing uint64
	for path, f := range c.files {
		if later.files[path] != f {
			missing += f.allocated()
		}
	}
	return missing
}

// since answers the files made or changed after txg, by object number, and the paths removed after it, sorted.
func (c *content) since(txg uint64) (changed []*file, removed []string) {
	for path, f := range c.files {
		switch {
		case f.removed:
			if f.birth > txg && txg != 0 {
				removed = append(removed, path)
			}
		case f.birth > txg || f.newestExtent() > txg:
			changed = append(changed, f)
		}
	}
	sort.Slice(changed, func(i, j int) bool { return changed[i].object < changed[j].object })
	sort.Strings(removed)
	return changed, removed
}

func (f *file) allocated() uint64 {
	var bytes uint64
	for i := range f.extents {
		bytes += f.extents[i].length
	}
	return bytes
}

func (f *file) newestExtent() uint64 {
	var newest uint64
	for i := range f.extents {
		newest = max(newest, f.extents[i].birth)
	}
	return newest
}

// overlay answers extents with e laid over them. It appends in place where e lies behind all others.
func overlay(extents []extent, e extent) []extent {
	if e.length == 0 {
		return extents
	}
	if n := len(extents); n == 0 || extents[n-1].offset+extents[n-1].length <= e.offset {
		if n > 0 && extents[n-1].continuedBy(e) {
			extents[n-1].length += e.length
			return extents
		}
		return append(extents, e)
	}
	result := make([]extent, 0, len(extents)+2)
	placed := false
	place := func() {
		if !placed {
			result = append(result, e)
			placed = true
		}
	}
	end := e.offset + e.length
	for _, old := range extents {
		oldEnd := old.offset + old.length
		if oldEnd <= e.offset {
			result = append(result, old)
			continue
		}
		if old.offset < e.offset {
			result = append(result, old.slice(0, e.offset-old.offset))
		}
		place()
		if old.offset >= end {
			result = append(result, old)
		} else if oldEnd > end {
			result = append(result, old.slice(end-old.offset, old.length))
		}
	}
	place()
	return result
}

// continuedBy says whether e follows x in place and in the generator's stream, so that both are one extent.
func (x extent) continuedBy(e extent) bool {
	return x.data == nil && e.data == nil && x.birth == e.birth && x.seed == e.seed &&
		x.offset+x.length == e.offset && x.start+x.length == e.start
}

// slice answers the part of x from and up to positions within it.
func (x extent) slice(from, to uint64) extent {
	part := x
	part.offset += from
	part.length = to - from
	if x.data != nil {
		part.data = x.data[from:to]
	} else {
		part.start += from
	}
	return part
}

// read fills buffer with the bytes of x that begin at position from within it.
func (x extent) read(buffer []byte, from uint64) {
	if x.data != nil {
		copy(buffer, x.data[from:])
		return
	}
	generate(buffer, x.seed, x.start+from)
}

// generate fills buffer with the bytes of seed's endless stream from position start on.
func generate(buffer []byte, seed, start uint64) {
	var word [8]byte
	index := start / 8
	if skip := start % 8; skip != 0 {
		binary.LittleEndian.PutUint64(word[:], splitmix(seed^splitmix(index)))
		buffer = buffer[copy(buffer, word[skip:]):]
		index++
	}
	for len(buffer) >= 8 {
		binary.LittleEndian.PutUint64(buffer, splitmix(seed^splitmix(index)))
		buffer = buffer[8:]
		index++
	}
	if len(buffer) > 0 {
		binary.LittleEndian.PutUint64(word[:], splitmix(seed^splitmix(index)))
		copy(buffer, word[:])
	}
}

// hash sums up the file: equal sums mean equal contents, however the extents are cut. Generated runs count by their
// origin, so that a gibibyte need not be made again to be compared.
func (f *file) hash() [sha256.Size]byte {
	f.once.Do(func() {
		h := sha256.New()
		field := func(values ...uint64) {
			for _, value := range values {
				var word [8]byte
				binary.LittleEndian.PutUint64(word[:], value)
				h.Write(word[:])
			}
		}
		field(f.size)
		for i := 0; i < len(f.extents); {
			run := f.extents[i]
			length := run.length
			next := i + 1
			for next < len(f.extents) {
				e := f.extents[next]
				together := e.offset == run.offset+length && (e.data == nil) == (run.data == nil)
				if !together || run.data == nil && (e.seed != run.seed || e.start != run.start+length) {
					break
				}
				length += e.length
				next++
			}
			field(run.offset, length)
			if run.data == nil {
				field(1, run.seed, run.start)
			} else {
				field(0)
				for _, e := range f.extents[i:next] {
					h.Write(e.data)
				}
			}
			i = next
		}
		h.Sum(f.sum[:0])
	})
	return f.sum
}

func (c *content) hash() string {
	paths := make([]string, 0, len(c.files))
	for path, f := range c.files {
		if !f.removed {
			paths = append(paths, path)
		}
	}
	sort.Strings(paths)
	h := sha256.New()
	for _, path := range paths {
		sum := c.files[path].hash()
		h.Write(fmt.Appendf(nil, "%d:%s", len(path), path))
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Write stores a file in a filesystem, replacing one of that path; for a volume the path is "". The data is copied.
func (f *Fake) Write(dataset, path string, data []byte) error {
	data = bytes.Clone(data)
	return f.store(dataset, path, 0, true, extent{length: uint64(len(data)), data: nonNil(data)})
}

// WriteAt writes into a file, or a volume with path "", at an offset; what is not there yet is made. An incremental send
// then carries these bytes only, as ZFS sends changed records only.
func (f *Fake) WriteAt(dataset, path string, offset uint64, data []byte) error {
	data = bytes.Clone(data)
	return f.store(dataset, path, offset, false, extent{offset: offset, length: uint64(len(data)), data: nonNil(data)})
}

// Generate stores a file of length bytes that look random and are determined by seed. It costs no memory however long
// it is, and neither does a copy that was received.
func (f *Fake) Generate(dataset, path string, seed, length uint64) error {
	return f.store(dataset, path, 0, true, extent{length: length, seed: seed})
}

// Remove deletes a file.
func (f *Fake) Remove(dataset, path string) error {
	f.state.Lock()
	defer f.state.Unlock()
	d := f.dataset(dataset)
	if d == nil {
		return fmt.Errorf("zfsfake: no dataset %q", dataset)
	}
	old := d.live.files[path]
	if old == nil || old.removed {
		return fmt.Errorf("zfsfake: no file %q in %q", path, dataset)
	}
	txg := d.pool.nextTXG()
	d.live = d.live.writable()
	d.live.put(&file{path: path, object: old.object, birth: txg, removed: true}, txg)
	return nil
}

// Read answers a whole file of a dataset's head or of a snapshot (a name with @).
func (f *Fake) Read(dataset, path string) ([]byte, error) {
	f.state.Lock()
	defer f.state.Unlock()
	c, err := f.contentOf(dataset)
	if err != nil {
		return nil, err
	}
	found := c.files[path]
	if found == nil || found.removed {
		return nil, fmt.Errorf("zfsfake: no file %q in %q", path, dataset)
	}
	data := make([]byte, found.size)
	for _, e := range found.extents {
		e.read(data[e.offset:e.offset+e.length], 0)
	}
	return data, nil
}

// ContentHash sums up all files of a snapshot, or of a dataset's head when the name has no @. Two snapshots of equal
// hash have equal contents. It is no command and not in the log.
func (f *Fake) ContentHash(name string) (string, error) {
	f.state.Lock()
	c, err := f.contentOf(name)
	if err == nil && !c.shared {
		c = c.share() // the head copies before it writes again, so that c stands still while it is summed up
	}
	f.state.Unlock()
	if err != nil {
		return "", err
	}
	return c.hash(), nil
}

// contentOf finds what a dataset or snapshot holds; the caller holds f.state.
func (f *Fake) contentOf(name string) (*content, error) {
	if strings.Contains(name, "@") {
		if s := f.snapshot(name); s != nil {
			return s.content, nil
		}
		return nil, fmt.Errorf("zfsfake: no snapshot %q", name)
	}
	if d := f.dataset(name); d != nil {
		return d.live, nil
	}
	return nil, fmt.Errorf("zfsfake: no dataset %q", name)
}

// store lays e into a file; replace starts it anew.
func (f *Fake) store(dataset, path string, offset uint64, replace bool, e extent) error {
	f.state.Lock()
	defer f.state.Unlock()
	d := f.dataset(dataset)
	switch {
	case d == nil:
		return fmt.Errorf("zfsfake: no dataset %q", dataset)
	case d.volume != (path == ""):
		return fmt.Errorf("zfsfake: %q is a %s, so path %q cannot be written", dataset, d.kind(), path)
	case !d.keyAvailable():
		return fmt.Errorf("zfsfake: the key of %q is not loaded", dataset)
	case !d.pool.fits(e.length):
		return fmt.Errorf("zfsfake: no space left in %q", d.pool.name)
	}
	txg := d.pool.nextTXG()
	d.live = d.live.writable()
	written := &file{path: path, object: d.live.nextObject, birth: txg, size: offset + e.length}
	old := d.live.files[path]
	if !replace && old != nil && !old.removed {
		written.object = old.object
		written.birth = old.birth
		written.size = max(old.size, offset+e.length)
		if written.size > old.size {
			written.birth = txg
		}
		written.extents = append([]extent(nil), old.extents...)
	}
	e.birth = txg
	written.extents = overlay(written.extents, e)
	d.live.put(written, txg)
	return nil
}

func nonNil(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}
