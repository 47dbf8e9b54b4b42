// Data ports: what senders connect to, in front of a worker's own, which can be held and cut.

package faults

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
)

// dataPort passes connections on to a worker.
type dataPort struct {
	listener net.Listener
	backend  string
	// gate is the process's, and network holds what is under way in both directions, though the process runs.
	gate, network *gate

	ctx    context.Context //nolint:containedctx // the port's own life; it ends with close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu          sync.Mutex
	cut         int
	connections map[net.Conn]bool
}

// newDataPort listens at a free port of the loopback interface. The worker behind it is to listen at the same port of another
// loopback address, so that both are known before either is bound.
func newDataPort(gate *gate) (*dataPort, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &dataPort{
		listener: listener, gate: gate, network: newGate(), ctx: ctx, cancel: cancel, connections: map[net.Conn]bool{},
		backend: net.JoinHostPort("127.0.0.2", port),
	}
	d.work.Go(d.serve)
	return d, nil
}

// advertised is where senders connect to.
func (d *dataPort) advertised() string { return d.listener.Addr().String() }

func (d *dataPort) serve() {
	for {
		near, err := d.listener.Accept()
		if err != nil {
			return
		}
		if !d.add(near) {
			continue
		}
		far, err := new(net.Dialer).DialContext(d.ctx, "tcp", d.backend)
		if err != nil || !d.add(far) {
			d.remove(near)
			continue
		}
		d.work.Go(func() { d.copy(near, far) })
		d.work.Go(func() { d.copy(far, near) })
	}
}

func (d *dataPort) add(conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cut > 0 {
		_ = conn.Close()
		return false
	}
	d.connections[conn] = true
	return true
}

func (d *dataPort) remove(conn net.Conn) {
	_ = conn.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.connections, conn)
}

// copy passes on one direction, and its end.
func (d *dataPort) copy(from, to net.Conn) {
	_, err := io.Copy(held{d, to}, from)
	if half, canHalf := to.(*net.TCPConn); canHalf && err == nil {
		_ = half.CloseWrite()
	} else {
		d.remove(to)
		d.remove(from)
	}
}

// held writes to a connection while the gate is open.
type held struct {
	port *dataPort
	to   net.Conn
}

func (h held) Write(data []byte) (int, error) {
	if err := h.port.network.pass(h.port.ctx); err != nil {
		return 0, err
	}
	if err := h.port.gate.pass(h.port.ctx); err != nil {
		return 0, err
	}
	return h.to.Write(data)
}

// cutOff ends all connections and refuses new ones, until mend is called as often.
func (d *dataPort) cutOff() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut++
	for conn := range d.connections {
		_ = conn.Close()
	}
}

func (d *dataPort) mend() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut--
}

func (d *dataPort) close() {
	d.cancel()
	_ = d.listener.Close()
	d.cutOff()
	d.work.Wait()
}
