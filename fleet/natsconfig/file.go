// The fleet file: who there is in a fleet, and where its NATS servers are. docs/configuration.md is written for operators; here is
// what they may write.

package natsconfig

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/zfleet/zfleet/protocol"
)

// File describes a fleet.
type File struct {
	// Fleet names it; it is the name of the NATS cluster too. It is written like the name of a host, as all names here are.
	Fleet        string     `yaml:"fleet"`
	NATS         NATS       `yaml:"nats"`
	Hosts        []Member   `yaml:"hosts"`
	Coordinators []Member   `yaml:"coordinators"`
	Operators    []Operator `yaml:"operators"`
}

// NATS are the servers.
type NATS struct {
	// Servers make up a cluster where there are several.
	Servers []Server `yaml:"servers"`
	Ports   Ports    `yaml:"ports"`
	// StoreDir is where each server keeps its streams.
	StoreDir string `yaml:"store_dir"`
	// MaxFileStore and MaxMemoryStore bound what each server keeps.
	MaxFileStore   protocol.ByteSize `yaml:"max_file_store"`
	MaxMemoryStore protocol.ByteSize `yaml:"max_memory_store"`
	// Domain is the JetStream domain. Hosts behind leaf nodes need it.
	Domain string `yaml:"domain"`
	// TLS, where there is any, is for clients, leaf nodes and between the servers.
	TLS *TLS `yaml:"tls"`
	// LeafNodes are servers of sites whose hosts reach the fleet through them.
	LeafNodes []Server `yaml:"leaf_nodes"`
}

// Server is one NATS server.
type Server struct {
	Name string `yaml:"name"`
	// Address is the name or IP address, without a port, by which others reach the server.
	Address string `yaml:"address"`
	// Listen is the address that it listens on; empty is all.
	Listen string `yaml:"listen"`
}

// Ports are those of all servers.
type Ports struct {
	Client  int `yaml:"client"`
	Cluster int `yaml:"cluster"`
	Leaf    int `yaml:"leaf"`
}

// TLS are paths of files on the servers.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	// CA has signed the certificates; empty is what the system trusts.
	CA string `yaml:"ca"`
}

// Member is a host or a coordinator.
type Member struct {
	Name string `yaml:"name"`
	// Leaf names the leaf node through which it reaches the fleet; empty is none.
	Leaf string `yaml:"leaf"`
}

// Operator is somebody, or a program, that runs zctl's commands.
type Operator struct {
	Name string `yaml:"name"`
	// ReadOnly lets them look and nothing else.
	ReadOnly bool `yaml:"read_only"`
}

// The ports and bounds where the file says nothing.
const (
	defaultClientPort  = 4222
	defaultClusterPort = 6222
	defaultLeafPort    = 7422
	defaultFileStore   = 2560 << 20 // 1 GiB and a half for streams and buckets, and 1 GiB for the segments of streams
	defaultMemoryStore = 64 << 20
)

// Read reads and checks the file at path.
func Read(path string) (File, error) {
	text, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return File{}, protocol.Usagef("fleet file: %w", err)
	}
	return Parse(path, text)
}

// Parse is Read for text that is there already; path is for errors, which show the place in the text.
func Parse(path string, text []byte) (File, error) {
	file := File{NATS: NATS{
		Ports:    Ports{Client: defaultClientPort, Cluster: defaultClusterPort, Leaf: defaultLeafPort},
		StoreDir: "/var/lib/nats", MaxFileStore: defaultFileStore, MaxMemoryStore: defaultMemoryStore,
	}}
	decoder := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict())
	err := decoder.Decode(&file)
	if errors.Is(err, io.EOF) {
		return File{}, protocol.Usagef("fleet file %s: it is empty; docs/configuration.md has an example", path)
	}
	if err != nil {
		return File{}, protocol.Usagef("fleet file %s: %s", path, yaml.FormatError(err, false, true))
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return File{}, protocol.Usagef("fleet file %s: one file describes one fleet; it has more than one document", path)
	}
	if err := file.Validate(); err != nil {
		return File{}, protocol.Usagef("fleet file %s: %w", path, file.locate(text, err))
	}
	return file, nil
}

// fieldError says which field is wrong: its path as goccy/go-yaml writes it.
type fieldError struct {
	path string
	err  error
}

func (e *fieldError) Error() string { return strings.TrimPrefix(e.path, "$.") + ": " + e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

// locate adds to the error where in the text the field is, if it is there.
func (f File) locate(text []byte, err error) error {
	var field *fieldError
	if !errors.As(err, &field) {
		return err
	}
	path, pathErr := yaml.PathString(field.path)
	if pathErr != nil {
		return err
	}
	source, sourceErr := path.AnnotateSource(text, false)
	if sourceErr != nil {
		return err // a field that is missing is nowhere
	}
	return fmt.Errorf("%w\n%s", err, source)
}

func wrong(path, format string, args ...any) error {
	return &fieldError{path: "$." + path, err: protocol.Usagef(format, args...)}
}

// Validate tells what is wrong, naming the field.
func (f File) Validate() error {
	if _, err := protocol.ParseHost(f.Fleet); err != nil {
		return wrong("fleet", "name the fleet: use 1 to 63 lower-case letters, digits and dashes")
	}
	if err := f.NATS.validate(); err != nil {
		return err
	}
	leaves := map[string]bool{}
	for _, leaf := range f.NATS.LeafNodes {
		leaves[leaf.Name] = true
	}
	if len(f.Coordinators) == 0 {
		return wrong("coordinators", "name at least one: nothing is planned without it")
	}
	for list, members := range map[string][]Member{"hosts": f.Hosts, "coordinators": f.Coordinators} {
		names := map[string]bool{}
		for i, member := range members {
			path := fmt.Sprintf("%s[%d]", list, i)
			if err := checkName(path, member.Name, names); err != nil {
				return err
			}
			if member.Leaf != "" && !leaves[member.Leaf] {
				return wrong(path+".leaf", "there is no leaf node %q under nats.leaf_nodes", member.Leaf)
			}
		}
	}
	names := map[string]bool{}
	for i, operator := range f.Operators {
		if err := checkName(fmt.Sprintf("operators[%d]", i), operator.Name, names); err != nil {
			return err
		}
	}
	return nil
}

func checkName(path, name string, names map[string]bool) error {
	if _, err := protocol.ParseHost(name); err != nil {
		return wrong(path+".name", "%q: use 1 to 63 lower-case letters, digits and dashes", name)
	}
	if names[name] {
		return wrong(path+".name", "%s is there twice", name)
	}
	names[name] = true
	return nil
}

func (n NATS) validate() error {
	if len(n.Servers) == 0 {
		return wrong("nats.servers", "name at least one server")
	}
	names := map[string]bool{}
	for list, servers := range map[string][]Server{"nats.servers": n.Servers, "nats.leaf_nodes": n.LeafNodes} {
		for i, server := range servers {
			path := fmt.Sprintf("%s[%d]", list, i)
			if err := checkName(path, server.Name, names); err != nil {
				return err
			}
			if err := checkAddress(path+".address", server.Address); err != nil {
				return err
			}
			if server.Listen != "" && net.ParseIP(server.Listen) == nil {
				return wrong(path+".listen", "%q is no IP address (without a port: nats.ports has those)", server.Listen)
			}
		}
	}
	for name, port := range map[string]int{"client": n.Ports.Client, "cluster": n.Ports.Cluster, "leaf": n.Ports.Leaf} {
		if port < 1 || port > 65535 {
			return wrong("nats.ports."+name, "%s is no port", strconv.Itoa(port))
		}
	}
	if n.StoreDir == "" {
		return wrong("nats.store_dir", "name the directory that keeps each server's streams")
	}
	if err := protocol.ValidateDomain(n.Domain); err != nil {
		return wrong("nats.domain", "%w", err)
	}
	if len(n.LeafNodes) > 0 && n.Domain == "" {
		return wrong("nats.leaf_nodes", "hosts behind leaf nodes find the fleet by its JetStream domain: set nats.domain")
	}
	if n.TLS != nil && (n.TLS.Cert == "" || n.TLS.Key == "") {
		return wrong("nats.tls", "set cert and key")
	}
	return nil
}

func checkAddress(path, address string) error {
	switch {
	case address == "":
		return wrong(path, "say by which name or IP address the server is reached")
	case net.ParseIP(address) != nil:
		return nil
	case strings.ContainsAny(address, ":/@\" \t\n"):
		return wrong(path, "%q: write a name or an IP address without port and scheme (nats.ports has the ports)", address)
	}
	return nil
}
