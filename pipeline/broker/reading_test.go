package broker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// settle waits for the markers of decided transactions: the coordinator answers before it has written them.
func settle(t testing.TB, c *broker.Cluster, topic string) {
	t.Helper()
	until(t, "the markers in "+topic, func() bool {
		stable, err := c.Ends(testContext(t), topic, []int32{0}, true)
		check(t, err)
		high, err := c.Ends(testContext(t), topic, []int32{0}, false)
		check(t, err)
		return stable[0] == high[0]
	})
}

// transact writes the values in one transaction and ends it as told: "commit", "abort" or "leave".
func transact(t testing.TB, c *broker.Cluster, id, topic, end string, vals ...string) *broker.Transactions {
	t.Helper()
	ctx := testContext(t)
	tx, err := c.OpenTransactions(ctx, id)
	check(t, err)
	t.Cleanup(func() { tx.Close() })
	check(t, tx.Begin())
	for _, v := range vals {
		check(t, tx.Send(record(topic, 0, v)))
	}
	switch end {
	case "commit":
		check(t, tx.CommitWithoutOffsets(ctx))
		settle(t, c, topic)
	case "abort":
		check(t, tx.Abort(ctx))
		settle(t, c, topic)
	case "leave": // wait until the broker has the records
		until(t, "records of the open transaction", func() bool {
			stable, err := c.Ends(ctx, topic, []int32{0}, true)
			check(t, err)
			high, err := c.Ends(ctx, topic, []int32{0}, false)
			check(t, err)
			return high[0] >= stable[0]+int64(len(vals))
		})
	}
	return tx
}

func TestReadToEndSeesDecidedTransactionsOnly(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		ctx := testContext(t)
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1)
		produce(t, c, record(topic, 0, "plain"))                // 0
		transact(t, c, topic+"1", topic, "commit", "a", "b")    // 1 2, marker 3
		transact(t, c, topic+"2", topic, "abort", "no1", "no2") // 4 5, marker 6
		transact(t, c, topic+"1", topic, "abort", "no3")        // 7, marker 8
		transact(t, c, topic+"1", topic, "commit", "c")         // 9, marker 10
		transact(t, c, topic+"2", topic, "abort", "no4")        // 11, marker 12
		got, next := values(t, c, topic, 0, 0)
		if want := []string{"plain", "a", "b", "c"}; !slices.Equal(got, want) || next != 13 {
			t.Fatalf("read %q up to %d, want %q up to 13", got, next, want)
		}
		if got, next := values(t, c, topic, 0, 10); len(got) != 0 || next != 13 {
			t.Fatalf("the tail of markers: read %q up to %d, want nothing up to 13", got, next)
		}
		if got, next := values(t, c, topic, 0, 13); len(got) != 0 || next != 13 {
			t.Fatalf("at the end: read %q up to %d", got, next)
		}
		open := transact(t, c, topic+"3", topic, "leave", "later")
		produce(t, c, record(topic, 0, "behind"))
		stable, err := c.Ends(ctx, topic, []int32{0}, true)
		check(t, err)
		high, err := c.Ends(ctx, topic, []int32{0}, false)
		check(t, err)
		if stable[0] != 13 || high[0] != 15 {
			t.Fatalf("last stable offset %d and high water mark %d, want 13 and 15", stable[0], high[0])
		}
		if got, next := values(t, c, topic, 0, 13); len(got) != 0 || next != 13 {
			t.Fatalf("beyond the stable offset: read %q up to %d", got, next)
		}
		check(t, open.CommitWithoutOffsets(ctx))
		settle(t, c, topic)
		if got, next := values(t, c, topic, 0, 13); !slices.Equal(got, []string{"later", "behind"}) || next != 16 {
			t.Fatalf("after the commit: read %q up to %d", got, next)
		}
	})
}

func TestReadToEndStartsWhereTheTopicStarts(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1)
		produce(t, c, record(topic, 0, "0"), record(topic, 0, "1"), record(topic, 0, "2"))
		deleteRecords(t, brokers, topic, 2)
		if got, next := values(t, c, topic, 0, 0); !slices.Equal(got, []string{"2"}) || next != 3 {
			t.Fatalf("read %q up to %d", got, next)
		}
		stop := errors.New("enough")
		if _, err := c.ReadToEnd(testContext(t), topic, 0, 0, func(*pipeline.Record) error { return stop }); !errors.Is(err, stop) {
			t.Fatalf("the function's error became %v", err)
		}
	})
}

func deleteRecords(t testing.TB, brokers []string, topic string, before int64) {
	t.Helper()
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	admin, err := sarama.NewClusterAdmin(brokers, conf)
	check(t, err)
	defer admin.Close()
	check(t, admin.DeleteRecords(topic, map[int32]int64{0: before}))
}

func TestRecordsArriveAsSent(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		for _, codec := range []string{"none", "snappy", "lz4", "zstd", "gzip"} {
			c := dial(t, brokers, func(c *broker.Config) { c.Compression, c.MaxRecordBytes = codec, 8<<20 })
			topic := makeTopic(t, c, testenv.Name(t), 1, "max.message.bytes", "9000000")
			big := bytes.Repeat([]byte("0123456789abcdef"), 5<<16) // 5 MiB: five fetches
			sent := []*pipeline.Record{
				{Topic: topic, Key: []byte("k"), Value: []byte("v"), Headers: []pipeline.Header{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte{}}}},
				{Topic: topic, Key: []byte("gone")}, // a tombstone
				{Topic: topic, Value: []byte{}},
				{Topic: topic, Key: []byte("big"), Value: big},
				{Topic: topic, Key: []byte("after"), Value: []byte("big")},
			}
			before := time.Now()
			produce(t, c, sent...)
			var got []pipeline.Record
			_, err := c.ReadToEnd(testContext(t), topic, 0, 0, func(r *pipeline.Record) error { got = append(got, *r); return nil })
			check(t, err)
			if len(got) != len(sent) {
				t.Fatalf("%s: %d records of %d", codec, len(got), len(sent))
			}
			for i, r := range got {
				w := sent[i]
				if !bytes.Equal(r.Key, w.Key) || !bytes.Equal(r.Value, w.Value) || (r.Value == nil) != (w.Value == nil) || len(r.Headers) != len(w.Headers) {
					t.Fatalf("%s: record %d differs: %.80v", codec, i, r)
				}
				if r.Topic != topic || r.Partition != 0 || r.Offset != int64(i) || r.Time.Before(before.Add(-time.Minute)) || r.Time.After(time.Now().Add(time.Minute)) {
					t.Fatalf("%s: record %d came from %s/%d/%d at %v", codec, i, r.Topic, r.Partition, r.Offset, r.Time)
				}
			}
			if got := got[0].Headers; got[0].Key != "a" || string(got[0].Value) != "1" || got[1].Key != "a" {
				t.Fatalf("%s: headers %v", codec, got)
			}
		}
	})
}

// Compaction leaves holes, batches without records, and an end that no record has.
func TestReadToEndOfCompactedTopic(t *testing.T) {
	if testing.Short() {
		t.Skip("needs time: the cleaner works after a while only")
	}
	c := dial(t, testenv.Kafka(t))
	topic := makeTopic(t, c, testenv.Name(t), 1, "cleanup.policy", "compact", "segment.bytes", "1048576", "segment.ms", "500",
		"min.cleanable.dirty.ratio", "0.01", "max.compaction.lag.ms", "500", "delete.retention.ms", "500", "file.delete.delay.ms", "500")
	const keys = 20
	round := func(i int) {
		tx, err := c.OpenTransactions(testContext(t), fmt.Sprintf("%s-%d", topic, i)) // a producer each: its last batch stays, emptied
		check(t, err)
		defer tx.Close()
		check(t, tx.Begin())
		for k := range keys {
			check(t, tx.Send(&pipeline.Record{Topic: topic, Key: fmt.Append(nil, k), Value: fmt.Append(nil, i)}))
		}
		if i%3 == 2 {
			check(t, tx.Abort(testContext(t)))
		} else {
			check(t, tx.CommitWithoutOffsets(testContext(t)))
		}
	}
	for i := range 30 {
		round(i)
	}
	until(t, "compaction", func() bool {
		time.Sleep(600 * time.Millisecond) // lets segment.ms pass; the next write rolls the segment
		round(30)
		settle(t, c, topic)
		n := 0
		last := map[string]string{}
		next, err := c.ReadToEnd(testContext(t), topic, 0, 0, func(r *pipeline.Record) error {
			n++
			last[string(r.Key)] = string(r.Value)
			return nil
		})
		check(t, err)
		ends, err := c.Ends(testContext(t), topic, []int32{0}, true)
		check(t, err)
		if next != ends[0] || len(last) != keys {
			t.Fatalf("read up to %d of %d, %d keys of %d", next, ends[0], len(last), keys)
		}
		for k, v := range last {
			if v != "30" {
				t.Fatalf("key %s has the value of round %s", k, v)
			}
		}
		return n < 10*keys
	})
}

func TestEnsureTopicsRace(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		name := testenv.Name(t)
		var want []broker.Topic
		for i := range 4 {
			want = append(want, broker.Topic{Name: fmt.Sprintf("%s-%d", name, i), Partitions: int32(i + 1)})
		}
		var wg sync.WaitGroup
		errs := make(chan error, 8)
		for range 8 {
			c := dial(t, brokers)
			wg.Go(func() { errs <- c.EnsureTopics(testContext(t), want) })
		}
		wg.Wait()
		for range 8 {
			check(t, <-errs)
		}
		c := dial(t, brokers)
		for _, topic := range want {
			for p := range topic.Partitions {
				produce(t, c, record(topic.Name, p, "v")) // at once: every leader is there
			}
		}
		want[1].Partitions, want[3].Partitions = 7, 8
		want = append(want, broker.Topic{Name: name + "-new", Partitions: 1})
		err := c.EnsureTopics(testContext(t), want)
		var count *broker.PartitionCountError
		if !errors.As(err, &count) || count.Topic != name+"-1" || count.Have != 2 || count.Want != 7 {
			t.Fatalf("another number of partitions: %v", err)
		}
		if text := err.Error(); !bytes.Contains([]byte(text), []byte(name+"-3")) {
			t.Fatalf("only one of two wrong topics is named: %v", err)
		}
	})
}

func TestTopicConfigIsKept(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		c := dial(t, brokers)
		topic := makeTopic(t, c, testenv.Name(t), 1, "retention.ms", "604800000", "cleanup.policy", "compact")
		conf := sarama.NewConfig()
		conf.Version = sarama.V2_8_0_0
		admin, err := sarama.NewClusterAdmin(brokers, conf)
		check(t, err)
		defer admin.Close()
		found, err := admin.DescribeConfigs([]*sarama.ConfigResource{{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms", "cleanup.policy"}}}, sarama.DescribeConfigsOptions{})
		check(t, err)
		got := map[string]string{}
		for _, e := range found[0].Configs {
			got[e.Name] = e.Value
		}
		if got["retention.ms"] != "604800000" || got["cleanup.policy"] != "compact" {
			t.Fatalf("topic was made with %v", got)
		}
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := broker.Dial(ctx, broker.Config{Brokers: []string{"127.0.0.1:1"}, Logger: quiet()})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("dial without a broker: %v", err)
	}
	if _, err := broker.Dial(context.Background(), broker.Config{InstanceID: "no spaces", Compression: "rar"}); err == nil ||
		!bytes.Contains([]byte(err.Error()), []byte("rar")) || !bytes.Contains([]byte(err.Error()), []byte("no spaces")) {
		t.Fatalf("bad settings: %v", err)
	}
}
