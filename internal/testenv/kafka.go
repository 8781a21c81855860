package testenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

// Kafka returns the addresses of an Apache Kafka that all tests of the process share: those of the environment variable
// KAFKA_BROKERS, or one started for it (Java 17, Maven for the first time). Topics and groups want names of their own (Name).
// Without Kafka the test is skipped.
func Kafka(t testing.TB) []string {
	t.Helper()
	if addrs := os.Getenv("KAFKA_BROKERS"); addrs != "" {
		return strings.Split(addrs, ",")
	}
	b, err := sharedKafka()
	need(t, "Apache Kafka", err)
	return b.Addrs()
}

var sharedKafka = sync.OnceValues(func() (*Broker, error) {
	dir, err := os.MkdirTemp("", "millstream-kafka-")
	if err != nil {
		return nil, err
	}
	b, err := newKafka(dir, Options{})
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := AtEnd(func() { b.Close(); os.RemoveAll(dir) }); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
})

// StartKafka starts an Apache Kafka for this test alone, to be stopped, killed and started again.
func StartKafka(t testing.TB, o Options) *Broker {
	t.Helper()
	b, err := newKafka(t.TempDir(), o)
	need(t, "Apache Kafka", err)
	t.Cleanup(func() { b.Close() })
	return b
}

// kafka is one node of Apache Kafka, broker and controller in one process (KRaft) or in two.
type kafka struct {
	jars, dir  string
	port       int // where it listens
	public     int // what it tells clients
	control    int // where the controller listens
	proc       *javaProcess
	controller *kafka // of its own; nil: in the same process
	killed     bool
}

// sessionTimeout is how long the controller takes a silent broker for alive.
const sessionTimeout = 2 * time.Second

func newKafka(dir string, o Options) (*Broker, error) {
	jars, err := kafkaJars()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	k := &kafka{jars: jars, dir: dir, port: ports[0], public: ports[0], control: ports[1]}
	b := &Broker{server: k}
	if o.Proxied {
		if b.proxy, err = newProxy(k.addr()); err != nil {
			return nil, err
		}
		k.public = b.proxy.port()
	}
	var scram []string
	if o.Secured != nil {
		var more map[string]string
		if b.secured, more, err = o.Secured.listeners(k.properties()); err != nil {
			return nil, errors.Join(err, b.Close())
		}
		maps.Copy(more, o.Properties)
		o.Properties, scram = more, o.Secured.scram()
	}
	if o.Killed {
		if err := k.startController(); err != nil {
			return nil, errors.Join(err, b.Close())
		}
	}
	if err := k.format(k.properties(), o.Properties, scram...); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if err := k.start(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	if err := warmUp(k.addr()); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// startController gives the broker a controller in a process of its own.
func (k *kafka) startController() error {
	k.controller = &kafka{jars: k.jars, dir: filepath.Join(k.dir, "controller"), port: k.control, public: k.control, control: k.control}
	if err := os.Mkdir(k.controller.dir, 0o755); err != nil {
		return err
	}
	p := k.controller.properties()
	p["process.roles"], p["node.id"] = "controller", "2"
	p["listeners"] = fmt.Sprintf("CONTROLLER://127.0.0.1:%d", k.control)
	for _, brokers := range []string{"advertised.listeners", "inter.broker.listener.name"} {
		delete(p, brokers)
	}
	p["controller.quorum.voters"] = fmt.Sprintf("2@127.0.0.1:%d", k.control)
	if err := k.controller.format(p, nil); err != nil {
		return err
	}
	return k.controller.start()
}

func (k *kafka) addr() string { return fmt.Sprintf("127.0.0.1:%d", k.port) }

// properties of a small test broker; what differs from the defaults has its reason beside it.
func (k *kafka) properties() map[string]string {
	p := map[string]string{
		"process.roles":              "broker,controller",
		"node.id":                    "1",
		"controller.quorum.voters":   fmt.Sprintf("1@127.0.0.1:%d", k.control),
		"listeners":                  fmt.Sprintf("PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", k.port, k.control),
		"advertised.listeners":       fmt.Sprintf("PLAINTEXT://127.0.0.1:%d", k.public),
		"controller.listener.names":  "CONTROLLER",
		"inter.broker.listener.name": "PLAINTEXT",
		"log.dirs":                   filepath.Join(k.dir, "data"),
		"auto.create.topics.enable":  "false", // would hide a missing topic
		// One node, few internal partitions.
		"offsets.topic.num.partitions": "4", "offsets.topic.replication.factor": "1",
		"transaction.state.log.num.partitions": "4", "transaction.state.log.replication.factor": "1", "transaction.state.log.min.isr": "1",
		"share.coordinator.state.topic.replication.factor": "1", "share.coordinator.state.topic.min.isr": "1",
		"group.initial.rebalance.delay.ms":                            "0",    // else the first join of every group waits 3 s
		"group.min.session.timeout.ms":                                "1000", // else sessions below 6 s are refused
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000", // else expired transactions stay for up to 10 s
		// After SIGKILL the node is let in again only when its old registration has expired: 4 s instead of 12.
		"broker.session.timeout.ms": fmt.Sprint(sessionTimeout.Milliseconds()), "broker.heartbeat.interval.ms": "500",
		// A small machine.
		"num.network.threads": "2", "num.io.threads": "4", "log.cleaner.dedupe.buffer.size": "4194304",
		"offsets.topic.segment.bytes": "16777216", "transaction.state.log.segment.bytes": "16777216",
		"log.cleaner.backoff.ms": "500", // compaction tests wait for the cleaner
	}
	if k.controller != nil {
		p["process.roles"] = "broker"
		p["controller.quorum.voters"] = fmt.Sprintf("2@127.0.0.1:%d", k.control)
		p["listeners"] = fmt.Sprintf("PLAINTEXT://127.0.0.1:%d", k.port)
	}
	return p
}

func (k *kafka) format(p, extra map[string]string, args ...string) error {
	maps.Copy(p, extra)
	var w strings.Builder
	for _, key := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&w, "%s=%s\n", key, p[key])
	}
	if err := os.WriteFile(filepath.Join(k.dir, "server.properties"), []byte(w.String()), 0o644); err != nil {
		return err
	}
	cmd := k.java(append([]string{"kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "server.properties"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format the data folder: %w: %s", err, out)
	}
	return nil
}

func (k *kafka) java(args ...string) *exec.Cmd {
	cmd := exec.Command("java", append([]string{
		"-Xmx512m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", filepath.Join(k.jars, "*"),
	}, args...)...)
	cmd.Dir = k.dir
	return cmd
}

// start launches the broker and waits until it answers.
func (k *kafka) start() error {
	if k.killed { // the controller must have noticed: else it takes the new process for the old one's double
		time.Sleep(sessionTimeout + time.Second)
	}
	log, err := os.OpenFile(filepath.Join(k.dir, "broker.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := k.java("kafka.Kafka", "server.properties")
	cmd.Stdout, cmd.Stderr = log, log
	if k.proc, err = startProcess(cmd); err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if c, err := net.DialTimeout("tcp", k.addr(), time.Second); err == nil {
			return c.Close()
		}
		if k.proc.ended() {
			break
		}
	}
	text, _ := os.ReadFile(log.Name())
	return errors.Join(fmt.Errorf("the broker did not come up: …%s", text[max(0, len(text)-2000):]), k.stop(syscall.SIGKILL))
}

func (k *kafka) stop(sig syscall.Signal) error {
	if k.proc == nil {
		return nil
	}
	defer func() { k.proc = nil }()
	k.killed = k.controller != nil && sig == syscall.SIGKILL
	return k.proc.stop(sig)
}

func (k *kafka) close() error {
	err := k.stop(syscall.SIGKILL)
	if k.controller != nil {
		err = errors.Join(err, k.controller.stop(syscall.SIGKILL))
	}
	return err
}

// warmUp lets the broker make its internal topics, for which the library would sleep seconds at the first group and the
// first transaction.
func warmUp(addr string) error {
	b := sarama.NewBroker(addr)
	conf := sarama.NewConfig()
	conf.ClientID, conf.Version = "testenv", sarama.V2_8_0_0
	if err := b.Open(conf); err != nil {
		return err
	}
	defer b.Close()
	for _, kind := range []sarama.CoordinatorType{sarama.CoordinatorGroup, sarama.CoordinatorTransaction} {
		var last error
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			resp, err := b.FindCoordinator(&sarama.FindCoordinatorRequest{Version: 2, CoordinatorKey: "testenv", CoordinatorType: kind})
			if err == nil && resp.Err == sarama.ErrNoError {
				break
			}
			if last = err; err == nil {
				last = resp.Err
			}
			if time.Now().After(end) {
				return fmt.Errorf("warm the broker up: %w", last)
			}
		}
	}
	return nil
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all at once: else the same port comes twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// javaProcess is a process that dies with this one.
type javaProcess struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// startProcess starts cmd from a goroutine that keeps its thread while the process lives: the kernel sends the parent-death
// signal when the thread ends that started it.
func startProcess(cmd *exec.Cmd) (*javaProcess, error) {
	cmd.SysProcAttr = dieWithParent()
	p := &javaProcess{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is of no interest: it was told to, or its log tells
			close(p.done)
		}
	}()
	return p, <-started
}

func (p *javaProcess) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop sends the signal and waits; a graceful end that takes longer than 20 s is cut short.
func (p *javaProcess) stop(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}
