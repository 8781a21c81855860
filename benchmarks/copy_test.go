package benchmarks

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

const (
	partitions = 8                     // the default of a pipeline
	interval   = 50 * time.Millisecond // so is this, between commits
)

// prepareCopy fills a topic and makes an empty one beside it.
func prepareCopy(ctx context.Context, b *testing.B, c *broker.Cluster) (in, out string) {
	b.Helper()
	in = testenv.Name(b)
	out = in + ".copy"
	newTraffic(0, events, 100_000, 10).preload(ctx, b, c, in, partitions)
	check(b, c.EnsureTopics(ctx, []broker.Topic{{Name: out, Partitions: partitions}}))
	return in, out
}

// complete fails unless the copy has every record once.
func complete(ctx context.Context, b *testing.B, c *broker.Cluster, topic string) {
	b.Helper()
	n := 0
	for p := range int32(partitions) {
		_, err := c.ReadToEnd(ctx, topic, p, 0, func(*pipeline.Record) error { n++; return nil })
		check(b, err)
	}
	if n != events {
		b.Fatalf("copied %d of %d records", n, events)
	}
}

// runCopy is the least that a program can do with this client library: consume and produce.
func runCopy(ctx context.Context, b *testing.B, addrs []string) figures {
	b.Helper()
	c := dial(ctx, b, addrs)
	in, out := prepareCopy(ctx, b, c)
	m := startMeter()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	conf.Producer.RequiredAcks = sarama.WaitForAll
	conf.Producer.Return.Successes = true
	conf.Producer.Flush.Frequency = 5 * time.Millisecond
	conf.Producer.Partitioner = sarama.NewManualPartitioner
	client, err := sarama.NewClient(addrs, conf)
	check(b, err)
	defer client.Close()
	producer, err := sarama.NewAsyncProducerFromClient(client)
	check(b, err)
	consumer, err := sarama.NewConsumerFromClient(client)
	check(b, err)
	var copying sync.WaitGroup
	var parts []sarama.PartitionConsumer
	for p := range int32(partitions) {
		pc, err := consumer.ConsumePartition(in, p, sarama.OffsetOldest)
		check(b, err)
		parts = append(parts, pc)
		copying.Go(func() {
			for r := range pc.Messages() {
				h := make([]sarama.RecordHeader, len(r.Headers))
				for i := range r.Headers {
					h[i] = *r.Headers[i]
				}
				producer.Input() <- &sarama.ProducerMessage{Topic: out, Partition: r.Partition, Key: sarama.ByteEncoder(r.Key), Value: sarama.ByteEncoder(r.Value), Headers: h}
			}
		})
	}
	for range events {
		select {
		case <-producer.Successes():
		case err := <-producer.Errors():
			b.Fatal(err)
		case <-ctx.Done():
			b.Fatal(ctx.Err())
		}
	}
	f := m.stop(events)
	for _, pc := range parts {
		check(b, pc.Close())
	}
	copying.Wait()
	check(b, producer.Close())
	check(b, consumer.Close())
	complete(ctx, b, c, out)
	return f
}

// runExactCopy is what the engine does around the stages: groups, batches, transactions with the position in them.
func runExactCopy(ctx context.Context, b *testing.B, addrs []string) figures {
	b.Helper()
	c := dial(ctx, b, addrs)
	x := &exactCopy{c: c, group: testenv.Name(b)}
	x.in, x.out = prepareCopy(ctx, b, c)
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	m := startMeter()
	go func() { ended <- c.Join(running, x.group, []string{x.in}, x.own) }()
	await(ctx, b, ended, func() bool { return x.copied.Load() >= events })
	f := m.stop(events)
	stop()
	check(b, <-ended)
	complete(ctx, b, c, x.out)
	return f
}

type exactCopy struct {
	c              *broker.Cluster
	group, in, out string
	copied         atomic.Int64
}

func (x *exactCopy) own(ctx context.Context, a broker.Assignment) error {
	tx, err := x.c.OpenTransactions(ctx, fmt.Sprintf("%s-%d", x.group, a.Partition))
	if err != nil {
		return err
	}
	defer tx.Close()
	pos, err := x.c.Committed(ctx, x.group, x.in, a.Partition)
	if err != nil {
		return err
	}
	sub := x.c.NewSubscriber(broker.SubscriberConfig{Partition: a.Partition, Offset: pos.Offset, Interval: interval})
	defer sub.Close()
	messages, err := sub.Subscribe(ctx, x.in)
	if err != nil {
		return err
	}
	for m := range messages {
		batch, _ := pipeline.BatchOf(m)
		if err := x.commit(ctx, tx, a, batch); err != nil {
			return err // a copy without trouble is measured: an abort ends it
		}
		m.Ack()
	}
	return sub.Err()
}

func (x *exactCopy) commit(ctx context.Context, tx *broker.Transactions, a broker.Assignment, batch *pipeline.Batch) error {
	if err := tx.Begin(); err != nil {
		return err
	}
	for _, r := range batch.Records {
		r.Topic = x.out
		if err := tx.Send(&r); err != nil {
			return err
		}
	}
	if err := tx.Commit(ctx, a.Session, x.group, x.in, a.Partition, broker.Position{Offset: batch.Next}); err != nil {
		return err
	}
	x.copied.Add(int64(len(batch.Records)))
	return nil
}
