package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/config"
	"github.com/millstream-io/millstream/sinks"
	"github.com/millstream-io/millstream/sources"
	"github.com/millstream-io/millstream/stages"
)

const root = "../.."

// page is the reference of the YAML.
const page = "docs/reference/pipeline.md"

// TestExamplesInDocs lints every block of YAML in the documentation. A block needs no name and no stages: they are added
// behind it. What is announced in a block of text right after it, beginning with pipeline.yaml:, is what lint must say.
func TestExamplesInDocs(t *testing.T) {
	inTempDir(t, func(files []string) {
		blocks := 0
		for _, file := range files {
			for _, b := range yamlBlocks(read(t, file)) {
				blocks++
				t.Run(fmt.Sprintf("%s line %d", filepath.Base(file), b.line), func(t *testing.T) { b.check(t) })
			}
		}
		if blocks < 20 {
			t.Errorf("found %d blocks: does the search still work?", blocks)
		}
	})
}

// TestExamplesAreFine lints the pipelines in examples; each has a README that names the command.
func TestExamplesAreFine(t *testing.T) {
	folders, err := filepath.Glob(filepath.Join(root, "examples", "*", "pipeline.yaml"))
	if err != nil || len(folders) < 2 {
		t.Fatalf("found %d examples, %v", len(folders), err)
	}
	for _, path := range folders {
		if said := lint(path); said != "" {
			t.Errorf("%s", said)
		}
		folder := filepath.Base(filepath.Dir(path))
		if text := read(t, filepath.Join(filepath.Dir(path), "README.md")); !strings.Contains(text, "millstream ") && !strings.Contains(text, "make demo") {
			t.Errorf("the README of example %s names no command", folder)
		}
	}
}

// TestEveryKeyIsInTheReference compares the tables of the page with the keys that the program has, both ways.
func TestEveryKeyIsInTheReference(t *testing.T) {
	sections := sectionsOf(read(t, filepath.Join(root, page)))
	want := map[string][]string{
		"Top level": keysOf(t, "nope: 1\n", "a pipeline"),
		"`kafka`":   keysOf(t, "pipeline: shop\nkafka: {nope: 1}\n", "kafka"),
	}
	for _, k := range sources.Kinds {
		want["Source `"+k.Name+"`"] = tags(k.Config())
	}
	for _, k := range stages.Kinds {
		want["Stage `"+k.Name+"`"] = tags(k.Config())
	}
	for _, k := range sinks.Kinds {
		want["Sink `"+k.Name+"`"] = tags(k.Config())
	}
	for title, keys := range want {
		text, ok := sections[title]
		if !ok {
			t.Errorf("%s has no section %q", page, title)
			continue
		}
		var have []string
		for _, m := range firstCell.FindAllStringSubmatch(text, -1) {
			for _, name := range quoted.FindAllStringSubmatch(m[1], -1) {
				have = append(have, name[1])
			}
		}
		for _, key := range keys {
			if !slices.Contains(have, key) {
				t.Errorf("%s: section %q does not describe the key %s", page, title, key)
			}
		}
		for _, key := range have {
			if !slices.Contains(keys, key) {
				t.Errorf("%s: section %q describes the key %s, which does not exist", page, title, key)
			}
		}
	}
}

// TestEveryFlagIsInTheReference compares docs/reference/cli.md with the commands.
func TestEveryFlagIsInTheReference(t *testing.T) {
	text := read(t, filepath.Join(root, "docs/reference/cli.md"))
	rows, used := flagsInPage(text), map[string]bool{}
	for _, c := range leaves(rootCommand()) {
		command := strings.TrimPrefix(c.CommandPath(), "millstream ")
		if !strings.Contains(text, "\nmillstream "+command) {
			t.Errorf("cli.md does not list the command %s", command)
		}
		var names []string
		c.InitDefaultHelpFlag()
		for _, m := range flagHelp.FindAllStringSubmatch(c.LocalFlags().FlagUsages(), -1) {
			name, def := m[1], m[2]
			if name == "help" {
				continue
			}
			names = append(names, name)
			row, ok := rows[command][name]
			if group, _, sub := strings.Cut(command, " "); !ok && sub { // flags that several of a group have stand there
				row, ok = rows[group][name]
				used[group+" "+name] = true
			}
			if !ok {
				t.Errorf("cli.md does not describe --%s of %s", name, command)
			}
			if !strings.Contains(row, strings.Trim(def, `"`)) {
				t.Errorf("cli.md does not name the default %s of --%s of %s", def, name, command)
			}
		}
		for name := range rows[command] {
			if !slices.Contains(names, name) {
				t.Errorf("cli.md describes --%s of %s, which does not exist", name, command)
			}
		}
	}
	for _, group := range rootCommand().Commands() {
		for name := range rows[group.Name()] {
			if group.HasSubCommands() && !used[group.Name()+" "+name] {
				t.Errorf("cli.md describes --%s of %s, which no command of it has", name, group.Name())
			}
		}
	}
}

// leaves are the commands that do something, those of a group of commands by their full path.
func leaves(c *cobra.Command) (list []*cobra.Command) {
	if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
		return nil
	}
	for _, sub := range c.Commands() {
		list = append(list, leaves(sub)...)
	}
	if !c.HasSubCommands() {
		list = append(list, c)
	}
	return list
}

var (
	firstCell = regexp.MustCompile("(?m)^\\| (`[^|]*)\\|")
	quoted    = regexp.MustCompile("`([a-z_]+)`")
	flagHelp  = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+).*?(?:\(default ([^)]*)\))?$`)
	flagRow   = regexp.MustCompile("^\\| (?:`([a-z -]+)` )?\\| `--([a-z-]+)[^`]*` \\|(.*)$")
)

// flagsInPage are the rows of the table of flags, by command and flag; a row without a command belongs to the one above.
func flagsInPage(text string) map[string]map[string]string {
	rows := map[string]map[string]string{}
	command := ""
	for line := range strings.Lines(text) {
		m := flagRow.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		if m[1] != "" {
			command = m[1]
		}
		if rows[command] == nil {
			rows[command] = map[string]string{}
		}
		rows[command][m[2]] = m[3]
	}
	return rows
}

// block is a block of YAML in a page.
type block struct {
	line int // of its first line in the page
	yaml string
	says string // what lint must say of it, "" if it is fine
}

func yamlBlocks(page string) []block {
	var out []block
	lines := strings.Split(page, "\n")
	for i := 0; i < len(lines); i++ {
		if lines[i] != "```yaml" && lines[i] != "```text" {
			continue
		}
		end := i + 1 + slices.Index(lines[i+1:], "```")
		text := strings.Join(lines[i+1:end], "\n") + "\n"
		switch {
		case lines[i] == "```yaml":
			out = append(out, block{line: i + 2, yaml: text})
		case strings.HasPrefix(text, "pipeline.yaml:") && len(out) > 0:
			out[len(out)-1].says = text
		}
		i = end
	}
	return out
}

// common is added to a block that does not have it: the examples of one section need not repeat the others.
var common = []struct{ key, yaml string }{
	{"pipeline:", "pipeline: shop\n"},
	{"stages:", `stages:
  - clean
  - profile:
      orders:  {count: events, event: Order Completed}
      revenue: {sum: properties.revenue, event: Order Completed}
      last_order: {max: timestamp, event: Order Completed}
  - segment: {vip: orders >= 3 and revenue > 500, buyer: orders >= 1}
`},
}

func (b block) check(t *testing.T) {
	yaml := b.yaml
	for _, c := range common {
		if !strings.HasPrefix(yaml, c.key) && !strings.Contains(yaml, "\n"+c.key) {
			yaml += c.yaml
		}
	}
	if err := os.WriteFile("pipeline.yaml", []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if said := lint("pipeline.yaml"); said != b.says {
		t.Errorf("lint says:\n%s\nthe page says:\n%s", said, b.says)
	}
}

// lint returns the mistakes in a pipeline, one line each.
func lint(path string) string {
	variables := map[string]string{
		"WRITE_KEY": "k", "CRM_URL": "https://crm.example/hook", "CRM_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		"CLICKHOUSE_URL": "https://millstream@clickhouse.example:8443", "KAFKA_BROKERS": "kafka-1:9092",
	}
	_, diagnostics := config.Load(path, config.Kinds{Sources: sources.Kinds, Stages: stages.Kinds, Sinks: sinks.Kinds}, config.Options{
		LookupEnv: func(name string) (string, bool) { v, ok := variables[name]; return v, ok },
	})
	var said strings.Builder
	for _, d := range diagnostics {
		d.Excerpt = ""
		fmt.Fprintln(&said, d)
	}
	return said.String()
}

// inTempDir gives fn the pages of the repository, and a working directory with the secret that the examples name.
func inTempDir(t *testing.T, fn func(files []string)) {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "examples/*/*.md", "benchmarks/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			abs, err := filepath.Abs(f)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, abs)
		}
	}
	t.Chdir(t.TempDir())
	if err := os.Mkdir("secrets", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("secrets/crm", []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fn(files)
}

// sectionsOf cuts a page at its headings.
func sectionsOf(page string) map[string]string {
	out := map[string]string{}
	title, code := "", false
	for line := range strings.Lines(page) {
		code = code != strings.HasPrefix(line, "```")
		if heading := strings.TrimLeft(line, "#"); !code && heading != line && strings.HasPrefix(heading, " ") {
			title = strings.TrimSpace(heading)
			continue
		}
		out[title] += line
	}
	return out
}

// keysOf asks the program itself which keys a part has: an unknown one makes it list them.
func keysOf(t *testing.T, yaml, what string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipeline.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	_, list, ok := strings.Cut(lint(path), what+` has no key "nope", it has `)
	list, _, _ = strings.Cut(list, "\n")
	if !ok {
		t.Fatalf("lint does not list the keys of %s", what)
	}
	return strings.Split(list, ", ")
}

// tags are the keys of a kind's configuration; of a mapping with free names, those of what stands under a name.
func tags(config any) []string {
	typ := reflect.TypeOf(config).Elem()
	if typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	var keys []string
	if typ.Kind() == reflect.Struct {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
			if name != "-" { // another form of the value
				keys = append(keys, name)
			}
		}
	}
	return keys
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
