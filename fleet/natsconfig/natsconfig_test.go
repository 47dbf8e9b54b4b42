package natsconfig_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/fleet/natsconfig"
	"github.com/zfleet/zfleet/protocol"
)

const example = `fleet: prod
nats:
  servers:
    - {name: nats-1, address: nats-1.example}
    - {name: nats-2, address: nats-2.example}
    - {name: nats-3, address: nats-3.example}
  domain: hub
  tls: {cert: /etc/nats/server.crt, key: /etc/nats/server.key, ca: /etc/nats/ca.crt}
  leaf_nodes:
    - {name: site-1, address: 10.1.0.1}
hosts:
  - {name: alpha}
  - {name: charlie, leaf: site-1}
coordinators:
  - {name: first}
operators:
  - {name: alice}
  - {name: display, read_only: true}
`

func parse(t testing.TB, text string) natsconfig.File {
	t.Helper()
	file, err := natsconfig.Parse("fleet.yaml", []byte(text))
	require.NoError(t, err)
	return file
}

func TestMistakesInAFleetFileAreShownWhereTheyAre(t *testing.T) {
	t.Parallel()
	for name, try := range map[string]struct{ from, to, want string }{
		"unknown field":       {"domain: hub", "realm: hub", `unknown field "realm"`},
		"no fleet":            {"fleet: prod\n", "", "fleet: name the fleet"},
		"bad host":            {"name: alpha", "name: Alpha", "> 12 |   - {name: Alpha}"},
		"bad host says which": {"name: alpha", "name: Alpha", `hosts[0].name: "Alpha": use 1 to 63 lower-case letters`},
		"host twice":          {"name: charlie, leaf: site-1", "name: alpha", "hosts[1].name: alpha is there twice"},
		"unknown leaf":        {"leaf: site-1", "leaf: site-2", `hosts[1].leaf: there is no leaf node "site-2"`},
		"no coordinator":      {"  - {name: first}\n", "", "coordinators: name at least one"},
		"no domain":           {"  domain: hub\n", "", "nats.leaf_nodes: hosts behind leaf nodes find the fleet by its JetStream domain"},
		"domain":              {"domain: hub", "domain: a.b", `nats.domain: JetStream domain "a.b"`},
		"address with port":   {"nats-2.example", `"nats-2.example:4222"`, "nats.servers[1].address: "},
		"server twice":        {"name: nats-2", "name: nats-1", "nats.servers[1].name: nats-1 is there twice"},
		"half of tls":         {"key: /etc/nats/server.key, ", "", "nats.tls: set cert and key"},
		"port":                {"  domain: hub", "  ports: {client: 70000}\n  domain: hub", "nats.ports.client: 70000 is no port"},
		"two documents":       {"fleet: prod\n", "fleet: one\n---\nfleet: prod\n", "coordinators: name at least one"},
		"listen":              {"address: 10.1.0.1", "address: 10.1.0.1, listen: everywhere", "nats.leaf_nodes[0].listen: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Contains(t, example, try.from)
			_, err := natsconfig.Parse("fleet.yaml", []byte(strings.Replace(example, try.from, try.to, 1)))
			if name == "two documents" {
				require.ErrorContains(t, err, "more than one document")
				return
			}
			require.ErrorContains(t, err, try.want)
			require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient))
		})
	}
	_, err := natsconfig.Parse("fleet.yaml", nil)
	require.ErrorContains(t, err, "it is empty")
	_, err = natsconfig.Read(filepath.Join(t.TempDir(), "nowhere.yaml"))
	require.ErrorContains(t, err, "nowhere.yaml")
}

// contents are all files below the directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		relative, _ := filepath.Rel(dir, path)
		found[relative] = string(text)
		return err
	}))
	return found
}

// changes are the files by what was done with them.
func changes(result natsconfig.Result) map[natsconfig.Change][]string {
	found := map[natsconfig.Change][]string{}
	for _, file := range result.Files {
		found[file.Change] = append(found[file.Change], file.Path)
	}
	for _, paths := range found {
		slices.Sort(paths)
	}
	return found
}

func TestGeneratingAgainChangesOnlyWhatFollows(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nats")
	first, err := natsconfig.Generate(parse(t, example), dir)
	require.NoError(t, err)
	require.Len(t, first.Files, len(contents(t, dir)))
	require.Len(t, changes(first)[natsconfig.Created], len(first.Files))
	before := contents(t, dir)
	for path := range before {
		require.Contains(t, changes(first)[natsconfig.Created], path)
	}

	again, err := natsconfig.Generate(parse(t, example), dir)
	require.NoError(t, err)
	require.Len(t, changes(again)[natsconfig.Kept], len(again.Files), "%v", changes(again))
	require.Equal(t, before, contents(t, dir))

	// A host more, and an operator less.
	grown := strings.NewReplacer("  - {name: alpha}\n", "  - {name: alpha}\n  - {name: bravo}\n", "  - {name: alice}\n", "").Replace(example)
	result, err := natsconfig.Generate(parse(t, grown), dir)
	require.NoError(t, err)
	require.Equal(t, []string{"keys/host-bravo.nk"}, changes(result)[natsconfig.Created])
	require.Equal(t, []string{"accounts.conf"}, changes(result)[natsconfig.Changed])
	require.Equal(t, []string{"keys/operator-alice.nk"}, changes(result)[natsconfig.Unused])
	for path, text := range contents(t, dir) {
		if path != "accounts.conf" && path != "keys/host-bravo.nk" {
			require.Equal(t, before[path], text, path)
		}
	}
}

func TestSeedsAreForTheirOwnersOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	result, err := natsconfig.Generate(parse(t, example), dir)
	require.NoError(t, err)
	seeds := map[string]bool{}
	files := contents(t, dir)
	for _, user := range result.Users {
		pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(files[user.Seed])))
		require.NoError(t, err)
		public, err := pair.PublicKey()
		require.NoError(t, err)
		require.Equal(t, user.Key, public)
		seeds[strings.TrimSpace(files[user.Seed])] = true
	}
	require.Len(t, seeds, 6, "each has a key of its own")
	password := strings.TrimSpace(files["keys/cluster.password"])
	require.GreaterOrEqual(t, len(password), 20)

	told, err := json.Marshal(result)
	require.NoError(t, err)
	for _, file := range result.Files {
		info, err := os.Stat(filepath.Join(dir, file.Path))
		require.NoError(t, err)
		if file.Private {
			require.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), file.Path)
		} else {
			for seed := range seeds {
				require.NotContains(t, files[file.Path], seed, "%s shows a seed", file.Path)
			}
			require.NotContains(t, files[file.Path], password, "%s shows the password", file.Path)
		}
	}
	for seed := range seeds {
		require.NotContains(t, string(told), seed, "a seed is told")
	}
	info, err := os.Stat(filepath.Join(dir, "keys"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())

	// One that others can read is mended, and one that is broken is not replaced.
	seed := filepath.Join(dir, result.Users[0].Seed)
	require.NoError(t, os.Chmod(seed, 0o644))
	_, err = natsconfig.Generate(parse(t, example), dir)
	require.NoError(t, err)
	info, err = os.Stat(seed)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, os.WriteFile(seed, []byte("gone"), 0o600))
	_, err = natsconfig.Generate(parse(t, example), dir)
	require.ErrorContains(t, err, "host-alpha.nk holds no seed of an NKey")
}

func TestAnOperatorsContextIsOneOfTheNATSCLI(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	result, err := natsconfig.Generate(parse(t, example), dir)
	require.NoError(t, err)
	var settings map[string]string
	require.NoError(t, json.Unmarshal([]byte(contents(t, dir)["contexts/alice.json"]), &settings))
	at := slices.IndexFunc(result.Users, func(user natsconfig.User) bool { return user.Name == "alice" })
	require.Equal(t, map[string]string{
		"description": "zfleet prod: operator alice", "ca": "/etc/nats/ca.crt",
		"url":          "tls://nats-1.example:4222,tls://nats-2.example:4222,tls://nats-3.example:4222",
		"nkey":         filepath.Join(dir, "keys/operator-alice.nk"),
		"inbox_prefix": protocol.InboxPrefix(result.Users[at].Key),
	}, settings)
	require.Equal(t, 3, result.Replicas)
}

// FuzzParse makes sure that no text breaks the program, and that what is accepted can be written and read again.
func FuzzParse(f *testing.F) {
	f.Add(example)
	f.Add("fleet: x\nnats: {servers: [{name: a, address: \"::1\"}]}\ncoordinators: [{name: c}]\n")
	f.Add("hosts: [{name: alpha}, null]\n")
	f.Add("fleet: \"\\\"\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		file, err := natsconfig.Parse("fleet.yaml", []byte(text))
		if err != nil {
			require.Equal(t, protocol.Usage, protocol.KindOf(err, protocol.Transient), "%v", err)
			return
		}
		require.NoError(t, file.Validate())
	})
}
