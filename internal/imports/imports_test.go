// Package imports holds one test: which package may import which, and why.
package imports

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/millstream-io/millstream"

// arrows says what each folder of the module may import of the module. A folder's rule is that of its longest prefix here;
// tests are not bound by it. "a/..." is a and everything under it.
var arrows = []struct {
	folder string
	may    []string
	why    string
}{
	{"pipeline", nil, "the vocabulary: everything speaks it, so it depends on nothing"},
	{"pipeline/expression", []string{"pipeline", "internal/suggest"}, "one language for where, when, expr and segments"},
	{"pipeline/state", []string{"pipeline"}, "a store knows keys and bytes, not stages or Kafka"},
	{"pipeline/broker", []string{"pipeline"}, "the only package that knows the Kafka client"},
	{"pipeline/links", []string{"pipeline"}, "what the link log says is a function of the log alone"},
	{"pipeline/engine", []string{"pipeline", "pipeline/state", "pipeline/broker", "pipeline/links"}, "runs a plan; it must not know YAML, nor any stage, source or sink"},
	{"stages", []string{"pipeline", "stages/..."}, "the list of kinds"},
	{"stages/clean", kind, kindWhy}, {"stages/dedup", kind, kindWhy}, {"stages/identity", kind, kindWhy}, {"stages/profile", kind, kindWhy}, {"stages/segment", kind, kindWhy},
	{"stages/score", append([]string{"stages/score/clv"}, kind...), kindWhy},
	{"stages/score/clv", nil, "mathematics that the command fit shares with the stage"},
	{"stages/stagetest", []string{"pipeline", "pipeline/state"}, "the suite runs stages on the real store"},
	{"sources", []string{"pipeline", "sources/..."}, "the list of kinds"},
	{"sources/http", append([]string{"sources/outlet"}, kind...), kindWhy},
	{"sources/file", append([]string{"sources/mapping", "sources/outlet"}, kind...), kindWhy},
	{"sources/kafka", append([]string{"sources/mapping", "sources/outlet"}, kind...), kindWhy},
	{"sources/outlet", []string{"pipeline"}, "every source begins, hands over and ends in the same way"},
	{"sources/mapping", kind, "set, map and expr mean the same in every source that has them"},
	{"sources/sourcetest", []string{"pipeline"}, "the suite of all sources"},
	{"sinks", []string{"pipeline", "sinks/..."}, "the list of kinds"},
	{"sinks/clickhouse", kind, kindWhy}, {"sinks/file", kind, kindWhy},
	{"sinks/webhook", append([]string{"sinks/mapping"}, kind...), kindWhy}, {"sinks/kafka", append([]string{"sinks/mapping"}, kind...), kindWhy},
	{"sinks/mapping", kind, "map means the same in every sink that has it"},
	{"sinks/sinktest", []string{"pipeline", "pipeline/state"}, "the suite runs sinks on the real store"},
	{"config", []string{"pipeline", "pipeline/expression", "internal/suggest"}, "YAML to plan; the kinds are handed to it, the engine is not its business"},
	{"internal/suggest", nil, "a leaf"},
	{"internal/chdb", nil, "an engine behind HTTP knows nothing of pipelines"},
	{"internal/workload", nil, "the truth must not depend on the code that is tested"},
	{"internal/oracle", nil, "the naive answer imports no stage"},
	{"internal/testenv", []string{"pipeline/broker"}, "servers for tests"},
	{"examples", nil, "YAML and what embeds it"},
	{"benchmarks", []string{"..."}, "measures everything"},
	{"cmd", []string{"..."}, "puts everything together"},
}

var kind = []string{"pipeline", "pipeline/expression", "internal/suggest"}

const kindWhy = "a kind knows the contracts and never its siblings"

// doors says which packages may import an outside library, so that replacing it stays one package's work.
var doors = []struct {
	library string
	folders []string
	why     string
}{
	{"github.com/IBM/sarama", []string{"pipeline/broker", "internal/testenv", "benchmarks"}, "its errors and traps stay in one place"},
	{"github.com/cockroachdb/pebble/v2", []string{"pipeline/state", "pipeline/links"}, "a key layout is one package's secret"},
	{"github.com/dgraph-io/ristretto/v2", []string{"pipeline/state"}, "a cache that is asked before the overlay gives stale answers"},
	{"github.com/expr-lang/expr", []string{"pipeline/expression"}, "missing attributes and types have one meaning"},
	{"github.com/goccy/go-yaml", []string{"config", "stages/stagetest"}, "strictness and positions; the scripts of the stages are YAML too"},
	{"github.com/ClickHouse/ch-go", []string{"sinks/clickhouse", "internal/chdb"}, "columns are encoded by the sink; the front door of the engine speaks the same wire format"},
	{"github.com/ClickHouse/clickhouse-go/v2", []string{"sinks/clickhouse", "internal/chdb", "cmd/millstream"}, "the sink, the front door of the engine, and the demo's questions"},
	{"github.com/twmb/franz-go", []string{"pipeline/broker", "internal/testenv", "benchmarks"}, "the embedded broker, and SCRAM for the other client"},
	{"github.com/ebitengine/purego", []string{"internal/chdb"}, "calls into C"},
	{"github.com/nyaruka/phonenumbers", []string{"stages/clean"}, "which numbers there are has one answer"},
	{"gonum.org/v1/gonum", []string{"stages/score/clv"}, "the search of the largest likelihood"},
	{"github.com/spf13/cobra", []string{"cmd/millstream"}, "flags"},
}

func TestImportsGoDownOnly(t *testing.T) {
	imports(t, func(file, folder, path string) {
		inside, ours := strings.CutPrefix(path, module+"/")
		if !ours {
			return
		}
		rule := -1
		for i, a := range arrows {
			if under(folder, a.folder) && (rule < 0 || len(a.folder) > len(arrows[rule].folder)) {
				rule = i
			}
		}
		if rule < 0 {
			t.Errorf("%s: folder %s has no rule in arrows; give it one, with the reason", file, folder)
			return
		}
		for _, m := range arrows[rule].may {
			if m == inside || m == "..." || strings.HasSuffix(m, "/...") && under(inside, strings.TrimSuffix(m, "/...")) {
				return
			}
		}
		t.Errorf("%s imports %s; %s may import %v: %s", file, inside, arrows[rule].folder, arrows[rule].may, arrows[rule].why)
	})
}

func TestLibrariesHaveOneDoor(t *testing.T) {
	imports(t, func(file, folder, path string) {
		for _, d := range doors {
			if !under(path, d.library) {
				continue
			}
			open := false
			for _, f := range d.folders {
				open = open || under(folder, f)
			}
			if !open {
				t.Errorf("%s imports %s; only %v may: %s", file, path, d.folders, d.why)
			}
		}
	})
}

// imports calls fn for every import of every file that is not a test.
func imports(t *testing.T, fn func(file, folder, path string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && p != root) {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		files++
		file, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		for _, i := range f.Imports {
			path, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			fn(filepath.ToSlash(file), filepath.ToSlash(filepath.Dir(file)), path)
		}
		return nil
	})
	if err != nil || files < 20 {
		t.Fatalf("read %d files: %v", files, err)
	}
}

func under(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }
