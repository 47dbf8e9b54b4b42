// The import rules: which of the project's packages may import which.

package imports

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// rules says for each package, or group of packages, which of the project's own packages it may import. docs/architecture.md
// has the reasons. A group ends in "/..." and includes the package that it is named for; the first rule that fits counts.
func rules() []rule {
	return []rule{
		{"protocol", nil},
		{"zfs", nil},
		{"zfs/zfsfake", []string{"zfs"}},
		{"zfs/zfstest", []string{"zfs"}},
		{"natsserver", nil},
		{"natsserver/natstest", []string{"natsserver"}},
		{"telemetry", []string{"protocol"}},
		{"abstractions", []string{"zfs", "protocol"}},
		{"fleet", []string{"protocol"}},
		{"fleet/natsconfig", []string{"protocol"}},
		{"coordinator/plan", []string{"protocol"}},
		{"coordinator", []string{"protocol", "telemetry", "coordinator/plan"}},
		{"worker/transport", []string{"protocol"}},
		{"worker/transport/...", []string{"protocol", "worker/transport"}},
		{"worker", []string{"abstractions", "zfs", "protocol", "telemetry", "worker/transport/..."}},
		{"cmd/...", []string{"..."}},
		{"itest/...", []string{"..."}},
	}
}

type rule struct {
	of    string
	mayBe []string
}

// forTests are what the tests of every package may import beyond its rule.
func forTests() []string {
	return []string{"natsserver", "natsserver/natstest", "zfs/zfsfake", "zfs/zfstest", "itest/model"}
}

// mayNotReach says which packages must not be linked into which, by whatever detour. Names are import paths, or begin one.
func mayNotReach() []struct{ from, to, why string } {
	return []struct{ from, to, why string }{
		{"coordinator", module + "/zfs", "the coordinator knows no ZFS command"},
		{"coordinator", module + "/worker", "coordinator and worker meet in protocol only"},
		{"worker", module + "/coordinator", "the worker knows no plan, only steps"},
		{"fleet", module + "/coordinator", "there is no request to the coordinator, only records in NATS"},
		{"fleet", module + "/worker", "operators ask over NATS"},
		{"zfs", "github.com/nats-io/", "the ZFS layer is of use without NATS"},
		{"protocol", "github.com/nats-io/nats-server/", "only package natsserver embeds the server"},
		{"telemetry", "github.com/nats-io/nats-server/", "only package natsserver embeds the server"},
		{"coordinator", "github.com/nats-io/nats-server/", "only package natsserver embeds the server"},
		{"worker", "github.com/nats-io/nats-server/", "only package natsserver embeds the server"},
		{"fleet", "github.com/nats-io/nats-server/", "only package natsserver embeds the server"},
		{"fleet/natsconfig", "github.com/nats-io/nats-server/", "it writes configurations, and runs none"},
	}
}

// matches tells whether the package is the one, or of the group, that the pattern names.
func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if group, is := strings.CutSuffix(pattern, "/..."); is {
		return name == group || strings.HasPrefix(name, group+"/")
	}
	return name == pattern
}

func anyMatches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, name) })
}

func TestPackagesImportOnlyWhatTheirRulesAllow(t *testing.T) {
	t.Parallel()
	for _, one := range packages(t) {
		name, _ := short(one.ImportPath)
		if one.Error != nil && len(one.GoFiles) == 0 {
			continue // a directory with nothing to compile
		}
		at := slices.IndexFunc(rules(), func(r rule) bool { return matches(r.of, name) })
		if !assert.GreaterOrEqualf(t, at, 0, "package %s has no import rule: give it one in itest/imports/rules_test.go, in "+
			".golangci.yml and in docs/architecture.md", name) {
			continue
		}
		allowed := rules()[at].mayBe
		check := func(imports, allowed []string, what string) {
			for _, imported := range imports {
				if other, ours := short(imported); ours && other != name {
					assert.Truef(t, anyMatches(allowed, other), "%s%s imports %s, and may import only: %s",
						what, name, other, strings.Join(append(slices.Clone(allowed), "other people's packages"), ", "))
				}
			}
		}
		check(one.Imports, allowed, "")
		check(append(slices.Clone(one.TestImports), one.XTestImports...), append(slices.Clone(allowed), forTests()...), "the test of ")
	}
}

func TestNothingIsLinkedInByADetour(t *testing.T) {
	t.Parallel()
	for _, one := range packages(t) {
		name, _ := short(one.ImportPath)
		for _, forbidden := range mayNotReach() {
			if name != forbidden.from {
				continue
			}
			for _, dependency := range one.Deps {
				reached := dependency == forbidden.to || strings.HasPrefix(dependency, strings.TrimSuffix(forbidden.to, "/")+"/")
				assert.Falsef(t, reached, "%s needs %s, by whatever detour, and "+
					"must not: %s", name, dependency, forbidden.why)
			}
		}
	}
}

func TestPackagesAreNamedForWhatTheyHold(t *testing.T) {
	t.Parallel()
	empty := []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base", "lib", "types", "interfaces"}
	for _, one := range packages(t) {
		for _, name := range []string{one.Name, path.Base(one.ImportPath)} {
			assert.NotContainsf(t, empty, name, "%s: the name %q says nothing about what is in it", one.ImportPath, name)
		}
	}
}
