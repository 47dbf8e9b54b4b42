// Names: OpenZFS's rules (entity_namecheck) with libzfs's words for what is wrong.

package zfsfake

import "strings"

const (
	maxNameLength = 255
	maxNesting    = 50
)

// nameProblem says in libzfs's words what is wrong with a name of a dataset, snapshot or bookmark; "" when nothing is.
func nameProblem(name string) string {
	switch {
	case len(name) > maxNameLength:
		return "name is too long"
	case strings.HasPrefix(name, "/"):
		return "leading slash in name"
	case name == "":
		return emptyComponent
	}
	delimited := false
	for start := 0; ; {
		end := len(name)
		if i := strings.IndexAny(name[start:], "/@#"); i >= 0 {
			end = start + i
		}
		component := name[start:end]
		if end == len(name) && name[end-1] == '/' {
			return "trailing slash in name"
		}
		for i := range len(component) {
			if c := component[i]; !validNameByte(c) && c != '%' {
				return "invalid character '" + string([]byte{c}) + "' in name"
			}
		}
		if end == len(name) || name[end] == '/' {
			switch component {
			case ".":
				return "self reference, '.' is found in name"
			case "..":
				return "parent reference, '..' is found in name"
			}
		}
		if end < len(name) && name[end] != '/' {
			if delimited {
				return "multiple '@' and/or '#' delimiters in name"
			}
			delimited = true
		}
		switch {
		case component == "":
			return emptyComponent
		case end == len(name):
			return ""
		case name[end] == '/' && delimited:
			return "trailing slash in name"
		}
		start = end + 1
	}
}

const emptyComponent = "empty component or misplaced '@' or '#' delimiter in name"

func validNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.: ", c) >= 0
}

// typedNameProblem adds what libzfs asks of a name for the types of object it may mean (zfs_validate_name).
func typedNameProblem(name string, types kinds, modifying bool) string {
	switch {
	case types&kindSnapshot == 0 && strings.Contains(name, "@"):
		return "snapshot delimiter '@' is not expected here"
	case types == kindSnapshot && !strings.Contains(name, "@"):
		return "missing '@' delimiter in snapshot name"
	case types&kindBookmark == 0 && strings.Contains(name, "#"):
		return "bookmark delimiter '#' is not expected here"
	case types == kindBookmark && !strings.Contains(name, "#"):
		return "missing '#' delimiter in bookmark name"
	case modifying && strings.Contains(name, "%"):
		return "invalid character % in name"
	}
	return nameProblem(name)
}

// parentName answers what precedes the last slash, and false for a pool.
func parentName(name string) (string, bool) {
	i := strings.LastIndexByte(name, '/')
	if i < 0 {
		return "", false
	}
	return name[:i], true
}
