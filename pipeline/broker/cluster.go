package broker

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/pipeline"
)

const (
	heartbeat = 500 * time.Millisecond
	// RebalanceTimeout is how long a member may take to give up a partition that was revoked.
	RebalanceTimeout = 20 * time.Second

	retryFirst  = 50 * time.Millisecond // back-off after the first error
	retryMost   = 2 * time.Second       // doubled up to this
	complainGap = 10 * time.Second      // at most one line per wait and gap
)

// Cluster is a connection to Kafka for metadata, offsets and administration, and the maker of everything else. It is safe
// for concurrent use. Close it last.
type Cluster struct {
	conf   Config
	client sarama.Client
}

// Dial connects. It waits until a broker answers or ctx ends, and says once every ten seconds what it waits for.
func Dial(ctx context.Context, conf Config) (*Cluster, error) {
	conf = conf.withDefaults()
	if err := conf.validate(); err != nil {
		return nil, fmt.Errorf("check Kafka settings: %w", err)
	}
	conf.wire = newWire(conf.SASL != nil && conf.TLS == nil && !conf.SASL.Insecure)
	c := &Cluster{conf: conf}
	err := c.retry(ctx, "waiting for Kafka at "+strings.Join(conf.Brokers, ","), func() error {
		client, err := c.dialClient(ctx, conf.admin())
		c.client = client
		return err
	})
	if err != nil {
		c.Cut() // what is still under way
		return nil, fmt.Errorf("connect to Kafka at %s: %w", strings.Join(conf.Brokers, ","), err)
	}
	return c, nil
}

// dialClient makes a client, and gives up when ctx ends although the library would go on. The client that arrives too late
// is closed.
func (c *Cluster) dialClient(ctx context.Context, conf *sarama.Config) (sarama.Client, error) {
	return within(ctx, func() (sarama.Client, error) { return c.newClient(conf) },
		func(late sarama.Client) { _ = late.Close() })
}

// within runs a call that knows no context. When ctx ends first, what the call returns later goes to undo.
func within[T any](ctx context.Context, call func() (T, error), undo func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				undo(r.v)
			}
		}()
		var none T
		return none, context.Cause(ctx)
	}
}

// Close ends the connections of the cluster itself; subscribers, transactions and producers have their own.
func (c *Cluster) Close() error { return c.client.Close() }

// Ping asks a broker for the cluster's metadata: one round trip, at most about ten seconds.
func (c *Cluster) Ping() error { return c.client.RefreshMetadata() }

// retry calls f until it succeeds, fails for good, or ctx ends or the wire is cut; then the error names the last one of f too.
func (c *Cluster) retry(ctx context.Context, what string, f func() error) error {
	wait := retryFirst
	say := complaint{log: c.conf.Logger.Warn, what: what}
	for {
		if end := c.over(ctx); end != nil {
			return end
		}
		err := f()
		if err == nil || permanent(err) {
			return err
		}
		if end := c.over(ctx); end != nil {
			return fmt.Errorf("%w (last: %w)", end, err)
		}
		say.about(err)
		if end := pipeline.Sleep(ctx, wait); end != nil {
			return fmt.Errorf("%w (last: %w)", end, err)
		}
		wait = min(2*wait, retryMost)
	}
}

// over is why nothing is to be tried any more: ctx has ended or the wire is cut.
func (c *Cluster) over(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return context.Cause(c.conf.wire.ctx)
}

// complaint writes the same trouble at most once per complainGap, and never for the first half second: most troubles are an
// election that is over by then.
type complaint struct {
	log   func(msg string, args ...any)
	what  string
	since time.Time
	last  time.Time
}

func (p *complaint) about(err error) {
	now := time.Now()
	if p.since.IsZero() {
		p.since = now
	}
	if now.Sub(p.since) < 500*time.Millisecond || now.Sub(p.last) < complainGap {
		return
	}
	p.last = now
	p.log(p.what, "error", err, "for", now.Sub(p.since).Round(time.Second))
}
