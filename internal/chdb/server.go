package chdb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// serverRunner runs a real "clickhouse server" from PATH on a configuration of its own: one user, HTTP only, loopback only.
type serverRunner struct {
	options Options
	address string
}

func newServerRunner(o Options, listener net.Listener) (*serverRunner, error) {
	r := &serverRunner{options: o, address: listener.Addr().String()}
	if err := os.MkdirAll(filepath.Join(o.Dir, "server"), 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder of the clickhouse server: %w", err)
	}
	config, err := serverConfig(o, r.address)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.configPath(), config, 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration of the clickhouse server: %w", err)
	}
	return r, listener.Close() // the server opens the port itself
}

func (r *serverRunner) configPath() string { return filepath.Join(r.options.Dir, "server.xml") }

func (r *serverRunner) close() {}

// serverConfig is a whole configuration: a clickhouse server reads nothing else.
func serverConfig(o Options, address string) ([]byte, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("configure the clickhouse server: %w", err)
	}
	type users struct {
		Password string   `xml:"millstream>password_sha256_hex"`
		Networks []string `xml:"millstream>networks>ip"`
		Profile  string   `xml:"millstream>profile"`
		Quota    string   `xml:"millstream>quota"`
		Access   int      `xml:"millstream>access_management"`
	}
	digest := sha256.Sum256([]byte(o.Password))
	data := filepath.Join(o.Dir, "server") + "/"
	config := struct {
		XMLName   xml.Name `xml:"clickhouse"`
		Level     string   `xml:"logger>level"`
		Console   bool     `xml:"logger>console"`
		Host      string   `xml:"listen_host"`
		Port      string   `xml:"http_port"`
		Path      string   `xml:"path"`
		Tmp       string   `xml:"tmp_path"`
		UserFiles string   `xml:"user_files_path"`
		Memory    uint64   `xml:"max_server_memory_usage"`
		Users     users    `xml:"users"`
		Profiles  string   `xml:"profiles>default"`
		Quotas    string   `xml:"quotas>default"`
	}{
		Level: "warning", Console: true, Host: host, Port: port, Path: data, Tmp: data + "tmp/", UserFiles: data + "user_files/",
		Memory: o.MemoryLimit,
		Users: users{Password: hex.EncodeToString(digest[:]), Networks: []string{"127.0.0.1", "::1"}, Profile: "default",
			Quota: "default", Access: 1},
	}
	b, err := xml.MarshalIndent(config, "", " ")
	if err != nil {
		return nil, fmt.Errorf("configure the clickhouse server: %w", err)
	}
	return append(b, '\n'), nil
}

func (r *serverRunner) start(ctx context.Context) (*instance, error) {
	o := r.options
	cmd := exec.Command(o.Engine.Server, "server", "--config-file="+r.configPath())
	cmd.Dir = filepath.Join(o.Dir, "server")
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.Stdout, cmd.Stderr = o.Stderr, o.Stderr
	cmd.SysProcAttr = childAttributes()
	in, err := newInstance(cmd, func() error { return cmd.Process.Signal(syscall.SIGTERM) })
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := r.greet(waiting, in); err != nil {
		return nil, errors.Join(err, in.stop())
	}
	return in, nil
}

// greet waits until the server creates the database.
func (r *serverRunner) greet(ctx context.Context, in *instance) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		if last = r.createDatabase(ctx); last == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-in.exited:
			return fmt.Errorf("the clickhouse server ended before it was ready, see what it printed: %w", in.err)
		case <-ctx.Done():
			return fmt.Errorf("wait for the clickhouse server: %w", last)
		}
	}
}

func (r *serverRunner) createDatabase(ctx context.Context) error {
	statement := strings.NewReader("CREATE DATABASE IF NOT EXISTS " + quoteName(DefaultDatabase))
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.address+"/", statement)
	if err != nil {
		return err
	}
	q.SetBasicAuth(User, r.options.Password)
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096)) // the status says enough
		return fmt.Errorf("create the database: status %d: %s", answer.StatusCode, bytes.TrimSpace(text))
	}
	return nil
}
