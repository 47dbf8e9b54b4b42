// Configuration: the texts of the servers' configuration files.

package natsconfig

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// fleetAccount and systemAccount are the NATS accounts.
const (
	fleetAccount  = "FLEET"
	systemAccount = "SYS"
)

// page is a configuration that is being written.
type page struct {
	text   strings.Builder
	indent string
}

// line writes a line; without arguments text is taken as it is.
func (p *page) line(text string, args ...any) {
	if len(args) > 0 {
		text = fmt.Sprintf(text, args...)
	}
	if text != "" {
		text = p.indent + text
	}
	p.text.WriteString(text + "\n")
}

// block writes a block; what is in it comes from inside.
func (p *page) block(head string, inside func()) {
	if head != "" {
		head += " "
	}
	p.line(head + "{")
	p.indent += "  "
	inside()
	p.indent = p.indent[2:]
	p.line("}")
}

// list writes a list of strings, one a line.
func (p *page) list(name string, items []string) {
	p.line(name + ": [")
	for _, item := range items {
		p.line("  %q", item)
	}
	p.line("]")
}

const generated = "# Written by zctl nats-config from the fleet file: change that, and run it again."

func (g *generation) accountsText() string {
	p := &page{}
	p.line(generated)
	p.line("# The accounts of the fleet %s, with what each user may do. Included by the configuration of every server.", g.file.Fleet)
	p.line("")
	p.accounts(g, "")
	return p.text.String()
}

// accounts writes the accounts with the users that are checked at the leaf node, or at the fleet's own servers.
func (p *page) accounts(g *generation, leaf string) {
	p.block("accounts", func() {
		p.block(fleetAccount, func() {
			if leaf == "" {
				p.line("jetstream: enabled")
			}
			p.line("users: [")
			p.indent += "  "
			for _, account := range g.accounts {
				if account.leaf == leaf {
					p.user(account)
				}
			}
			p.indent = p.indent[2:]
			p.line("]")
		})
		p.block(systemAccount, func() { p.line("users: [ { nkey: %q } ]", g.system) })
	})
	p.line("system_account: " + systemAccount)
}

func (p *page) user(account account) {
	p.line("# %s %s", account.Role, account.Name)
	p.block("", func() {
		p.line("nkey: %q", account.Key)
		p.block("permissions", func() {
			p.block("publish", func() { p.list("allow", account.permissions.Publish) })
			p.block("subscribe", func() { p.list("allow", account.permissions.Subscribe) })
		})
	})
}

func (g *generation) serverText(server Server) string {
	nats := g.file.NATS
	p := &page{}
	p.line(generated)
	p.line("")
	p.line("server_name: %q", server.Name)
	p.line("listen: %q", at(server.Listen, nats.Ports.Client))
	p.line("")
	p.block("jetstream", func() {
		p.line("store_dir: %q", nats.StoreDir)
		if nats.Domain != "" {
			p.line("domain: %q", nats.Domain)
		}
		p.line("max_file_store: %d", uint64(nats.MaxFileStore))
		p.line("max_memory_store: %d", uint64(nats.MaxMemoryStore))
	})
	p.line("")
	g.tls(p, false)
	if len(nats.Servers) > 1 {
		p.block("cluster", func() {
			p.line("name: %q", g.file.Fleet)
			p.line("listen: %q", at(server.Listen, nats.Ports.Cluster))
			g.tls(p, false)
			p.line("# The routes to the other servers, with the password between them.")
			p.line(`include "cluster.conf"`)
		})
		p.line("")
	}
	if len(nats.LeafNodes) > 0 {
		p.block("leafnodes", func() {
			p.line("listen: %q", at(server.Listen, nats.Ports.Leaf))
			g.tls(p, false)
		})
		p.line("")
	}
	p.line(`include "accounts.conf"`)
	return p.text.String()
}

// tls writes the tls block, if the fleet has one; of a client it names only whom to trust.
func (g *generation) tls(p *page, client bool) {
	tls := g.file.NATS.TLS
	if tls == nil || (client && tls.CA == "") {
		return
	}
	p.block("tls", func() {
		if !client {
			p.line("cert_file: %q", tls.Cert)
			p.line("key_file: %q", tls.Key)
		}
		if tls.CA != "" {
			p.line("ca_file: %q", tls.CA)
		}
	})
	p.line("")
}

func (g *generation) clusterText(password string) string {
	p := &page{}
	p.line(generated)
	p.line("authorization { user: %q, password: %q }", g.file.Fleet, password)
	var routes []string
	for _, server := range g.file.NATS.Servers {
		route := url.URL{
			Scheme: "nats-route", User: url.UserPassword(g.file.Fleet, password), Host: hostPort(server.Address, g.file.NATS.Ports.Cluster),
		}
		routes = append(routes, route.String())
	}
	p.list("routes", routes)
	return p.text.String()
}

// leaf makes up the files of a leaf node.
func (g *generation) leaf(leaf Server) {
	p := &page{}
	p.line(generated)
	p.line("")
	p.line("server_name: %q", leaf.Name)
	p.line("listen: %q", at(leaf.Listen, g.file.NATS.Ports.Client))
	p.line("")
	g.tls(p, false)
	p.block("leafnodes", func() {
		p.line("remotes: [")
		p.indent += "  "
		p.block("", func() {
			p.list("urls", g.file.leafURLs())
			p.line("account: " + fleetAccount)
			g.tls(p, true)
			p.line("# The seed of this leaf node.")
			p.line("include %q", leaf.Name+"-seed.conf")
		})
		p.indent = p.indent[2:]
		p.line("]")
	})
	p.line("")
	p.accounts(g, leaf.Name)
	g.public(leaf.Name+".conf", "for the leaf node "+leaf.Name, p.text.String())
	for _, account := range g.accounts {
		if account.Role == RoleLeaf && account.Name == leaf.Name {
			g.secret(leaf.Name+"-seed.conf", "for the leaf node "+leaf.Name+": its seed", fmt.Sprintf("nkey: %q\n", account.seed))
		}
	}
}

// at is an address to listen on.
func at(listen string, port int) string {
	if listen == "" {
		listen = "0.0.0.0"
	}
	return hostPort(listen, port)
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }

// scheme is that of URLs for clients and leaf nodes.
func (f File) scheme() string {
	if f.NATS.TLS != nil {
		return "tls"
	}
	return "nats"
}

// url is what clients of the servers name.
func (f File) url(servers ...Server) string {
	var urls []string
	for _, server := range servers {
		urls = append(urls, f.scheme()+"://"+hostPort(server.Address, f.NATS.Ports.Client))
	}
	return strings.Join(urls, ",")
}

// leafURLs are what leaf nodes connect to.
func (f File) leafURLs() []string {
	var urls []string
	for _, server := range f.NATS.Servers {
		urls = append(urls, f.scheme()+"://"+hostPort(server.Address, f.NATS.Ports.Leaf))
	}
	return urls
}
