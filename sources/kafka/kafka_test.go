package kafka

import (
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/sourcetest"
)

func TestContract(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		sourcetest.Run(t, func(t *testing.T) sourcetest.Case {
			f := newForeign(t, brokers, 2)
			f.hangUp() // the suite counts goroutines
			s := f.open()
			if err := s.Resume(nil); err != nil {
				t.Fatal(err)
			}
			return sourcetest.Case{Source: s, Feed: func() {
				f.dial()
				defer f.hangUp()
				f.send(0, orders(0, 3)...)
			}}
		})
	})
}

// TestKilledAnywhereEachRecordComesOnce loses the process at random moments: before a batch was taken, while it was in flight,
// after it was stored and before the source knew. What was stored is each record once, under the same id as in a reading
// without a break.
func TestKilledAnywhereEachRecordComesOnce(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		f := newForeign(t, brokers, 3)
		const n = 3000
		random := rand.New(rand.NewPCG(1, 2))
		for sent := 0; sent < n; {
			size := min(1+random.IntN(200), n-sent)
			f.send(int32(random.IntN(3)), orders(sent, size)...)
			sent += size
		}
		var stored []pipeline.Record
		var position []byte
		for lives := 0; len(stored) < n; lives++ {
			r := f.read(position)
			for range random.IntN(3) {
				if len(stored) == n {
					break
				}
				m, b := r.next()
				if random.IntN(3) == 0 {
					break // killed in flight
				}
				stored, position = append(stored, b.Records...), b.Position
				if random.IntN(4) == 0 {
					break // stored, and killed before the answer
				}
				m.Ack()
			}
			r.source.outlet.Drain = 0
			r.end()
			if lives > 200 {
				t.Fatal("it does not come to an end")
			}
		}
		once(t, stored, 0, n)
		again := totalsByID(t, f.read(nil).take(n))
		for id, properties := range totalsByID(t, stored) {
			if again[id] != properties {
				t.Fatalf("event %s is %s, in another reading %s", id, properties, again[id])
			}
		}
		r := f.read(position)
		f.send(1, order(n))
		once(t, r.take(1), n, 1)
	})
}

func totalsByID(t *testing.T, records []pipeline.Record) map[string]string {
	t.Helper()
	byID := map[string]string{}
	for i := range records {
		var ev pipeline.Event
		if rej := pipeline.ParseEventRecord(&records[i], &ev); rej != nil {
			t.Fatal(rej)
		}
		byID[ev.MessageID] = string(ev.Raw)
	}
	return byID
}

func TestPartitionsThatAreAddedAreReadFromTheirStart(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		f := newForeign(t, brokers, 1)
		f.config.From = newest
		f.send(0, order(0)) // before the first start
		r := f.read(nil)
		m, b := r.next() // the position alone
		if len(b.Records) != 0 {
			t.Fatalf("the first batch has %d records", len(b.Records))
		}
		r.ack(m, b)
		f.send(0, order(1))
		once(t, r.take(1), 1, 1)
		r.end()
		f.admin(func(a sarama.ClusterAdmin) error { return a.CreatePartitions(f.topic, 3, nil, false) })
		f.make(3)
		f.send(2, orders(2, 3)...) // while nobody reads
		r = f.read(r.position)
		once(t, r.take(3), 2, 3)
		f.admin(func(a sarama.ClusterAdmin) error { return a.CreatePartitions(f.topic, 4, nil, false) })
		f.make(4)
		f.send(3, orders(5, 2)...) // while it reads
		once(t, r.take(2), 5, 2)
		if !strings.Contains(f.logged(), "the topic has more partitions") {
			t.Errorf("the log says nothing of the new partition:\n%s", f.logged())
		}
	})
}

func TestTopicIsWaitedFor(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		f := newForeign(t, brokers, 0)
		f.config.From = newest // it is new when it comes, so all of it is
		r := f.read(nil)
		if line := <-f.said; line != "kafka orders: waiting for topic "+f.topic+", which does not exist on the pipeline's cluster" {
			t.Errorf("the operator is told %q", line)
		}
		f.make(2)
		f.send(1, orders(0, 4)...)
		once(t, r.take(4), 0, 4)
	})
}

func TestRecordsDeletedByRetention(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		f := newForeign(t, brokers, 1)
		f.send(0, orders(0, 10)...)
		r := f.read(nil)
		once(t, r.take(10), 0, 10)
		r.end()
		f.send(0, orders(10, 20)...)
		f.admin(func(a sarama.ClusterAdmin) error { return a.DeleteRecords(f.topic, map[int32]int64{0: 17}) })
		r = f.read(r.position)
		once(t, r.take(13), 17, 13)
		if log := f.logged(); !strings.Contains(log, "deleted by the topic's retention") || !strings.Contains(log, "offset=10 lost=7 from=17") {
			t.Errorf("the log does not say what is lost:\n%s", log)
		}
	})
}

// TestTopicThatIsMadeAgain: the offsets of the new topic are other records, also while the source reads: then it is the look for
// new partitions that finds out, or, if that comes late, the reader.
func TestTopicThatIsMadeAgain(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		f := newForeign(t, brokers, 1)
		again := func() {
			f.admin(func(a sarama.ClusterAdmin) error { return a.DeleteTopic(f.topic) })
			f.eventually("the end of the topic", func() bool {
				n, err := f.cluster.Partitions(f.context(), f.topic)
				return err == nil && n == 0
			})
			f.make(1)
		}
		f.send(0, orders(0, 5)...)
		r := f.read(nil)
		all := r.take(5)
		again()
		f.send(0, orders(5, 8)...) // more than before, so the old offset is one of the new topic too
		all = append(all, r.take(8)...)
		r.end()
		f.look = time.Hour
		r = f.read(r.position)
		f.send(0, order(17))
		all = append(all, r.take(1)...) // it reads
		again()
		f.send(0, orders(18, 20)...)
		all = append(all, r.take(20)...)
		r.end()
		again()
		f.send(0, orders(13, 4)...)
		r = f.read(r.position)
		all = append(all, r.take(4)...)
		once(t, all, 0, 38)
		if !strings.Contains(f.logged(), "the topic was made again") {
			t.Errorf("the log does not say so:\n%s", f.logged())
		}
	})
}

func TestBrokerThatGoesAway(t *testing.T) {
	testenv.EachOwnBroker(t, testenv.Options{}, func(t *testing.T, b *testenv.Broker) {
		f := newForeign(t, b.Addrs(), 2)
		f.send(0, orders(0, 5)...)
		r := f.read(nil)
		once(t, r.take(5), 0, 5)
		b.Stop(t)
		b.Start(t)
		f.send(1, orders(5, 5)...)
		once(t, r.take(5), 5, 5)
	})
}

func TestOnlyCommittedRecords(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		f := newForeign(t, brokers, 1)
		tx, err := f.cluster.OpenTransactions(f.context(), f.topic)
		f.check(err)
		defer tx.Close()
		for n := range 4 {
			f.check(tx.Begin())
			f.check(tx.Send(&pipeline.Record{Topic: f.topic, Partition: 0, Value: []byte(order(n / 2))}))
			if n%2 == 0 {
				f.check(tx.Abort(f.context()))
			} else {
				f.check(tx.CommitWithoutOffsets(f.context()))
			}
		}
		once(t, f.read(nil).take(2), 0, 2)
	})
}

func TestPositionThatDoesNotFit(t *testing.T) {
	f := &form{topic: "erp.orders"}
	for stored, want := range map[string]string{
		`{"v":1,"topic":"erp.returns","next":{"0":7}}`: "source orders: the source has read topic erp.returns and is to read erp.orders now: give the source of another topic another name",
		`{"v":2,"topic":"erp.orders"}`:                 "source orders: the stored position in topic erp.orders has version 2, this build reads version 1: upgrade it",
		`{`:                                            "source orders: read the stored position in topic erp.orders: unexpected end of JSON input",
	} {
		err := newSource("orders", f, nil, pipeline.Deps{}).Resume([]byte(stored))
		if err == nil || err.Error() != want {
			t.Errorf("%s gives %v, want %s", stored, err, want)
		}
	}
}

// TestTopicsAreNotMixed: what is known of a topic says nothing of another one of its name.
func TestTopicsAreNotMixed(t *testing.T) {
	old, now := pipeline.ID{1}, pipeline.ID{2}
	s := newSource("orders", &form{topic: "erp.orders"}, nil, pipeline.Deps{})
	s.pieces = make(chan *piece, 4)
	for _, p := range []*piece{{id: old, next: map[int32]int64{0: 5}}, {id: old, next: map[int32]int64{1: 7}}, {id: now, next: map[int32]int64{0: 1}}, {id: now, next: map[int32]int64{2: 2}}} {
		s.pieces <- p
	}
	var at *position
	var left *piece
	for _, want := range []map[int32]int64{{0: 5, 1: 7}, {0: 1, 2: 2}} {
		var taken []*piece
		taken, left = s.gather(t.Context(), left)
		for _, p := range taken {
			at = at.after(p, "erp.orders")
		}
		if len(taken) != 2 || !maps.Equal(at.Next, want) {
			t.Errorf("%d pieces, position %v, want %v", len(taken), at.Next, want)
		}
	}
}
