package expression_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

var row = map[string]any{
	"orders": 4.0, "revenue": 750.5, "plan": "gold", "empty": "", "vip": true, "nan": math.NaN(), "huge": 1e308,
	"first_seen": time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), "last_seen": time.Date(2026, 3, 2, 10, 0, 0, 500e6, time.UTC),
	"tags": []string{"a", "b"}, "Unit Price": "2.50",
	"traits.plan": "gold", "traits.age": 33.0, "traits.optin": true, "traits.text_true": "true",
	"properties.currency": "GBP", `properties."line.item"`: "x", "properties.items.0.price": 9.5, "properties.line item": "y",
}

func vars(name string) any { return row[name] }

func scope() expression.Scope {
	return expression.Scope{
		Names: map[string]pipeline.AttributeType{
			"orders": pipeline.Number, "revenue": pipeline.Number, "plan": pipeline.Text, "empty": pipeline.Text,
			"vip": pipeline.Bool, "first_seen": pipeline.Time, "last_seen": pipeline.Time, "tags": expression.List,
			"gone": pipeline.Number, "gone_text": pipeline.Text, "gone_time": pipeline.Time, "nan": pipeline.Number, "huge": pipeline.Number,
		},
		Roots: []string{"properties", "traits"},
		Functions: map[string]expression.Function{
			"column": {Params: []pipeline.AttributeType{pipeline.Text}, Returns: pipeline.Text,
				Lookup: func(args []expression.Argument) (string, error) {
					name, ok := args[0].Text()
					if !ok {
						return "", errors.New("column needs a constant name")
					}
					return name, nil
				}},
			"entered": {Params: []pipeline.AttributeType{pipeline.Text}, Returns: pipeline.Bool,
				Check: func(args []expression.Argument) error {
					if s, ok := args[0].Text(); !ok || s != "vip" {
						return fmt.Errorf("no segment %s", s)
					}
					return nil
				},
				Call: func(args ...any) (any, error) { return true, nil }},
			"broken": {Returns: pipeline.Number, Call: func(...any) (any, error) { return nil, errors.New("out of order") }},
		},
	}
}

func TestValue(t *testing.T) {
	for source, want := range map[string]any{
		// plain
		`orders >= 3 and revenue > 500`:        true,
		`orders >= 3 and revenue > 5000`:       false,
		`orders < 3 or plan == "gold"`:         true,
		`orders == 4`:                          true,
		`orders != 4`:                          false,
		`1 < orders < 5`:                       true,
		`1 < orders < 4`:                       false,
		`not vip`:                              false,
		`!vip || vip`:                          true,
		`vip == true`:                          true,
		`vip != true`:                          false,
		`plan in ["silver", "gold"]`:           true,
		`plan not in ["silver", "gold"]`:       false,
		`orders in [1, 2, 4]`:                  true,
		`"a" in tags`:                          true,
		`tags contains "c"`:                    false,
		`plan contains "ol"`:                   true,
		`plan startsWith "go"`:                 true,
		`plan endsWith "go"`:                   false,
		`plan matches "^g.*d$"`:                true,
		`plan < "h"`:                           true,
		`orders > 3 ? "many" : "few"`:          "many",
		`orders + revenue * 2`:                 1505.0,
		`(orders + revenue) * 2`:               1509.0,
		`-orders`:                              -4.0,
		`orders % 3`:                           1.0,
		`plan + "-" + plan`:                    "gold-gold",
		`last_seen - first_seen`:               86400.5,
		`last_seen > first_seen`:               true,
		`first_seen == "2026-03-01T10:00:00Z"`: true,
		`first_seen >= "2026-03-02"`:           false,
		`"2026-02-28 23:59:59" < first_seen`:   true,

		// functions
		`len(plan)`: 4.0, `len(tags)`: 2.0, `len("é")`: 1.0,
		`upper(plan)`: "GOLD", `lower("ÀB")`: "àb", `trim(" x ")`: "x",
		`number(" 12.5 ")`: 12.5, `number("12,5")`: nil, `number("")`: nil, `number("0x10")`: nil, `number("1_000")`: nil,
		`number("inf")`: nil, `number("1e999")`: nil, `number("-1e3")`: -1000.0, `number(orders)`: 4.0, `number(vip)`: nil,
		`number(first_seen)`: 1772359200.0,
		`text(orders)`:       "4", `text(0.1)`: "0.1", `text(vip)`: "true", `text(last_seen)`: "2026-03-02T10:00:00.500Z", `text(1e21)`: "1e+21",
		`round(2.5)`: 3.0, `round(-2.5)`: -3.0, `round(1.005 * 1000, 1)`: 1005.0, `round(revenue, 0)`: 751.0, `round(2.675, 2)`: 2.68,
		`round(1e300, 2)`: 1e300, `round(1234, -5)`: 1234.0,
		`abs(-3)`: 3.0, `min(3, orders, 1)`: 1.0, `max(3, orders)`: 4.0,
		`coalesce(gone, orders)`: 4.0, `gone ?? 7`: 7.0, `coalesce(gone, gone, gone)`: nil, `coalesce(gone_text, "x") == "x"`: true,
		`plan | upper()`:                        "GOLD",
		`number(column("Unit Price")) * orders`: 10.0,
		`entered("vip") and orders > 3`:         true,

		// a missing value
		`gone`: nil, `gone > 3`: false, `gone < 3`: false, `gone == 3`: false, `gone != 3`: false, `gone == gone`: false, `gone != gone`: false,
		`not (gone > 3)`: true, `gone in [1, 2]`: false, `gone not in [1, 2]`: true, `gone_text contains "a"`: false,
		`"a" contains gone_text`: false, `gone_text matches "."`: false, `gone_text startsWith ""`: false, `gone_text in tags`: false,
		`gone_time > "2026-01-01"`: false, `gone + 1`: nil, `1 - gone`: nil, `-gone`: nil, `gone_text + "x"`: nil, `last_seen - gone_time`: nil,
		`abs(gone)`: nil, `min(1, gone)`: nil, `round(gone, 2)`: nil, `round(1.25, gone)`: nil, `upper(gone_text)`: nil, `len(gone_text)`: nil,
		`number(gone_text)`: nil, `text(gone)`: nil, `has(gone)`: false, `has(plan)`: true, `has(empty)`: true, `has(traits.nothing)`: false,
		`gone > 1 or orders > 1`: true, `gone > 1 ? 1 : 2`: 2.0, `orders > 1 ? orders : nil`: 4.0, `orders > 9 ? orders : nil`: nil,

		// not finite
		`1 / 0`: nil, `0 / 0`: nil, `orders % 0`: nil, `huge * 10`: nil, `nan == nan`: false, `nan != nan`: false, `nan != 1`: false, `nan + 1`: nil,
		`nan < 1 or nan > 1 or nan == 1`: false,

		// open namespaces: types show at run time only
		`traits.plan == "gold"`: true, `traits.plan != "gold"`: false, `traits.plan == 3`: false, `traits.plan != 3`: false, `traits.plan > 3`: false,
		`traits.age > 30`: true, `traits.age > "30"`: false, `traits.age + 1`: 34.0, `traits.plan + 1`: nil, `traits.plan + traits.plan`: "goldgold",
		`traits.age + traits.age`: 66.0, `traits.age + traits.plan`: nil, `traits.plan - first_seen`: nil,
		`traits.optin`: true, `not traits.optin`: false, `traits.optin and true`: true, `traits.text_true and true`: false, `not traits.text_true`: true,
		`traits.age in ["33"]`: false, `traits.nothing in traits.plan`: false, `traits.plan contains traits.age`: false, `traits.age matches "3"`: false,
		`upper(traits.age)`: nil, `properties.currency == "GBP"`: true, `properties["currency"] in ["GBP"]`: true,
		`properties["line.item"]`: "x", `properties["line item"]`: "y", `properties.items[0].price > 9`: true, `properties?.currency`: "GBP",
		`traits?.a?.b == 1`: false,
	} {
		p, err := expression.Compile(source, scope())
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		got, err := p.Value(vars)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %v (%T), %v, want %v", source, got, got, err, want)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	for _, c := range []struct {
		source string
		column int
		want   string
	}{
		{`ordres > 3`, 0, `unknown name "ordres", did you mean "orders"?`},
		{`vip and ordres > 3`, 8, `unknown name "ordres", did you mean "orders"?`},
		{`"é" == plan and zzz`, 16, `unknown name "zzz"`},
		{`trait.plan == "a"`, 0, `unknown name "trait", did you mean "traits"?`},
		{`plan.x == "a"`, 5, `plan has no parts`},
		{`traits == 1`, 0, `traits needs the name of a key: traits.name`},
		{`traits[plan]`, 7, `a key must be a constant text, or a number from 0`},
		{`traits[-1]`, 7, `a key must be a constant text, or a number from 0`},
		{`traits["a\"b"]`, 7, `a key must not contain a quote`},
		{`upper(plan).x`, 12, `only properties, traits have parts`},
		{`plan > 3`, 5, `a text > a number compares different types: number(x) reads a number from a text`},
		{`vip > vip`, 4, `> needs a number or a text or a time, not a condition`},
		{`tags == plan`, 5, `== needs a number or a text or a time or a condition, not a list`},
		{`first_seen > 3`, 11, `a time > a number compares different types`},
		{`first_seen > "yesterday"`, 13, `"yesterday" is not a time: write "2026-03-01" or "2026-03-01T10:00:00Z"`},
		{`orders and vip`, 7, `and needs a condition, not a number`},
		{`not orders`, 0, `not needs a condition, not a number`},
		{`plan * 2`, 5, `* needs a number, not a text`},
		{`plan + 2`, 5, `+ with a text needs a text, not a number`},
		{`first_seen - 2`, 11, `- with a time needs a time, not a number`},
		{`-plan`, 0, `- needs a number, not a text`},
		{`orders ? 1 : 2`, 0, `? (on its left) needs a condition, not a number`},
		{`orders == nil`, 7, `a comparison with nil is always false: has(x) tells whether x is there`},
		{`plan in "gold"`, 5, `in (on its right) needs a list, not a text`},
		{`plan in [1]`, 5, `a text is never in a list with a number`},
		{`orders in [1, plan]`, 14, `a list holds constant texts, numbers and booleans`},
		{`["a"]`, 0, `a list stands only on the right of in`},
		{`plan matches "("`, 13, "error parsing regexp: missing closing ): `(`"},
		{`plan matches plan`, 13, `matches needs a constant pattern`},
		{`plan matches "(a{1000}){1000}"`, 13, "error parsing regexp: invalid repeat count: `{1000}`"},
		{`orders matches "1"`, 7, `matches needs a text, not a number`},
		{`uper(plan)`, 0, `there is no function uper, did you mean "upper"?`},
		{`orders != null`, 10, `there is no null here: has(x) tells whether x is there`},
		{`plan == None`, 8, `there is no None here: has(x) tells whether x is there`},
		{`now()`, 0, `there is no function now, since there is no clock here: compare with another time, a - b > 86400 (seconds), or a fixed one, a > "2026-03-01"`},
		{`days_since(last_seen) > 30`, 0, `there is no function days_since, since there is no clock here: compare with another time, a - b > 86400 (seconds), or a fixed one, a > "2026-03-01"`},
		{`map(tags, # > 1)`, 0, `there is no function map, did you mean "max"?`},
		{`filter(1..1000000, true)`, 0, `there is no function filter`},
		{`repeat("a", 100000)`, 0, `there is no function repeat`},
		{`1..1000000`, 1, `the operator .. is not part of this language`},
		{`2 ** 1000`, 2, `the operator ** is not part of this language`},
		{`{a: 1}`, 0, `maps, slices, variables and sequences are not part of this language`},
		{`let x = 1; x`, 4, `maps, slices, variables and sequences are not part of this language`},
		{`$env`, 0, `unknown name "$env"`},
		{`plan.upper()`, 5, `values have no methods: write f(x)`},
		{`upper`, 0, `upper is a function: write upper(…)`},
		{`upper()`, 0, `upper needs 1 arguments, it has 0`},
		{`round(1, 2, 3)`, 0, `round takes at most 2 arguments, it has 3`},
		{`min(1)`, 0, `min needs at least 2 arguments, it has 1`},
		{`coalesce(1)`, 0, `coalesce needs at least 2 arguments, it has 1`},
		{`upper(orders)`, 6, `upper needs a text here, not a number`},
		{`entered("vpi")`, 8, `no segment vpi`},
		{`column(plan)`, 7, `column needs a constant name`},
		{`orders > 30d`, 11, `bad number syntax: "30d": there are no units here, write seconds or days as a plain number`},
		{`orders = 3`, 7, `unexpected =: equality is written ==`},
		{`orders >`, 7, `the expression ends too early: something is missing after an operator, or a bracket is not closed`},
		{`(orders > 3`, 10, `the expression ends too early: something is missing after an operator, or a bracket is not closed`},
		{``, 0, `the expression is empty`},
		{"\t \n", 0, `the expression is empty`},
		{"\xff", 0, `the expression is not valid UTF-8`},
		{strings.Repeat("orders + ", 1999) + "1", 0, `the expression has 17992 bytes, the limit is 16384`},
		{strings.Repeat("1+", 1999) + "1", 0, `the expression has more than 2000 parts: split it`},
		{nested(60), 0, `the expression has more than 2000 parts: split it`},
	} {
		_, err := expression.Compile(c.source, scope())
		var e *expression.Error
		if !errors.As(err, &e) {
			t.Errorf("%.80s: error %v, want %s", c.source, err, c.want)
			continue
		}
		if len(c.source) > 1000 {
			e.Column = c.column
		}
		if e.Message != c.want || e.Column != c.column {
			t.Errorf("%.80s:\n got %d %s\nwant %d %s", c.source, e.Column, e.Message, c.column, c.want)
		}
	}
}

// nested is a short source whose tree, because a chained comparison uses its middle twice, would be walked 2^depth times.
func nested(depth int) string {
	s := "traits.x"
	for range depth {
		s = "1 < coalesce(traits.y, 1 < coalesce(" + s + ", traits.y) < 1) < 1"
	}
	return s
}

func TestNames(t *testing.T) {
	p, err := expression.Compile(`traits.plan == "x" or orders > 3 and properties.a["b.c"] == 1 or column("Unit Price") == "" or orders < 1`, scope())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"Unit Price", "orders", `properties.a."b.c"`, "traits.plan"}
	if got := p.Names(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestConditions(t *testing.T) {
	for source, want := range map[string]string{
		`orders`:                   "character 1: the expression is a number, a condition is needed: compare it with something",
		`vip ? "a" : "b"`:          "character 1: the expression is a text, a condition is needed: compare it with something",
		`traits.plan`:              "false", // a text at run time: false, so that one odd profile cannot stop a pipeline
		`traits.optin`:             "true",
		`traits.nothing`:           "false",
		`vip`:                      "true",
		`broken() > 1`:             "out of order",
		`vip or broken() > 1`:      "true",
		`not vip and broken() > 1`: "false",
	} {
		var got string
		if p, err := expression.CompileBool(source, scope()); err != nil {
			got = err.Error()
		} else if ok, err := p.Bool(vars); err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprint(ok)
		}
		if got != want {
			t.Errorf("%s: %s, want %s", source, got, want)
		}
	}
	p, err := expression.Compile(`traits.plan`, scope())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Bool(vars); err == nil || err.Error() != "evaluate condition: the result is a text, not true or false" {
		t.Errorf("got %v", err)
	}
}

// A concatenation cannot grow without bounds.
func TestTextLimit(t *testing.T) {
	p, err := expression.Compile(`plan + plan`, scope())
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]bool{32 << 10: true, 32<<10 + 1: false} {
		long := strings.Repeat("x", n)
		got, _ := p.Value(func(string) any { return long })
		if (got != nil) != want {
			t.Errorf("two texts of %d bytes: a result is %v, want %v", n, got != nil, want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	p, err := expression.CompileBool(`orders >= 3 and plan matches "^g" and entered("vip")`, scope())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for i := range 4 {
		go func() {
			for range 500 {
				ok, err := p.Bool(func(name string) any {
					if name == "orders" {
						return float64(i * 2)
					}
					return row[name]
				})
				if err != nil || ok != (i*2 >= 3) {
					done <- fmt.Errorf("orders %d: %v, %w", i*2, ok, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Compile and evaluation end without a panic for any source, and twice the same.
func FuzzExpression(f *testing.F) {
	for _, s := range []string{`orders >= 3 and revenue > 500`, `traits.plan in ["a", 1]`, `round(number(column("a")), 2) ?? -1`, `1 < gone < 3 ? "a" : nil`,
		`plan matches "^a(b|c)*$"`, `entered("vip") or not traits.x.y["z.z"]`, `all(tags, {# == .x})`, `let x = 1; x`, `a[1:2]`, `plan | upper()`, `b"x"`, `::upper(plan)`, `not in`, `if true {1} else {2}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		p, err := expression.Compile(source, scope())
		if err != nil {
			var e *expression.Error
			if !errors.As(err, &e) || e.Column < 0 || e.Column > len(source) || e.Message == "" {
				t.Fatalf("bad error %#v", err)
			}
			return
		}
		a, _ := p.Value(vars)
		b, _ := p.Value(vars)
		if fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("two values: %v and %v", a, b)
		}
		switch v := a.(type) {
		case nil, string, bool, time.Time, []string:
		case float64:
			if math.IsInf(v, 0) {
				t.Fatal("infinite")
			}
		default:
			t.Fatalf("a value of type %T", a)
		}
		if q, err := expression.CompileBool(source, scope()); err == nil {
			if _, err := q.Bool(vars); err != nil && !strings.Contains(source, "broken") {
				t.Fatal(err)
			}
		}
	})
}

func BenchmarkSegment(b *testing.B) {
	p, err := expression.CompileBool(`orders >= 3 and revenue > 500`, scope())
	if err != nil {
		b.Fatal(err)
	}
	values := map[string]any{"orders": 4.0, "revenue": 750.5}
	get := func(name string) any { return values[name] }
	b.ReportAllocs()
	for b.Loop() {
		if ok, err := p.Bool(get); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// TestNext: between now and the time that Next gives, and from there to the next one, the value is the same at every
// millisecond; at that time it may be another one, and with a constant it is.
func TestNext(t *testing.T) {
	since := time.Date(2026, 1, 1, 10, 0, 0, 123_000_000, time.UTC)
	vars := func(now time.Time) expression.Vars {
		return func(name string) any {
			switch name {
			case expression.Now:
				return now
			case "seen":
				return since
			case "n":
				return 2.5
			case "traits.day":
				return "2026-01-02"
			}
			return nil
		}
	}
	scope := expression.Scope{Names: map[string]pipeline.AttributeType{"seen": pipeline.Time, "never": pipeline.Time, "n": pipeline.Number, "m": pipeline.Number}, Roots: []string{"traits"}, Clock: true}
	for source, changes := range map[string]int{
		"days_since(seen) > 30": 1, "days_since(seen) >= 0.1": 1, "days_since(seen) < 1 / 3": 1, "days_since(seen) > n": 1, "days_since(seen) > m": 0, "days_since(seen) > days_since(traits.day)": -1, "days_since(seen) <= 0.7": 1, "30 < days_since(seen)": 1,
		"days_since(seen) == 2": 2, "days_since(seen) != 2": 2, "2 < days_since(seen) <= 3": 2, "not (0.123456789 > days_since(seen))": 1,
		"days_since(traits.day) > -0.5 and days_since(seen) < 7.7": 2, "days_since(never) > 3": 0, "days_since(traits.none) > 3": 0,
		"days_since(seen) > 1e9": 0, "days_since(seen) % 2 < 1": -1, "has(days_since(seen))": -1, "n > 3": 0,
	} {
		p, err := expression.CompileBool(source, scope)
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		value := func(now time.Time) bool {
			v, err := p.Bool(vars(now))
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
		now, turns := since, 0
		for now.Before(since.Add(45 * 24 * time.Hour)) {
			next := p.Next(vars(now), now)
			if next.IsZero() {
				break
			}
			if !next.After(now) {
				t.Fatalf("%s: after %s comes %s", source, now, next)
			}
			if changes >= 0 && value(next) == value(next.Add(-time.Millisecond)) {
				t.Errorf("%s: nothing changes at %s", source, next)
			}
			if changes >= 0 && value(now) != value(next.Add(-time.Millisecond)) {
				t.Errorf("%s: something changes before %s", source, next)
			}
			turns++
			now = next
		}
		if changes >= 0 && turns != changes || changes < 0 && turns < 40 {
			t.Errorf("%s changes %d times", source, turns)
		}
		if p.UsesClock() != strings.Contains(source, "days_since") {
			t.Errorf("%s: whether it uses the clock", source)
		}
	}
	for source, message := range map[string]string{
		"days_since(n) > 1": "days_since needs a time here, not a number", "days_since() > 1": "days_since needs 1 argument, it has 0",
		"day_since(seen) > 1": `there is no function day_since, did you mean "days_since"?`, "now() > seen": "there is no function now: days_since(x) is how many days have passed since a time",
	} {
		if _, err := expression.CompileBool(source, scope); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v, want %s", source, err, message)
		}
	}
	if _, err := expression.CompileBool("days_since(seen) > 1", expression.Scope{Names: scope.Names}); err == nil {
		t.Error("days_since without a clock is accepted")
	}
	if expression.Days(time.Hour) != "0.041666666666666664" {
		t.Error(expression.Days(time.Hour))
	}
}
