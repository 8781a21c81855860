package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/millstream-io/millstream/internal/testenv"
)

const securedPipeline = `
pipeline: ${NAME}
kafka:
  brokers: "${BROKERS}"
  partitions: 2
  replication: 1
  tls: {ca: "${CA}"}
  sasl: {mechanism: SCRAM-SHA-512, user: shop, password: "${PASSWORD}"}
sources:
  web: {http: {listen: "127.0.0.1:0", write_keys: {site: key}}}
stages: [clean, dedup, profile: {orders: {count: events}}]
sinks:
  out: {file: {path: "${OUT}"}}
`

// TestKafkaWithTLSAndALogin runs a pipeline on an Apache Kafka that encrypts and wants a login; a wrong password ends the
// program, which says so and does not print it.
func TestKafkaWithTLSAndALogin(t *testing.T) {
	t.Parallel()
	ca := testenv.NewAuthority(t)
	cert, key := ca.Leaf(t)
	kafka := testenv.StartKafka(t, testenv.Options{Secured: &testenv.Secured{Cert: cert, Key: key, CA: ca.PEM, User: "shop", Password: "hunter2hunter2"}})
	trusted := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(trusted, []byte(ca.PEM), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	file := write(t, securedPipeline)
	_, env := on(t, []string{kafka.Secured(testenv.LoginTLS)}, "CA="+trusted, "OUT="+out)
	p := start(t, file, t.TempDir(), append(env, "PASSWORD=hunter2hunter2")...)
	for i := range 3 {
		p.batch(t, fmt.Sprintf(`{"messageId":"m%d","type":"track","event":"A","userId":"u%d"}`, i, i))
	}
	eventually(t, func() error {
		lines, err := fileLines(out)
		if err == nil && len(lines) != 3 {
			err = fmt.Errorf("%d messages for 3 profiles", len(lines))
		}
		return err
	})
	p.stop()

	p = start(t, file, t.TempDir(), append(env, "PASSWORD=hunter3hunter3")...)
	p.died()
	if status := p.cmd.ProcessState.ExitCode(); status != 1 || p.said("uthentication") == 0 {
		t.Errorf("a wrong password ends with status %d and %q", status, p.lines)
	}
	if p.said("hunter3") > 0 {
		t.Errorf("the password is on standard error: %q", p.lines)
	}
}
