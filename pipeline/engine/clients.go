package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// kafkaClient connects a source or sink to a cluster, see pipeline.Deps. Clusters that are not the pipeline's get no login of
// it.
func (e *engine) kafkaClient(ctx context.Context, at *pipeline.KafkaAddress) (pipeline.KafkaClient, error) {
	if at == nil {
		select {
		case <-e.ready:
			return broker.NewClient(e.Cluster, false), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	secured, err := broker.LoadTLS(at.TLS)
	if err != nil {
		return nil, err
	}
	c, err := broker.Dial(ctx, broker.Config{Brokers: at.Brokers, TLS: secured, SASL: at.SASL, Logger: e.Logger})
	if err != nil {
		return nil, fmt.Errorf("use the cluster at %s: %w", strings.Join(at.Brokers, ","), err)
	}
	return &otherClient{Client: broker.NewClient(c, true), forget: e.others.add(c)}, nil
}

// otherClient is a client of a cluster that is not the pipeline's.
type otherClient struct {
	*broker.Client
	forget func()
}

func (c *otherClient) Close() error {
	c.forget()
	return c.Client.Close()
}

// others are the connected clusters that are not the pipeline's, so that the end of the grace can cut them too. It is safe
// for concurrent use.
type others struct {
	mu       sync.Mutex
	clusters map[*broker.Cluster]bool
	ended    bool
}

func (o *others) add(c *broker.Cluster) (forget func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.clusters == nil {
		o.clusters = map[*broker.Cluster]bool{}
	}
	o.clusters[c] = true
	if o.ended {
		c.Cut()
	}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.clusters, c)
	}
}

func (o *others) cut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	for c := range o.clusters {
		c.Cut()
	}
}
