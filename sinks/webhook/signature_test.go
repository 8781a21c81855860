package webhook

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/millstream-io/millstream/pipeline"
)

// TestSignatureVector compares with a signature that other implementations agree on.
func TestSignatureVector(t *testing.T) {
	text, err := os.ReadFile("testdata/signature.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Secret, ID, Body string
		Timestamp        int64
		Signature        string `json:"signature_v1"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	c := testConfig("https://crm.example.com")
	c.Secret = pipeline.NewSecret(v.Secret)
	s, _ := openTest(t, c, &pipeline.Env{})
	if got, err := s.signer.Sign(v.ID, time.Unix(v.Timestamp, 0), []byte(v.Body)); err != nil || got != v.Signature {
		t.Errorf("signature is %s, %v, want %s", got, err, v.Signature)
	}
}

// TestRawSecret: any other text is the key as it is, also if it looks like base64.
func TestRawSecret(t *testing.T) {
	rec := newReceiver(t, nil)
	c := testConfig(rec.URL)
	c.Secret = pipeline.NewSecret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	s, _ := openTest(t, c, &pipeline.Env{})
	writeOne(t, s)
	verifier, err := standardwebhooks.NewWebhookRaw([]byte("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
	if err != nil {
		t.Fatal(err)
	}
	r := rec.seen()[0]
	if err := verifier.Verify([]byte(r.body), r.header); err != nil {
		t.Error(err)
	}
}

const verifyScript = `
const { Webhook } = require("standardwebhooks");
const { secret, requests } = JSON.parse(require("fs").readFileSync(0, "utf8"));
for (const r of requests) {
  const message = new Webhook(secret).verify(r.body, r.headers);
  if (message.type !== "segment.entered") throw new Error("type is " + message.type);
  let refused = false;
  try { new Webhook(secret).verify(r.body + " ", r.headers); } catch { refused = true; }
  if (!refused) throw new Error("a changed body was verified");
}
console.log(requests.length);
`

// TestNodeVerifies gives requests to the library that receivers in JavaScript use.
func TestNodeVerifies(t *testing.T) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("needs npm: standardwebhooks@1.1.1")
	}
	folder := t.TempDir()
	install := exec.CommandContext(t.Context(), npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "standardwebhooks@1.1.1")
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("needs npm: standardwebhooks@1.1.1: %v: %s", err, out)
	}
	rec := newReceiver(t, nil)
	s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	writeAll(t, s, manyProfiles(10))

	type sent struct {
		Body    string            `json:"body"`
		Headers map[string]string `json:"headers"`
	}
	input := struct {
		Secret   string `json:"secret"`
		Requests []sent `json:"requests"`
	}{Secret: testSecret}
	for _, r := range rec.seen() {
		headers := map[string]string{}
		for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
			headers[name] = r.header.Get(name)
		}
		input.Requests = append(input.Requests, sent{r.body, headers})
	}
	text, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "verify.js"), []byte(verifyScript), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.CreateTemp(folder, "requests")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.WriteAt(text, 0); err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(t.Context(), "node", "verify.js")
	node.Dir, node.Stdin = folder, in
	if out, err := node.CombinedOutput(); err != nil || string(out) != "10\n" {
		t.Errorf("node says %q, %v", out, err)
	}
}
