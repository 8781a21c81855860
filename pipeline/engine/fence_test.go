package engine_test

import (
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"

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

// TestPositionIsAskedForAfterFencing moves the groups' offsets when the workers have just opened their producers, as
// predecessors may until that moment: a worker that had asked before would go on from where it thinks it is.
func TestPositionIsAskedForAfterFencing(t *testing.T) {
	t.Parallel()
	brokers := testenv.Embedded(t)
	m := newMachine(t, brokers)
	m.send("a", "b")
	r := m.start()
	m.tells("a 1 1", "b 2 2")
	m.profileHasRead(2)
	r.drain()

	fenced, goOn := make(chan struct{}, 2), make(chan struct{})
	m.step = func(name string) {
		if name == "fenced" {
			select {
			case fenced <- struct{}{}:
			default:
			}
			<-goOn
		}
	}
	r = m.start()
	await(t, "the first worker", fenced)
	await(t, "the second worker", fenced)
	m.commitBeside(brokers, pipeline.TaskResolve, "events")
	m.commitBeside(brokers, pipeline.TaskProfile, "resolved")
	close(goOn)
	if err := await(t, "the refusal", r.ended); err == nil || !strings.Contains(err.Error(), "set it back to ") {
		t.Errorf("%v, want a refusal of the offset", err)
	}
}

// commitBeside commits offset 0 for a task in a transaction of somebody else.
func (m *machine) commitBeside(brokers []string, task, topic string) {
	m.t.Helper()
	conf := sarama.NewConfig()
	conf.Producer.Transaction.ID, conf.Producer.Idempotent, conf.Producer.RequiredAcks, conf.Net.MaxOpenRequests = task, true, sarama.WaitForAll, 1
	conf.Producer.Return.Successes = true
	p, err := sarama.NewSyncProducer(brokers, conf)
	m.check(err)
	defer p.Close()
	m.check(p.BeginTxn())
	m.check(p.AddOffsetsToTxn(map[string][]*sarama.PartitionOffsetMetadata{m.topic(topic): {{Partition: 0, Offset: 0}}}, m.topic(task)))
	m.check(p.CommitTxn())
}
