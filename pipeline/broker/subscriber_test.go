package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

func subscribe(t testing.TB, c *broker.Cluster, topic string, conf broker.SubscriberConfig) (*broker.Subscriber, <-chan *message.Message) {
	t.Helper()
	s := c.NewSubscriber(conf)
	t.Cleanup(func() { s.Close() })
	msgs, err := s.Subscribe(testContext(t), topic)
	check(t, err)
	return s, msgs
}

// receive takes the next message and its batch.
func receive(t testing.TB, msgs <-chan *message.Message) (*message.Message, *pipeline.Batch) {
	t.Helper()
	select {
	case m, ok := <-msgs:
		if !ok {
			t.Fatal("the channel is closed")
		}
		b, ok := pipeline.BatchOf(m)
		if !ok {
			t.Fatal("a message without a batch")
		}
		return m, b
	case <-time.After(time.Minute):
		t.Fatal("no message in a minute")
		return nil, nil
	}
}

func TestSubscriberCutsBatches(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		const n = 10_000
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1)
		feed(t, c, topic, 1, 0, n)
		_, msgs := subscribe(t, c, topic, broker.SubscriberConfig{Offset: 10, MaxRecords: 700, Interval: 5 * time.Millisecond})
		for at := int64(10); at < n; {
			m, b := receive(t, msgs)
			if len(b.Records) == 0 || len(b.Records) > 700 || b.Topic != topic || b.Partition != 0 {
				t.Fatalf("a batch of %d records of %s/%d", len(b.Records), b.Topic, b.Partition)
			}
			for _, r := range b.Records {
				if r.Offset != at || string(r.Value) != strconv.FormatInt(at, 10) {
					t.Fatalf("record %d (%s) where %d was due", r.Offset, r.Value, at)
				}
				at++
			}
			if b.Next != at {
				t.Fatalf("next %d after record %d", b.Next, at-1)
			}
			m.Ack()
		}
	})
}

func TestSubscriberGathersWhileTheReceiverWorks(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1)
		_, msgs := subscribe(t, c, topic, broker.SubscriberConfig{Interval: 10 * time.Millisecond})
		produce(t, c, record(topic, 0, "0"))
		first, b := receive(t, msgs)
		if len(b.Records) != 1 {
			t.Fatalf("the first batch has %d records", len(b.Records))
		}
		for i := 1; i <= 20; i++ { // twenty appends, far more than one interval
			produce(t, c, record(topic, 0, strconv.Itoa(i)))
		}
		select {
		case <-msgs:
			t.Fatal("a second message before the ack of the first")
		default:
		}
		select {
		case <-first.Context().Done():
			t.Fatal("the context of a message ended while it was worked on")
		default:
		}
		first.Ack()
		second, b := receive(t, msgs)
		if b.Records[0].Offset != 1 || len(b.Records) < 10 {
			t.Fatalf("the second batch has %d records from offset %d: it did not gather", len(b.Records), b.Records[0].Offset)
		}
		<-first.Context().Done()
		second.Nack()
		again, b2 := receive(t, msgs)
		if again == second || b2.Records[0].Offset != 1 || len(b2.Records) != len(b.Records) || b2.Next != b.Next {
			t.Fatalf("after the nack came %d records from offset %d", len(b2.Records), b2.Records[0].Offset)
		}
		again.Ack()
		produce(t, c, record(topic, 0, "21"))
		for at := b2.Next; at <= 21; {
			m, b := receive(t, msgs)
			if b.Records[0].Offset != at {
				t.Fatalf("went on at %d, not at %d", b.Records[0].Offset, at)
			}
			at = b.Next
			m.Ack()
		}
	})
}

func TestSubscriberSeesDecidedTransactionsOnly(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1)
		transact(t, c, topic+"1", topic, "abort", "no")        // 0, marker 1
		transact(t, c, topic+"2", topic, "commit", "a")        // 2, marker 3
		transact(t, c, topic+"1", topic, "abort", "no")        // 4, marker 5
		open := transact(t, c, topic+"3", topic, "leave", "b") // 6
		produce(t, c, record(topic, 0, "c"))                   // 7
		_, msgs := subscribe(t, c, topic, broker.SubscriberConfig{Idle: 20 * time.Millisecond})
		m, b := receive(t, msgs)
		if len(b.Records) != 1 || b.Records[0].Offset != 2 || b.Next < 3 {
			t.Fatalf("batch %+v", b)
		}
		m.Ack()
		for at := b.Next; at < 6; { // an idle batch over the markers and the aborted record, unless it was in the first
			m, b := receive(t, msgs)
			if len(b.Records) != 0 || b.Next <= at {
				t.Fatalf("idle batch at %d: %+v", at, b)
			}
			at = b.Next
			m.Ack()
		}
		check(t, open.CommitWithoutOffsets(testContext(t)))
		var got []string
		for at := int64(6); at < 9; {
			m, b := receive(t, msgs)
			for _, r := range b.Records {
				got = append(got, string(r.Value))
			}
			at = b.Next
			m.Ack()
		}
		if fmt.Sprint(got) != "[b c]" {
			t.Fatalf("read %q", got)
		}
		select { // nothing moves: no idle batch
		case <-msgs:
			t.Fatal("an idle batch that moved nothing")
		case <-time.After(100 * time.Millisecond):
		}
	})
}

func TestSubscriberOutOfRange(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1)
		feed(t, c, topic, 1, 0, 10)
		deleteRecords(t, brokers, topic, 4)
		for _, offset := range []int64{3, 11} {
			s, msgs := subscribe(t, c, topic, broker.SubscriberConfig{Offset: offset})
			if m, ok := <-msgs; ok {
				t.Fatalf("message %s at offset %d", m.UUID, offset)
			}
			var gone *broker.OutOfRangeError
			if err := s.Err(); !errors.As(err, &gone) || *gone != (broker.OutOfRangeError{Topic: topic, Offset: offset, Start: 4, End: 10}) {
				t.Fatalf("offset %d: %v", offset, err)
			}
		}
		_, msgs := subscribe(t, c, topic, broker.SubscriberConfig{Offset: -1})
		m, b := receive(t, msgs)
		if b.Records[0].Offset != 4 {
			t.Fatalf("from the start: offset %d", b.Records[0].Offset)
		}
		m.Ack()
	})
}

func TestSubscriberEnds(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1)
		feed(t, c, topic, 1, 0, 10)
		for what, end := range map[string]func(cancel func(), s *broker.Subscriber){
			"context": func(cancel func(), s *broker.Subscriber) { cancel() },
			"close":   func(_ func(), s *broker.Subscriber) { s.Close() },
		} {
			ctx, cancel := context.WithCancel(testContext(t))
			s := c.NewSubscriber(broker.SubscriberConfig{})
			msgs, err := s.Subscribe(ctx, topic)
			check(t, err)
			m, _ := receive(t, msgs) // and never acked
			end(cancel, s)
			if _, open := <-msgs; open {
				t.Fatalf("%s: a message after the end", what)
			}
			<-m.Context().Done()
			if err := s.Err(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			cancel()
			check(t, s.Close())
			if _, err := s.Subscribe(ctx, topic); !errors.Is(err, broker.ErrClosed) {
				t.Fatalf("subscribe after close: %v", err)
			}
		}
	})
}

func TestSubscriberReadsRecordsLargerThanABatch(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers, func(c *broker.Config) { c.MaxRecordBytes = 8 << 20 })
		topic := makeTopic(t, c, testenv.Name(t), 1, "max.message.bytes", "9000000")
		big := string(bytes.Repeat([]byte("x"), 3<<20))
		produce(t, c, record(topic, 0, "small"), record(topic, 0, big), record(topic, 0, big+"2"), record(topic, 0, "last"))
		_, msgs := subscribe(t, c, topic, broker.SubscriberConfig{MaxBytes: 1 << 20, Interval: time.Second})
		var got []string
		for len(got) < 4 {
			m, b := receive(t, msgs)
			for _, r := range b.Records {
				got = append(got, string(r.Value))
			}
			m.Ack()
		}
		if got[0] != "small" || got[1] != big || got[2] != big+"2" || got[3] != "last" {
			t.Fatal("records differ")
		}
	})
}

// The whole of Watermill around it: Router, middleware per record, the transactional publisher's and the producer's face.
func TestOrdinaryWatermillHandler(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		const n = 2000
		c := dial(t, brokers)
		name := testenv.Name(t)
		in, out := makeTopic(t, c, name+".in", 1), makeTopic(t, c, name+".out", 1)
		feed(t, c, in, 1, 0, n)
		pub, err := c.OpenProducer()
		check(t, err)
		defer pub.Close()
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		check(t, err)
		panicked := false
		handler := broker.ForEach(func(m *message.Message) ([]*message.Message, error) {
			if m.Metadata[broker.OffsetMetadata] == "7" && !panicked {
				panicked = true
				panic("once")
			}
			if string(m.Payload) == "9" { // its own message as output: that record, not the batch
				return []*message.Message{m}, nil
			}
			made := message.NewMessage(watermill.NewUUID(), append([]byte("did "), m.Payload...))
			made.Metadata[broker.KeyMetadata] = m.Metadata[broker.KeyMetadata]
			made.Metadata["version"] = m.Metadata[pipeline.HeaderVersion]
			return []*message.Message{made}, nil
		}, recoverer)
		router.AddHandler("h", in, c.NewSubscriber(broker.SubscriberConfig{}), out, pub, handler)
		ctx, cancel := context.WithCancel(testContext(t))
		done := make(chan error, 1)
		go func() { done <- router.Run(ctx) }()
		until(t, "outputs", func() bool {
			ends, err := c.Ends(ctx, out, []int32{0}, true)
			check(t, err)
			return ends[0] >= n
		})
		cancel()
		check(t, <-done)
		i := 0
		_, err = c.ReadToEnd(testContext(t), out, 0, 0, func(r *pipeline.Record) error {
			want := "did " + strconv.Itoa(i)
			if i == 9 {
				want = "9"
			}
			if string(r.Value) != want || string(r.Key) != "k"+strconv.Itoa(i) || i != 9 && string(r.Header("version")) != "1" {
				return fmt.Errorf("record %d is %s=%s %v", i, r.Key, r.Value, r.Headers)
			}
			i++
			return nil
		})
		check(t, err)
		if i != n || !panicked {
			t.Fatalf("%d outputs of %d", i, n)
		}
	})
}

// recoverer is a middleware of the ordinary kind.
func recoverer(h message.HandlerFunc) message.HandlerFunc {
	return func(m *message.Message) (out []*message.Message, err error) {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v", r)
			}
		}()
		return h(m)
	}
}
