// How many names fit on one command line.

package zfs

import "iter"

// maxArguments bounds the bytes that names take on one command line. Linux allows 128 KiB for a single argument
// (MAX_ARG_STRLEN; fs@a,b,c is one) and more for all of them, execve(2); one limit below both serves all commands.
const maxArguments = 96 << 10

// batches cuts names into runs that take at most limit bytes, each with its separator, and at least one name.
func batches(names []string, limit int) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		start, size := 0, 0
		for i, name := range names {
			if i > start && size+len(name)+1 > limit {
				if !yield(names[start:i:i]) {
					return
				}
				start, size = i, 0
			}
			size += len(name) + 1
		}
		if start < len(names) {
			yield(names[start:])
		}
	}
}
