package segment

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// TestOnlyReadersAreEvaluated: of ten thousand segments an event picks those that read what it changed.
func TestOnlyReadersAreEvaluated(t *testing.T) {
	env := &pipeline.Env{}
	for i := range 100 {
		if _, err := env.Declare(fmt.Sprint("a", i), pipeline.Number); err != nil {
			t.Fatal(err)
		}
	}
	config := Config{"both": {Expression: `a1 > 0 and a2 > 0`}, "trait": {Expression: `traits.plan == "x"`},
		"nested": {Expression: `traits.address.city == "x"`}, "dotted": {Expression: `traits["a.b"] == 1`}, "constant": {Expression: "1 == 1"}}
	for i := range 10_000 - len(config) {
		config[fmt.Sprint("s", i)] = Condition{Expression: fmt.Sprintf("a%d > %d", 3+i%97, i)}
	}
	env.Nobody = &attributes{}
	newStage, problems := Kind.Build(&config, env)
	if problems != nil {
		t.Fatal(problems)
	}
	s := newStage().(*stage)
	picked := func(at look, changed []string, inputs ...int) string {
		ev := &pipeline.Event{Changed: changed}
		for _, i := range inputs {
			ev.Inputs.Add(i)
		}
		s.picked = s.pick(ev, at)
		names := []string{}
		for _, i := range s.picked {
			names = append(names, s.segments[i].name)
		}
		if len(names) > 10 {
			return fmt.Sprint(len(names))
		}
		return strings.Join(names, " ")
	}
	for want, got := range map[string]string{
		"both":   picked(lookConcerned, nil, 1, 2),
		"":       picked(lookConcerned, []string{"a0"}, 0),
		"trait":  picked(lookConcerned, []string{"plan"}, pipeline.TraitsIndex),
		"nested": picked(lookConcerned, []string{"address", "city"}, pipeline.TraitsIndex),
		"dotted": picked(lookConcerned, []string{"a.b"}, pipeline.TraitsIndex),
		"104":    picked(lookConcerned, nil, 3),
		"10000":  picked(lookAll, nil),
		// Somebody new is also in what holds of nobody.
		"constant trait": picked(lookInitial, []string{"plan"}, pipeline.TraitsIndex),
	} {
		if got != want {
			t.Errorf("picked %q, want %q", got, want)
		}
	}
}

func TestVersion(t *testing.T) {
	if versionOf("a > 1") != versionOf("  a  >\n\t1 ") {
		t.Error("white space makes another version")
	}
	for _, other := range []string{"a > 2", `t == "a  b"`, `t == "a b"`, "a>1"} {
		if versionOf("a > 1") == versionOf(other) {
			t.Errorf("%s has the version of another condition", other)
		}
	}
	if versionOf(`t == "a  b"`) == versionOf(`t == "a b"`) {
		t.Error("white space in a text makes no other version")
	}
}

func TestCodec(t *testing.T) {
	m := newMembership().(*membership)
	for i := range 300 {
		d := appendDeltaHeader(nil, uint64(i))
		d = appendTransition(d, &transition{segment: fmt.Sprint("s", i%7), version: uint32(i), op: []string{opExit, opEnter, opCarried}[i%3], effective: int64(i - 100), since: int64(i - 200)})
		brought := decision{fmt.Sprint("b", i%5), uint32(i), true, int64(i), int64(i % 9)}
		d = brought.append(append(d, deltaBrought))
		if i%20 == 0 {
			d = pipeline.AppendText(append(d, deltaDecided), "")
		}
		if i%50 == 0 {
			d = appendForget(d, "s3")
		}
		if err := m.Fold(d); err != nil {
			t.Fatal(err)
		}
	}
	encoded := m.Encode(nil)
	var again membership
	if err := again.Decode(encoded); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*m, again) {
		t.Errorf("decoded\n%+v\nwas\n%+v", again, *m)
	}
	for n := range encoded {
		if err := again.Decode(encoded[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are accepted", n, len(encoded))
		}
	}
	for _, delta := range []string{"", "\x02", "\x01", "\x0100000000?", "\x0100000000+\x05ab"} {
		if err := newMembership().Fold([]byte(delta)); err == nil {
			t.Errorf("the delta %q is accepted", delta)
		}
	}
	if err := again.Decode(append([]byte{format + 1}, encoded[1:]...)); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("a newer format: %v", err)
	}
}

// FuzzDecode: damaged bytes are an error, never a panic.
func FuzzDecode(f *testing.F) {
	f.Add(newMembership().Encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m membership
		_ = m.Decode(b)
		_ = newMembership().Fold(b)
	})
}
