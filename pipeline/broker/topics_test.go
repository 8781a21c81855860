package broker_test

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline"
)

// A topic keeps its id over a restart of the broker; one that is made again under its name has another.
func TestTopicID(t *testing.T) {
	testenv.EachOwnBroker(t, testenv.Options{}, func(t *testing.T, b *testenv.Broker) {
		c := dial(t, b.Addrs())
		topic := makeTopic(t, c, "once", 2)
		other := makeTopic(t, c, "other", 2)
		id := func(topic string, part int32) pipeline.ID {
			t.Helper()
			id, err := c.TopicID(testContext(t), topic, part)
			check(t, err)
			return id
		}
		first := id(topic, 0)
		if first == (pipeline.ID{}) || first != id(topic, 1) || first == id(other, 0) {
			t.Errorf("ids %s, %s, of another topic %s", first, id(topic, 1), id(other, 0))
		}
		b.Stop(t)
		b.Start(t)
		if again := id(topic, 0); again != first {
			t.Errorf("after a restart the id is %s, it was %s", again, first)
		}

		k, err := kgo.NewClient(kgo.SeedBrokers(b.Addrs()...))
		check(t, err)
		defer k.Close()
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.TopicNames, req.Topics, req.TimeoutMillis = []string{topic}, []kmsg.DeleteTopicsRequestTopic{{Topic: &topic}}, 10_000
		resp, err := req.RequestWith(testContext(t), k)
		check(t, err)
		if code := resp.Topics[0].ErrorCode; code != 0 {
			t.Fatalf("delete the topic: error %d", code)
		}
		type answer struct {
			id  pipeline.ID
			err error
		}
		asked := make(chan answer, 1)
		ctx := testContext(t)
		go func() { // waits for the topic, or still sees the old one
			id, err := c.TopicID(ctx, topic, 0)
			asked <- answer{id, err}
		}()
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // the deletion takes its time
			makeTopic(t, c, topic, 2)
			if id(topic, 0) != first {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the topic that was made again has the old id after a minute")
			}
		}
		if a := <-asked; a.err != nil || a.id == (pipeline.ID{}) {
			t.Errorf("while there was no topic: %v", a)
		}
	})
}
