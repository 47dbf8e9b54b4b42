// Order: maps in order of their keys.

package fleet

import (
	"cmp"
	"iter"
	"maps"
	"slices"
)

func sortedByKey[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}
