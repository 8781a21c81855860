package clickhouse

import (
	"bytes"
	"net"
	"strings"
	"sync"
	"testing"
)

// proxy is a TCP proxy in front of an engine that can be down, and that can lose the answers to inserts.
type proxy struct {
	t       testing.TB
	target  string
	address string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	alter    func(request []byte) []byte
	lose     func(request []byte) bool // tells whether the answer to what the client has sent is to be lost
	lost     int
	refusing bool
	refused  int
	wg       sync.WaitGroup
}

func newProxy(t testing.TB, target string) *proxy {
	p := &proxy{t: t, target: target, address: "127.0.0.1:0", conns: make(map[net.Conn]bool)}
	p.up()
	t.Cleanup(func() { p.down(); p.wg.Wait() })
	return p
}

// openBehindProxy opens one more sink on the database, which reaches the shared engine through a proxy of its own.
func (d *db) openBehindProxy() (*proxy, *Sink) {
	d.t.Helper()
	engine := sharedEngine(d.t)
	p := newProxy(d.t, engine.Address())
	s, err := d.openAt(d.t.Context(), strings.Replace(engine.URL(), engine.Address(), p.address, 1))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { s.Close() })
	return p, s
}

// up listens, after down on the same port.
func (p *proxy) up() {
	l, err := net.Listen("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.listener, p.address = l, l.Addr().String()
	p.mu.Unlock()
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(c) })
		}
	})
}

// down refuses connections and cuts those that are open.
func (p *proxy) down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.listener.Close()
	for c := range p.conns {
		_ = c.Close()
	}
}

// refuse closes every connection as soon as it is made, or stops doing so.
func (p *proxy) refuse(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = yes
	for c := range p.conns {
		_ = c.Close()
	}
}

func (p *proxy) refusedConnections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// turnAway tells whether a new connection is to be closed.
func (p *proxy) turnAway() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refusing {
		p.refused++
	}
	return p.refusing
}

// loseAnswers loses the answers to requests that choose returns true for, by cutting the connection when they come.
func (p *proxy) loseAnswers(choose func(request []byte) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose = choose
}

func (p *proxy) lostAnswers() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func (p *proxy) keep(c net.Conn, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if open {
		p.conns[c] = true
	} else {
		delete(p.conns, c)
		_ = c.Close()
	}
}

func (p *proxy) serve(client net.Conn) {
	p.keep(client, true)
	defer p.keep(client, false)
	if p.turnAway() {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	p.keep(server, true)
	defer p.keep(server, false)
	request := make(chan []byte, 1024) // heads of requests, to match with answers
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := client.Read(buf)
			if n > 0 {
				if bytes.HasPrefix(buf[:n], []byte("POST ")) {
					head, _, _ := bytes.Cut(buf[:n], []byte("\r\n"))
					request <- bytes.Clone(head)
				}
				if _, err := server.Write(p.altered(buf[:n])); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := server.Read(buf)
		if n > 0 {
			if bytes.HasPrefix(buf[:n], []byte("HTTP/")) && p.loses(<-request) {
				break
			}
			if _, err := client.Write(buf[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_ = client.Close()
	_ = server.Close()
	<-done
}

// alterRequests changes what the client sends from now on; nil: no more.
func (p *proxy) alterRequests(alter func(request []byte) []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alter = alter
}

func (p *proxy) altered(request []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alter == nil {
		return request
	}
	return p.alter(request)
}

func (p *proxy) loses(head []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose == nil || !p.lose(head) {
		return false
	}
	p.lost++
	return true
}
