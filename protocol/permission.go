// Permissions: what NATS does not let this process do, and the inboxes that are its own.

package protocol

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// InboxPrefix begins the subjects at which a user of NATS hears answers: "_INBOX." and the user's public key. So the permissions
// of each user can give it these inboxes and no others, and no client has to be told which are its own. A user whose permissions
// name _INBOX.> hears its answers as well.
func InboxPrefix(publicKey string) string { return "_INBOX." + publicKey }

// ownInbox is the option that makes a connection use its user's inboxes, where it has an NKey or a JWT that says who it is. It
// comes after those that say so.
func ownInbox(options *nats.Options) error {
	if options.InboxPrefix != "" {
		return nil // a context of the NATS CLI names one
	}
	user := options.Nkey
	if user == "" && options.UserJWT != nil {
		if text, err := options.UserJWT(); err == nil { // connecting will tell of the error
			user = subjectOfJWT(text)
		}
	}
	if user != "" {
		options.InboxPrefix = InboxPrefix(user)
	}
	return nil
}

// AnswerSubject is a new subject at which the connection may hear one host's answer: "<inbox prefix>.host.<host>.<random>". So
// permissions can let each host answer whoever asks it, at "_INBOX.*.host.<host>.*", and in nobody else's place. (Permission to
// respond to any request would let a host that sends itself one publish anywhere.)
func AnswerSubject(conn *nats.Conn, host Host) string {
	prefix := conn.Opts.InboxPrefix
	if prefix == "" {
		prefix = "_INBOX"
	}
	return prefix + ".host." + EscapeToken(string(host)) + "." + rand.Text()
}

// RequestStream sends a request to the subject of a stream (StreamSubject) and waits for the answer of the host that listens there.
// The error is nats.ErrNoResponders where nobody does.
func RequestStream(ctx context.Context, conn *nats.Conn, message *nats.Msg) (*nats.Msg, error) {
	message.Reply = conn.NewInbox()
	if tokens := strings.Split(message.Subject, "."); len(tokens) == 4 && tokens[0] == "zfleet" && tokens[1] == "stream" {
		message.Reply = AnswerSubject(conn, Host(tokens[2]))
	}
	answers, err := conn.SubscribeSync(message.Reply)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answers.Unsubscribe() }() // it fails only where the connection is closed
	if err := conn.PublishMsg(message); err != nil {
		return nil, err
	}
	answer, err := answers.NextMsgWithContext(ctx)
	if err == nil && len(answer.Data) == 0 && answer.Header.Get("Status") == "503" {
		err = nats.ErrNoResponders
	}
	return answer, err
}

// subjectOfJWT is the public key of the user that a JWT is for, empty where it cannot be read: the server checks it, not the
// client.
func subjectOfJWT(text string) string {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		Subject string `json:"sub"`
	}
	if json.Unmarshal(payload, &claims) != nil || strings.ContainsAny(claims.Subject, ".*> \t\r\n") {
		return ""
	}
	return claims.Subject
}

// PermissionError says that NATS does not let this process publish or subscribe to a subject.
type PermissionError struct {
	// Subscribe tells which of the two was tried.
	Subscribe bool
	Subject   string
}

// Error names the subject, and says what to do.
func (e *PermissionError) Error() string {
	doing := "publish to"
	if e.Subscribe {
		doing = "subscribe to"
	}
	return fmt.Sprintf("NATS does not allow this user to %s %q: it goes on by itself once the servers' configuration allows it"+
		" (zctl nats-config writes one)", doing, e.Subject)
}

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription) to "([^"]+)"`)

// permissionError reads what the server says about a violation; nil where err is something else.
func permissionError(err error) *PermissionError {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	match := violation.FindStringSubmatch(err.Error())
	if match == nil {
		return nil
	}
	return &PermissionError{Subscribe: strings.EqualFold(match[1], "subscription"), Subject: match[2]}
}

// Denied is the last violation of permissions that NATS has told the connection of, if nothing else has gone wrong since; nil
// otherwise. NATS does not answer a request that it denies: it tells the connection, and the request's time runs out.
func Denied(conn *nats.Conn) *PermissionError {
	if conn == nil {
		return nil
	}
	return permissionError(conn.LastError())
}

// explainDenied is err, or, where a request has run out of time because NATS denies its subject, that. An empty subject is that
// of any request, for requests that the client's own methods make.
func explainDenied(conn *nats.Conn, subject string, err error) error {
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		return err
	}
	denied := Denied(conn)
	if denied == nil || denied.Subscribe || (subject != "" && denied.Subject != subject) {
		return err
	}
	return Failf(Transient, "%w", denied)
}

const (
	// A server does not take up a subscription by itself that it has denied. The connection asks again, by connecting anew.
	firstSubscribeAgain = 15 * time.Second
	lastSubscribeAgain  = 5 * time.Minute

	maxDenials    = 256 // that are remembered as told
	tokensToldOf  = 6   // of a subject, by which denials are the same
	tokensOfFleet = 3   // the same of the fleet's own subjects, where further tokens name plans and steps
)

// denials tells the log about violations, each once until the connection is made anew.
type denials struct {
	logger *slog.Logger

	mu    sync.Mutex
	told  map[string]bool
	again time.Duration // how long the next wait is before denied subscriptions are asked for again
}

// note tells of the violation.
func (d *denials) note(conn *nats.Conn, denied *PermissionError) {
	tokens := strings.Split(denied.Subject, ".")
	count := tokensToldOf
	fleets := tokens[0] == "zfleet"
	if fleets {
		count = tokensOfFleet
	}
	key := fmt.Sprint(denied.Subscribe, tokens[:min(count, len(tokens))])
	d.mu.Lock()
	known := d.told[key] || len(d.told) >= maxDenials
	if !known {
		if d.told == nil {
			d.told = map[string]bool{}
		}
		d.told[key] = true
	}
	wait := time.Duration(0)
	if denied.Subscribe && fleets && !known {
		wait = max(d.again, firstSubscribeAgain)
		d.again = min(2*wait, lastSubscribeAgain)
	}
	d.mu.Unlock()
	if !known {
		d.logger.Error("NATS denies what this process needs", "error", denied)
	}
	if wait > 0 {
		time.AfterFunc(wait, func() {
			if conn.IsConnected() {
				_ = conn.ForceReconnect() // it fails only where the connection is closed
			}
		})
	}
}

// forget lets denials be told of again, after the connection was made anew.
func (d *denials) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.told = nil
}
