// Properties of what is received: which are set and which are inherited, for filesystems and for volumes.

package protocol

import (
	"maps"
	"slices"
)

// PropertyChanges are properties that are set (zfs recv -o) or left to the parent (zfs recv -x).
type PropertyChanges struct {
	Override map[string]string `msgpack:"override,omitempty" json:"override,omitempty" yaml:"override,omitempty"`
	Inherit  []string          `msgpack:"inherit,omitempty" json:"inherit,omitempty" yaml:"inherit,omitempty"`
}

// RecvProperties are a job's changes to the properties of what is received: those for everything, and those for
// filesystems and for volumes alone, which win over the former.
type RecvProperties struct {
	Override   map[string]string `msgpack:"override,omitempty" json:"override,omitempty" yaml:"override,omitempty"`
	Inherit    []string          `msgpack:"inherit,omitempty" json:"inherit,omitempty" yaml:"inherit,omitempty"`
	Filesystem PropertyChanges   `msgpack:"filesystem" json:"filesystem" yaml:"filesystem,omitempty"`
	Volume     PropertyChanges   `msgpack:"volume" json:"volume" yaml:"volume,omitempty"`
}

// For are the changes for a volume or a filesystem: those for everything, without the properties that its type does not
// have, and then those for its type. The result is the caller's own.
func (p RecvProperties) For(volume bool) PropertyChanges {
	own := p.Filesystem
	if volume {
		own = p.Volume
	}
	override, inherit := map[string]string{}, map[string]bool{}
	for name, value := range p.Override {
		if appliesTo(name, volume) {
			override[name] = value
		}
	}
	for _, name := range p.Inherit {
		if appliesTo(name, volume) {
			inherit[name] = true
			delete(override, name)
		}
	}
	for name, value := range own.Override {
		override[name] = value
		delete(inherit, name)
	}
	for _, name := range own.Inherit {
		inherit[name] = true
		delete(override, name)
	}
	return PropertyChanges{Override: override, Inherit: slices.Sorted(maps.Keys(inherit))}
}

// validate tells what is wrong with the changes.
func (p RecvProperties) validate() error {
	for _, part := range []struct {
		name    string
		changes PropertyChanges
		// kinds are what the part is for: false for filesystems, true for volumes.
		kinds []bool
	}{
		{"", PropertyChanges{Override: p.Override, Inherit: p.Inherit}, []bool{false, true}},
		{".filesystem", p.Filesystem, []bool{false}},
		{".volume", p.Volume, []bool{true}},
	} {
		for _, name := range slices.Sorted(maps.Keys(part.changes.Override)) {
			if err := validateProperty(name, part.kinds); err != nil {
				return Usagef("recv.properties%s.override: %w", part.name, err)
			}
		}
		seen := map[string]bool{}
		for _, name := range part.changes.Inherit {
			if err := validateProperty(name, part.kinds); err != nil {
				return Usagef("recv.properties%s.inherit: %w", part.name, err)
			}
			if _, both := part.changes.Override[name]; both {
				return Usagef("recv.properties%s: %s is both overridden and inherited; say one of the two", part.name, name)
			}
			if seen[name] {
				return Usagef("recv.properties%s.inherit: %s is there twice", part.name, name)
			}
			seen[name] = true
		}
	}
	return nil
}

// placeholderProperty marks placeholders; only zfleet itself sets it.
const placeholderProperty = "zrepl:placeholder"

func validateProperty(name string, kinds []bool) error {
	switch {
	case !propertyPattern.MatchString(name):
		return Usagef("%q is no property's name", name)
	case name == placeholderProperty:
		return Usagef("%s is how zfleet marks placeholders, and not for jobs to change", name)
	case slices.ContainsFunc(kinds, func(volume bool) bool { return appliesTo(name, volume) }):
		return nil
	case filesystemOnly(name):
		return Usagef("volumes have no property %s; say it under recv.properties.filesystem, or for both under recv.properties,"+
			" where volumes leave it out", name)
	default:
		return Usagef("filesystems have no property %s; say it under recv.properties.volume", name)
	}
}

// appliesTo tells whether volumes, or filesystems, have the property.
func appliesTo(name string, volume bool) bool {
	if volume {
		return !filesystemOnly(name)
	}
	return !volumeOnly(name)
}

// filesystemOnly tells whether it is a native property that volumes do not have, as zcommon/zfs_prop.c registers it. zfs
// recv -o of one fails for a volume.
func filesystemOnly(name string) bool {
	switch name {
	case "aclinherit", "aclmode", "acltype", "atime", "canmount", "case", "casesensitivity", "devices", "direct", "dnodesize",
		"dnsize", "exec", "filesystem_limit", "longname", "mountpoint", "nbmand", "normalization", "overlay", "quota",
		"recordsize", "recsize", "refquota", "relatime", "setuid", "sharenfs", "sharesmb", "snapdir", "special_small_blocks",
		"utf8only", "version", "vscan", "xattr", "zoned":
		return true
	}
	return false
}

// volumeOnly tells whether it is a native property that filesystems do not have.
func volumeOnly(name string) bool {
	switch name {
	case "volblock", "volblocksize", "volsize", "volthreading":
		return true
	}
	return false
}
