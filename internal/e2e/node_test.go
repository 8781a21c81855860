package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const verifyScript = `
const { Webhook } = require("standardwebhooks");
const { secret, requests } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const ids = requests.map((r) => {
  new Webhook(secret).verify(r.body, r.headers);
  let refused = false;
  try { new Webhook(secret).verify(r.body.replace("segment.", "segments."), r.headers); } catch { refused = true; }
  if (!refused) throw new Error("a changed body was verified");
  return r.headers["webhook-id"];
});
process.stdout.write(JSON.stringify(ids));
`

// nodeVerifies gives requests to the library that receivers in JavaScript use.
func nodeVerifies(t *testing.T, requests []signed) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Skip("needs npm: standardwebhooks@1.1.1")
	}
	folder := t.TempDir()
	install := exec.CommandContext(t.Context(), npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, "standardwebhooks@1.1.1")
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("needs npm: standardwebhooks@1.1.1: %v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(folder, "verify.js"), []byte(verifyScript), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(map[string]any{"secret": secret, "requests": requests})
	if err != nil {
		t.Fatal(err)
	}
	node := exec.CommandContext(t.Context(), "node", "verify.js")
	node.Dir, node.Stdin = folder, bytes.NewReader(in)
	out, err := node.CombinedOutput()
	if err != nil {
		t.Fatalf("node: %v: %s", err, out)
	}
	var ids []string
	if err := json.Unmarshal(out, &ids); err != nil || len(ids) == 0 || len(ids) != len(requests) {
		t.Errorf("node verified %q of %d requests, %v", out, len(requests), err)
	}
}
