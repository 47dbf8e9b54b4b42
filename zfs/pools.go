// The imported pools.

package zfs

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Pool is an imported pool.
type Pool struct {
	Name string
	GUID uint64

	// Size and Free are in bytes. Both are 0 for a pool that is suspended or faulted and does not tell.
	Size, Free uint64

	// Health is "ONLINE", "DEGRADED", "FAULTED", "SUSPENDED"….
	Health   string
	ReadOnly bool

	// Features holds, by name without "feature@", the feature flags that are enabled or active.
	Features map[string]bool
}

// Pools lists the imported pools, ordered by name, with one command. A host without pools has none, which is no error.
func (s *System) Pools(ctx context.Context) ([]Pool, error) {
	output, err := s.output(ctx, "zpool", "get", "-Hp", "-o", "name,property,value", "all")
	if err != nil {
		return nil, fmt.Errorf("list the pools: %w", err)
	}
	return parsePools(output)
}

// parsePools reads the lines "name TAB property TAB value" of zpool get.
func parsePools(output string) ([]Pool, error) {
	const command = "zpool get"
	byName := map[string]*Pool{}
	for line := range strings.Lines(output) {
		line = strings.TrimSuffix(line, "\n")
		fields := strings.SplitN(line, "\t", 3)
		if len(fields) != 3 || fields[0] == "" {
			return nil, outputError(command, line, "there are %d columns instead of 3", len(fields))
		}
		name, property, value := fields[0], fields[1], fields[2]
		pool := byName[name]
		if pool == nil {
			pool = &Pool{Name: name, Features: map[string]bool{}}
			byName[name] = pool
		}
		var err error
		switch property {
		case "guid":
			pool.GUID, err = strconv.ParseUint(value, 10, 64)
		case "size":
			pool.Size, err = numberOrNone(value)
		case "free":
			pool.Free, err = numberOrNone(value)
		case "health":
			pool.Health = value
		case "readonly":
			pool.ReadOnly = value == "on"
		default:
			if feature, ok := strings.CutPrefix(property, "feature@"); ok && (value == "enabled" || value == "active") {
				pool.Features[feature] = true
			}
		}
		if err != nil {
			return nil, outputError(command, line, "%s is not a number", property)
		}
	}
	pools := make([]Pool, 0, len(byName))
	for _, pool := range byName {
		if pool.GUID == 0 {
			return nil, outputError(command, pool.Name, "the pool has no guid")
		}
		pools = append(pools, *pool)
	}
	slices.SortFunc(pools, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	return pools, nil
}

// numberOrNone reads a number; "-" is what zfs and zpool print for a value that does not exist, and is 0 here.
func numberOrNone(value string) (uint64, error) {
	if value == "-" {
		return 0, nil
	}
	return strconv.ParseUint(value, 10, 64)
}
