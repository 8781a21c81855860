package testenv

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Keys of Kafka's requests, for Broker.Fault.
const (
	KeyProduce         int16 = 0
	KeyFetch           int16 = 1
	KeyOffsetFetch     int16 = 9
	KeyJoinGroup       int16 = 11
	KeyHeartbeat       int16 = 12
	KeyInitProducerID  int16 = 22
	KeyAddPartitions   int16 = 24
	KeyAddOffsets      int16 = 25
	KeyEndTxn          int16 = 26
	KeyTxnOffsetCommit int16 = 28
)

// Fault is what happens to one request. The zero value lets it pass.
type Fault struct {
	Delay time.Duration // before the broker sees it
	Cut   Cut
}

// Cut is where the connection breaks.
type Cut int

// The places.
const (
	NoCut     Cut = iota
	CutBefore     // the broker never sees the request
	CutAfter      // the broker acts, the client never gets the answer: the one fault a broker cannot be told to make
)

// Proxy forwards connections to a broker that advertises the proxy's address, and breaks them as it is told.
type Proxy struct {
	target string
	l      net.Listener
	fault  atomic.Pointer[func(int16) Fault]
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func newProxy(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	x := &Proxy{target: target, l: l, conns: map[net.Conn]bool{}}
	x.wg.Go(x.accept)
	return x, nil
}

func (x *Proxy) addr() string { return x.l.Addr().String() }
func (x *Proxy) port() int    { return x.l.Addr().(*net.TCPAddr).Port }

func (x *Proxy) set(f func(int16) Fault) {
	if f == nil {
		x.fault.Store(nil)
		return
	}
	x.fault.Store(&f)
}

func (x *Proxy) close() error {
	err := x.l.Close()
	x.mu.Lock()
	for c := range x.conns {
		c.Close()
	}
	x.mu.Unlock()
	x.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (x *Proxy) accept() {
	for {
		c, err := x.l.Accept()
		if err != nil {
			return
		}
		x.wg.Go(func() { x.serve(c) })
	}
}

// keep remembers a connection so that close ends it; the returned function closes it.
func (x *Proxy) keep(c net.Conn) func() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conns[c] = true
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.conns, c)
		c.Close()
	}
}

func (x *Proxy) serve(client net.Conn) {
	defer x.keep(client)()
	server, err := net.Dial("tcp", x.target)
	if err != nil {
		return
	}
	defer x.keep(server)()
	var mute atomic.Bool // answers are dropped from here on
	answered := make(chan struct{}, 1)
	x.wg.Go(func() {
		defer client.Close()
		x.answers(client, server, &mute, answered)
	})
	x.requests(client, server, &mute, answered)
}

// answers copies answers whole, so that a connection is never cut in the middle of one.
func (x *Proxy) answers(client, server net.Conn, mute *atomic.Bool, answered chan<- struct{}) {
	head := make([]byte, 4)
	for {
		if _, err := io.ReadFull(server, head); err != nil {
			return
		}
		n := int64(binary.BigEndian.Uint32(head))
		if mute.Load() {
			_, _ = io.CopyN(io.Discard, server, n)
			answered <- struct{}{}
			return
		}
		if _, err := client.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(client, server, n); err != nil {
			return
		}
	}
}

// requests copies requests one by one. Each begins with its length (4 bytes) and its key (2 bytes).
func (x *Proxy) requests(client, server net.Conn, mute *atomic.Bool, answered <-chan struct{}) {
	head := make([]byte, 6)
	for {
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		var f Fault
		if decide := x.fault.Load(); decide != nil {
			f = (*decide)(int16(binary.BigEndian.Uint16(head[4:])))
		}
		if f.Delay > 0 {
			time.Sleep(f.Delay)
		}
		if f.Cut == CutBefore {
			return
		}
		if f.Cut == CutAfter {
			mute.Store(true)
		}
		if _, err := server.Write(head); err != nil {
			return
		}
		if _, err := io.CopyN(server, client, int64(binary.BigEndian.Uint32(head))-2); err != nil {
			return
		}
		if f.Cut == CutAfter { // the broker has answered: it has acted
			select {
			case <-answered:
			case <-time.After(5 * time.Second):
			}
			return
		}
	}
}
