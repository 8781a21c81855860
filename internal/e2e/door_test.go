package e2e

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
)

// door is a port in front of a server; while it is closed, connections are refused.
type door struct {
	t               *testing.T
	target, address string

	listener net.Listener
	serving  sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool // nil while it is closed
}

// newDoor chooses an address. The door is closed.
func newDoor(t *testing.T, target string) *door {
	t.Helper()
	d := &door{t: t, target: target, address: "127.0.0.1:0"}
	d.open()
	d.close()
	t.Cleanup(d.close)
	return d
}

func (d *door) open() {
	d.t.Helper()
	eventually(d.t, func() (err error) { // the port may have been given to somebody for a moment
		d.listener, err = net.Listen("tcp", d.address)
		return err
	})
	d.address = d.listener.Addr().String()
	d.mu.Lock()
	d.conns = map[net.Conn]bool{}
	d.mu.Unlock()
	l := d.listener
	d.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.serving.Go(func() { d.serve(c) })
		}
	})
}

// close also cuts the connections that are open, and waits for their end. It may be called again.
func (d *door) close() {
	d.listener.Close()
	d.mu.Lock()
	for c := range d.conns {
		c.Close()
	}
	d.conns = nil
	d.mu.Unlock()
	d.serving.Wait()
}

func (d *door) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", d.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !d.keep(client, server) {
		return
	}
	defer d.forget(client, server)
	var copying sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		copying.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			client.Close()
			server.Close()
		})
	}
	copying.Wait()
}

// keep is false if the door has been closed meanwhile.
func (d *door) keep(conns ...net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range conns {
		if d.conns != nil {
			d.conns[c] = true
		}
	}
	return d.conns != nil
}

func (d *door) forget(conns ...net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range conns {
		delete(d.conns, c)
	}
}

// ownBroker is `millstream broker`, a process of its own.
type ownBroker struct {
	*process
	t             *testing.T
	data, address string
}

func startBroker(t *testing.T) *ownBroker {
	t.Helper()
	b := &ownBroker{t: t, data: t.TempDir(), address: "127.0.0.1:0"}
	b.Start(t)
	return b
}

// Addrs, Start and Stop are those of testenv.Broker.
func (b *ownBroker) Addrs() []string { return []string{b.address} }

func (b *ownBroker) Start(t testing.TB) {
	t.Helper()
	b.process = launch(b.t, nil, "broker", "--listen", b.address, "--data", b.data)
	line := b.line("broker ")
	if line == "" {
		t.Fatal("the embedded broker did not start")
	}
	b.address = strings.Fields(line)[0]
}

func (b *ownBroker) Stop(t testing.TB) {
	t.Helper()
	b.terminate()
}

var _, _ restartable = (*ownBroker)(nil), (*testenv.Broker)(nil)
