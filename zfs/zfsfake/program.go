// program: channel programs, of which the fake knows one.

package zfsfake

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/zfleet/zfleet/zfs"
)

// zfsProgram reads the program from standard input and runs it. There is no interpreter: a program other than
// zfs.BookmarkProgram fails as one does that calls what is not there.
func (p *process) zfsProgram() int {
	asJSON := false
	options, operands := getopt(p.args, "j", nil)
	for _, o := range options {
		if o.letter != 'j' {
			return p.invalidOption(o)
		}
		asJSON = true
	}
	if len(operands) < 2 {
		p.errorf("invalid number of arguments\n")
		return p.showUsage()
	}
	poolName, file, argv := operands[0], operands[1], operands[2:]
	const failed = "Channel program execution failed:\n"
	if p.fake.programsRefused {
		p.errorf(failed + "Permission denied. Channel programs must be run as root.\n")
		return 1
	}
	text, err := io.ReadAll(p.in)
	if err != nil {
		return 1
	}
	p.fake.state.Lock()
	pool := p.fake.pools[poolName]
	if pool == nil {
		p.fake.state.Unlock()
		p.errorf("cannot open '%s': no such pool\ncannot open pool '%s'\n", poolName, poolName)
		return 1
	}
	if file != "-" || string(text) != zfs.BookmarkProgram || !asJSON || pool.readOnly {
		p.fake.state.Unlock()
		p.errorf(failed + "the fake runs nothing but zfs.BookmarkProgram, from standard input, on pools that can be changed\n")
		return 1
	}
	errnos := p.fake.bookmarkProgram(pool, argv)
	p.fake.state.Unlock()
	output, err := json.Marshal(map[string]map[int]int{"return": errnos})
	if err != nil {
		return 1
	}
	_, err = p.out.Write(output)
	if err != nil {
		return 1
	}
	return 0
}

// What zfs.sync.bookmark answers for what can be wrong: Linux's numbers, and one of OpenZFS's own (libzfs_core.h).
const (
	errnoNoEntry      = 2    // ENOENT
	errnoNoBookmark   = 3    // ESRCH
	errnoExists       = 17   // EEXIST
	errnoOtherPool    = 18   // EXDEV
	errnoInvalid      = 22   // EINVAL
	errnoNotSupported = 95   // ENOTSUP
	errnoNoAncestor   = 1039 // ZFS_ERR_BOOKMARK_SOURCE_NOT_ANCESTOR
)

// bookmarkProgram is zfs.BookmarkProgram; the caller holds f.state.
func (f *Fake) bookmarkProgram(pool *pool, argv []string) map[int]int {
	failed := map[int]int{}
	for i := 0; i+1 < len(argv); i += 2 {
		if errno := f.syncBookmark(pool, argv[i], argv[i+1]); errno != 0 {
			failed[i+1] = errno // Lua counts from 1
		}
	}
	return failed
}

// syncBookmark is zfs.sync.bookmark: it answers an errno.
func (f *Fake) syncBookmark(pool *pool, source, name string) int {
	if !strings.ContainsAny(source, "@#") || !strings.Contains(name, "#") {
		return errnoInvalid
	}
	o, ok := f.find(source)
	switch {
	case !ok && o.dataset != nil && strings.Contains(source, "#"):
		return errnoNoBookmark
	case !ok:
		return errnoNoEntry
	case o.dataset.pool != pool:
		return errnoOtherPool
	}
	switch f.makeBookmark(o, name) {
	case bookmarkExists:
		return errnoExists
	case bookmarkNameInvalid:
		return errnoInvalid
	case bookmarkOfNoAncestor:
		return errnoNoAncestor
	case bookmarkElsewhere:
		return errnoOtherPool
	case bookmarkDatasetAbsent:
		return errnoNoEntry
	case bookmarksNotEnabled:
		return errnoNotSupported
	}
	return 0
}
