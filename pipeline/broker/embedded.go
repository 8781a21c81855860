package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millstream-io/millstream/pipeline"
)

// EmbeddedOptions says how to run the embedded broker.
type EmbeddedOptions struct {
	// Listen is the loopback address, host:port; port 0 is any free one. Default 127.0.0.1:9092.
	Listen string
	// NextFree takes, if the port is in use, the next free of the hundred above it. The port of the last run on Dir is tried
	// first, so that clients find a restarted broker where it was.
	NextFree bool
	// Dir keeps the topics. One process at a time uses it; another gets ErrInUse.
	Dir string
	// Parent, if it is set, is read until it ends, which ends the broker as ctx does: a pipe from a parent process is the one
	// sign of its death that cannot be missed.
	Parent io.Reader
	// Ready is called once with the address when the broker answers. May be nil.
	Ready func(addr string)
	// Logger gets the broker's warnings. Default slog.Default().
	Logger *slog.Logger
}

// ErrInUse says that another process runs an embedded broker on the same folder.
var ErrInUse = errors.New("another embedded broker uses the folder")

// Files in the broker's folder.
const (
	topicsDir   = "topics"
	lockFile    = "lock"
	addressFile = "address"      // where the running broker listens; gone when it has ended cleanly
	lastAddress = "last-address" // where it listened last
)

// RunEmbedded runs a broker in this process until ctx ends, then writes everything to Dir and returns nil. It is made for a
// laptop: one node, no replication, no fsync per write. A machine that loses power may lose the last seconds, and a killed
// broker can tear a transaction; Apache Kafka does neither.
func RunEmbedded(ctx context.Context, o EmbeddedOptions) error {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make the embedded broker's folder: %w", err)
	}
	unlock, err := lockDir(ctx, o.Dir)
	if err != nil {
		return fmt.Errorf("lock the embedded broker's folder: %w", err)
	}
	defer unlock()
	listener, err := o.listen()
	if err != nil {
		return fmt.Errorf("listen for the embedded broker: %w", err)
	}
	addr := listener.Addr().String()
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.Ports(listener.Addr().(*net.TCPAddr).Port),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }),
		kfake.DataDir(filepath.Join(o.Dir, topicsDir)),
		kfake.WithLogger(embeddedLog{o.Logger}),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms": "60000", // compaction and retention once a minute, not once an hour
		}),
	)
	if err != nil {
		return errors.Join(fmt.Errorf("start the embedded broker on %s: %w", o.Dir, err), listener.Close())
	}
	defer func() { _ = os.Remove(filepath.Join(o.Dir, addressFile)) }() // when everything is written
	defer cluster.Close()
	if err := writeAddress(o.Dir, addr); err != nil {
		return fmt.Errorf("write the embedded broker's address: %w", err)
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		watchGhosts(watching, cluster, addr, o.Logger)
	}()
	defer func() { stop(); <-watched }()
	if o.Ready != nil {
		o.Ready(addr)
	}
	var orphaned chan struct{}
	if o.Parent != nil {
		orphaned = make(chan struct{})
		go func() {
			defer close(orphaned)
			_, _ = io.Copy(io.Discard, o.Parent) // an error is an end too
		}()
	}
	select {
	case <-ctx.Done():
	case <-orphaned:
	}
	return nil
}

// listen opens the port, or one near it.
func (o EmbeddedOptions) listen() (net.Listener, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:9092"
	}
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, err
	}
	first, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("port of %q: %w", o.Listen, err)
	}
	ip := net.ParseIP(host)
	if host == "localhost" {
		ip = net.IPv4(127, 0, 0, 1)
	}
	if ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%q is not a loopback address: the embedded broker knows no passwords", o.Listen)
	}
	try := []string{}
	if o.NextFree {
		if last := readAddress(o.Dir, lastAddress); last != "" {
			try = append(try, last)
		}
	}
	try = append(try, net.JoinHostPort(ip.String(), port))
	for i := 1; o.NextFree && first != 0 && i <= 100 && first+i <= 65535; i++ {
		try = append(try, net.JoinHostPort(ip.String(), strconv.Itoa(first+i)))
	}
	var errs error
	for _, addr := range try {
		l, err := net.Listen("tcp", addr)
		if err == nil {
			return l, nil
		}
		if errs == nil {
			errs = err
		}
	}
	return nil, errs
}

func writeAddress(dir, addr string) error {
	for _, name := range []string{lastAddress, addressFile} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", []byte(addr+"\n"), 0o600); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return nil
}

// readAddress is the address in a file of the folder, "" if there is none.
func readAddress(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	addr := strings.TrimSpace(string(b))
	if _, _, bad := net.SplitHostPort(addr); err != nil || bad != nil {
		return ""
	}
	return addr
}

// lockDir takes the folder. It tries for two seconds: one who only looks whether the broker lives holds the lock too.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	for end := time.Now().Add(2 * time.Second); ; {
		unlock, err = tryLock(filepath.Join(dir, lockFile), true)
		if !errors.Is(err, ErrInUse) || time.Now().After(end) {
			return unlock, err
		}
		if err := pipeline.Sleep(ctx, 50*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// embeddedLog passes the embedded broker's warnings on.
type embeddedLog struct{ log *slog.Logger }

// slowEnd begins a warning about each end of a transaction that took more than 5 ms, as it does whenever the disk or another
// process is busy: news for the broker's author, not for an operator.
const slowEnd = "txn: EndTxn slow "

func (l embeddedLog) Logf(level kfake.LogLevel, format string, args ...any) {
	to := slog.LevelWarn
	switch {
	case level == kfake.LogLevelError:
		to = slog.LevelError
	case level != kfake.LogLevelWarn:
		return
	case strings.HasPrefix(format, slowEnd):
		to = slog.LevelDebug
	}
	l.log.Log(context.Background(), to, "embedded broker: "+fmt.Sprintf(format, args...))
}
