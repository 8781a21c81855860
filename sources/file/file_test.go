package file

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/sourcetest"
)

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Case {
		dir := t.TempDir()
		s := build(t, Config{Path: Paths{dir + "/*.csv"}, Set: track})
		s.poll = time.Millisecond
		if strings.Contains(t.Name(), "hangs") {
			s.outlet.Drain = 100 * time.Millisecond
		}
		return sourcetest.Case{Source: s, Feed: func() { write(t, dir+"/a.csv", "user,x\n1,2\n3,4\n") }}
	})
}

var track = map[string]any{"type": "track"}

// build makes a source named orders.
func build(t *testing.T, c Config) *Source {
	t.Helper()
	open, problems := Kind.Build("orders", &c, &pipeline.Env{})
	if problems != nil {
		t.Fatal(problems)
	}
	s, err := open(context.Background(), pipeline.Deps{Say: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*Source)
}

// readOnce reads the files of a configuration to their end.
func readOnce(t *testing.T, c Config, take func(*pipeline.Record)) *Source {
	t.Helper()
	c.Once = true
	s := build(t, c)
	out, err := s.Subscribe(context.Background(), "events")
	if err != nil {
		t.Fatal(err)
	}
	for m := range out {
		b, _ := pipeline.BatchOf(m)
		for i := range b.Records {
			take(&b.Records[i])
		}
		m.Ack()
	}
	return s
}

// values reads all files once and returns the records' values.
func values(t *testing.T, c Config) (values []string, ids []string, s *Source) {
	s = readOnce(t, c, func(r *pipeline.Record) {
		values = append(values, string(r.Value))
		ids = append(ids, string(r.Header(pipeline.HeaderID)))
	})
	return values, ids, s
}

// write puts a file there at once.
func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func appendTo(t *testing.T, path, content string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
}

func zipped(content string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(content))
	w.Close()
	return b.String()
}

func TestBadLinesTravelAsTheyAre(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.csv", "\xef\xbb\xbfuser,x\r\n1,a\r\n2\n3,b,c\n\n4,\"open\n5,\"q\"x\ncaf\xe9,b\n6,\"d\"\"\n\"\n7,e")
	got, ids, s := values(t, Config{Path: Paths{dir + "/a.csv"}, Set: track, Map: map[string]string{"user_id": "user"}})
	want := []string{`{"properties":{"x":"a"},"type":"track","userId":"1"}`, "2", "3,b,c", "4,\"open\n5,\"q\"x", "caf\xe9,b",
		`{"properties":{"x":"d\"\n"},"type":"track","userId":"6"}`, `{"properties":{"x":"e"},"type":"track","userId":"7"}`}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if n := s.Counters(); n["rows"] != 7 || n["raw_rows"] != 4 || s.Err() != nil {
		t.Error(n, s.Err())
	}
	for i, id := range ids {
		if !strings.HasPrefix(id, "orders/") || strings.Count(strings.Join(ids, " "), id) != 1 {
			t.Errorf("id %d is %q", i, id)
		}
	}
}

// A row that makes no event says why, to whoever reads the dead letter.
func TestBadLinesSayWhy(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.csv", "user,at,n\n1,2026-03-01,2\n2,2026-03-01\n3,2026-03-01,4,5\n4,soon,2\n5,\"q\"x,2\ncaf\xe9,,\n6,,"+strings.Repeat("x", 3*maxRow)+"\n")
	write(t, dir+"/b.ndjson", `{"u":"1"}`+"\n"+`{"u`+"\n"+`["u"]`+"\n"+`{"u":"2","at":{}}`+"\n")
	mapped := map[string]string{"user_id": "user", "timestamp": "at"}
	for _, c := range []struct {
		config Config
		want   []string
	}{
		{Config{Path: Paths{dir + "/a.csv"}, Set: track, Map: mapped}, []string{"",
			"row_cells the row has another number of cells (2) than the table has columns (3)",
			"row_cells the row has another number of cells (4) than the table has columns (3)",
			"row_value timestamp is not a time in the expected form, see time_format",
			"row_quotes a quote in the row is not closed, or stands in the middle of a cell",
			"not_utf8 the row is not valid UTF-8",
			fmt.Sprintf("oversize the row has more than %d bytes; this is its beginning", maxRow)}},
		{Config{Path: Paths{dir + "/b.ndjson"}, Set: track, Map: map[string]string{"user_id": "u", "timestamp": "at"}}, []string{"",
			"not_json the event is not valid JSON", "not_an_object the event is not a JSON object", "row_value timestamp needs a text or a number"}},
	} {
		var got []string
		readOnce(t, c.config, func(r *pipeline.Record) { got = append(got, string(r.Header(pipeline.HeaderRefused))) })
		if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", c.want) {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

func TestJSONLines(t *testing.T) {
	dir := t.TempDir()
	lines := []string{`{"type":"track","event":"A","messageId":"m1", "x":1.0}`, `{"type":"track"}`, `{"type":"track"}`, `{"broken`, `7`}
	write(t, dir+"/a.ndjson", strings.Join(lines, "\n")+"\n")
	got, ids, _ := values(t, Config{Path: Paths{dir + "/*.ndjson"}})
	if fmt.Sprint(got) != fmt.Sprint(lines) {
		t.Errorf("%q", got)
	}
	if ids[0] != "m1" || ids[1] == ids[2] {
		t.Errorf("ids are %q", ids)
	}
	write(t, dir+"/b.jsonl", `{"no":7,"id":"x","sum":1.50}`+"\n"+`[1]`+"\n")
	got, ids, _ = values(t, Config{Path: Paths{dir + "/b.jsonl"}, Set: track, Map: map[string]string{"user_id": "no", "message_id": "id"}})
	if len(got) != 2 || got[0] != `{"properties":{"sum":1.50},"type":"track","userId":7}` || got[1] != "[1]" || ids[0] != "orders/x" {
		t.Errorf("%q %q", got, ids)
	}
}

func TestLoadingAgainGivesTheSameIDs(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	write(t, dir+"/a.csv", "u,x\n1,2\n1,2\n")
	write(t, other+"/a.csv.gz", zipped("u,x\n1,2\n1,2\n"))
	_, plain, _ := values(t, Config{Path: Paths{dir + "/*.csv"}, Set: track})
	_, again, _ := values(t, Config{Path: Paths{other + "/*.csv.gz"}, Set: track})
	if plain[0] == plain[1] || fmt.Sprint(plain) != fmt.Sprint(again) {
		t.Errorf("%q, then %q", plain, again)
	}
}

func TestFilesThatDoNotFitAreNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.csv", "u,x\n1,2\n")
	write(t, dir+"/b.csv", "v,x\n1,2\n")
	write(t, dir+"/c.csv", "\xff\xfeu\x00,\x00x\x00\n\x00")
	write(t, dir+"/d.csv", "")
	write(t, dir+"/e.csv.gz", zipped("u,x\n1,2\n")[:20])
	write(t, dir+"/f.csv", "u,x\n3,4\n")
	if err := os.Mkdir(dir+"/g.csv", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/h", 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/h/a.csv", "u,x\n5,6\n")
	got, _, s := values(t, Config{Path: Paths{dir + "/*.csv*", dir + "/h/*"}, Format: "csv", Set: track, Map: map[string]string{"user_id": "u"}})
	if len(got) != 2 {
		t.Errorf("%q", got)
	}
	for _, want := range []string{"b.csv does not fit the mapping: there is no column \"u\"; the columns are v, x", "c.csv is UTF-16", "e.csv", "h/a.csv have the same name"} {
		if s.Err() == nil || !strings.Contains(s.Err().Error(), want) {
			t.Errorf("%q is missing in: %v", want, s.Err())
		}
	}
	if _, err := build(t, Config{Path: Paths{dir + "/none*.csv"}, Set: track, Once: true}).Subscribe(context.Background(), "events"); err == nil {
		t.Error("no file matches, and nobody says so")
	}
}

// follow is a source that goes on; take returns its next values and the position after them.
type follow struct {
	t    *testing.T
	s    *Source
	out  <-chan *message.Message
	stop context.CancelFunc
}

func resume(t *testing.T, c Config, position []byte) *follow {
	t.Helper()
	s := build(t, c)
	s.poll = time.Millisecond
	if position != nil {
		if err := s.Resume(position); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	out, err := s.Subscribe(ctx, "events")
	if err != nil {
		t.Fatal(err)
	}
	return &follow{t, s, out, stop}
}

func (f *follow) take(ack bool) (values []string, position []byte) {
	f.t.Helper()
	select {
	case m, ok := <-f.out:
		if !ok {
			return nil, nil
		}
		b, _ := pipeline.BatchOf(m)
		for _, r := range b.Records {
			values = append(values, string(r.Value))
		}
		if ack {
			m.Ack()
		} else {
			m.Nack()
		}
		return values, b.Position
	case <-time.After(30 * time.Second):
		f.t.Fatal("no message came")
		return nil, nil
	}
}

func (f *follow) end() {
	f.t.Helper()
	f.stop()
	for m := range f.out {
		m.Nack()
	}
}

// TestResumeAnywhere stops after every batch, loses the batch in flight, and goes on from the position: every row comes
// exactly once, whatever the format.
func TestResumeAnywhere(t *testing.T) {
	var content strings.Builder
	content.WriteString("\xef\xbb\xbfu,x\n")
	const rows = 9000
	for i := range rows {
		fmt.Fprintf(&content, "%d,\"line\nbreak\"\n\n", i)
	}
	for _, name := range []string{"a.csv", "a.csv.gz"} {
		dir := t.TempDir()
		text := content.String()
		if strings.HasSuffix(name, ".gz") {
			text = zipped(text)
		}
		write(t, dir+"/"+name, text)
		write(t, dir+"/b.csv", "u,x\nlast,1\n")
		config := Config{Path: Paths{dir + "/*.csv*"}, Set: track, Map: map[string]string{"user_id": "u"}, Once: true}
		var position []byte
		var got []string
		for runs := 0; ; runs++ {
			f := resume(t, config, position)
			vs, p := f.take(true)
			if vs == nil {
				f.end()
				if runs < 3 {
					t.Errorf("%s: only %d runs", name, runs)
				}
				break
			}
			got, position = append(got, vs...), p
			f.take(false) // it was not committed
			f.end()
		}
		if len(got) != rows+1 {
			t.Fatalf("%s: %d rows", name, len(got))
		}
		for i, v := range got[:rows] {
			if v != fmt.Sprintf(`{"properties":{"x":"line\nbreak"},"type":"track","userId":"%d"}`, i) {
				t.Fatalf("%s: row %d is %s", name, i, v)
			}
		}
	}
}

func TestFollowsWhatIsAppendedAndNew(t *testing.T) {
	dir := t.TempDir()
	config := Config{Path: Paths{dir + "/*.ndjson"}}
	f := resume(t, config, nil)
	write(t, dir+"/b.ndjson", "1\n2\n3") // the last line may still be being written
	var got []string
	var position []byte
	take := func(n int) {
		t.Helper()
		for len(got) < n {
			var vs []string
			vs, position = f.take(true)
			got = append(got, vs...)
		}
	}
	take(3) // it was not: it did not change for a while
	appendTo(t, dir+"/b.ndjson", "\n4\n")
	take(4)
	write(t, dir+"/a.ndjson", "5\n")
	take(5)
	f.end()
	appendTo(t, dir+"/a.ndjson", "6\n")
	f = resume(t, config, position)
	take(6)
	f.end()
	if strings.Join(got, "") != "123456" {
		t.Errorf("%q", got)
	}
}

func TestChangedFilesAreRefused(t *testing.T) {
	for name, change := range map[string]string{
		"shorter":   "{\"n\":1}\n",
		"beginning": "{\"n\":9}\n{\"n\":2}\n{\"n\":3}\n",
		"before":    strings.Repeat(" ", 5000) + "\n{\"n\":9}\n",
	} {
		dir := t.TempDir()
		path := dir + "/a.ndjson"
		before := "{\"n\":1}\n{\"n\":2}\n"
		if name == "before" { // beyond what the fingerprint of the beginning covers
			before = strings.Repeat(" ", 5000) + "\n{\"n\":1}\n"
		}
		write(t, path, before)
		f := resume(t, Config{Path: Paths{path}}, nil)
		_, position := f.take(true)
		f.end()
		if err := build(t, Config{Path: Paths{path}}).Resume(position); err != nil {
			t.Fatal(err)
		}
		write(t, path, change)
		err := build(t, Config{Path: Paths{path}}).Resume(position)
		if err == nil || !strings.Contains(err.Error(), "a.ndjson") || !strings.Contains(err.Error(), "put the old file back") {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := build(t, Config{Path: Paths{"a.ndjson"}})
	newer, _ := json.Marshal(position{Version: positionVersion + 1})
	for _, bad := range [][]byte{newer, []byte("{")} {
		if err := s.Resume(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestFinishedFilesAreNotReadAgain(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a.ndjson.gz", zipped("1\n"))
	f := resume(t, Config{Path: Paths{dir + "/*.ndjson*"}}, nil)
	_, position := f.take(true)
	f.end()
	write(t, filepath.Join(dir, "b.ndjson"), "2\n")
	f = resume(t, Config{Path: Paths{dir + "/*.ndjson*"}}, position)
	if got, _ := f.take(true); fmt.Sprint(got) != "[2]" {
		t.Errorf("%q", got)
	}
	f.end()
}

func TestBadConfigurations(t *testing.T) {
	no := false
	for _, c := range []struct {
		config Config
		path   string
	}{
		{Config{}, "path"},
		{Config{Path: Paths{"a[.csv"}, Set: track}, "path"},
		{Config{Path: Paths{"a.txt"}, Set: track}, "format"},
		{Config{Path: Paths{"a.csv", "b.ndjson"}, Set: track}, "path"},
		{Config{Path: Paths{"a.csv"}, Format: "xml", Set: track}, "format"},
		{Config{Path: Paths{"a.csv"}}, "set"},
		{Config{Path: Paths{"a.csv"}, Set: track, Delimiter: "ab"}, "delimiter"},
		{Config{Path: Paths{"a.csv"}, Set: track, Delimiter: "\""}, "delimiter"},
		{Config{Path: Paths{"a.csv"}, Set: track, Header: &no}, "columns"},
		{Config{Path: Paths{"a.csv"}, Set: track, Columns: []string{"a", "a"}}, "columns"},
		{Config{Path: Paths{"a.csv"}, Set: track, Columns: []string{"a"}, Map: map[string]string{"user_id": "b"}}, "map user_id"},
		{Config{Path: Paths{"a.ndjson"}, Delimiter: ","}, "format"},
		{Config{Path: Paths{"a.ndjson"}, TimeFormat: "unix"}, "time_format"},
	} {
		_, problems := Kind.Build("orders", &c.config, &pipeline.Env{})
		if len(problems) == 0 || strings.Join(problems[0].Path, " ") != c.path || problems[0].Message == "" {
			t.Errorf("%+v: %v", c.config, problems)
		}
	}
}

func TestProgress(t *testing.T) {
	var said []string
	p := newProgress("orders", func(line string) { said = append(said, line) })
	files := []found{{"a.csv", "a.csv", 1000}, {"b.csv", "b.csv", 1000}, {"c.csv.gz", "c.csv", 500}}
	states := map[string]*fileState{"a.csv": {Size: 1000, Offset: 1000, Done: true}, "b.csv": {Size: 800, Offset: 500}}
	p.bar, p.every = nil, 0
	p.begin(files, states)
	p.rows = 1234567
	p.count(250)
	p.end()
	if len(said) != 2 || !strings.HasPrefix(said[0], "file orders: 25%, 1,234,567 rows, about ") || said[1] != "file orders: read 1,234,567 rows of 2 files" {
		t.Errorf("%q", said)
	}
	var bar bytes.Buffer
	p.bar = &bar
	p.begin(files, states)
	p.count(500)
	p.end()
	if out := bar.String(); len(said) != 2 || !strings.Contains(out, "["+strings.Repeat("=", 15)+strings.Repeat(" ", 15)+"] 50%") || !strings.HasSuffix(out, "\r\x1b[K") {
		t.Errorf("%q %q", out, said)
	}
}
