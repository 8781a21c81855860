package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// cut reads all rows as "line:content", with ! for a stray quote.
func cut(t *testing.T, content string, f *form, final bool) ([]string, error) {
	t.Helper()
	rs := newRows(iotest.HalfReader(strings.NewReader(content)), f, 0, 0)
	var out []string
	for {
		r, err := rs.next(final)
		if err != nil {
			if errors.Is(err, io.EOF) && rs.offset != int64(len(content)) {
				t.Errorf("offset %d of %d at the end", rs.offset, len(content))
			}
			return out, err
		}
		mark := map[bool]string{true: "!"}[r.stray]
		out = append(out, fmt.Sprintf("%d:%s%s", r.line, mark, r.bytes))
	}
}

func TestRows(t *testing.T) {
	table, lines, runs := &form{delimiter: ','}, &form{json: true}, &form{}
	for _, c := range []struct {
		name, content string
		form          *form
		want          string
	}{
		{"lines", "a\nb\r\n\n \nc", lines, "1:a|2:b|5:c"},
		{"quotes mean nothing in JSON lines", "\"a\nb\"\n", lines, "1:\"a|2:b\""},
		{"quotes mean nothing in runs of spaces", "\"a\nb\"\n", runs, "1:\"a|2:b\""},
		{"break in a cell", "a,\"b\nc\r\nd\",e\nf\n", table, "1:a,\"b\nc\r\nd\",e|4:f"},
		{"doubled quotes", "\"a\"\"\n\"\"\",b\nc", table, "1:\"a\"\"\n\"\"\",b|3:c"},
		{"quote inside of a cell", "12\" vinyl,x\ny\n", table, "1:12\" vinyl,x|2:y"},
		{"quote that is never closed", "a,\"b\nc,d\ne", table, "1:!a,\"b|2:c,d|3:e"},
		{"quote that is never closed, last line", "a\nb,\"c", table, "1:a|2:!b,\"c"},
		{"nothing", "", table, ""},
		{"blank", "\n\r\n", table, ""},
	} {
		got, err := cut(t, c.content, c.form, true)
		if strings.Join(got, "|") != c.want || !errors.Is(err, io.EOF) {
			t.Errorf("%s: %q %v", c.name, got, err)
		}
	}
	if got, err := cut(t, "a\nb", table, false); !errors.Is(err, errPartial) || len(got) != 1 {
		t.Errorf("a line that is still being written: %q %v", got, err)
	}
}

func TestVeryLongRows(t *testing.T) {
	long := strings.Repeat("x", 3*maxRow)
	for name, f := range map[string]*form{"table": {delimiter: ','}, "lines": {json: true}} {
		rs := newRows(strings.NewReader("a\n"+long+"\nb\n"), f, 0, 0)
		var lens []int
		for {
			r, err := rs.next(true)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.cut != (len(r.bytes) == maxCut) {
				t.Error(name, "cut", r.cut, len(r.bytes))
			}
			lens = append(lens, len(r.bytes))
		}
		if fmt.Sprint(lens) != fmt.Sprint([]int{1, maxCut, 1}) || rs.line != 3 || rs.offset != int64(len(long)+5) {
			t.Error(name, lens, rs.line, rs.offset)
		}
	}
	// A stray quote costs its own line, however much follows.
	content := "\"a,b\n" + strings.Repeat("c,d\n", maxRow/2)
	rs := newRows(strings.NewReader(content), &form{delimiter: ','}, 0, 0)
	first, err := rs.next(true)
	second, err2 := rs.next(true)
	if err != nil || err2 != nil || !first.stray || string(first.bytes) != "\"a,b" || string(second.bytes) != "c,d" || second.line != 2 {
		t.Errorf("%q %q %v %v", first.bytes, second.bytes, err, err2)
	}
}

// FuzzRows checks that rows hold every byte of the input but line breaks and blank lines, in order, and that encoding/csv
// sees each as one row or refuses it.
func FuzzRows(f *testing.F) {
	f.Add("a,b\n\"c\nd\",e\n", true)
	f.Add("\"a\"\"b\",\r\n\"x", false)
	f.Fuzz(func(t *testing.T, content string, quotes bool) {
		form := &form{delimiter: ',', json: !quotes}
		rs := newRows(strings.NewReader(content), form, 0, 0)
		sp := splitter{delimiter: ','}
		var all bytes.Buffer
		for last := int64(0); ; {
			r, err := rs.next(true)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.line <= last || rs.offset > int64(len(content)) {
				t.Fatalf("line %d after %d, offset %d", r.line, last, rs.offset)
			}
			last = r.line
			all.Write(r.bytes)
			if quotes && !r.stray {
				sp.split(r.bytes)
				if len(sp.rest) > 0 && sp.csv != nil {
					t.Fatalf("%q was not read to its end", r.bytes)
				}
			}
		}
		squeeze := func(s string) string {
			return strings.Join(strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(" \t\r\n\v\f\u0085\u00a0\u2028\u2029", c) }), "")
		}
		if got, want := squeeze(all.String()), squeeze(content); got != want && !strings.ContainsAny(content, "\u1680\u2000\u3000") {
			t.Fatalf("rows hold %q of %q", got, want)
		}
	})
}
