package webhook

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// readRequest reads a request up to the end of its body, near enough.
func readRequest(c net.Conn) {
	if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
		_, _ = r.Body.Read(make([]byte, 1<<16))
	}
}

// repeat writes text until the client has gone.
func repeat(c net.Conn, text string, pause time.Duration) {
	for {
		if _, err := c.Write([]byte(text)); err != nil {
			return
		}
		time.Sleep(pause)
	}
}

func TestNastyEndpoints(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
	for _, test := range []struct {
		name   string
		serve  func(c net.Conn)
		kind   pipeline.OutcomeKind
		reason string
	}{
		{"accepts and closes", func(net.Conn) {}, pipeline.RetryAt, "ended without an answer"},
		{"reads and closes", readRequest, pipeline.RetryAt, "ended without an answer"},
		{"resets", func(c net.Conn) { readRequest(c); _ = c.(*net.TCPConn).SetLinger(0) }, pipeline.RetryAt, "ended without an answer"},
		{"never reads, never answers", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); waitForEnd(c) }, pipeline.RetryAt, "no answer in time"},
		{"drips its status", func(c net.Conn) { readRequest(c); repeat(c, "H", 50*time.Millisecond) }, pipeline.RetryAt, ""},
		{"drips headers", func(c net.Conn) { readRequest(c); fmt.Fprint(c, head); repeat(c, "X-A: b\r\n", 50*time.Millisecond) }, pipeline.RetryAt, "no answer in time"},
		{"endless headers", func(c net.Conn) {
			readRequest(c)
			fmt.Fprint(c, head)
			repeat(c, "X-A: "+strings.Repeat("b", 1000)+"\r\n", 0)
		}, pipeline.RetryAt, "ended without an answer"},
		{"endless informational answers", func(c net.Conn) { readRequest(c); repeat(c, "HTTP/1.1 103 Early Hints\r\n\r\n", time.Millisecond) }, pipeline.RetryAt, ""},
		{"not HTTP", func(c net.Conn) { readRequest(c); fmt.Fprint(c, "220 mail.example.com ESMTP\r\n") }, pipeline.RetryAt, "ended without an answer"},
		{"status out of range", func(c net.Conn) { readRequest(c); fmt.Fprint(c, "HTTP/1.1 -20 OK\r\n\r\n") }, pipeline.RetryAt, "ended without an answer"},
		{"drips the text of a success", func(c net.Conn) { readRequest(c); fmt.Fprint(c, head+"\r\n"); repeat(c, "x", 50*time.Millisecond) }, pipeline.Delivered, ""},
		{"endless text of a success", func(c net.Conn) { readRequest(c); fmt.Fprint(c, head+"\r\n"); repeat(c, strings.Repeat("x", 1<<16), 0) }, pipeline.Delivered, ""},
		{"a success cut off", func(c net.Conn) { readRequest(c); fmt.Fprint(c, head+"Content-Length: 100\r\n\r\nabc") }, pipeline.Delivered, ""},
		{"drips the text of a failure", func(c net.Conn) {
			readRequest(c)
			fmt.Fprint(c, "HTTP/1.1 500 Oh\r\n\r\n")
			repeat(c, "x", 50*time.Millisecond)
		}, pipeline.RetryAt, "answered 500"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := testConfig(listen(t, test.serve))
			c.Timeout = pipeline.Duration(1500 * time.Millisecond)
			s, _ := openTest(t, c, &pipeline.Env{})
			o := writeOne(t, s)
			if o.Kind != test.kind || !strings.Contains(o.Reason, test.reason) || o.Delivery == nil {
				t.Errorf("outcome is %+v, delivery %+v", o, o.Delivery)
			}
			if o.Delivery != nil && len(o.Delivery.Error) > answerKept {
				t.Errorf("the delivery keeps %d bytes", len(o.Delivery.Error))
			}
			if strings.Contains(o.Reason, "127.0.0.1") || strings.Contains(o.Reason, "220") {
				t.Errorf("the reason has more than fits a log: %s", o.Reason)
			}
		})
	}
}

func waitForEnd(c net.Conn) {
	for {
		if _, err := c.Read(make([]byte, 1<<10)); err != nil {
			return
		}
	}
}

func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	s, _ := openTest(t, testConfig("http://"+l.Addr().String()), &pipeline.Env{})
	if o := writeOne(t, s); o.Kind != pipeline.RetryAt || !strings.Contains(o.Reason, "no connection") || o.Delivery.Status != 0 {
		t.Errorf("outcome is %+v", o)
	}
}

func TestUnknownName(t *testing.T) {
	c := testConfig("https://crm.invalid/hook?t=s3c") // too short to be redacted
	s, _ := openTest(t, c, &pipeline.Env{})
	o := writeOne(t, s)
	if o.Kind != pipeline.RetryAt || strings.Contains(o.Delivery.Error, "s3c") {
		t.Errorf("outcome is %+v, delivery %+v", o, o.Delivery)
	}
}

// TestTLS: an endpoint whose certificate nobody vouches for gets nothing.
func TestTLS(t *testing.T) {
	rec := newReceiver(t, nil)
	rec.Close()
	rec.Server = newTLSServer(t, rec)
	s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	if o := writeOne(t, s); o.Kind != pipeline.RetryAt || !strings.Contains(o.Reason, "certificate") {
		t.Errorf("outcome with an unknown certificate is %+v", o)
	}
	if len(rec.seen()) != 0 {
		t.Error("a request went to an endpoint with an unknown certificate")
	}
	s.client.Transport.(*http.Transport).TLSClientConfig.RootCAs = rec.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	if n := count(writeAll(t, s, manyProfiles(20)), pipeline.Delivered); n != 20 {
		t.Errorf("%d of 20 were delivered over TLS", n)
	}
}
