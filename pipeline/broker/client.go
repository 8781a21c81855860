package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/pipeline"
)

// Client is a Cluster as sources and sinks see it.
type Client struct {
	*Cluster
	own bool // Close closes the cluster

	mu       sync.Mutex
	producer *Producer // opened by the first Produce
	closed   bool
}

var _ pipeline.KafkaClient = (*Client)(nil)

// NewClient makes a client. Close closes what the client has opened, and the cluster too if it is the client's own.
func NewClient(c *Cluster, own bool) *Client { return &Client{Cluster: c, own: own} }

// Bounds returns the start of the partition and its last stable offset.
func (c *Client) Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error) {
	parts := []int32{partition}
	starts, err := c.Starts(ctx, topic, parts)
	if err != nil {
		return 0, 0, err
	}
	ends, err := c.Ends(ctx, topic, parts, true)
	return starts[partition], ends[partition], err
}

// Batches of a reader are as large as what a source makes of them in one transaction.
const readerBytes = 512 << 10

// Reader makes a subscriber that hands out what one fetch gave. It tells of what it skips, so that the position moves on.
func (c *Client) Reader(topic string, partition int32, offset int64, maxRecords int) pipeline.KafkaReader {
	return c.NewSubscriber(SubscriberConfig{Partition: partition, Offset: offset, MaxBytes: readerBytes, MaxRecords: maxRecords})
}

// CreateTopic makes a topic with the broker's defaults, unless there is one of that name.
func (c *Client) CreateTopic(ctx context.Context, topic string, partitions int32) error {
	have, err := c.Partitions(ctx, topic)
	if err != nil || have > 0 {
		return err
	}
	var other *PartitionCountError
	if err := c.EnsureTopics(ctx, []Topic{{Name: topic, Partitions: partitions}}); !errors.As(err, &other) { // made by somebody else
		return err
	}
	return nil
}

// Produce sends records with an idempotent producer.
func (c *Client) Produce(ctx context.Context, records []pipeline.Record) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return fmt.Errorf("produce: client: %w", ErrClosed)
	}
	if c.producer == nil {
		p, err := c.OpenProducer()
		if err != nil {
			c.mu.Unlock()
			return err
		}
		c.producer = p
	}
	p := c.producer
	c.mu.Unlock()
	err := p.Produce(ctx, records)
	if errors.Is(err, ErrTooLarge) || errors.Is(err, sarama.ErrMessageSizeTooLarge) {
		return fmt.Errorf("%w: %w", pipeline.ErrRecordTooLarge, err)
	}
	return err
}

// Close may be called again.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	var errs []error
	if c.producer != nil {
		errs = append(errs, c.producer.Close())
	}
	if c.own {
		errs = append(errs, c.Cluster.Close())
	}
	return errors.Join(errs...)
}
