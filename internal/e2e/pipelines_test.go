package e2e

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
)

// What the pipelines of these tests have in common.

// onTheWeb is the head of a pipeline whose events are posted, see on; inOrder that of one that processes them in the order in
// which they were, for it has one partition.
const (
	onTheWeb = named + "2" + web
	inOrder  = named + "1" + web

	named = `
pipeline: ${NAME}
kafka: {brokers: "${BROKERS}", partitions: `
	web = `}
sources:
  web: {http: {listen: "127.0.0.1:0", write_keys: {site: key}}}
`
)

// known are the stages that tell who somebody is. A line with a key may follow.
const known = onTheWeb + `stages:
  - clean
  - dedup
  - identity:
      ids:
        - user_id: {limit: 1}
        - email: {limit: 5, shared_by: 4}
        - anonymous_id: {}
`

// shopping are the stages that count what somebody views and buys.
const shopping = `  - profile:
      views:   {count: events, event: Product Viewed}
      orders:  {count: events, event: Order Completed}
      revenue: {sum: properties.revenue, event: Order Completed}
  - segment:
      loyal:        views >= 2 and orders >= 1
      never_bought: orders == 0
      viewed:       views >= 1
`

// counting are the stages that count orders.
const counting = `stages:
  - clean
  - dedup
  - profile:
      orders:  {count: events, event: Order Completed}
      revenue: {sum: properties.revenue, event: Order Completed}
`

// receivers are the sinks of a CRM that is told of buyers, and of one that is well meanwhile.
const receivers = `  crm:
    webhook: {url: "${CRM}", secret: "${SECRET}", allow: ["127.0.0.0/8"]}
    when: entered("buyer")
  healthy:
    webhook: {url: "${HEALTHY}", secret: "${SECRET}", allow: ["127.0.0.0/8"]}
    when: entered("buyer")
`

// secret signs the webhooks of these tests.
var secret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef01234567"))

// on names a pipeline of this test on a broker: the name, which its ClickHouse database and the key of its identities have
// too, and the variables of its YAML, more added to those that all have.
func on(t *testing.T, brokers []string, more ...string) (name string, env []string) {
	t.Helper()
	name = strings.ReplaceAll(testenv.Name(t), "-", "_")
	return name, append([]string{"NAME=" + name, "BROKERS=" + brokers[0], "SECRET=" + secret}, more...)
}

// eachBroker runs a test on Apache Kafka and on the embedded broker, beside others: mostly they wait.
func eachBroker(t *testing.T, test func(t *testing.T, brokers []string)) {
	t.Parallel()
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		t.Parallel()
		test(t, brokers)
	})
}

// batch posts events until they are taken: a client comes again as long as Kafka is not ready.
func (p *process) batch(t *testing.T, events ...string) {
	t.Helper()
	eventually(t, func() error {
		if s := post(p.http(), batch(events...)); s != 200 {
			return fmt.Errorf("the batch was answered with %d", s)
		}
		return nil
	})
}

// batch is the body of a post.
func batch(events ...string) string { return `{"batch":[` + strings.Join(events, ",") + `]}` }
