package config_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/config"
	"github.com/millstream-io/millstream/pipeline"
)

var rewrite = flag.Bool("rewrite", false, "write the .want files anew")

// environment of all tests.
func lookup(name string) (string, bool) {
	v, ok := map[string]string{
		"PORT": "9000", "PARTITIONS": "16", "EMPTY": "", "SECRET": "hunter2hunter2", "URL": "https://crm.example/x",
		"STRUCTURE": "x\nsinks: {evil: {webhook: {}}}", "BRACKETS": "[a, b]", "BINARY": "\xff",
	}[name]
	return v, ok
}

func load(t *testing.T, yaml string) (*pipeline.Plan, []config.Diagnostic) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipeline.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, diagnostics := config.Load(path, kinds(), config.Options{LookupEnv: lookup})
	if (plan == nil) != (len(diagnostics) > 0) {
		t.Fatalf("plan %v with diagnostics %v", plan, diagnostics)
	}
	return plan, diagnostics
}

// messages are the diagnostics without the excerpt.
func messages(diagnostics []config.Diagnostic) string {
	var b strings.Builder
	for _, d := range diagnostics {
		fmt.Fprintf(&b, "%d:%d: %s\n", d.Line, d.Column, d.Message)
	}
	return b.String()
}

// Every file in testdata is refused with exactly what its .want file says.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		_, diagnostics := config.Load(file, kinds(), config.Options{LookupEnv: lookup})
		var got bytes.Buffer
		for _, d := range diagnostics {
			fmt.Fprintln(&got, d)
		}
		if strings.Contains(got.String(), "hunter2") {
			t.Errorf("%s: the output holds a secret:\n%s", file, &got)
		}
		want := strings.TrimSuffix(file, ".yaml") + ".want"
		if *rewrite {
			if err := os.WriteFile(want, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		expected, err := os.ReadFile(want)
		if err != nil {
			t.Fatal(err)
		}
		if len(expected) == 0 || got.String() != string(expected) {
			t.Errorf("%s:\n%s\nwant:\n%s", file, &got, expected)
		}
	}
}

const good = `
pipeline: shop
kafka: {brokers: "a:9092, b:9092", partitions: "${PARTITIONS}", commit_interval: 100ms}
sources:
  web: {http: {listen: "127.0.0.1:${PORT}", write_keys: {website: "${SECRET}"}}}
  crm: {file: {path: [a.csv, b.csv], set: {type: identify, n: 3, ok: true, f: 1.5, zip: 01234}, header: false}}
stages:
  - clean
  - dedup
  - profile:
      orders: {count: events}
      revenue: {sum: properties.revenue, where: 'properties.currency == "GBP"'}
      plan: {latest: traits.plan}
      last_seen: {max: timestamp}
  - segment: {vip: "orders >= 3 and revenue > 500"}
sinks:
  crm:
    webhook: {url: "${URL}", secret: "${SECRET}", max_in_flight: 4, ratio: 0.5, verify: true}
    when: entered("vip")
  tables: {clickhouse: {url: embedded}}
`

func TestPlan(t *testing.T) {
	plan, diagnostics := load(t, good)
	if plan == nil {
		t.Fatal(messages(diagnostics))
	}
	var parts []string
	for _, s := range plan.Sources {
		parts = append(parts, "source "+s.Name+" "+s.Kind)
	}
	for _, s := range append(slices.Clone(plan.Resolve), plan.Profile...) {
		parts = append(parts, fmt.Sprint("stage ", s.Kind, " ", s.Code))
	}
	for _, s := range plan.Sinks {
		parts = append(parts, fmt.Sprint("sink ", s.Name, " ", s.Kind, " ", s.Topics, " ", s.When != nil))
	}
	for _, a := range plan.Attributes {
		parts = append(parts, fmt.Sprint("attribute ", a.Name, " ", a.Type))
	}
	got := strings.Join(parts, "\n")
	want := strings.Join([]string{"source web http", "source crm file", "stage clean 1", "stage dedup 2", "stage profile 3", "stage segment 4",
		"sink crm webhook [changes] true", "sink tables clickhouse [events changes] false",
		"attribute last_seen 3", "attribute orders 1", "attribute plan 2", "attribute revenue 1"}, "\n")
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if plan.Name != "shop" || plan.Partitions != 16 || plan.Commit != 100*time.Millisecond || !slices.Equal(plan.Brokers, []string{"a:9092", "b:9092"}) ||
		plan.Identities == nil || plan.Hash == 0 {
		t.Errorf("got %+v", plan)
	}
}

func TestDefaults(t *testing.T) {
	plan, diagnostics := load(t, "pipeline: shop\n")
	if plan == nil {
		t.Fatal(messages(diagnostics))
	}
	if plan.Partitions != 8 || plan.Commit != 50*time.Millisecond || plan.Brokers != nil {
		t.Errorf("got %+v", plan)
	}
	for _, yaml := range []string{"embedded", `"${NOT_SET:-embedded}"`, "[embedded]"} {
		if plan, d := load(t, "pipeline: shop\nkafka: {brokers: "+yaml+"}"); plan == nil || plan.Brokers != nil {
			t.Errorf("brokers: %s: %s", yaml, messages(d))
		}
	}
}

// What the kinds get: variables, types, forms.
func TestValues(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("from a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for yaml, want := range map[string]string{
		`plain`:                             "plain",
		`"quoted"`:                          "quoted",
		`'it''s'`:                           "it's",
		`12`:                                "12",
		`1.10`:                              "1.10",
		`true`:                              "true",
		`${PORT}`:                           "9000",
		`"a${PORT}b${PORT}c"`:               "a9000b9000c",
		`${NOT_SET:-x}`:                     "x",
		`${EMPTY:-x}`:                       "x",
		`"${EMPTY}"`:                        "",
		`${NOT_SET:-}`:                      "",
		`${NOT_SET:-a:-b}`:                  "a:-b",
		`$$`:                                "$",
		`"$${PORT}"`:                        "${PORT}",
		`^a$`:                               "^a$",
		`$PORT`:                             "$PORT",
		`${STRUCTURE}`:                      "x\nsinks: {evil: {webhook: {}}}",
		`"${file:` + secret + `}"`:          "from a file",
		`x${file:` + secret + `}y`:          "xfrom a filey",
		"|\n        a ${PORT}\n        b\n": "a 9000\nb\n",
		">-\n        a\n        b\n":        "a b",
	} {
		var got string
		k := kinds()
		k.Sources[1].Config = func() any {
			return &struct {
				Path *string `yaml:"path"`
			}{&got}
		}
		path := filepath.Join(t.TempDir(), "p.yaml")
		if err := os.WriteFile(path, []byte("pipeline: x\nsources:\n  s:\n    file:\n      path: "+yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, d := config.Load(path, k, config.Options{LookupEnv: lookup}); len(d) > 0 || got != want {
			t.Errorf("%s: %q, want %q %s", yaml, got, want, messages(d))
		}
	}
}

func TestNaturalValues(t *testing.T) {
	c := &fileConfig{}
	k := kinds()
	k.Sources[1].Config = func() any { return c }
	path := filepath.Join(t.TempDir(), "p.yaml")
	yaml := `{pipeline: x, sources: {s: {file: {path: a, header: "${NOT_SET:-true}", set: {i: 3, f: 1.5, b: true, t: x, q: "3", zip: 01234, v: "${BRACKETS}", n: ~, inf: .inf, hex: 0x10}}}}}`
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, d := config.Load(path, k, config.Options{LookupEnv: lookup}); len(d) > 0 {
		t.Fatal(messages(d))
	}
	got, err := json.Marshal(c)
	want := `{"Path":["a"],"Set":{"b":true,"f":1.5,"hex":"0x10","i":3,"inf":".inf","n":null,"q":"3","t":"x","v":"[a, b]","zip":"01234"},"Map":null,"Header":true}`
	if err != nil || string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// Files that are no text files to begin with, and those that would cost too much.
func TestFiles(t *testing.T) {
	deep := strings.Repeat("[", 100_000)
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 8), c-1)
	}
	for name, c := range map[string]struct{ yaml, want string }{
		"empty":           {"", "0:0: the file is empty: a pipeline begins with `pipeline: name`\n"},
		"comment":         {"# nothing\n", "0:0: the file is empty: a pipeline begins with `pipeline: name`\n"},
		"list":            {"- a\n", "1:1: a pipeline is a mapping: it begins with `pipeline: name`\n"},
		"text":            {"shop\n", "1:1: a pipeline is a mapping: it begins with `pipeline: name`\n"},
		"huge":            {"a: " + strings.Repeat("x", 1<<20), "0:0: the file has more than 1048576 bytes\n"},
		"many words":      {strings.Repeat("a: 1\n", 20_000), "0:0: the file has more than 32768 words and signs\n"},
		"deep":            {"pipeline: x\nsources: " + deep[:20_000], "2:74: the file is nested more than 64 deep\n"},
		"deep dashes":     {strings.Repeat("- ", 10_000), "1:129: the file is nested more than 64 deep\n"},
		"not UTF-8":       {"pipeline: x\n# caf\xe9\n", "2:6: the file is not text in UTF-8: save it as UTF-8\n"},
		"UTF-16":          {"\xff\xfep\x00i\x00", "1:1: the file is not text in UTF-8: save it as UTF-8\n"},
		"NUL":             {"pipeline: x\x00", "1:12: the file is not text in UTF-8: save it as UTF-8\n"},
		"two documents":   {"pipeline: x\n---\npipeline: y\n", "3:1: the file has more than one document: one file is one pipeline\n"},
		"binary variable": {"pipeline: ${BINARY}", "1:11: the variable BINARY is not text in UTF-8\n"},
	} {
		if _, d := load(t, c.yaml); messages(d) != c.want {
			t.Errorf("%s: %swant %s", name, messages(d), c.want)
		}
	}
	if _, d := load(t, "pipeline: x\nsources:\n  s: {file: {set: {a: 1}}}\n"+bomb); !strings.Contains(messages(d), "the file is too large once its aliases are followed") {
		t.Errorf("alias bomb: %s", messages(d))
	}
	if _, d := load(t, "\ufeffpipeline: x\r\nkafka: {partitions: 4}\r\n"); len(d) > 0 {
		t.Errorf("byte order mark and CRLF: %s", messages(d))
	}
	if _, d := load(t, "pipeline: x\nsources:\n  a: {http: {write_keys: &keys {w: k}}}\n  b: {http: {write_keys: *keys}}\n"); len(d) > 0 {
		t.Errorf("alias: %s", messages(d))
	}
	missing := filepath.Join(t.TempDir(), "none.yaml")
	_, d := config.Load(missing, kinds(), config.Options{})
	if len(d) != 1 || d[0].String() != missing+": the file cannot be read: no such file or directory" {
		t.Errorf("missing file: %v", d)
	}
	if _, d := config.Load(t.TempDir(), kinds(), config.Options{}); len(d) != 1 || !strings.HasSuffix(d[0].Message, "is a directory") {
		t.Errorf("directory: %v", d)
	}
}

// Secret files: the errors name the file and say why, never what is in it.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"binary": "\xff\xfe", "large": strings.Repeat("x", 65<<10), "good": "hunter2hunter2\r\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"none":   "2:23: the file DIR/none cannot be read: no such file or directory\n",
		".":      "2:23: the file DIR/. cannot be read: it is not a file\n",
		"binary": "2:23: the file DIR/binary cannot be read: it is not text in UTF-8\n",
		"large":  "2:23: the file DIR/large cannot be read: it has more than 65536 bytes\n",
		"good":   "2:21: partitions needs a whole number, not x${file:DIR/good}\n",
	} {
		_, d := load(t, "pipeline: x\nkafka: {partitions: \"x${file:"+dir+"/"+name+"}\"}\n")
		if got := strings.ReplaceAll(messages(d), dir, "DIR"); got != want {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
	}
}

// The hash follows what the configuration says, not how it is written, and no secret.
func TestHash(t *testing.T) {
	base := "pipeline: shop\nstages:\n- clean\n- dedup: {window: 24h}\nsinks: {s: {webhook: {url: https://a, secret: \"${SECRET}\", max_in_flight: 8}, when: created()}}\n"
	hash := func(yaml string) uint64 {
		plan, d := load(t, yaml)
		if plan == nil {
			t.Fatalf("%s\n%s", yaml, messages(d))
		}
		return plan.Hash
	}
	want := hash(base)
	for name, yaml := range map[string]string{
		"comments, order, quotes, blocks": "sinks:\n  s:\n    when: |-\n      created()\n    webhook:\n      secret: \"${SECRET}\"\n      max_in_flight: 08\n      url: 'https://a' # x\nstages:\n  - clean: {}\n  - dedup:\n      window: 1d\npipeline: \"shop\"\n",
		"another secret":                  strings.Replace(base, "${SECRET}", "another", 1),
		"a null config":                   strings.Replace(base, "clean", "clean:", 1),
	} {
		if hash(yaml) != want {
			t.Errorf("%s changed the hash", name)
		}
	}
	for _, change := range [][2]string{{"shop", "shop2"}, {"24h", "25h"}, {"https://a", "https://b"}, {"created()", "not created()"}, {"- dedup: {window: 24h}\n", ""}, {"{s:", "{t:"}, {": 8", ": 9"}} {
		if hash(strings.Replace(base, change[0], change[1], 1)) == want {
			t.Errorf("%s did not change the hash", change)
		}
	}
	if again := hash(base); again != want {
		t.Errorf("two hashes of one file")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(good)
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("a: &a [*a]\n<<: *a\n? [x]\n: !!str y\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, yaml string) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		plan, diagnostics := config.Load(path, kinds(), config.Options{LookupEnv: lookup})
		if (plan == nil) != (len(diagnostics) > 0) {
			t.Fatalf("plan %v, diagnostics %v", plan, diagnostics)
		}
		lines := strings.Count(yaml, "\n") + strings.Count(yaml, "\r") + 1
		for _, d := range diagnostics {
			if d.Message == "" || d.Line < 0 || d.Line > lines || d.Line > 0 && d.Column < 1 || d.String() == "" {
				t.Fatalf("bad diagnostic %#v", d)
			}
		}
	})
}
