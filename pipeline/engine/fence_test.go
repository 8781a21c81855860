package engine_test

import (
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// predecessor is a worker that hangs in the middle of a transaction: it has sent a message and not ended it, and the broker
// will not end it for a long time either.
func (m *machine) predecessor(brokers []string, id, topic string) *broker.Transactions {
	m.t.Helper()
	m.check(m.cluster.EnsureTopics(m.context(), []broker.Topic{{Name: m.topic(topic), Partitions: 1}}))
	old, err := m.dial(brokers, func(c *broker.Config) { c.TransactionTimeout = 10 * time.Minute }).OpenTransactions(m.context(), m.topic(id))
	m.check(err)
	m.t.Cleanup(func() { m.check(old.Close()) })
	m.check(old.Begin())
	m.check(old.Send(&pipeline.Record{Topic: m.topic(topic), Partition: 0, Key: []byte("k"), Value: []byte("of the predecessor")}))
	return old
}

// TestPredecessorIsFenced has a predecessor of each worker hang in its transaction. A worker ends that transaction under
// the same id, so that no reader waits for it, and from then on the predecessor cannot commit.
func TestPredecessorIsFenced(t *testing.T) {
	for _, task := range []struct{ id, topic string }{
		{"resolve.events-0", "resolved"}, {"profile.resolved-0", "changes"}, {"source.feed-0", "resolved"},
	} {
		t.Run(task.id, func(t *testing.T) {
			brokers := testenv.Embedded(t)
			m := newMachine(t, brokers)
			old := m.predecessor(brokers, task.id, task.topic)
			f := newFeed()
			m.source(f, true)
			m.send("a")
			m.start()
			await(t, "the source's start", f.resumed)
			m.tells("a 1 1")
			if err := old.CommitWithoutOffsets(m.context()); err == nil {
				t.Error("the predecessor has committed beside its successor")
			}
			for _, r := range m.records(task.topic) {
				if string(r.Value) == "of the predecessor" {
					t.Error("the message of the predecessor is visible")
				}
			}
		})
	}
}
