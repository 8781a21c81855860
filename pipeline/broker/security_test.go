package broker_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

func file(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	check(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// TestTLSAndLogins runs against an Apache Kafka that wants them: each mechanism, with and without TLS, certificates of both
// sides; and what must not work.
func TestTLSAndLogins(t *testing.T) {
	ca, other := testenv.NewAuthority(t), testenv.NewAuthority(t)
	cert, key := ca.Leaf(t)
	own, ownKey := ca.Leaf(t)
	kafka := testenv.StartKafka(t, testenv.Options{Secured: &testenv.Secured{Cert: cert, Key: key, CA: ca.PEM, User: "shop", Password: "hunter2+/%"}})
	dir := t.TempDir()
	trusted, wrong := file(t, dir, "ca.pem", ca.PEM), file(t, dir, "other.pem", other.PEM)
	client := &pipeline.TLS{CA: trusted, Cert: file(t, dir, "cert.pem", own), Key: file(t, dir, "key.pem", ownKey)}
	sasl := func(mechanism, password string) *pipeline.SASL {
		return &pipeline.SASL{Mechanism: mechanism, User: "shop", Password: pipeline.NewSecret(password)}
	}
	// connect gives up, with the reason, when the log says that a broker is waited for.
	connect := func(listener string, s *pipeline.TLS, login *pipeline.SASL) (*broker.Cluster, error) {
		secured, err := broker.LoadTLS(s)
		check(t, err)
		ctx, giveUp := context.WithCancelCause(testContext(t))
		defer giveUp(nil)
		log := slog.New(slog.NewTextHandler(writer(func(line string) { giveUp(errors.New(line)) }), nil))
		return broker.Dial(ctx, broker.Config{Brokers: []string{kafka.Secured(listener)}, TLS: secured, SASL: login, Replication: 1, Logger: log})
	}
	right := &pipeline.TLS{CA: trusted}
	for i, c := range []struct {
		listener string
		tls      *pipeline.TLS
		sasl     *pipeline.SASL
	}{
		{testenv.Login, nil, sasl("PLAIN", "hunter2+/%")},
		{testenv.Login, nil, sasl("SCRAM-SHA-256", "hunter2+/%")},
		{testenv.LoginTLS, right, sasl("PLAIN", "hunter2+/%")},
		{testenv.LoginTLS, right, sasl("SCRAM-SHA-512", "hunter2+/%")},
		{testenv.Mutual, client, nil},
	} {
		cluster, err := connect(c.listener, c.tls, c.sasl)
		if err != nil {
			t.Fatalf("%s %+v: %v", c.listener, c.sasl, err)
		}
		everything(t, cluster, fmt.Sprint("topic-", i))
		check(t, cluster.Close())
	}
	for name, c := range map[string]struct {
		listener string
		tls      *pipeline.TLS
		sasl     *pipeline.SASL
		says     string
	}{
		"wrong password":            {testenv.LoginTLS, right, sasl("SCRAM-SHA-256", "hunter3"), "uthentication"},
		"wrong password, PLAIN":     {testenv.Login, nil, sasl("PLAIN", "hunter3"), "uthentication"},
		"a certificate of others":   {testenv.LoginTLS, &pipeline.TLS{CA: wrong}, sasl("PLAIN", "hunter2+/%"), "certificate"},
		"made out to another":       {testenv.LoginTLS, &pipeline.TLS{CA: trusted, ServerName: "kafka.example"}, sasl("PLAIN", "hunter2+/%"), "kafka.example"},
		"no certificate of our own": {testenv.Mutual, right, nil, "certificate"},
	} {
		cluster, err := connect(c.listener, c.tls, c.sasl)
		if err == nil {
			check(t, cluster.Close())
			t.Errorf("%s: connected", name)
			continue
		}
		if !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v", name, err)
		}
		if waits := strings.Contains(err.Error(), "waiting for Kafka"); waits == strings.HasPrefix(name, "wrong password") {
			t.Errorf("%s: waits %v: %v", name, waits, err)
		}
	}
}

// writer calls a function for each line of a log.
type writer func(line string)

func (w writer) Write(p []byte) (int, error) {
	w(string(p))
	return len(p), nil
}

// everything uses each kind of connection there is.
func everything(t *testing.T, c *broker.Cluster, topic string) {
	t.Helper()
	makeTopic(t, c, topic, 1)
	produce(t, c, record(topic, 0, "a"))
	transact(t, c, topic, topic, "commit", "b")
	if got, _ := values(t, c, topic, 0, 0); fmt.Sprint(got) != "[a b]" {
		t.Errorf("read %q", got)
	}
	m := join(t, c, topic, topic)
	s := (<-m.began).Session
	check(t, c.CommitOffset(testContext(t), s, topic, 0, broker.Position{Offset: 2}))
	check(t, m.stop())
}

// TestLoginIsNotSentReadable dials an address of this machine that is not loopback.
func TestLoginIsNotSentReadable(t *testing.T) {
	address := ""
	addrs, err := net.InterfaceAddrs()
	check(t, err)
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			address = n.IP.String()
		}
	}
	if address == "" {
		t.Skip("needs a network: this machine has only loopback addresses")
	}
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	check(t, err)
	defer l.Close()
	login := &pipeline.SASL{Mechanism: "PLAIN", User: "shop", Password: pipeline.NewSecret("hunter2")}
	read := make(chan int, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n, _ := c.Read(make([]byte, 1))
			c.Close()
			read <- n
		}
	}()
	conf := broker.Config{Brokers: []string{l.Addr().String()}, SASL: login, Logger: quiet()}
	if _, err := broker.Dial(testContext(t), conf); err == nil || !strings.Contains(err.Error(), "insecure") {
		t.Fatalf("dialled: %v", err)
	}
	for n := <-read; ; n = <-read {
		if n != 0 {
			t.Error("something was sent")
		}
		if len(read) == 0 {
			break
		}
	}
	login.Insecure = true
	ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
	defer cancel()
	if _, err := broker.Dial(ctx, conf); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("insecure: %v", err)
	}
	sent := 0
	for len(read) > 0 {
		sent += <-read
	}
	if sent == 0 {
		t.Error("nothing was sent although that was allowed")
	}
}

// TestReplication asks for more copies than there are brokers.
func TestReplication(t *testing.T) {
	name := testenv.Name(t)
	c := dial(t, testenv.Kafka(t), func(c *broker.Config) { c.Replication = 3 })
	err := c.EnsureTopics(testContext(t), []broker.Topic{{Name: name, Partitions: 1}})
	if err == nil || !strings.Contains(err.Error(), "eplication") {
		t.Fatalf("three copies on one broker: %v", err)
	}
}

func TestBadFilesAndLogins(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none.pem")
	for name, c := range map[string]*pipeline.TLS{
		"no such ca": {CA: none}, "a ca that is none": {CA: file(t, dir, "text.pem", "text")}, "no such cert": {Cert: none, Key: none},
	} {
		if _, err := broker.LoadTLS(c); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c, err := broker.LoadTLS(nil); c != nil || err != nil {
		t.Errorf("none: %v, %v", c, err)
	}
	if c, err := broker.LoadTLS(&pipeline.TLS{}); err != nil || c.MinVersion != tls.VersionTLS12 || c.RootCAs != nil {
		t.Errorf("the system's: %+v, %v", c, err)
	}
	for _, s := range []*pipeline.SASL{{Mechanism: "GSSAPI", User: "a", Password: pipeline.NewSecret("b")}, {Mechanism: "PLAIN", User: "a"}, {Mechanism: "PLAIN", Password: pipeline.NewSecret("b")}} {
		if _, err := broker.Dial(testContext(t), broker.Config{Brokers: []string{"127.0.0.1:1"}, SASL: s, Logger: quiet()}); err == nil || !strings.Contains(err.Error(), "sasl") {
			t.Errorf("%+v: %v", s, err)
		}
	}
}
