// Wires: a process's connections to NATS, on which messages are lost, doubled and delayed, and which can be held and cut.

package faults

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// wire makes all connections of one process to NATS. It implements nats.InProcessConnProvider.
type wire struct {
	name     string
	timeline *timeline
	// dial makes a connection to a server that runs.
	dial func() (net.Conn, error)
	// leases follows what the process does to the lease.
	leases *leaseHistory
	// gate is the process's, and network holds what is under way in both directions, though the process runs.
	gate, network *gate

	ctx    context.Context //nolint:containedctx // the wire's own life; it ends with close
	cancel context.CancelFunc
	pumps  sync.WaitGroup

	mu    sync.Mutex
	cut   int // how many keep it from connecting
	links map[*link]bool
	armed []*messageFault
}

var _ nats.InProcessConnProvider = (*wire)(nil)

// link is one connection.
type link struct {
	near, far net.Conn // to the client's end, and to the server
}

func (l *link) close() {
	_ = l.near.Close()
	_ = l.far.Close()
}

// messageFault is a fault of the next messages of a class, after those that it lets pass.
type messageFault struct {
	fault Fault
	left  int
	times int
}

func newWire(
	name string, timeline *timeline, leases *leaseHistory, gate *gate, dial func() (net.Conn, error),
) *wire {
	ctx, cancel := context.WithCancel(context.Background())
	return &wire{
		name: name, timeline: timeline, leases: leases, dial: dial, gate: gate, network: newGate(), ctx: ctx, cancel: cancel, links: map[*link]bool{},
	}
}

// messageClasses are the classes of messages that something can happen to.
func messageClasses() []string {
	return []string{"work", "ack", "event", "record", "lease", "reply", "request", "stream", "object", "api"}
}

// classOfMessage is a subject's class; all others are never touched.
func classOfMessage(subject string) string {
	for _, known := range []struct{ prefix, class string }{
		{"zfleet.work.", "work"},
		{"$JS.ACK.ZFLEET_WORK", "ack"},
		{"zfleet.event.", "event"},
		{"$KV.zfleet-leader.", "lease"},
		{"$KV.", "record"},
		{"_INBOX.", "reply"},
		{"zfleet.rpc.", "request"},
		{"zfleet.stream.", "stream"},
		{"zfleet.cancel.", "request"},
		{"$O.", "object"},
		{"$JS.API.", "api"},
	} {
		if strings.HasPrefix(subject, known.prefix) {
			return known.class
		}
	}
	return ""
}

// InProcessConn is a new connection for the NATS client.
func (w *wire) InProcessConn() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut > 0 || w.ctx.Err() != nil {
		return nil, errCut
	}
	far, err := w.dial()
	if err != nil {
		return nil, err
	}
	client, near := net.Pipe()
	l := &link{near: near, far: far}
	w.links[l] = true
	out := &pump{wire: w, link: l, from: near, to: far, note: func(f frame) { w.leases.sent(w.name, f) }}
	in := &pump{wire: w, link: l, from: far, to: near, note: w.leases.answered}
	w.pumps.Go(out.run)
	w.pumps.Go(in.run)
	return client, nil
}

// pass waits until messages may go on.
func (w *wire) pass() error {
	if err := w.network.pass(w.ctx); err != nil {
		return err
	}
	return w.gate.pass(w.ctx)
}

func (w *wire) forget(l *link) {
	l.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.links, l)
}

// cutOff ends all connections and refuses new ones, until mend is called as often.
func (w *wire) cutOff() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut++
	for l := range w.links {
		l.close()
	}
}

func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut--
}

// close ends all connections for good, and waits for what carried them.
func (w *wire) close() {
	w.cancel()
	w.cutOff()
	w.pumps.Wait()
}

// arm has a fault happen to messages.
func (w *wire) arm(f Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = append(w.armed, &messageFault{fault: f, left: f.Number, times: 1 + f.Number%2})
}

// calm ends all faults of messages.
func (w *wire) calm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = nil
}

// judge is what is to happen to a message, nil if nothing is.
func (w *wire) judge(subject string) *Fault {
	class := classOfMessage(subject)
	if class == "" {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, armed := range w.armed {
		switch {
		case armed.fault.Command != class || armed.times == 0:
		case armed.left > 0:
			armed.left--
		default:
			armed.times--
			return &armed.fault
		}
	}
	return nil
}

// pump carries one direction of a link.
type pump struct {
	wire     *wire
	link     *link
	from, to net.Conn
	// note looks at each message before it goes on.
	note func(frame)

	writing sync.Mutex
}

func (p *pump) run() {
	defer p.wire.forget(p.link)
	reader := bufio.NewReaderSize(p.from, 64<<10)
	for {
		f, err := readFrame(reader)
		if err != nil || p.wire.pass() != nil {
			return
		}
		if f.subject != "" {
			p.note(f)
		}
		if fault := p.wire.judge(f.subject); fault != nil {
			p.wire.timeline.add(p.wire.name, "%s: %s", fault.Kind, f.subject)
			switch fault.Kind {
			case DropMessage:
				continue
			case DoubleMessage:
				if p.write(f.raw) != nil {
					return
				}
			case DelayMessage:
				// It is overtaken by what follows.
				p.wire.pumps.Go(func() { p.writeLater(f.raw, fault.For) })
				continue
			default:
			}
		}
		if p.write(f.raw) != nil {
			return
		}
	}
}

func (p *pump) write(raw []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err := p.to.Write(raw)
	return err
}

func (p *pump) writeLater(raw []byte, after time.Duration) {
	wait(p.wire.ctx, after)
	if p.wire.ctx.Err() == nil && p.wire.pass() == nil {
		_ = p.write(raw) // the link may be gone by now, and the message with it
	}
}
