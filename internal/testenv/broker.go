package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millstream-io/millstream/pipeline/broker"
)

// Options of a broker for one test.
type Options struct {
	// Proxied lets every connection go through a proxy that Fault controls.
	Proxied bool
	// Properties of Apache Kafka beside those of a test broker; the embedded broker ignores them.
	Properties map[string]string
	// Killed says that the test kills the broker: Apache Kafka then has its controller in a process of its own. Broker and
	// controller in one process lose the markers of a transaction that is being committed when the process is killed (4.3.1,
	// see docs/guarantees.md).
	Killed bool
	// Secured gives Apache Kafka listeners with TLS and logins, see Broker.Secured; the embedded broker has none.
	Secured *Secured
}

// Broker is a broker that a test may stop and start again: on the same data, at the same address.
type Broker struct {
	server server
	proxy  *Proxy

	secured map[string]string
}

type server interface {
	addr() string
	start() error
	stop(syscall.Signal) error
	close() error
}

// Addrs are the addresses for clients.
func (b *Broker) Addrs() []string {
	if b.proxy != nil {
		return []string{b.proxy.addr()}
	}
	return []string{b.server.addr()}
}

// Stop ends the broker in good order.
func (b *Broker) Stop(t testing.TB) {
	t.Helper()
	if err := b.server.stop(syscall.SIGTERM); err != nil {
		t.Fatal("stop the broker:", err)
	}
}

// Kill ends the broker with SIGKILL. The embedded broker is stopped in good order: it lives in this process.
func (b *Broker) Kill(t testing.TB) {
	t.Helper()
	if err := b.server.stop(syscall.SIGKILL); err != nil {
		t.Fatal("kill the broker:", err)
	}
}

// Start starts the broker again and returns when its port is open.
func (b *Broker) Start(t testing.TB) {
	t.Helper()
	if err := b.server.start(); err != nil {
		t.Fatal("start the broker again:", err)
	}
}

// Fault sets what happens to requests from now on; nil: they pass. The broker must be Proxied. f is called concurrently.
func (b *Broker) Fault(f func(key int16) Fault) { b.proxy.set(f) }

// Close ends the broker for good.
func (b *Broker) Close() error {
	err := b.server.close()
	if b.proxy != nil {
		err = errors.Join(err, b.proxy.close())
	}
	return err
}

// Embedded returns the address of the program's embedded broker, of this test alone and in this process.
func Embedded(t testing.TB) []string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan string, 1), make(chan error, 1)
	o := broker.EmbeddedOptions{Listen: "127.0.0.1:0", Dir: t.TempDir(), Ready: func(addr string) { ready <- addr }, Logger: slog.New(slog.DiscardHandler)}
	go func() { ended <- broker.RunEmbedded(ctx, o) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error("the embedded broker:", err)
		}
	})
	select {
	case addr := <-ready:
		return []string{addr}
	case err := <-ended:
		ended <- nil // for the cleanup
		t.Fatal("start the embedded broker:", err)
		return nil
	}
}

// StartEmbedded starts an embedded broker, in this process, that keeps its data over Stop and Start.
func StartEmbedded(t testing.TB, o Options) *Broker {
	t.Helper()
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	e := &embedded{dir: t.TempDir(), port: ports[0], public: ports[0]}
	b := &Broker{server: e}
	if o.Proxied {
		if b.proxy, err = newProxy(e.addr()); err != nil {
			t.Fatal(err)
		}
		e.public = b.proxy.port()
	}
	if err := e.start(); err != nil {
		t.Fatal("start the embedded broker:", err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

type embedded struct {
	dir          string
	port, public int
	cluster      *kfake.Cluster
}

func (e *embedded) addr() string { return fmt.Sprintf("127.0.0.1:%d", e.port) }

func (e *embedded) start() error {
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(e.port), kfake.DataDir(e.dir),
		kfake.ListenFn(func(network, addr string) (net.Listener, error) {
			l, err := net.Listen(network, addr)
			return advertised{l, e.public}, err
		}))
	e.cluster = c
	return err
}

func (e *embedded) stop(syscall.Signal) error {
	if e.cluster != nil {
		e.cluster.Close()
		e.cluster = nil
	}
	return nil
}

func (e *embedded) close() error { return e.stop(syscall.SIGKILL) }

// advertised is a listener that gives out the proxy's port as its own.
type advertised struct {
	net.Listener
	port int
}

func (a advertised) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: a.port} }

// EachBroker runs the test on Apache Kafka and on the embedded broker, as subtests "kafka" and "embedded".
func EachBroker(t *testing.T, test func(t *testing.T, brokers []string)) {
	t.Run("kafka", func(t *testing.T) { test(t, Kafka(t)) })
	t.Run("embedded", func(t *testing.T) { test(t, Embedded(t)) })
}

// EachOwnBroker is EachBroker with brokers for this test alone.
func EachOwnBroker(t *testing.T, o Options, test func(t *testing.T, b *Broker)) {
	t.Run("kafka", func(t *testing.T) { test(t, StartKafka(t, o)) })
	t.Run("embedded", func(t *testing.T) { test(t, StartEmbedded(t, o)) })
}

// Name makes a name that no other test has, for topics, groups and pipelines on a shared broker.
func Name(t testing.TB) string {
	base := strings.ToLower(strings.NewReplacer("/", "-", "#", "-").Replace(t.Name()))
	return base[:min(len(base), 32)] + "-" + strings.ToLower(rand.Text()[:8])
}
