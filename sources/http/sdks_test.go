package http

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// TestSDKs lets the vendors' SDKs for Node send, as npm has them, pinned in testdata/sdks. Once every request is taken at
// once; once the broker is away for the first try of each, so that the SDK gets 503 and sends again. What arrives goes
// through clean and dedup.
func TestSDKs(t *testing.T) {
	folder := installSDKs(t)
	for _, sdk := range []string{"segment", "rudder"} {
		t.Run(sdk, func(t *testing.T) {
			t.Parallel()
			sdkSends(t, folder, sdk, false)
		})
		t.Run(sdk+" after 503", func(t *testing.T) {
			t.Parallel()
			sdkSends(t, folder, sdk, true)
		})
	}
}

// lockIsWrong finds npm's errors that are this repository's fault, or somebody's that changed a package.
var lockIsWrong = regexp.MustCompile(`EINTEGRITY|EUSAGE`)

// installSDKs returns a folder with the SDKs. To pin other versions change package.json and run, in testdata/sdks,
// npm install --package-lock-only --omit-lockfile-registry-resolved: the lock then names no registry.
func installSDKs(t *testing.T) string {
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("needs npm: @segment/analytics-node, @rudderstack/rudder-sdk-node")
	}
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("testdata/sdks")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "ci", "--omit=optional", "--ignore-scripts", "--engine-strict", "--prefer-offline", "--fetch-retries=1", "--no-audit", "--no-fund")
	install.Dir = folder
	if out, err := install.CombinedOutput(); lockIsWrong.Match(out) {
		t.Fatalf("npm ci: %v: %s", err, out)
	} else if err != nil {
		t.Skipf("needs npm: @segment/analytics-node, @rudderstack/rudder-sdk-node: %v: %s", err, out)
	}
	return folder
}

func sdkSends(t *testing.T, folder, sdk string, away bool) {
	tried := map[string]bool{} // message id of a request's first event
	nacked := uint64(0)        // written before the answer to the SDK, read after its end
	g := start(t, nil, func(m *message.Message) {
		b, _ := pipeline.BatchOf(m)
		id := string(b.Records[0].Header(pipeline.HeaderID))
		if away && !tried[id] {
			tried[id] = true
			nacked++
			m.Nack()
			return
		}
		m.Ack()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", "send.js", sdk, g.url, "wk")
	var said, errors bytes.Buffer
	node.Dir, node.Stdout, node.Stderr = folder, &said, &errors
	if err := node.Run(); err != nil {
		t.Fatalf("node: %v: %s", err, errors.Bytes())
	}
	var sent []struct{ Type, ID string }
	if err := json.Unmarshal(said.Bytes(), &sent); err != nil || len(sent) != 6 {
		t.Fatalf("the SDK says %q: %v", said.Bytes(), err)
	}

	times := 1
	if away {
		times = 2
	}
	got := map[string][]pipeline.Record{}
	for _, r := range g.taken() {
		id := string(r.Header(pipeline.HeaderID))
		got[id] = append(got[id], r)
	}
	if n := len(g.taken()); n != times*len(sent) {
		t.Errorf("%d records of %d events arrived", n, len(sent))
	}
	for _, s := range sent {
		if s.ID == "" || len(got[s.ID]) != times {
			t.Errorf("%s %q arrived %d times", s.Type, s.ID, len(got[s.ID]))
		}
		for _, r := range got[s.ID] {
			var ev pipeline.Event
			if rej := pipeline.ParseEventRecord(&r, &ev); rej != nil {
				t.Fatal(rej)
			}
			if rej := ev.Scan(); rej != nil || ev.Type != s.Type || ev.UserID != "u-42" || !ev.OwnID || ev.SentAt == "" {
				t.Errorf("%s is %v %+v", s.Type, rej, ev)
			}
			if s.Type == "track" && (ev.Name != "Order Completed" || gjson.GetBytes(ev.Properties, "revenue").Num != 50) {
				t.Errorf("the order is %s", ev.Raw)
			}
			if ev.GroupID != map[string]string{"group": "g-7"}[s.Type] || ev.PreviousID != map[string]string{"alias": "anon-1"}[s.Type] {
				t.Errorf("%s is %s", s.Type, ev.Raw)
			}
		}
	}
	if n := g.source.Counters(); n["refused"] != nacked || away != (nacked > 0) || n["fresh_ids"] != 0 {
		t.Errorf("%v after %d refusals by the broker", n, nacked)
	}

	r := stagetest.New(t, stages.Kinds, "- clean: {}\n- dedup: {}\n")
	r.Feed(g.taken()...)
	r.Commit()
	passed, dropped := 0, 0
	for _, line := range r.Lines() {
		switch {
		case strings.Contains(line, ": resolved ") && !strings.Contains(line, " late"):
			passed++
		case strings.HasSuffix(line, "dropped dedup/duplicate"):
			dropped++
		default:
			t.Error(line)
		}
	}
	if passed != len(sent) || dropped != (times-1)*len(sent) {
		t.Errorf("%d events passed clean and dedup, %d were dropped", passed, dropped)
	}
}
