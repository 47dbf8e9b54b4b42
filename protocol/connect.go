// Connecting: one way to NATS for every process of the fleet.

package protocol

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/natscontext"
)

// The oldest NATS server that will do: the first with a time to live for single messages and keys (ADR-43, ADR-48).
const (
	minServerMajor = 2
	minServerMinor = 11
)

// neededPayload is what a NATS server must take as one message: the largest of ours, with its headers.
const neededPayload = 1 << 20

// DefaultConnectWait is how long the first connection is tried where ConnectOptions.Wait says nothing.
const DefaultConnectWait = 10 * time.Second

// ConnectOptions say how to reach NATS.
type ConnectOptions struct {
	// URL is one or more server URLs, separated by commas. Where it is empty, the NATS CLI's context is used, and where there
	// is none either, nats://127.0.0.1:4222.
	URL string
	// Context names a context of the NATS CLI, or is the path of one; empty is the selected one. With a URL, a context is used
	// only when it is named, for its credentials.
	Context string
	// Creds is the path of a credentials file (JWT and seed).
	Creds string
	// NKey is the path of a file with an NKey seed.
	NKey string
	// CA is the path of the certificates that the server's must be signed by; empty takes the system's.
	CA string
	// Cert and Key are the paths of the client's certificate and key.
	Cert string
	Key  string
	// Domain is the JetStream domain that the fleet's streams and buckets are in where they are
	// reached through a leaf node; empty is that of the context, or else that of the server that is connected to.
	Domain string
	// Name is the connection's name, which NATS shows to its operators: "zctl worker alpha".
	Name string
	// Logger is told about lost and new connections; nil is silent.
	Logger *slog.Logger
	// InProcess is an embedded server to connect to; nothing but Domain, Name, Logger and Wait counts then.
	InProcess nats.InProcessConnProvider
	// Wait is how long the first connection is tried before it is given up; 0 is DefaultConnectWait, and a negative value
	// tries as long as the context lasts.
	Wait time.Duration
}

// Connect connects to NATS, checks that the server is new enough and that JetStream is there, and gives the connection and
// the JetStream that the fleet lives in: that of the options' domain, or of the context's. The first connection is tried
// until the options' Wait or ctx is over, except where trying again cannot help, such as wrong credentials. After that the
// connection is kept up for ever: it reconnects by itself until the caller closes it. An attempt that is under way when ctx
// is cancelled still takes up to 2 seconds for each server.
func Connect(ctx context.Context, options ConnectOptions) (*nats.Conn, jetstream.JetStream, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	wait := options.Wait
	if wait == 0 {
		wait = DefaultConnectWait
	}
	if wait < 0 {
		wait = 0 // without a bound, to the backoff package
	}
	delays := backoff.NewExponentialBackOff()
	delays.InitialInterval = 100 * time.Millisecond
	delays.MaxInterval = 5 * time.Second
	js, err := backoff.Retry(ctx, func() (jetstream.JetStream, error) {
		js, err := options.connectOnce(ctx)
		if err != nil && hopeless(err) {
			return nil, backoff.Permanent(Failf(Permanent, "%w", err))
		}
		return js, err
	}, backoff.WithBackOff(delays), backoff.WithMaxElapsedTime(wait), backoff.WithNotify(func(err error, next time.Duration) {
		options.Logger.WarnContext(ctx, "NATS cannot be reached yet", "error", err, "next_try", next)
	}))
	if err != nil {
		return nil, nil, AsFailure(fmt.Errorf("connecting to %s: %w", options.Where(), err), Transient)
	}
	return js.Conn(), js, nil
}

// JetStream is the JetStream of the given domain, as it is reached over the connection; an empty domain is that of the server
// that is connected to. A host behind a leaf node reaches the streams, buckets and objects of the server that the leaf node
// is connected to by that server's domain, whether the leaf node has a JetStream of its own or none.
func JetStream(connection *nats.Conn, domain string) (jetstream.JetStream, error) {
	if err := ValidateDomain(domain); err != nil {
		return nil, err
	}
	if domain == "" {
		return jetstream.New(connection)
	}
	return jetstream.NewWithDomain(connection, domain)
}

// ValidateDomain tells whether the name can be a JetStream domain, which is a token of subjects; the empty one can.
func ValidateDomain(name string) error {
	if strings.ContainsAny(name, ".*> \t\r\n\f\x00") {
		return Usagef("JetStream domain %q: a domain is one word without dots, spaces, * and >", name)
	}
	return nil
}

// Where names the server for people, without passwords.
func (o ConnectOptions) Where() string {
	switch {
	case o.InProcess != nil:
		return "the embedded NATS server"
	case o.Context != "" && o.URL != "":
		return fmt.Sprintf("NATS at %s with context %s", redact(o.URL), o.Context)
	case o.URL != "":
		return "NATS at " + redact(o.URL)
	case o.Context != "":
		return "NATS with context " + o.Context
	}
	return "NATS with the selected context, or at " + nats.DefaultURL
}

// redact hides the passwords and tokens in a list of URLs.
func redact(list string) string {
	addresses := strings.Split(list, ",")
	for i, address := range addresses {
		if user, server, found := strings.Cut(address, "@"); found {
			scheme, _, _ := strings.Cut(user, "://")
			if scheme == user {
				scheme = "nats"
			}
			addresses[i] = scheme + "://xxxxx@" + server
		}
	}
	return strings.Join(addresses, ",")
}

// connectOnce tries once to connect to a server that can carry the fleet.
func (o ConnectOptions) connectOnce(ctx context.Context) (jetstream.JetStream, error) {
	connection, domain, err := o.dial()
	if err != nil {
		return nil, err
	}
	js, err := JetStream(connection, domain)
	if err == nil {
		err = checkServer(ctx, js)
	}
	if err != nil {
		connection.Close()
		return nil, err
	}
	return js, nil
}

// dial connects to the first server that takes the connection, and tells which domain counts.
func (o ConnectOptions) dial() (connection *nats.Conn, domain string, err error) {
	settings := o.settings()
	if o.InProcess != nil {
		connection, err = nats.Connect("", append(settings, nats.InProcessServer(o.InProcess))...)
		return connection, o.Domain, err
	}
	if o.Creds != "" {
		settings = append(settings, nats.UserCredentials(o.Creds))
	}
	if o.NKey != "" {
		option, err := nats.NkeyOptionFromSeed(o.NKey)
		if err != nil {
			return nil, "", Failf(Permanent, "NKey seed file %s: %w", o.NKey, err)
		}
		settings = append(settings, option)
	}
	if o.CA != "" {
		settings = append(settings, nats.RootCAs(o.CA))
	}
	if o.Cert != "" || o.Key != "" {
		settings = append(settings, nats.ClientCert(o.Cert, o.Key))
	}
	if o.URL != "" && o.Context == "" {
		connection, err = nats.Connect(o.URL, append(settings, ownInbox)...)
		return connection, o.Domain, err
	}
	loaded := false
	settings = append(settings, func(opts *nats.Options) error {
		loaded = true
		if o.URL != "" {
			opts.Servers = strings.Split(o.URL, ",")
		}
		return ownInbox(opts)
	})
	connection, selected, err := natscontext.Connect(o.Context, settings...)
	switch {
	case err != nil && !loaded:
		return nil, "", Failf(Permanent, "loading the context: %w", err)
	case err != nil:
		return nil, "", err
	case selected.JSAPIPrefix != "":
		connection.Close()
		return nil, "", Failf(Permanent, "the context sets a prefix for the JetStream API (%s), which zctl does not use: name the"+
			" fleet's JetStream domain instead, or connect with an account that has the fleet's streams itself", selected.JSAPIPrefix)
	case o.Domain != "":
		return connection, o.Domain, nil
	}
	return connection, selected.JSDomain, nil
}

// settings are the options of every connection.
func (o ConnectOptions) settings() []nats.Option {
	logger := o.Logger
	denied := &denials{logger: logger}
	reconnects := &reconnecting{logger: logger}
	return []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(2 * time.Second),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(500*time.Millisecond, time.Second),
		nats.IgnoreAuthErrorAbort(), // an operator may mend the credentials while the process runs
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ReconnectErrHandler(reconnects.failed),
		nats.DisconnectErrHandler(func(connection *nats.Conn, err error) {
			if connection.IsClosed() || err == nil {
				return
			}
			logger.Warn("the connection to NATS is lost; reconnecting", "error", err)
		}),
		nats.ReconnectHandler(func(connection *nats.Conn) {
			denied.forget()
			reconnects.done(connection)
		}),
		nats.LameDuckModeHandler(func(connection *nats.Conn) {
			logger.Info("the NATS server is about to stop", "server", connection.ConnectedUrlRedacted())
		}),
		nats.ErrorHandler(func(connection *nats.Conn, subscription *nats.Subscription, err error) {
			if violation := permissionError(err); violation != nil {
				denied.note(connection, violation)
				return
			}
			details := []any{"error", err}
			if subscription != nil {
				details = append(details, "subject", subscription.Subject)
			}
			if advice := asyncAdvice(err); advice != "" {
				details = append(details, "advice", advice)
			}
			logger.Error("NATS reports an error", details...)
		}),
	}
}

// asyncAdvice is what an operator can do about an error that comes by itself.
func asyncAdvice(err error) string {
	switch {
	case errors.Is(err, nats.ErrSlowConsumer):
		return "this process did not keep up with the messages for it, and some were dropped; it asks for them again where they matter." +
			" If this goes on, the machine is too busy"
	case isAuthError(err):
		return "give this user back to the NATS servers, or this process credentials that they take: it reads its credentials file at" +
			" each try; with a new NKey, start it again"
	}
	return ""
}

func isAuthError(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// reconnecting logs why a lost connection cannot be had again: each reason once, until there is another one or the connection.
type reconnecting struct {
	logger *slog.Logger

	mu   sync.Mutex
	told string
}

func (r *reconnecting) failed(_ *nats.Conn, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil || err.Error() == r.told {
		return
	}
	r.told = err.Error()
	details := []any{"error", err}
	if advice := asyncAdvice(err); advice != "" {
		details = append(details, "advice", advice)
	}
	r.logger.Warn("NATS cannot be reached again yet; trying on", details...)
}

func (r *reconnecting) done(connection *nats.Conn) {
	r.mu.Lock()
	r.told = ""
	r.mu.Unlock()
	r.logger.Info("connected to NATS again", "server", connection.ConnectedUrlRedacted(),
		"version", connection.ConnectedServerVersion(), "reconnects", connection.Stats().Reconnects)
}

// hopeless tells whether trying again cannot help until somebody changes something.
func hopeless(err error) bool {
	var path *fs.PathError
	var authority x509.UnknownAuthorityError
	var hostname x509.HostnameError
	kind := KindOf(err, Transient)
	return kind == Permanent || kind == Usage || errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) ||
		errors.Is(err, nats.ErrSecureConnRequired) || errors.Is(err, nats.ErrSecureConnWanted) ||
		errors.As(err, &path) || errors.As(err, &authority) || errors.As(err, &hostname)
}

// checkServer tells whether the server that js is connected to can carry the fleet.
func checkServer(ctx context.Context, js jetstream.JetStream) error {
	server, version, domain := js.Conn().ConnectedUrlRedacted(), js.Conn().ConnectedServerVersion(), js.Options().Domain
	if !serverWillDo(version) {
		return Failf(Permanent, "the NATS server at %s is version %s, and zfleet needs %d.%d or newer: upgrade the server",
			server, version, minServerMajor, minServerMinor)
	}
	if limit := js.Conn().MaxPayload(); limit < neededPayload {
		return Failf(Permanent, "the NATS server at %s takes no messages of more than %s, and zfleet needs %s: raise max_payload in"+
			" its configuration to 1MB, which is its default", server, ByteSize(max(limit, 0)), ByteSize(neededPayload))
	}
	_, err := js.AccountInfo(ctx)
	err = explainDenied(js.Conn(), "", err)
	silent := errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount)
	switch {
	case silent && domain != "":
		return Failf(Transient, "nobody answers for the JetStream domain %q at the NATS server %s: is it the domain in the jetstream"+
			" block of the fleet's NATS servers, and is this leaf node connected to them? %w", domain, server, err)
	case silent:
		return Failf(Permanent, "the NATS server at %s has no JetStream for this account: start it with -js, or enable jetstream"+
			" in its configuration; a host behind a leaf node names the domain of the servers behind it: %w", server, err)
	case err != nil:
		return AsFailure(fmt.Errorf("asking the NATS server at %s about JetStream: %w", server, err), Transient)
	}
	return nil
}

func serverWillDo(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > minServerMajor || (major == minServerMajor && minor >= minServerMinor)
}
