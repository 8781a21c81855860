package broker_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// The test binary is also the processes that tests kill: which one, an environment variable says.
const roleVariable = "MILLSTREAM_TEST_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(roleVariable) {
	case "":
		testenv.Main(m)
	case "broker":
		err = brokerRole()
	case "parent":
		err = parentRole()
	case "worker":
		err = workerRole()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// role is the environment for a process of that role. Arguments follow on the command line.
func role(name string) []string { return append(os.Environ(), roleVariable+"="+name) }

// testContext ends before the test's deadline, so that what hangs says where.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Minute, fmt.Errorf("test took more than two minutes"))
	t.Cleanup(cancel)
	return ctx
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func dial(t testing.TB, brokers []string, change ...func(*broker.Config)) *broker.Cluster {
	t.Helper()
	conf := broker.Config{Brokers: brokers, Logger: quiet()}
	for _, f := range change {
		f(&conf)
	}
	c, err := broker.Dial(testContext(t), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func makeTopic(t testing.TB, c *broker.Cluster, name string, parts int32, config ...string) string {
	t.Helper()
	topic := broker.Topic{Name: name, Partitions: parts, Config: map[string]string{}}
	for i := 0; i < len(config); i += 2 {
		topic.Config[config[i]] = config[i+1]
	}
	if err := c.EnsureTopics(testContext(t), []broker.Topic{topic}); err != nil {
		t.Fatal(err)
	}
	return name
}

func record(topic string, part int32, value string) *pipeline.Record {
	return &pipeline.Record{Topic: topic, Partition: part, Key: []byte("k" + value), Value: []byte(value),
		Headers: []pipeline.Header{{Key: pipeline.HeaderVersion, Value: []byte("1")}}}
}

func produce(t testing.TB, c *broker.Cluster, recs ...*pipeline.Record) {
	t.Helper()
	p, err := c.OpenProducer()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	plain := make([]pipeline.Record, len(recs))
	for i := range recs {
		plain[i] = *recs[i]
	}
	if err := p.Produce(testContext(t), plain); err != nil {
		t.Fatal(err)
	}
}

// values reads all committed values of the partition and the position after them.
func values(t testing.TB, c *broker.Cluster, topic string, part int32, from int64) ([]string, int64) {
	t.Helper()
	var got []string
	next, err := c.ReadToEnd(testContext(t), topic, part, from, func(r *pipeline.Record) error {
		got = append(got, string(r.Value))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, next
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// until polls, at most a minute: for conditions that nobody signals.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("waited a minute for: " + what)
}

// brokerRole runs the embedded broker on os.Args[1], as `millstream broker` does.
func brokerRole() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return broker.RunEmbedded(ctx, broker.EmbeddedOptions{Listen: "127.0.0.1:0", NextFree: true, Dir: os.Args[1], Parent: os.Stdin, Logger: quiet()})
}

func childOptions(dir string) broker.ChildOptions {
	return broker.ChildOptions{Binary: "/usr/bin/env", Args: []string{roleVariable + "=broker", os.Args[0], dir}, Dir: dir, Logger: quiet()}
}

// parentRole starts the broker as its child, tells the address, and lives until it is killed.
func parentRole() error {
	c, err := broker.StartEmbedded(context.Background(), childOptions(os.Args[1]))
	if err != nil {
		return err
	}
	fmt.Println(c.Addr())
	_, err = bufio.NewReader(os.Stdin).ReadByte()
	return err
}

// workerRole copies topic in to topic out, exactly once, until it is killed: worker BROKERS GROUP IN OUT.
func workerRole() error {
	ctx := context.Background()
	c, err := broker.Dial(ctx, broker.Config{Brokers: strings.Split(os.Args[1], ","), InstanceID: "worker", Logger: quiet()})
	if err != nil {
		return err
	}
	w := &copier{c: c, group: os.Args[2], in: os.Args[3], out: os.Args[4], committed: func(int) { fmt.Println("committed") }}
	return c.Join(ctx, w.group, []string{w.in}, w.own)
}
