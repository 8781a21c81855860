package broker

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// wire makes the connections of a cluster and of everything made from it, and can cut them. The library's requests know no
// context: they wait for their answer, up to half a minute each and again and again, and to close a client waits for the
// request in hand. Only the end of the connection itself ends that.
type wire struct {
	dialer net.Dialer
	local  bool            // only loopback addresses: what is sent must not be read on the way
	ctx    context.Context // ends when the wire is cut
	cut    context.CancelCauseFunc
}

func newWire(local bool) *wire {
	w := &wire{dialer: net.Dialer{Timeout: dialTimeout}, local: local}
	w.ctx, w.cut = context.WithCancelCause(context.Background())
	return w
}

// Dial is what the library calls (its Net.Proxy.Dialer, which need not be a proxy).
func (w *wire) Dial(network, address string) (net.Conn, error) {
	conn, err := w.dialer.DialContext(w.ctx, network, address)
	if err != nil {
		return nil, err
	}
	if to, ok := conn.RemoteAddr().(*net.TCPAddr); w.local && !(ok && to.IP.IsLoopback()) {
		_ = conn.Close()
		return nil, &final{errReadable}
	}
	return &line{conn, context.AfterFunc(w.ctx, func() { _ = conn.Close() })}, nil
}

// backoff is a constant pause between the library's retries, which neither a context nor a closed client ends: without pauses
// they are over at once when the wire is cut.
func (w *wire) backoff(d time.Duration) func(retries, most int) time.Duration {
	return func(int, int) time.Duration {
		if w.ctx.Err() != nil {
			return 0
		}
		return d
	}
}

// line is one connection.
type line struct {
	net.Conn
	forget func() bool // takes it off the wire
}

func (l *line) Close() error {
	l.forget()
	return l.Conn.Close()
}

// newClient makes a client that is closed when the wire is cut: else it would go on asking for as long as its retries last.
func (c *Cluster) newClient(conf *sarama.Config) (sarama.Client, error) {
	cl, err := sarama.NewClient(c.conf.Brokers, conf)
	if err != nil {
		return nil, err
	}
	once := &client{Client: cl}
	once.forget = context.AfterFunc(c.conf.wire.ctx, func() { _ = once.close() })
	return once, nil
}

// client is a client that may be closed more than once, also at the same time; the library's own panics then.
type client struct {
	sarama.Client
	once   sync.Once
	err    error
	forget func() bool // takes it off the wire
}

func (c *client) Close() error {
	c.forget()
	return c.close()
}

func (c *client) close() error {
	c.once.Do(func() { c.err = c.Client.Close() })
	return c.err
}

// Cut ends every connection of the cluster and of what was made from it, for good: whatever waits for a broker returns with
// an error soon, and nothing connects again. It is for the end of a process whose brokers are there but do not answer; what
// was not committed is as after a kill. Close everything afterwards as usual. Cut may be called again, and at any moment.
func (c *Cluster) Cut() { c.conf.wire.cut(fmt.Errorf("cluster: %w", ErrClosed)) }
