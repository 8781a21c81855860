package chdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// The test binary is its own engine child.
const childVariable = "MILLSTREAM_TEST_ENGINE_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := ChildMain(context.Background(), os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "engine child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(parentVariable) != "" {
		if err := parentMain(); err != nil {
			fmt.Fprintln(os.Stderr, "parent of an engine:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// testLibrary is the engine of the user's cache, fetched if it is not there, once per run.
var testLibrary = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return Fetch(ctx, FetchOptions{})
})

// testOptions are those of an engine of its own for one test.
func testOptions(t *testing.T) Options {
	t.Helper()
	library, err := testLibrary()
	if err != nil {
		t.Skipf("needs the ClickHouse engine: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Dir: t.TempDir(), Engine: Engine{Library: library}, Listen: "127.0.0.1:0", MemoryLimit: 1 << 30, MaxBody: 64 << 20,
		Command: []string{self}, Env: []string{childVariable + "=1"}, Stderr: t.Output(),
	}
}

func startEngine(t *testing.T, o Options) *Process {
	t.Helper()
	p, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("close the engine: %v", err)
		}
	})
	return p
}

// ask posts a statement and returns status, headers and body.
func ask(t *testing.T, p *Process, statement, parameters string) (*http.Response, string) {
	t.Helper()
	r, body, err := post(t.Context(), p, strings.NewReader(statement), parameters)
	if err != nil {
		t.Fatal(err)
	}
	return r, body
}

func post(ctx context.Context, p *Process, body io.Reader, parameters string) (*http.Response, string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.Address()+"/?"+parameters, body)
	if err != nil {
		return nil, "", err
	}
	q.SetBasicAuth(User, p.Password())
	return do(q)
}

func do(q *http.Request) (*http.Response, string, error) {
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	_, err = b.ReadFrom(r.Body)
	return r, b.String(), errors.Join(err, r.Body.Close())
}

// must asks, and wants success.
func must(t *testing.T, p *Process, statement string) string {
	t.Helper()
	r, body := ask(t, p, statement, "")
	if r.StatusCode != http.StatusOK {
		t.Fatalf("%.100s: status %d: %s", statement, r.StatusCode, body)
	}
	return body
}

func withQuery(statement string) string { return "query=" + url.QueryEscape(statement) }

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

func needNPM(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skipf("needs npm: %v", err)
	}
}
