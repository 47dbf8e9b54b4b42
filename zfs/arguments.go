// How many names fit on one command line.

package zfs

import "iter"

// maxArguments bounds the bytes that names take on one command line. Linux allows 128 KiB for a single argument
// (MAX_ARG_STRLEN; fs@a,b,c is one) and more for all of them, execve(2); one limit below both serves all commands.
const maxArguments = 96 << 10

// batches cuts names into runs of at most count names that take at most size bytes, each with its separator; every run has
// at least one name.
func batches(names []string, size, count int) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		start, taken := 0, 0
		for i, name := range names {
			if i > start && (taken+len(name)+1 > size || i-start >= count) {
				if !yield(names[start:i:i]) {
					return
				}
				start, taken = i, 0
			}
			taken += len(name) + 1
		}
		if start < len(names) {
			yield(names[start:])
		}
	}
}
