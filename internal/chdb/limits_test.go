package chdb

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

func TestConcurrentAnswersAreNotMixed(t *testing.T) {
	p := startEngine(t, testOptions(t))
	var clients sync.WaitGroup
	for c := range 8 {
		clients.Go(func() {
			for i := range 50 {
				want := fmt.Sprintf("%d\tclient %d\n", c*1000+i, c)
				r, got, err := post(t.Context(), p, strings.NewReader("SELECT {a:UInt32}, {b:String}"), fmt.Sprintf("param_a=%d&param_b=client%%20%d", c*1000+i, c))
				if err != nil || r.StatusCode != http.StatusOK || got != want {
					t.Errorf("got %q, want %q, error %v", got, want, err)
					return
				}
			}
		})
	}
	clients.Wait()
}

func TestHangingUpCancels(t *testing.T) {
	p := startEngine(t, testOptions(t))
	must(t, p, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	running := func() string {
		return must(t, p, "SELECT count() FROM system.processes WHERE query LIKE '%system.numbers%' AND query NOT LIKE '%processes%'")
	}
	for _, statement := range []string{
		"SELECT count() FROM system.numbers",                         // computes
		"SELECT number FROM system.numbers",                          // streams
		"SELECT groupBitXor(number) FROM system.numbers FORMAT JSON", // is not streamed
		"INSERT INTO t SELECT number FROM system.numbers",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, _, err := post(ctx, p, strings.NewReader(statement), "max_memory_usage=0")
			ended <- err
		}()
		eventually(t, "it runs: "+statement, func() bool { return running() == "1\n" })
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", statement, err)
		}
		eventually(t, "it is cancelled: "+statement, func() bool { return running() == "0\n" })
	}
}

func TestMemoryLimit(t *testing.T) {
	p := startEngine(t, testOptions(t)) // 1 GiB
	for _, statement := range []string{
		"SELECT length(groupArray(number)) FROM numbers(1000000000)",
		"SELECT groupArray(number) FROM numbers(1000000000) FORMAT JSON",
	} {
		for _, parameters := range []string{"", "max_memory_usage=0"} { // of the statement, of the engine
			r, body := ask(t, p, statement, parameters)
			if code := r.Header.Get("X-ClickHouse-Exception-Code"); r.StatusCode != http.StatusInternalServerError || code != "241" {
				t.Errorf("%s %s: status %d, code %q, %.200q", statement, parameters, r.StatusCode, code, body)
			}
		}
	}
	// The answer itself is too large.
	if r, body := ask(t, p, "SELECT number, repeat('x', 100) FROM numbers(30000000) FORMAT JSON", ""); r.Header.Get("X-ClickHouse-Exception-Code") != "241" {
		t.Errorf("an answer that is not streamed: status %d, %.200q", r.StatusCode, body)
	}
	if got := must(t, p, "SELECT 1"); got != "1\n" {
		t.Errorf("afterwards: %q", got)
	}
}

// An error after the first bytes cannot change the status any more; it stands in the body, behind a tag from the headers.
func TestErrorInTheMiddle(t *testing.T) {
	p := startEngine(t, testOptions(t))
	r, body := ask(t, p, "SELECT throwIf(number = 300000, 'in the middle') FROM numbers(1000000)", "max_block_size=1000&max_threads=1")
	tag := r.Header.Get("X-ClickHouse-Exception-Tag")
	if r.StatusCode != http.StatusOK || len(tag) != 16 {
		t.Fatalf("status %d, tag %q", r.StatusCode, tag)
	}
	_, exception, found := strings.Cut(body, "\r\n__exception__\r\n"+tag+"\r\n")
	if !found || !strings.HasPrefix(exception, "Code: 395. DB::Exception: ") || !strings.HasSuffix(exception, " "+tag+"\r\n__exception__\r\n") {
		t.Errorf("end of the body: %q", body[max(0, len(body)-300):])
	}
}

func TestCompressedBodies(t *testing.T) {
	o := testOptions(t)
	o.MaxBody = 1 << 20
	p := startEngine(t, o)
	must(t, p, "CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s")
	send := func(plain []byte) (int, string) {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(plain); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.Address()+"/?"+withQuery("INSERT INTO t FORMAT TSV"), &b)
		if err != nil {
			t.Fatal(err)
		}
		q.SetBasicAuth(User, p.Password())
		q.Header.Set("Content-Encoding", "gzip")
		r, body, err := do(q)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, body
	}
	if status, body := send([]byte("a\nb\n")); status != 200 {
		t.Errorf("status %d: %s", status, body)
	}
	if status, body := send(make([]byte, 100<<20)); status != 413 { // 100 kB that become 100 MB
		t.Errorf("a bomb: status %d: %s", status, body)
	}
	if got := must(t, p, "SELECT count() FROM t"); got != "2\n" {
		t.Errorf("rows: %q", got)
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+p.Address()+"/?enable_http_compression=1", strings.NewReader("SELECT repeat('x', 10000)"))
	if err != nil {
		t.Fatal(err)
	}
	q.SetBasicAuth(User, p.Password())
	q.Header.Set("Accept-Encoding", "gzip")
	r, body, err := do(q)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil {
		t.Fatalf("headers %v: %v", r.Header, err)
	}
	if plain, err := io.ReadAll(z); err != nil || len(plain) != 10001 {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
}

// Bytes that are no HTTP, or not all of it, disturb nobody else.
func TestHostileConnections(t *testing.T) {
	p := startEngine(t, testOptions(t))
	for _, raw := range []string{
		"\x00\x01\x02\x03 garbage\r\n\r\n",
		"GET / HTTP/9.9\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"GET /?" + strings.Repeat("a", 2<<20) + " HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c, err := net.Dial("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, raw) // the server may hang up in the middle
		if line, err := bufio.NewReader(c).ReadString('\n'); err == nil && !strings.HasPrefix(line, "HTTP/1.1 4") && !strings.HasPrefix(line, "HTTP/1.1 5") {
			t.Errorf("%.30q: %q", raw, line)
		}
		_ = c.Close()
	}
	// Bodies that end early: nothing of the insert may stay half-written.
	must(t, p, "CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a")
	for range 20 {
		c, err := net.Dial("tcp", p.Address())
		if err != nil {
			t.Fatal(err)
		}
		q, err := http.NewRequest(http.MethodPost, "http://"+p.Address()+"/?"+withQuery("INSERT INTO t FORMAT TSV"), nil)
		if err != nil {
			t.Fatal(err)
		}
		q.SetBasicAuth(User, p.Password())
		_, _ = fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: 1000\r\n\r\n1\n2\n3\n", q.URL.RequestURI(), q.Header.Get("Authorization"))
		_ = c.Close()
	}
	eventually(t, "all requests have ended", func() bool {
		return must(t, p, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT%'") == "0\n"
	})
	if got := must(t, p, "SELECT count() FROM t"); got != "0\n" {
		t.Errorf("rows of inserts that ended early: %q", got)
	}
}
