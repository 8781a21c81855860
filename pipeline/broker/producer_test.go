package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

func TestProducerRidesOutAnOutage(t *testing.T) {
	testenv.EachOwnBroker(t, testenv.Options{}, func(t *testing.T, b *testenv.Broker) {
		c := dial(t, b.Addrs())
		topic := makeTopic(t, c, "topic", 2)
		p, err := c.OpenProducer()
		check(t, err)
		defer p.Close()
		check(t, p.Produce(testContext(t), []pipeline.Record{*record(topic, 0, "0")}))
		if !p.Healthy() {
			t.Fatal("not healthy at the start")
		}
		b.Kill(t)
		// Callers with little patience are told.
		ctx, cancel := context.WithTimeout(testContext(t), 300*time.Millisecond)
		defer cancel()
		if err := p.Produce(ctx, []pipeline.Record{*record(topic, 0, "1")}); !errors.Is(err, broker.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("produce without a broker: %v", err)
		}
		if p.Healthy() {
			t.Fatal("healthy without a broker")
		}
		// One with patience is not.
		var wg sync.WaitGroup
		var patient error
		wg.Go(func() {
			patient = p.Produce(testContext(t), []pipeline.Record{*record(topic, 1, "2"), *record(topic, 1, "3")})
		})
		b.Start(t)
		wg.Wait()
		check(t, patient)
		until(t, "health", p.Healthy)
		check(t, p.Produce(testContext(t), []pipeline.Record{*record(topic, 1, "4")}))
		if got, _ := values(t, c, topic, 1, 0); fmt.Sprint(got) != "[2 3 4]" {
			t.Fatalf("partition 1 holds %q", got)
		}
	})
}

func TestProducerGivesUpAfterTheOutageItMayRideOut(t *testing.T) {
	b := testenv.StartEmbedded(t, testenv.Options{})
	c := dial(t, b.Addrs(), func(c *broker.Config) { c.Outage = 500 * time.Millisecond })
	topic := makeTopic(t, c, "topic", 1)
	p, err := c.OpenProducer()
	check(t, err)
	defer p.Close()
	check(t, p.Produce(testContext(t), []pipeline.Record{*record(topic, 0, "0")}))
	b.Stop(t)
	if err := p.Produce(testContext(t), []pipeline.Record{*record(topic, 0, "1")}); !errors.Is(err, broker.ErrUnavailable) {
		t.Fatalf("produce without a broker: %v", err)
	}
	b.Start(t)
	until(t, "recovery", func() bool { return p.Produce(testContext(t), []pipeline.Record{*record(topic, 0, "2")}) == nil })
}

func TestProducerIsConcurrentAndOrdered(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		const writers, calls, batch = 8, 20, 25
		c := dial(t, brokers, func(c *broker.Config) { c.InFlightBytes = 64 << 10 })
		topic := makeTopic(t, c, testenv.Name(t), 3)
		p, err := c.OpenProducer()
		check(t, err)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := range calls {
					var recs []pipeline.Record
					for j := range batch {
						recs = append(recs, pipeline.Record{Topic: topic, Partition: -1, Key: fmt.Append(nil, w), Value: fmt.Append(nil, i*batch+j)})
					}
					if err := p.Produce(testContext(t), recs); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		check(t, p.Close())
		if err := p.Produce(testContext(t), []pipeline.Record{*record(topic, 0, "late")}); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("produce after close: %v", err)
		}
		next := map[string]int{}
		for part := range int32(3) {
			_, err := c.ReadToEnd(testContext(t), topic, part, 0, func(r *pipeline.Record) error {
				// The partition is the one that every client with the reference hash chooses.
				want, err := sarama.NewReferenceHashPartitioner(topic).Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(r.Key)}, 3)
				if err != nil || want != part {
					return fmt.Errorf("key %s is in partition %d, not %d (%w)", r.Key, part, want, err)
				}
				if n, _ := strconv.Atoi(string(r.Value)); n != next[string(r.Key)] {
					return fmt.Errorf("writer %s: %d where %d was due", r.Key, n, next[string(r.Key)])
				}
				next[string(r.Key)]++
				return nil
			})
			check(t, err)
		}
		for w := range writers {
			if n := next[strconv.Itoa(w)]; n != calls*batch {
				t.Errorf("writer %d: %d records of %d", w, n, calls*batch)
			}
		}
	})
}

func TestRefusedRecords(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers, func(c *broker.Config) { c.MaxRecordBytes = 2000 })
		topic := makeTopic(t, c, testenv.Name(t), 1, "max.message.bytes", "1000")
		p, err := c.OpenProducer()
		check(t, err)
		defer p.Close()
		big := func(n int) []pipeline.Record {
			return []pipeline.Record{*record(topic, 0, "small"), {Topic: topic, Value: make([]byte, n)}}
		}
		if err := p.Produce(testContext(t), big(3000)); !errors.Is(err, broker.ErrTooLarge) {
			t.Fatalf("above our limit: %v", err)
		}
		if err := p.Produce(testContext(t), big(1500)); err == nil || errors.Is(err, broker.ErrUnavailable) || !errors.Is(err, sarama.ErrMessageSizeTooLarge) {
			t.Fatalf("above the topic's limit: %v", err)
		}
		if !p.Healthy() {
			t.Fatal("a refused record is no outage")
		}
		check(t, p.Produce(testContext(t), []pipeline.Record{*record(topic, 0, "after")}))

		tx, err := c.OpenTransactions(testContext(t), topic)
		check(t, err)
		defer tx.Close()
		check(t, tx.Begin())
		check(t, tx.Send(record(topic, 0, "aborted")))
		check(t, tx.Send(&pipeline.Record{Topic: topic, Value: make([]byte, 1500)}))
		if err := tx.CommitWithoutOffsets(testContext(t)); !errors.Is(err, broker.ErrAborted) {
			t.Fatalf("commit with a refused record: %v", err)
		}
		check(t, tx.Begin())
		if err := tx.Send(&pipeline.Record{Topic: topic, Value: make([]byte, 3000)}); !errors.Is(err, broker.ErrTooLarge) {
			t.Fatalf("above our limit: %v", err)
		}
		m := message.NewMessage("id", []byte("published"))
		m.Metadata["key"], m.Metadata["a"] = "k", "1"
		check(t, tx.Publish(topic, m))
		check(t, tx.CommitWithoutOffsets(testContext(t)))
		settle(t, c, topic)
		var last pipeline.Record
		got, _ := values(t, c, topic, 0, 0)
		_, err = c.ReadToEnd(testContext(t), topic, 0, 0, func(r *pipeline.Record) error { last = *r; return nil })
		check(t, err)
		if string(last.Value) != "published" || string(last.Key) != "k" || string(last.Header("a")) != "1" {
			t.Fatalf("last record %v of %q", last, got)
		}
		for _, v := range got {
			if v == "aborted" {
				t.Fatal("an aborted record is visible")
			}
		}
	})
}

// A broker that goes and comes back in the middle of transactions, again and again.
func TestExactlyOnceOverOutages(t *testing.T) {
	testenv.EachOwnBroker(t, testenv.Options{Killed: true}, func(t *testing.T, b *testenv.Broker) {
		const parts, n, outages = 2, 4000, 2
		c := dial(t, b.Addrs())
		w := &copier{c: c, group: "g", in: makeTopic(t, c, "in", parts), out: makeTopic(t, c, "out", parts)}
		stop := w.run(t)
		fed := make(chan struct{})
		go func() {
			defer close(fed)
			p, err := c.OpenProducer()
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			for i := range n { // one by one: it lasts over the outages
				if err := p.Produce(testContext(t), []pipeline.Record{*record(w.in, int32(i)%parts, strconv.Itoa(i))}); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		for range outages {
			before, err := c.Ends(testContext(t), w.out, []int32{0}, true)
			check(t, err)
			until(t, "progress", func() bool {
				now, err := c.Ends(testContext(t), w.out, []int32{0}, true)
				check(t, err)
				return now[0] > before[0]+20
			})
			b.Kill(t)
			b.Start(t)
		}
		<-fed
		w.awaitEnd(t, parts)
		stop()
		onceEach(t, c, w.out, parts, n)
	})
}

// The offset of a transaction that is not decided yet is neither the old one nor the new one.
func TestCommittedWaitsForAnOpenTransaction(t *testing.T) {
	testenv.EachOwnBroker(t, testenv.Options{Proxied: true}, func(t *testing.T, b *testenv.Broker) {
		ctx, stop := context.WithCancel(testContext(t))
		c := dial(t, b.Addrs())
		in, out := makeTopic(t, c, "in", 1), makeTopic(t, c, "out", 1)
		sessions, left := make(chan *broker.Session, 1), make(chan error, 1)
		go func() {
			left <- c.Join(ctx, "g", []string{in}, func(ctx context.Context, a broker.Assignment) error {
				sessions <- a.Session
				<-ctx.Done()
				return nil
			})
		}()
		session := <-sessions
		tx, err := c.OpenTransactions(ctx, "t")
		check(t, err)
		ending := make(chan struct{})
		var once sync.Once
		b.Fault(func(key int16) testenv.Fault {
			if key != testenv.KeyEndTxn {
				return testenv.Fault{}
			}
			once.Do(func() { close(ending) })
			return testenv.Fault{Cut: testenv.CutBefore}
		})
		check(t, tx.Begin())
		check(t, tx.Send(record(out, 0, "a")))
		done := make(chan error, 1)
		go func() { done <- tx.Commit(ctx, session, "g", in, 0, broker.Position{Offset: 7}) }()
		<-ending
		for range 3 { // who only watches gets what was there before, at once
			at, err := c.CommittedSoFar(ctx, "g", in, []int32{0})
			check(t, err)
			if at[0].Offset != -1 {
				t.Errorf("the group stands at %d before its first transaction has ended", at[0].Offset)
			}
		}
		asked := make(chan broker.Position, 1)
		go func() {
			at, err := c.Committed(ctx, "g", in, 0)
			if err != nil {
				t.Error(err)
			}
			asked <- at
		}()
		select {
		case at := <-asked:
			t.Errorf("the group stands at %d, says the broker while a transaction is about to move it", at.Offset)
			asked <- at
		case <-time.After(300 * time.Millisecond): // a chance to do it wrong
		}
		b.Fault(nil)
		check(t, <-done)
		if at := <-asked; at.Offset != 7 {
			t.Errorf("the group stands at %d, want 7", at.Offset)
		}
		check(t, tx.Close())
		stop()
		check(t, <-left)
	})
}
