// The configurations in deploy/nats, as they are run: only ports, paths and keys are replaced, and what is commented out for
// leaf nodes is taken in.

package itest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/zfleet/zfleet/natsserver/natstest"
	"github.com/zfleet/zfleet/protocol"
)

// deployment is a directory with what the configurations name.
type deployment struct {
	t     *testing.T
	dir   string
	seeds map[string]string // of the users, by the words that stand in the place of their public keys: the files' paths
	keys  map[string]string
}

func newDeployment(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{t: t, dir: t.TempDir(), seeds: map[string]string{}, keys: map[string]string{}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nats"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	d.write("server.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	d.write("ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})))
	d.write("server.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return d
}

func (d *deployment) write(name, text string) string {
	d.t.Helper()
	path := filepath.Join(d.dir, name)
	require.NoError(d.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

var (
	placeholder = regexp.MustCompile(`U([A-Z]+)_REPLACE_WITH_THE_PUBLIC_KEY`)
	commented   = regexp.MustCompile(`(?m)^(\s*)# (\s*(?:leafnodes \{|jetstream \{|store_dir:|domain:|listen:|tls \{|cert_file:|key_file:|\}|\{ nkey:).*)$`)
	listening   = regexp.MustCompile(`0\.0\.0\.0:\d+`)
)

// start runs the configuration, with the given replacements, and waits until it takes clients.
func (d *deployment) start(file string, replacements ...string) *server.Server {
	d.t.Helper()
	running := d.launch(file, replacements...)
	require.True(d.t, running.ReadyForConnections(time.Minute), "%s is not ready", file)
	return running
}

// launch is start without the wait.
func (d *deployment) launch(file string, replacements ...string) *server.Server {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "deploy", "nats", file))
	require.NoError(d.t, err)
	config := commented.ReplaceAllString(string(text), "$1$2")
	config = placeholder.ReplaceAllStringFunc(config, func(word string) string {
		if d.keys[word] == "" {
			user, err := nkeys.CreateUser()
			require.NoError(d.t, err)
			seed, err := user.Seed()
			require.NoError(d.t, err)
			d.keys[word], err = user.PublicKey()
			require.NoError(d.t, err)
			d.seeds[word] = d.write(strings.ToLower(placeholder.FindStringSubmatch(word)[1])+".nk", string(seed))
		}
		return d.keys[word]
	})
	config = listening.ReplaceAllString(config, "127.0.0.1:-1")
	config = strings.ReplaceAll(config, "/etc/nats/", d.dir+"/")
	config = strings.ReplaceAll(config, "/var/lib/nats", filepath.Join(d.dir, file+"-store"))
	config = strings.NewReplacer(replacements...).Replace(config)
	options, err := server.ProcessConfigFile(d.write(file, config))
	require.NoError(d.t, err, "%s", config)
	options.NoSigs, options.NoLog = true, true
	running, err := server.NewServer(options)
	require.NoError(d.t, err)
	running.Start()
	d.t.Cleanup(func() {
		running.Shutdown()
		running.WaitForShutdown()
	})
	return running
}

func TestTheConfigurationsOfNATSCarryAFleet(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	hub := d.start("nats-server.conf")
	state, err := hub.Varz(nil)
	require.NoError(t, err)
	seed, err := os.ReadFile(d.seeds["USITE_REPLACE_WITH_THE_PUBLIC_KEY"])
	require.NoError(t, err)
	d.write("leaf-seed.conf", fmt.Sprintf("nkey: %q\n", seed))
	leaf := d.start("leaf.conf", `"tls://nats-1.example:7422", "tls://nats-2.example:7422"`,
		fmt.Sprintf(`"tls://127.0.0.1:%d"`, state.LeafNode.Port))

	address := func(s *server.Server) string { return "tls://" + s.Addr().String() }
	ca := filepath.Join(d.dir, "ca.crt")
	conn, js, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		URL: address(hub), CA: ca, NKey: d.seeds["UALPHA_REPLACE_WITH_THE_PUBLIC_KEY"],
	})
	require.NoError(t, err)
	defer conn.Close()
	_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{})
	require.NoError(t, err, "there must be room for all of zfleet's defaults")

	remote, through, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		URL: address(leaf), CA: ca, NKey: d.seeds["UCHARLIE_REPLACE_WITH_THE_PUBLIC_KEY"], Domain: "hub", Wait: time.Minute,
	})
	require.NoError(t, err)
	defer remote.Close()
	_, err = protocol.OpenResources(t.Context(), through)
	require.NoError(t, err)

	_, _, err = protocol.Connect(t.Context(), protocol.ConnectOptions{URL: address(hub), CA: ca})
	require.ErrorContains(t, err, "Authorization Violation")
}

func TestTheConfigurationsOfNATSMakeACluster(t *testing.T) {
	t.Parallel()
	d := newDeployment(t)
	text, err := os.ReadFile(filepath.Join("..", "deploy", "nats", "cluster.conf"))
	require.NoError(t, err)
	cluster := strings.ReplaceAll(string(text), "/etc/nats/", d.dir+"/")
	ports := natstest.FreePorts(t, 3)
	for n, port := range ports {
		cluster = strings.ReplaceAll(cluster, fmt.Sprintf("nats-%d.example:6222", n+1), fmt.Sprintf("127.0.0.1:%d", port))
	}
	var servers []*server.Server
	var addresses []string
	for n, port := range ports {
		name := fmt.Sprintf("nats-%d", n+1)
		d.write("cluster-"+name+".conf", strings.Replace(cluster, "0.0.0.0:6222", fmt.Sprintf("127.0.0.1:%d", port), 1))
		servers = append(servers, d.launch("nats-server.conf", "server_name: nats-1", "server_name: "+name,
			`# include "cluster.conf"`, fmt.Sprintf("include %q", "cluster-"+name+".conf"), "nats-server.conf-store", name+"-store"))
	}
	for _, running := range servers {
		require.True(t, running.ReadyForConnections(time.Minute))
		addresses = append(addresses, "tls://"+running.Addr().String())
	}
	conn, js, err := protocol.Connect(t.Context(), protocol.ConnectOptions{
		URL: strings.Join(addresses, ","), CA: filepath.Join(d.dir, "ca.crt"),
		NKey: d.seeds["UALPHA_REPLACE_WITH_THE_PUBLIC_KEY"], Wait: time.Minute,
	})
	require.NoError(t, err)
	defer conn.Close()
	require.Eventually(t, func() bool {
		_, err = protocol.EnsureResources(t.Context(), js, protocol.ResourceOptions{Replicas: 3})
		require.Equal(t, protocol.Transient, protocol.KindOf(err, protocol.Transient), "%v", err)
		return err == nil
	}, time.Minute, 100*time.Millisecond, "once all three know each other, they keep everything three times")
	work, err := js.Stream(t.Context(), protocol.StreamWork)
	require.NoError(t, err)
	require.Equal(t, 3, work.CachedInfo().Config.Replicas)
	natstest.AwaitReplicas(t, js)

	lost := conn.ConnectedServerName() // once: it is another one's as soon as the client is there
	for _, running := range servers {
		if running.Name() == lost {
			running.Shutdown()
		}
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := protocol.Publish(t.Context(), js, nats.NewMsg(protocol.DeadLetterSubject("test")), "")
		assert.NoError(c, err)
	}, time.Minute, 100*time.Millisecond, "the client finds another server, and the stream another leader")
}
