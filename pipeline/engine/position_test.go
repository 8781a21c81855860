package engine_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// moveGroup sets the profile task's offset as an operator does with Kafka's tools, while nobody is in the group.
func (m *machine) moveGroup(brokers []string, offset int64) {
	m.t.Helper()
	conf := sarama.NewConfig()
	conf.Consumer.Offsets.AutoCommit.Enable = false
	client, err := sarama.NewClient(brokers, conf)
	m.check(err)
	defer client.Close()
	offsets, err := sarama.NewOffsetManagerFromClient(m.topic(pipeline.TaskProfile), client)
	m.check(err)
	p, err := offsets.ManagePartition(m.topic("resolved"), 0)
	m.check(err)
	p.MarkOffset(offset, "")
	p.ResetOffset(offset, "")
	offsets.Commit()
	m.check(offsets.Close())
	at, err := m.cluster.Committed(m.context(), m.topic(pipeline.TaskProfile), m.topic("resolved"), 0)
	m.check(err)
	if at.Offset != offset {
		m.t.Fatalf("the group stands at %d, want %d", at.Offset, offset)
	}
}

// TestOffsetMovedByHandIsRefused moves the group's offset back and forth: to go on would count twice or lose, so the engine
// ends and names the offset to set back; once it is, everything goes on.
func TestOffsetMovedByHandIsRefused(t *testing.T) {
	brokers := testenv.Embedded(t)
	m := newMachine(t, brokers)
	m.send("a", "b", "c")
	r := m.start()
	m.tells("a 1 1", "b 2 2", "c 3 3")
	r.drain()
	at, err := m.cluster.Committed(m.context(), m.topic(pipeline.TaskProfile), m.topic("resolved"), 0)
	m.check(err)
	for _, moved := range []int64{0, at.Offset - 1, at.Offset + 1} {
		m.moveGroup(brokers, moved)
		err := await(t, "the refusal", m.start().ended)
		if err == nil || !strings.Contains(err.Error(), "set it back to ") {
			t.Fatalf("moved to %d: %v, want a refusal that says where to set it back", moved, err)
		}
	}
	m.moveGroup(brokers, at.Offset)
	m.send("d")
	m.start()
	m.tells("a 1 1", "b 2 2", "c 3 3", "d 4 4")
}

// TestExpiredGroup deletes the groups, as Kafka does with those that were away for long: the positions in the changelogs hold.
func TestExpiredGroup(t *testing.T) {
	brokers := testenv.Embedded(t)
	m := newMachine(t, brokers)
	m.send("a", "b")
	r := m.start()
	m.tells("a 1 1", "b 2 2")
	r.drain()
	admin, err := sarama.NewClusterAdmin(brokers, sarama.NewConfig())
	m.check(err)
	defer admin.Close()
	for _, task := range []string{pipeline.TaskResolve, pipeline.TaskProfile} {
		m.check(admin.DeleteConsumerGroup(m.topic(task)))
	}
	m.data = t.TempDir() // the folder too
	m.send("c")
	m.start()
	m.tells("a 1 1", "b 2 2", "c 3 3")
}

// TestBrokerThatHasLostItsData starts on an empty broker with the data folder of another: what the folder remembers is not
// in Kafka, so it is dropped, loudly.
func TestBrokerThatHasLostItsData(t *testing.T) {
	m := newMachine(t, testenv.Embedded(t))
	m.send("a", "b")
	r := m.start()
	m.tells("a 1 1", "b 2 2")
	r.drain()
	// A second start notes how far the folder is in the changelog.
	r = m.start()
	m.send("c")
	m.tells("a 1 1", "b 2 2", "c 3 3")
	r.drain()

	m.cluster = m.dial(testenv.Embedded(t))
	m.start()
	m.send("d")
	m.tells("d 1 1")
	if !strings.Contains(m.log.String(), "ahead of Kafka") {
		t.Error("the log does not say that Kafka has lost data")
	}
}

// TestOldFolderDoesNotBringBackWhatWasDeleted starts with a folder from before a deletion whose record the changelog does
// not hold any more: the folder is rebuilt, not brought up to date.
func TestOldFolderDoesNotBringBackWhatWasDeleted(t *testing.T) {
	brokers := testenv.Embedded(t)
	m := newMachine(t, brokers)
	m.send("a")
	r := m.start()
	m.tells("a 1 1")
	r.drain()
	r = m.start() // notes how far the folder is in the changelog
	m.send("b")
	m.tells("a 1 1", "b 2 2")
	r.drain()

	old := m.data
	m.data = t.TempDir()
	r = m.start()
	m.send("profile-forget")
	m.profileHasRead(3)
	deleted, err := m.cluster.Ends(m.context(), m.topic("state.profile"), []int32{0}, true)
	m.check(err)
	m.send("profile-pass") // writes nothing but the position
	m.profileHasRead(4)
	r.drain()
	admin, err := sarama.NewClusterAdmin(brokers, sarama.NewConfig())
	m.check(err)
	defer admin.Close()
	m.check(admin.DeleteRecords(m.topic("state.profile"), deleted))

	m.data = old
	m.start()
	m.send("c")
	m.tells("a 1 1", "b 2 2", "c 5 1")
}

// profileHasRead waits until the profile task has committed all of so many events.
func (m *machine) profileHasRead(events int) {
	m.t.Helper()
	m.eventually(func() error {
		if n := len(m.records("resolved")); n != events {
			return fmt.Errorf("%d records in resolved, want %d", n, events)
		}
		ends, err := m.cluster.Ends(m.context(), m.topic("resolved"), []int32{0}, true)
		m.check(err)
		at, err := m.cluster.Committed(m.context(), m.topic(pipeline.TaskProfile), m.topic("resolved"), 0)
		m.check(err)
		if at.Offset != ends[0] {
			return fmt.Errorf("the profile task stands at %d of %d", at.Offset, ends[0])
		}
		return nil
	})
}

// TestFolderOfAnEarlierTime starts with the data folder as it was before the last events: what it lacks is in the changelog.
func TestFolderOfAnEarlierTime(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	m.send("a")
	r := m.start()
	m.tells("a 1 1")
	r.drain()
	r = m.start() // notes how far the folder is in the changelog
	m.send("b")
	m.tells("a 1 1", "b 2 2")
	r.drain()
	earlier := t.TempDir()
	m.check(os.CopyFS(earlier, os.DirFS(m.data)))
	r = m.start()
	m.send("c")
	m.tells("a 1 1", "b 2 2", "c 3 3")
	r.drain()

	m.data = earlier
	m.send("d")
	m.start()
	m.tells("a 1 1", "b 2 2", "c 3 3", "d 4 4")
}

// TestFolderKnowsNothingOfTransactionsThatWereNotCommitted ends the engine while no transaction can be ended: at the next
// start, with the same folder, the event is processed as if for the first time.
func TestFolderKnowsNothingOfTransactionsThatWereNotCommitted(t *testing.T) {
	t.Parallel()
	b := testenv.StartEmbedded(t, testenv.Options{Proxied: true})
	m := newMachine(t, b.Addrs())
	m.send("a")
	r := m.start()
	m.tells("a 1 1")
	r.drain()
	m.grace = 100 * time.Millisecond
	r = m.start() // notes how far the folder is in the changelog
	m.profileHasRead(1)
	var once sync.Once
	ending := make(chan struct{})
	b.Fault(func(key int16) testenv.Fault {
		if key == testenv.KeyEndTxn {
			once.Do(func() { close(ending) })
			return testenv.Fault{Cut: testenv.CutBefore}
		}
		return testenv.Fault{}
	})
	m.send("b")
	await(t, "the end of a transaction", ending)
	r.drain()

	b.Fault(nil)
	m.cluster = m.dial(b.Addrs())
	m.start()
	m.tells("a 1 1", "b 2 2")
}

// TestOtherPartitionsAreRefused starts with another number of partitions than the state is laid out for.
func TestOtherPartitionsAreRefused(t *testing.T) {
	t.Parallel()
	m := newMachine(t, testenv.Embedded(t))
	m.send("a")
	r := m.start()
	m.tells("a 1 1")
	r.drain()
	m.plan.Partitions = 2
	if err := await(t, "the refusal", m.start().ended); err == nil || !strings.Contains(err.Error(), "set partitions to 1") {
		t.Errorf("%v, want a refusal that says what to set", err)
	}
	m.plan.Partitions = 1
	m.send("b")
	m.start()
	m.tells("a 1 1", "b 2 2")
}
