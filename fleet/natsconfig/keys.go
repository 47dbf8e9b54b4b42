// Keys: the seeds by which users log in, and the password of the cluster. What is there is kept.

package natsconfig

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/zfleet/zfleet/protocol"
)

// key is a user's.
type key struct {
	// path is the seed's file below the directory, and public the public key.
	path, seed, public string
}

// keep gives the key whose seed is in the file, which is made where it is not there.
func (g *generation) keep(name, purpose string) (key, error) {
	path := filepath.Join("keys", name+".nk")
	text, err := os.ReadFile(filepath.Join(g.dir, path)) //nolint:gosec // below the directory that the operator names
	switch {
	case errors.Is(err, fs.ErrNotExist):
		pair, err := nkeys.CreateUser()
		if err != nil {
			return key{}, fmt.Errorf("make the key of %s: %w", name, err)
		}
		seed, err := pair.Seed()
		if err != nil {
			return key{}, fmt.Errorf("make the key of %s: %w", name, err)
		}
		text = append(seed, '\n')
	case err != nil:
		return key{}, protocol.Failf(protocol.Permanent, "read the key of %s: %w", name, err)
	}
	pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(text))))
	if err != nil {
		return key{}, protocol.Failf(protocol.Permanent, "%s holds no seed of an NKey: %w; restore it, or remove it to make a new one",
			filepath.Join(g.dir, path), err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		return key{}, protocol.Failf(protocol.Permanent, "%s: %w", filepath.Join(g.dir, path), err)
	}
	if !nkeys.IsValidPublicUserKey(public) {
		return key{}, protocol.Failf(protocol.Permanent, "%s is not a user's seed, which begins with SU", filepath.Join(g.dir, path))
	}
	g.secret(path, purpose, string(text))
	return key{path: path, seed: strings.TrimSpace(string(text)), public: public}, nil
}

// password gives the password in the file, which is made where it is not there.
func (g *generation) password(name string) (string, error) {
	path := filepath.Join("keys", name+".password")
	text, err := os.ReadFile(filepath.Join(g.dir, path)) //nolint:gosec // below the directory that the operator names
	switch {
	case errors.Is(err, fs.ErrNotExist):
		text = []byte(rand.Text() + "\n")
	case err != nil:
		return "", protocol.Failf(protocol.Permanent, "read the password of the cluster: %w", err)
	}
	password := strings.TrimSpace(string(text))
	if password == "" || strings.ContainsFunc(password, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return "", protocol.Failf(protocol.Permanent, "%s: use letters and digits only, or remove it to make a new one", filepath.Join(g.dir, path))
	}
	g.secret(path, "the password between the servers, as cluster.conf has it", string(text))
	return password, nil
}
