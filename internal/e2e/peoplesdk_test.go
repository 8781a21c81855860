package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/millstream-io/millstream/internal/testenv"
)

// storyScript tells one login by a vendor's SDK and prints the user's message ids as the SDK tells them. RudderStack's marks
// all that it sends as a server's, and so the anonymous id of its identify says nothing; its alias does.
const storyScript = `
const { gunzipSync } = require("node:zlib");
const [sdk, url, writeKey] = process.argv.slice(2);
const userId = sdk + "-user", anonymousId = sdk + "-device";
const story = [
  ["page", { anonymousId, name: "Home" }],
  ["identify", { anonymousId, userId, traits: { plan: "pro" } }],
  ["track", { userId, event: "Order Completed", properties: { revenue: 50.0 } }],
];
const clients = {
  segment() {
    const { Analytics } = require("@segment/analytics-node");
    const client = new Analytics({ writeKey, host: url });
    return { client, id: (context) => context.event.messageId, end: () => client.closeAndFlush() };
  },
  rudder() {
    const Analytics = require("@rudderstack/rudder-sdk-node");
    const client = new Analytics(writeKey, { dataPlaneUrl: url });
    story.splice(2, 0, ["alias", { userId, previousId: anonymousId }]);
    const id = (body, type) => JSON.parse(gunzipSync(body)).batch.find((event) => event.type === type).messageId;
    return { client, id, end: () => client.flush() };
  },
};
async function main() {
  const { client, id, end } = clients[sdk]();
  const sent = story.map(([type, event]) => new Promise((resolve, reject) => {
    client[type](event, (error, answer) => (error ? reject(error) : resolve(id(answer, type))));
  }));
  await end();
  process.stdout.write(JSON.stringify(await Promise.all(sent)));
}
main();
`

const storyPipeline = onTheWeb + `stages:
  - clean
  - dedup
  - identity
  - profile:
      all:     {count: events}
      revenue: {sum: properties.revenue, event: Order Completed}
sinks:
  out: {file: {path: "${OUT}"}}
`

// TestALoginThroughSDKsIsOnePerson lets the vendors' SDKs for Node tell of a visitor who logs in and buys: every event counts
// once, and for one person.
func TestALoginThroughSDKsIsOnePerson(t *testing.T) {
	t.Parallel()
	folder := storySDKs(t)
	out, brokers := t.TempDir(), testenv.Embedded(t)
	name, env := on(t, brokers, "OUT="+out)
	p := start(t, write(t, storyPipeline), t.TempDir(), env...)
	sent := 0
	for _, sdk := range []string{"segment", "rudder"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		node := exec.CommandContext(ctx, "node", "story.js", sdk, p.http(), "key")
		var errs bytes.Buffer
		node.Dir, node.Stderr = folder, &errs
		said, err := node.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", sdk, err, errs.Bytes())
		}
		var ids []string
		if err := json.Unmarshal(said, &ids); err != nil {
			t.Fatalf("%s says %q: %v", sdk, said, err)
		}
		sent += len(ids)
		var got []string
		for _, text := range consume(t, brokers, name+".events", sent) {
			var ev struct{ MessageID string }
			if err := json.Unmarshal([]byte(text), &ev); err != nil {
				t.Fatal(err)
			}
			got = append(got, ev.MessageID)
		}
		for _, id := range ids {
			if !slices.Contains(got, id) {
				t.Errorf("the event %s of %s has not arrived", id, sdk)
			}
		}
		eventually(t, func() error {
			people, err := alive(out)
			if err != nil {
				return err
			}
			var mine []string
			for _, x := range people {
				if slices.Contains(x.Identifiers["user_id"], sdk+"-user") || slices.Contains(x.Identifiers["anonymous_id"], sdk+"-device") {
					mine = append(mine, x.String())
				}
			}
			want := fmt.Sprintf("map[anonymous_id:[%s-device] user_id:[%s-user]] map[plan:pro] map[all:%d revenue:50] []", sdk, sdk, len(ids))
			if !slices.Equal(mine, []string{want}) {
				return fmt.Errorf("%q, want %q", mine, want)
			}
			return nil
		})
	}
	if len(readAll(t, brokers, name+".dead_letters", 2)) > 0 {
		t.Error("there are dead letters")
	}
	p.stop()
}

// storySDKs returns a folder with the SDKs that the tests of the source pin, and the story.
func storySDKs(t *testing.T) string {
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("needs npm: @segment/analytics-node, @rudderstack/rudder-sdk-node")
	}
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS("../../sources/http/testdata/sdks")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "story.js"), []byte(storyScript), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, npm, "ci", "--omit=optional", "--ignore-scripts", "--engine-strict", "--prefer-offline", "--fetch-retries=1", "--no-audit", "--no-fund")
	install.Dir = folder
	if out, err := install.CombinedOutput(); regexp.MustCompile(`EINTEGRITY|EUSAGE`).Match(out) {
		t.Fatalf("npm ci: %v: %s", err, out)
	} else if err != nil {
		t.Skipf("needs npm: @segment/analytics-node, @rudderstack/rudder-sdk-node: %v: %s", err, out)
	}
	return folder
}
