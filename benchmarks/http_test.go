package benchmarks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

const (
	perRequest = 50 // events of one body
	clients    = 8  // connections that post, each one request at a time
)

// BenchmarkHTTP measures the HTTP source, with the broker's acknowledgement before each answer, and its ceiling: a handler
// of net/http that reads the body and answers. Both figures contain the same client, which runs in this process.
func BenchmarkHTTP(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	addrs := addresses(b)
	bodies := newTraffic(0, events, 100_000, 10).bodies()
	var bare figures
	b.Run("net-http", func(b *testing.B) {
		for range b.N {
			bare = runBareServer(ctx, b, bodies)
		}
		bare.report(b)
	})
	b.Run("source", func(b *testing.B) {
		var f figures
		for range b.N {
			f = runSource(ctx, b, addrs, bodies)
		}
		f.report(b)
		f.over(b, bare, "net-http")
	})
}

// bodies are the events as requests of the batch endpoint.
func (t *traffic) bodies() [][]byte {
	var out [][]byte
	for at := 0; at < len(t.events); at += perRequest {
		chunk := t.events[at:min(at+perRequest, len(t.events))]
		out = append(out, fmt.Appendf(nil, `{"batch":[%s]}`, bytes.Join(chunk, []byte(","))))
	}
	return out
}

// post sends every body once and fails unless each is answered 200.
func post(ctx context.Context, b *testing.B, url string, bodies [][]byte) {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var posting sync.WaitGroup
	errs := make(chan error, clients)
	for range clients {
		posting.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(bodies)); i = next.Add(1) - 1 {
				if err := postOne(ctx, client, url, bodies[i]); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	posting.Wait()
	select {
	case err := <-errs:
		b.Fatal(err)
	default:
	}
}

func postOne(ctx context.Context, client *http.Client, url string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/batch", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("a request was answered %s", res.Status)
	}
	return nil
}

func runBareServer(ctx context.Context, b *testing.B, bodies [][]byte) figures {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(b, err)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = io.WriteString(w, `{"success":true}`) // a client that has gone is seen by the client
	})}
	go func() { _ = server.Serve(l) }() // ends with Close
	defer server.Close()
	m := startMeter()
	post(ctx, b, "http://"+l.Addr().String(), bodies)
	return m.stop(events)
}

// runSource measures the source and a producer behind it, without the rest of the engine.
func runSource(ctx context.Context, b *testing.B, addrs []string, bodies [][]byte) figures {
	b.Helper()
	c := dial(ctx, b, addrs)
	topic := testenv.Name(b)
	check(b, c.EnsureTopics(ctx, []broker.Topic{{Name: topic, Partitions: partitions}}))
	producer, err := c.OpenProducer()
	check(b, err)
	defer producer.Close()
	url := ""
	source, err := load(b, "source", "pipeline").Sources[0].Open(ctx, pipeline.Deps{Logger: logger(), Data: b.TempDir(),
		Say: func(line string) { url = strings.TrimPrefix(line, "http ") }})
	check(b, err)
	messages, err := source.Subscribe(ctx, topic)
	check(b, err)
	var producing sync.WaitGroup
	producing.Go(func() {
		for m := range messages {
			producing.Go(func() { // as many at once as there are clients
				batch, _ := pipeline.BatchOf(m)
				for i := range batch.Records {
					batch.Records[i].Topic = topic
				}
				if err := producer.Produce(ctx, batch.Records); err != nil {
					m.Nack() // the client is told 503, which fails the benchmark
					return
				}
				m.Ack()
			})
		}
	})
	m := startMeter()
	post(ctx, b, url, bodies)
	f := m.stop(events)
	check(b, source.Close())
	producing.Wait()
	complete(ctx, b, c, topic)
	return f
}
