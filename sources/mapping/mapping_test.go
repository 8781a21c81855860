package mapping

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

type texts = map[string]string

func TestTable(t *testing.T) {
	set := map[string]any{"type": "track", "event": "Order"}
	for _, c := range []struct {
		name    string
		spec    Spec
		columns string
		cells   string
		want    string // event, or "" if the row is not mapped
		id      string
	}{
		{"own names", Spec{Set: set}, "a|b", "1|x", `{"event":"Order","properties":{"a":"1","b":"x"},"type":"track"}`, ""},
		{"traits of identify", Spec{Set: map[string]any{"type": "identify"}, Map: texts{"user_id": "id", "traits.email": "Email"}}, "id|Email|plan", "7|a@b.c|pro",
			`{"traits":{"email":"a@b.c","plan":"pro"},"type":"identify","userId":"7"}`, ""},
		{"type of the row", Spec{Map: texts{"type": "t"}}, "t|x", "group|1", `{"traits":{"x":"1"},"type":"group"}`, ""},
		{"type of another row", Spec{Map: texts{"type": "t"}}, "t|x", "page|1", `{"properties":{"x":"1"},"type":"page"}`, ""},
		{"verbatim", Spec{Set: set}, "a", ` 007"\` + "\t\x01é ", `{"event":"Order","properties":{"a":" 007\"\\\t\u0001é "},"type":"track"}`, ""},
		{"empty cells are no values", Spec{Set: set, Map: texts{"user_id": "u", "timestamp": "at"}}, "u|at|x", "||", `{"event":"Order","type":"track"}`, ""},
		{"money", Spec{Set: set, Expr: texts{"properties.revenue": "number(q) * number(p)"}}, "q|p", "6|2.55",
			`{"event":"Order","properties":{"p":"2.55","q":"6","revenue":15.3},"type":"track"}`, ""},
		{"no number", Spec{Set: set, Expr: texts{"properties.revenue": "number(q) * 2"}}, "q", "six", `{"event":"Order","properties":{"q":"six"},"type":"track"}`, ""},
		{"small and large", Spec{Set: set, Expr: texts{"properties.a": "number(q) / 1000000000000", "properties.b": "number(q) * 1e21"}}, "q", "3",
			`{"event":"Order","properties":{"a":3e-12,"b":3e+21,"q":"3"},"type":"track"}`, ""},
		{"column with a space", Spec{Set: set, Expr: texts{"properties.double": `number(column("Unit Price")) * 2`}}, "Unit Price", "1.05",
			`{"event":"Order","properties":{"Unit Price":"1.05","double":2.1},"type":"track"}`, ""},
		{"text, truth", Spec{Set: set, Expr: texts{"user_id": `lower(u)`, "properties.big": "number(n) > 3"}, Map: texts{"properties.n": "n", "properties.u": "u"}}, "u|n", "AbC|4",
			`{"event":"Order","properties":{"big":true,"n":"4","u":"AbC"},"type":"track","userId":"abc"}`, ""},
		{"named wins", Spec{Set: map[string]any{"type": "track", "properties.a": 1.5, "properties.b": true}}, "a|c", "x|y",
			`{"properties":{"a":1.5,"b":true,"c":"y"},"type":"track"}`, ""},
		{"nested, quoted", Spec{Set: set, Map: texts{"context.campaign.source": "utm", `properties."a.b"`: "x"}}, "utm|x", "ads|1",
			`{"context":{"campaign":{"source":"ads"}},"event":"Order","properties":{"a.b":"1"},"type":"track"}`, ""},
		{"names missing and double", Spec{Set: set}, "|x|x", "1|2|3", `{"event":"Order","properties":{"column_1":"1","x":"2","x_2":"3"},"type":"track"}`, ""},
		{"message id", Spec{Set: set, Map: texts{"message_id": "id"}}, "id|x", "o-7|1", `{"event":"Order","properties":{"x":"1"},"type":"track"}`, "o-7"},
		{"message id computed", Spec{Set: set, Expr: texts{"message_id": `a + "-" + b`}}, "a|b", "x|y", `{"event":"Order","properties":{"a":"x","b":"y"},"type":"track"}`, "x-y"},
		{"time", Spec{Set: set, Map: texts{"timestamp": "at"}}, "at", "2010-12-01 08:26:00", `{"event":"Order","timestamp":"2010-12-01T08:26:00Z","type":"track"}`, ""},
		{"time as it is", Spec{Set: set, Map: texts{"timestamp": "at"}}, "at", "2010-12-01T08:26:00+02:00", `{"event":"Order","timestamp":"2010-12-01T08:26:00+02:00","type":"track"}`, ""},
		{"day", Spec{Set: set, Map: texts{"timestamp": "at"}, TimeFormat: "02.01.2006"}, "at", "24.12.2025", `{"event":"Order","timestamp":"2025-12-24T00:00:00Z","type":"track"}`, ""},
		{"unix", Spec{Set: set, Map: texts{"timestamp": "at"}, TimeFormat: "unix"}, "at", "1767225600.5", `{"event":"Order","timestamp":"2026-01-01T00:00:00.5Z","type":"track"}`, ""},
		{"unix_ms", Spec{Set: set, Map: texts{"timestamp": "at"}, TimeFormat: "unix_ms"}, "at", "1767225600500", `{"event":"Order","timestamp":"2026-01-01T00:00:00.5Z","type":"track"}`, ""},
		{"no time", Spec{Set: set, Map: texts{"timestamp": "at"}}, "at", "yesterday", "", ""},
		{"no unix time", Spec{Set: set, Map: texts{"timestamp": "at"}, TimeFormat: "unix"}, "at", "1e99", "", ""},
		{"cell too few", Spec{Set: set}, "a|b", "1", "", ""},
		{"cell too many", Spec{Set: set}, "a", "1|2", "", ""},
		{"not UTF-8", Spec{Set: set}, "a", "caf\xe9", "", ""},
	} {
		m, problems := Compile(c.spec)
		if problems != nil {
			t.Errorf("%s: %v", c.name, problems)
			continue
		}
		table, err := m.Table(strings.Split(c.columns, "|"))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, id, err := table.Append([]byte("before"), strings.Split(c.cells, "|"))
		if (err != nil) != (c.want == "") || err == nil && string(got) != "before"+c.want || id != c.id {
			t.Errorf("%s: %s %q %v", c.name, got, id, err)
		}
		if err == nil && !gjson.ValidBytes(got[len("before"):]) {
			t.Errorf("%s: not JSON: %s", c.name, got)
		}
	}
}

func TestObjects(t *testing.T) {
	for _, c := range []struct {
		name string
		spec Spec
		line string
		want string
	}{
		{"paths", Spec{Map: texts{"type": "kind", "user_id": "customer.no", "properties.total": "sum", "properties.first": "items.0.sku"}},
			`{"kind":"track","customer":{"no":17},"sum":1.10,"items":[{"sku":"x"}],"z":null,"b":[1, 2]}`,
			`{"properties":{"b":[1, 2],"customer":{"no":17},"first":"x","items":[{"sku":"x"}],"total":1.10},"type":"track","userId":17}`},
		{"expressions", Spec{Set: map[string]any{"type": "track"}, Expr: texts{"properties.r": "a.q * number(p)", "properties.k": `column("x.y")`}},
			`{"a":{"q":3},"p":"0.1","x.y":"dot"}`, `{"properties":{"a":{"q":3},"k":"dot","p":"0.1","r":0.3,"x.y":"dot"},"type":"track"}`},
		{"absent", Spec{Set: map[string]any{"type": "track"}, Map: texts{"user_id": "u", "properties.x": "a.b.c"}}, `{"a":"b"}`, `{"properties":{"a":"b"},"type":"track"}`},
		{"first of duplicates", Spec{Set: map[string]any{"type": "track"}, Map: texts{"user_id": "u"}}, `{"u":"1","u":"2","x":1,"x":2}`, `{"properties":{"x":1},"type":"track","userId":"1"}`},
		{"time as a number", Spec{Set: map[string]any{"type": "track"}, Map: texts{"timestamp": "at"}, TimeFormat: "unix"}, `{"at":1767225600}`, `{"timestamp":"2026-01-01T00:00:00Z","type":"track"}`},
		{"time of a wrong type", Spec{Set: map[string]any{"type": "track"}, Map: texts{"timestamp": "at"}}, `{"at":[1]}`, ""},
	} {
		c.spec.JSON = true
		m, problems := Compile(c.spec)
		if problems != nil {
			t.Errorf("%s: %v", c.name, problems)
			continue
		}
		got, _, err := m.Objects().Append(nil, []byte(c.line))
		if (err != nil) != (c.want == "") || err == nil && string(got) != c.want {
			t.Errorf("%s: %s %v", c.name, got, err)
		}
	}
}

func TestBadSpecs(t *testing.T) {
	track := map[string]any{"type": "track"}
	for _, c := range []struct {
		spec Spec
		path string
		says string
	}{
		{Spec{}, "set", "no type"},
		{Spec{Set: map[string]any{"type": "trak"}}, "set type", "trak"},
		{Spec{Set: map[string]any{"type": "track", "properties.x": []any{1}}}, "set properties.x", "constant"},
		{Spec{Set: map[string]any{"type": "track", "message_id": "x"}}, "set message_id", "duplicates"},
		{Spec{Set: map[string]any{"type": "track", "userId": "x"}}, "set userId", "user_id"},
		{Spec{Set: map[string]any{"type": "track", "properties": "x"}}, "set properties", "properties.x"},
		{Spec{Set: track, Map: texts{"user_id.x": "x"}}, "map user_id.x", "no field"},
		{Spec{Set: track, Map: texts{`properties."x`: "x"}}, `map properties."x`, "quote"},
		{Spec{Set: track, Map: texts{"properties..x": "x"}}, "map properties..x", "path"},
		{Spec{Set: track, Map: texts{"type": "x"}}, "map type", "also under set"},
		{Spec{Set: track, Map: texts{"user_id": ""}}, "map user_id", "column"},
		{Spec{Set: track, Map: texts{"user_id": "nope"}, Columns: []string{"id"}}, "map user_id", "the columns are id"},
		{Spec{Set: track, Map: texts{"properties.a": "x"}, Expr: texts{"properties.a.b": "y"}}, "expr properties.a.b", "no parts"},
		{Spec{Set: track, Expr: texts{"properties.a": "number("}}, "expr properties.a", ""},
		{Spec{Set: track, Expr: texts{"properties.a": "q * 2"}}, "expr properties.a", ""},
		{Spec{Set: track, Expr: texts{"properties.a": "number(nope)"}, Columns: []string{"id"}}, "expr properties.a", "nope"},
		{Spec{Set: track, Expr: texts{"properties.a": `column("nope")`}, Columns: []string{"id"}}, "expr properties.a", "nope"},
		{Spec{Set: track, Map: texts{"timestamp": "x"}, TimeFormat: "YYYY-MM-DD"}, "time_format", "2006"},
		{Spec{Set: track, Map: texts{"timestamp": "x"}, TimeFormat: "15:04"}, "time_format", "2006"},
		{Spec{Set: track, Map: texts{"user_id": "a..b"}, JSON: true}, "map user_id", "path"},
	} {
		_, problems := Compile(c.spec)
		if len(problems) != 1 || strings.Join(problems[0].Path, " ") != c.path || !strings.Contains(problems[0].Message, c.says) {
			t.Errorf("%+v: %v", c.spec, problems)
		}
	}
	m, _ := Compile(Spec{Set: track, Map: texts{"user_id": "Customer"}})
	if _, err := m.Table([]string{"id", "name"}); err == nil || !strings.Contains(err.Error(), `"Customer"`) || !strings.Contains(err.Error(), "id, name") {
		t.Error(err)
	}
}

// FuzzTable checks that every event that is built is JSON that gives each cell back.
func FuzzTable(f *testing.F) {
	f.Add("a", "1", "b", "x")
	f.Add("user_id", "\x00\"\\", "", "é\u2028")
	f.Fuzz(func(t *testing.T, c1, v1, c2, v2 string) {
		m, problems := Compile(Spec{Set: map[string]any{"type": "track"}, Expr: texts{"context.x": "1 + 1"}})
		if problems != nil {
			t.Fatal(problems)
		}
		table, err := m.Table([]string{c1, c2})
		if err != nil {
			return // a header that is not UTF-8
		}
		got, _, err := table.Append(nil, []string{v1, v2})
		if err != nil {
			return
		}
		var event struct{ Properties texts }
		if err := json.Unmarshal(got, &event); err != nil {
			t.Fatalf("%v: %q", err, got)
		}
		for i, v := range []string{v1, v2} {
			if event.Properties[table.columns[i]] != v {
				t.Fatalf("column %q is %q, not %q: %q", table.columns[i], event.Properties[table.columns[i]], v, got)
			}
		}
		if keys := gjson.GetBytes(got, "properties.@keys").Array(); !slices.IsSortedFunc(keys, func(a, b gjson.Result) int { return strings.Compare(a.Str, b.Str) }) {
			t.Fatalf("keys are not sorted: %q", got)
		}
	})
}
