package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/internal/testenv"
)

// sharedEngine is the address of a ClickHouse for the tests that do not stop theirs, without a database: each has its own.
var sharedEngine = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "millstream-engine-")
	if err != nil {
		return "", err
	}
	p, err := chdb.Start(context.Background(), chdb.Options{Dir: dir, Listen: "127.0.0.1:0", Command: []string{program, "engine-child"}})
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	if err := testenv.AtEnd(func() { p.Close(); os.RemoveAll(dir) }); err != nil {
		return "", errors.Join(err, p.Close())
	}
	return fmt.Sprintf("http://%s:%s@%s", chdb.User, p.Password(), p.Address()), nil
})

// engine returns it, or skips the test.
func engine(t *testing.T) string {
	t.Helper()
	needEngine(t)
	address, err := sharedEngine()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// needEngine skips the test if there is no ClickHouse on this machine.
func needEngine(t *testing.T) {
	t.Helper()
	if _, err := chdb.Find(""); errors.Is(err, chdb.ErrNoEngine) {
		t.Skipf("needs the ClickHouse engine: %v", err)
	}
}

// clickhouse asks the process's ClickHouse, its own or the shared one; the answer is tab-separated.
func (p *process) clickhouse(data, query string) (string, error) {
	line := p.line("clickhouse ")
	u, err := url.Parse(strings.Fields(line)[0])
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(p.cmd.Env, func(v string) bool { return strings.HasPrefix(v, "URL=http") }); i >= 0 {
		login, err := url.Parse(strings.TrimPrefix(p.cmd.Env[i], "URL="))
		if err != nil {
			return "", err
		}
		u.User = login.User
	} else {
		password, err := os.ReadFile(filepath.Join(data, "clickhouse", "password"))
		if err != nil {
			return "", err
		}
		u.User = url.UserPassword(chdb.User, strings.TrimSpace(string(password)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader([]byte(query)))
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ClickHouse answered %s: %s", resp.Status, b)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// answers asks ClickHouse until every query has its answer.
func (p *process) answers(t *testing.T, data string, patience time.Duration, want map[string]string) {
	t.Helper()
	for query, answer := range want {
		within(t, patience, func() error {
			got, err := p.clickhouse(data, query)
			if err == nil && got != answer {
				err = fmt.Errorf("%s: %q, want %q", query, got, answer)
			}
			return err
		})
	}
}
