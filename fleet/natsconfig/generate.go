// Generation: from a fleet file to the files in a directory.

package natsconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/zfleet/zfleet/protocol"
)

// Result is what Generate has done.
type Result struct {
	Users []User        `json:"users"`
	Files []WrittenFile `json:"files"`
	// URL is what clients name as the fleet's NATS.
	URL string `json:"url"`
	// Replicas is what coordinators should have in their host file.
	Replicas int `json:"replicas"`
}

// User is a user of the fleet's account.
type User struct {
	Role Role   `json:"role"`
	Name string `json:"name"`
	// Key is the public key, and Seed the path of the file with the seed, in the directory.
	Key  string `json:"key"`
	Seed string `json:"seed"`
	// URL is the server for this user, and Domain the JetStream domain that its host file must name; empty is none.
	URL    string `json:"url"`
	Domain string `json:"domain,omitempty"`
}

// Role is what a user is for.
type Role string

// The roles.
const (
	RoleHost        Role = "host"
	RoleCoordinator Role = "coordinator"
	RoleOperator    Role = "operator"
	RoleReader      Role = "reader"
	RoleLeaf        Role = "leaf"
)

// WrittenFile is one file of the directory.
type WrittenFile struct {
	// Path is below the directory.
	Path string `json:"path"`
	// Change is what was done with it.
	Change Change `json:"change"`
	// Private says that only its owner may read it.
	Private bool `json:"private,omitempty"`
	// For says what it is.
	For string `json:"for,omitempty"`
}

// Change is what was done with a file.
type Change string

// The changes.
const (
	Created Change = "created"
	Changed Change = "changed"
	Kept    Change = "kept"
	// Unused files are keys of whom the fleet file does not name any more. They are left where they are.
	Unused Change = "unused"
)

// generation is one run of Generate. Nothing is written before all is known.
type generation struct {
	file File
	dir  string

	accounts []account
	// system is the public key of the system account's user.
	system string
	texts  []text
}

// text is a file to be.
type text struct {
	path, text, purpose string
	private             bool
}

func (g *generation) public(path, purpose, content string) {
	g.texts = append(g.texts, text{path: path, text: content, purpose: purpose})
}

func (g *generation) secret(path, purpose, content string) {
	g.texts = append(g.texts, text{path: path, text: content, purpose: purpose, private: true})
}

// Generate writes the configuration of the fleet's NATS servers and the keys of its users below the directory. Seeds and the
// cluster's password that are there are kept, and files that are what they should be are not touched. Nothing is removed.
func Generate(file File, dir string) (Result, error) {
	if err := file.Validate(); err != nil {
		return Result{}, err
	}
	g := &generation{file: file, dir: dir}
	if err := g.all(); err != nil {
		return Result{}, err
	}
	result := Result{URL: file.url(file.NATS.Servers...), Replicas: min(len(file.NATS.Servers), 3)}
	for _, account := range g.accounts {
		result.Users = append(result.Users, account.User)
	}
	if result.Replicas == 2 {
		result.Replicas = 1 // two servers cannot agree when one of them is lost
	}
	for _, text := range g.texts {
		change, err := text.write(dir)
		if err != nil {
			return result, protocol.Failf(protocol.Permanent, "write %s: %w", filepath.Join(dir, text.path), err)
		}
		result.Files = append(result.Files, WrittenFile{Path: text.path, Change: change, Private: text.private, For: text.purpose})
	}
	unused, err := g.unused()
	if err != nil {
		return result, err
	}
	result.Files = append(result.Files, unused...)
	return result, nil
}

// all makes up all files, in memory.
func (g *generation) all() error {
	if err := g.findAccounts(); err != nil {
		return err
	}
	g.public("accounts.conf", "for every server: who there is, and what they may do", g.accountsText())
	if len(g.file.NATS.Servers) > 1 {
		password, err := g.password("cluster")
		if err != nil {
			return err
		}
		g.secret("cluster.conf", "for every server: the routes between them", g.clusterText(password))
	}
	for _, server := range g.file.NATS.Servers {
		g.public(server.Name+".conf", "for the server "+server.Name, g.serverText(server))
	}
	for _, leaf := range g.file.NATS.LeafNodes {
		g.leaf(leaf)
	}
	return g.contexts()
}

// account is a user with its permissions.
type account struct {
	User
	permissions Permissions
	seed        string
	leaf        string // the leaf node that checks the user; empty is the fleet's own servers
}

// findAccounts finds the users of the fleet, in the order of the file, and their keys.
func (g *generation) findAccounts() error {
	domain := g.file.NATS.Domain
	add := func(role Role, name, leaf string, permit func(key string) Permissions) error {
		file := string(role)
		if role == RoleReader {
			file = string(RoleOperator) // who may look may be allowed more, with the same key
		}
		key, err := g.keep(file+"-"+name, fmt.Sprintf("the seed of %s %s", role, name))
		if err != nil {
			return err
		}
		user := User{Role: role, Name: name, Key: key.public, Seed: key.path, URL: g.file.url(g.file.NATS.Servers...)}
		if leaf != "" {
			user.URL, user.Domain = g.file.url(g.leafNode(leaf)), domain
		}
		g.accounts = append(g.accounts, account{User: user, permissions: permit(key.public), seed: key.seed, leaf: leaf})
		return nil
	}
	var errs []error
	for _, host := range g.file.Hosts {
		errs = append(errs, add(RoleHost, host.Name, host.Leaf, func(key string) Permissions {
			return WorkerPermissions(protocol.Host(host.Name), key, domain, host.Leaf != "")
		}))
	}
	for _, coordinator := range g.file.Coordinators {
		errs = append(errs, add(RoleCoordinator, coordinator.Name, coordinator.Leaf, func(key string) Permissions {
			return CoordinatorPermissions(key, domain, coordinator.Leaf != "")
		}))
	}
	for _, operator := range g.file.Operators {
		role := RoleOperator
		if operator.ReadOnly {
			role = RoleReader
		}
		errs = append(errs, add(role, operator.Name, "", func(key string) Permissions {
			return OperatorPermissions(key, domain, operator.ReadOnly)
		}))
	}
	for _, leaf := range g.file.NATS.LeafNodes {
		errs = append(errs, add(RoleLeaf, leaf.Name, "", func(string) Permissions { return g.behind(leaf.Name) }))
	}
	key, err := g.keep("system", "the seed of the system account's user, for the nats CLI")
	g.system = key.public
	return errors.Join(append(errs, err)...)
}

// behind is what all that a leaf node stands for may.
func (g *generation) behind(leaf string) Permissions {
	var all []Permissions
	for _, account := range g.accounts {
		if account.leaf == leaf {
			all = append(all, account.permissions)
		}
	}
	return together(all...)
}

func (g *generation) leafNode(name string) Server {
	at := slices.IndexFunc(g.file.NATS.LeafNodes, func(s Server) bool { return s.Name == name })
	return g.file.NATS.LeafNodes[at] // validated
}

// contexts makes a context of the nats CLI for each operator, which zctl takes as well.
func (g *generation) contexts() error {
	for _, user := range g.accounts {
		if user.Role != RoleOperator && user.Role != RoleReader {
			continue
		}
		seed, err := filepath.Abs(filepath.Join(g.dir, user.Seed))
		if err != nil {
			return fmt.Errorf("the context of %s: %w", user.Name, err)
		}
		settings := map[string]string{
			"description": "zfleet " + g.file.Fleet + ": " + string(user.Role) + " " + user.Name,
			"url":         user.URL, "nkey": seed, "inbox_prefix": protocol.InboxPrefix(user.Key),
		}
		if tls := g.file.NATS.TLS; tls != nil && tls.CA != "" {
			settings["ca"] = tls.CA
		}
		content, err := json.MarshalIndent(settings, "", "  ")
		if err != nil {
			return fmt.Errorf("the context of %s: %w", user.Name, err)
		}
		g.public(filepath.Join("contexts", user.Name+".json"), "context of the nats CLI for "+user.Name, string(content)+"\n")
	}
	return nil
}

// write writes the file if it is not what it should be.
func (t text) write(dir string) (Change, error) {
	path := filepath.Join(dir, t.path)
	mode, dirMode := fs.FileMode(0o644), fs.FileMode(0o755)
	if t.private {
		mode = 0o600
	}
	if filepath.Dir(t.path) == "keys" {
		dirMode = 0o700
	}
	before, err := os.ReadFile(path) //nolint:gosec // below the directory that the operator names
	change := Changed
	switch {
	case errors.Is(err, fs.ErrNotExist):
		change = Created
	case err != nil:
		return "", err
	case bytes.Equal(before, []byte(t.text)):
		if !t.private {
			return Kept, nil
		}
		return Kept, os.Chmod(path, mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return "", err
	}
	return change, replace(path, t.text, mode)
}

// replace writes the file under another name first, so that it is never there in part.
func replace(path, content string, mode fs.FileMode) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = temporary.WriteString(content)
	err = errors.Join(err, temporary.Chmod(mode), temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temporary.Name()))
	}
	return nil
}

// unused are the keys in the directory that nobody has any more.
func (g *generation) unused() ([]WrittenFile, error) {
	entries, err := os.ReadDir(filepath.Join(g.dir, "keys"))
	if err != nil {
		return nil, protocol.Failf(protocol.Permanent, "look for keys that nobody uses: %w", err)
	}
	var found []WrittenFile
	for _, entry := range entries {
		path := filepath.Join("keys", entry.Name())
		known := slices.ContainsFunc(g.texts, func(t text) bool { return t.path == path })
		if !known && strings.HasSuffix(path, ".nk") {
			found = append(found, WrittenFile{Path: path, Change: Unused, Private: true, For: "of nobody in the fleet file: remove it"})
		}
	}
	return found, nil
}
