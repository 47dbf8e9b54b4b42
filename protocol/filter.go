// Filters: which filesystems a job replicates, and which a host lets out.

package protocol

import (
	"sort"
	"strings"
)

// Filter maps patterns to whether they are in. "x<" is x and all below it, "<" is everything, "x" is x alone. The most
// specific pattern wins, a full name beats a subtree, and what no pattern matches is out.
type Filter map[string]bool

// Match tells whether the filter has the filesystem in.
func (f Filter) Match(filesystem string) bool {
	if in, found := f[filesystem]; found {
		return in
	}
	for prefix := filesystem; ; {
		if in, found := f[prefix+"<"]; found {
			return in
		}
		slash := strings.LastIndexByte(prefix, '/')
		if slash < 0 {
			break
		}
		prefix = prefix[:slash]
	}
	return f["<"]
}

// Roots are the datasets whose subtrees must be listed to find everything that the filter may have in, without any that
// lies below another, in order. Empty means that all pools must be listed.
func (f Filter) Roots() []string {
	listed := map[string]bool{}
	for pattern, in := range f {
		if !in {
			continue
		}
		root := strings.TrimSuffix(pattern, "<")
		if root == "" {
			return nil
		}
		listed[root] = true
	}
	var top []string
	for root := range listed {
		if !anyAbove(root, listed) {
			top = append(top, root)
		}
	}
	sort.Strings(top)
	return top
}

// anyAbove tells whether the set has an ancestor of the dataset.
func anyAbove(dataset string, set map[string]bool) bool {
	for {
		slash := strings.LastIndexByte(dataset, '/')
		if slash < 0 {
			return false
		}
		dataset = dataset[:slash]
		if set[dataset] {
			return true
		}
	}
}

// Validate tells whether the filter makes sense: it has something in, and its patterns are dataset names, with at most
// a "<" at the end.
func (f Filter) Validate() error {
	anyIn := false
	for pattern, in := range f {
		anyIn = anyIn || in
		name := strings.TrimSuffix(pattern, "<")
		switch {
		case pattern == "":
			return Usagef("filesystem filter: an empty pattern matches nothing; use %q for everything", "<")
		case strings.ContainsAny(name, "<@#*?"):
			return Usagef("filesystem filter: pattern %q: a pattern is a dataset's full name, or a name with %q at its end"+
				" for the dataset and all below it; there are no wildcards", pattern, "<")
		case strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.Contains(name, "//"):
			return Usagef("filesystem filter: pattern %q is no dataset name: it has an empty component", pattern)
		case name != "" && !isDatasetName(name):
			return Usagef("filesystem filter: pattern %q is no dataset name: it has at most %d letters, digits and any of \"-_.: /\"",
				pattern, maxDatasetLength)
		}
	}
	if !anyIn {
		return Usagef("filesystem filter: no pattern is true, so nothing would ever match")
	}
	return nil
}
