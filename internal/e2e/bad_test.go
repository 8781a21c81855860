package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/chdb"
	"github.com/millstream-io/millstream/internal/testenv"
)

// needEngine skips the test if there is no ClickHouse on this machine.
func needEngine(t *testing.T) {
	t.Helper()
	if _, err := chdb.Find(""); errors.Is(err, chdb.ErrNoEngine) {
		t.Skipf("needs the ClickHouse engine: %v", err)
	}
}

// clickhouse asks the process's embedded ClickHouse; the answer is tab-separated.
func (p *process) clickhouse(data, query string) (string, error) {
	line := p.line("clickhouse ")
	u, err := url.Parse(strings.Fields(line)[0])
	if err != nil {
		return "", err
	}
	password, err := os.ReadFile(filepath.Join(data, "clickhouse", "password"))
	if err != nil {
		return "", err
	}
	u.User = url.UserPassword(chdb.User, strings.TrimSpace(string(password)))
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader([]byte(query)))
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("ClickHouse answered %s: %s", resp.Status, b)
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

const clickhousePipeline = `
pipeline: ${NAME}
kafka: {brokers: "${BROKERS}", partitions: 2}
sources:
  web: {http: {listen: "127.0.0.1:0", write_keys: {site: key}}}
stages: [clean, dedup, profile: {orders: {count: events, event: Order Completed}}]
sinks:
  analytics: {clickhouse: {url: embedded}}
`

// TestBadEventsAreDeadLettersAndTheirNeighboursPass posts ten events of which four cannot be accepted; their bytes must be
// in dead_letters as they were posted, and the one whose id means nobody is kept without a profile.
func TestBadEventsAreDeadLettersAndTheirNeighboursPass(t *testing.T) {
	needEngine(t)
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		data, name := t.TempDir(), strings.ReplaceAll(testenv.Name(t), "-", "_")
		p := start(t, write(t, clickhousePipeline), data, "NAME="+name, "BROKERS="+brokers[0])
		bad := map[string]string{
			"type_missing": `{"messageId":"b1", "userId":"u1","event":"X"}`,
			"field_type":   `{"messageId":"b2","type":"track","event":"X","userId":{"id":  1}}`,
			"properties":   `{"messageId":"b3","type":"track","event":"X","userId":"u1","properties":[1]}`,
			"not_utf8":     "{\"messageId\":\"b4\",\"type\":\"track\",\"event\":\"X\",\"userId\":\"\xff\"}",
		}
		var events []string
		for i := range 5 {
			events = append(events, fmt.Sprintf(`{"messageId":"g%d","type":"track","event":"X","userId":"u%d"}`, i, i))
		}
		events = append(events, bad["type_missing"], bad["field_type"], bad["properties"], bad["not_utf8"],
			`{"messageId":"n1","type":"track","event":"X","userId":"null"}`)
		if s := post(p.http(), `{"batch":[`+strings.Join(events, ",")+`]}`); s != 200 {
			t.Fatalf("the batch was answered with %d, want 200", s)
		}
		want := map[string]string{
			"SELECT count(), countIf(primary_id = toUUID('00000000-0000-0000-0000-000000000000')) FROM events": "6\t1",
			"SELECT count() FROM people":                  "5",
			"SELECT code FROM dead_letters ORDER BY code": "field_type\nfield_type\nnot_utf8\ntype_missing",
		}
		for query, answer := range want {
			eventually(t, func() error {
				got, err := p.clickhouse(data, query)
				if err == nil && got != answer {
					err = fmt.Errorf("%s: %q, want %q", query, got, answer)
				}
				return err
			})
		}
		got, err := p.clickhouse(data, "SELECT arrayStringConcat(groupArray(base64Encode(payload)), ' ') FROM dead_letters")
		if err != nil {
			t.Fatal(err)
		}
		for name, payload := range bad {
			if !strings.Contains(got, base64.StdEncoding.EncodeToString([]byte(payload))) {
				t.Errorf("the dead letters do not hold the bytes of %s", name)
			}
		}
		if s := p.stop(); s != 130 {
			t.Errorf("exit status %d after SIGTERM, want 130", s)
		}
	})
}
