package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
	"github.com/millstream-io/millstream/pipeline/broker"
)

// Processes that are killed while they wait for the group must not keep the partitions that the group gives them. Which of
// them gets some is a matter of chance, so it is tried in twelve groups. Apache Kafka passes this, too; here it is about the
// embedded broker.
func TestMembersThatDieWhileTheyJoin(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a minute")
	}
	brokers := testenv.Embedded(t)
	const parts = 4
	var groups sync.WaitGroup
	for n := range 12 {
		name := fmt.Sprintf("%s-%d", testenv.Name(t), n)
		makeTopic(t, dial(t, brokers), name, parts)
		as := func(instance string) *broker.Cluster {
			return dial(t, brokers, func(c *broker.Config) { c.InstanceID = instance })
		}
		clusters := []*broker.Cluster{as("first"), as("second"), as("third"), as("last")}
		groups.Go(func() {
			first := join(t, clusters[0], name, name)
			<-first.began
			clusters[0].Cut()
			for _, c := range clusters[1:3] {
				join(t, c, name, name)
				time.Sleep(150 * time.Millisecond) // it waits for the first until that one's session is over
				c.Cut()
			}
			last := join(t, clusters[3], name, name)
			for end := time.Now().Add(time.Minute); last.count() < parts; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("group %s: the one that lives has %d of %d partitions after a minute", name, last.count(), parts)
					return
				}
			}
		})
	}
	groups.Wait()
}
