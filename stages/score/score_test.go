package score

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/score/clv"
)

// past is a profile with one past.
type past struct{ value any }

func (p past) Value(string) any { return p.value }

func (p past) AppendDocument(dst []byte, _ *pipeline.Profile) []byte { return append(dst, `{}`...) }

// TestReachesIsExact: a model names the first millisecond at which its value has passed the target.
func TestReachesIsExact(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	bgnbd := clv.BGNBD{R: 0.243, Alpha: 4.414, A: 0.793, B: 2.426}
	reached := map[string]int{}
	for i := range 400 {
		decayed := pipeline.Decayed{Count: random.Float64() * 1000, At: now.Add(-time.Duration(random.IntN(1000)) * time.Hour), HalfLife: time.Duration(1+random.IntN(10_000)) * time.Minute}
		first := now.Truncate(24 * time.Hour).Add(-time.Duration(20+random.IntN(300)) * 24 * time.Hour)
		last := first.Add(time.Duration(random.Float64() * float64(now.Sub(first))))
		bought := pipeline.Purchases{Orders: 4, Days: float64(1 + random.IntN(4)), First: first, Last: last, Total: 300, Opening: 40}
		weight := []float64{2, -3}[i%2]
		l := lifetime{model: bgnbd, unit: 7 * 24 * time.Hour}
		for name, c := range map[string]struct {
			model model
			past  any
		}{
			"points": {&points{[]pointed{{event: "A", weight: weight}}}, decayed},
			"alive":  {&alive{l}, bought},
			"ltv":    {&worth{l, clv.GammaGamma{P: 6.25, Q: 3.74, V: 15.44}, 90 * 24 * time.Hour}, bought},
			"rfm":    {&rfm{recency: []time.Duration{time.Hour, 50 * 24 * time.Hour}, frequency: []float64{2}}, bought},
		} {
			p := &pipeline.Profile{State: past{c.past}}
			value := func(at time.Time) float64 {
				v, ok, err := c.model.value(p, at)
				if !ok || err != nil || math.IsNaN(v) {
					t.Fatalf("%s: %v %v %v", name, v, ok, err)
				}
				return v
			}
			v := value(now)
			dir := c.model.direction(v)
			if dir == 0 { // all has decayed to 0
				continue
			}
			target := v * random.Float64()
			at, ok := c.model.reaches(p, now, target, dir)
			passed := func(at time.Time) bool {
				if dir == sinks {
					return value(at) < target
				}
				return value(at) >= target
			}
			if !ok {
				if passed(now.Add(far)) {
					t.Errorf("%s: %g is said never to be reached from %g", name, target, v)
				}
				continue
			}
			reached[name]++
			if !at.After(now) || !passed(at) || passed(at.Add(-time.Millisecond)) && at.Add(-time.Millisecond).After(now) {
				t.Errorf("%s passes %g from %g at %s: there %g, before %g", name, target, v, at, value(at), value(at.Add(-time.Millisecond)))
			}
		}
	}
	for _, name := range []string{"points", "alive", "ltv", "rfm"} {
		if reached[name] < 50 {
			t.Errorf("%s: only %d targets were reached", name, reached[name])
		}
	}
}

// TestNeverNaN: pasts at the ends of their ranges give a finite score or none.
func TestNeverNaN(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	huge := &points{[]pointed{{event: "A", weight: maxPointValue}}}
	for _, d := range []pipeline.Decayed{{Count: 1e300, At: now.Add(1000 * time.Hour), HalfLife: time.Minute}, {Count: 1e300, At: time.Unix(0, 0), HalfLife: time.Minute}, {HalfLife: time.Minute}} {
		def := definition{name: "s", model: huge}
		if v, ok, err := def.evaluate(&pipeline.Profile{State: past{d}}, now); err != nil || ok && (math.IsNaN(v) || math.IsInf(v, 0)) {
			t.Errorf("%+v: %g %v", d, v, err)
		}
	}
	for _, b := range []pipeline.Purchases{{Orders: 1, Days: 1, First: now.Add(time.Hour), Last: now.Add(time.Hour)}, {Orders: 1e9, Days: 1e6, First: time.Unix(0, 0), Last: now, Total: 9e12, Opening: -9e12}, {Orders: 2, Days: 2, First: time.Unix(0, 0), Last: now, Total: -5}} {
		l := lifetime{model: clv.BGNBD{R: 1e-6, Alpha: 1e-6, A: 1e6, B: 1e-6}, unit: 24 * time.Hour}
		for _, m := range []model{&alive{l}, &worth{l, clv.GammaGamma{P: 1e-6, Q: 1.000001, V: 1e6}, 100 * 365 * 24 * time.Hour}} {
			p := &pipeline.Profile{State: past{b}}
			if v, ok, err := m.value(p, now); !ok || err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("%+v: %g %v", b, v, err)
			}
			if _, _, err := m.explain(p, now); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestVersion(t *testing.T) {
	a := Score{Points: map[string]float64{"A": 1, "B": 2}, HalfLife: 5}
	rules := a
	rules.MinDelta, rules.Cross = 3, []float64{4}
	if versionOf(a) != versionOf(rules) {
		t.Error("another rule makes another version")
	}
	for _, other := range []Score{{Points: map[string]float64{"A": 1, "B": 3}, HalfLife: 5}, {Points: map[string]float64{"A": 1, "B": 2}, HalfLife: 6}, {Points: map[string]float64{"A": 1, "B": 2}, HalfLife: 5, Eligible: "x"}} {
		if versionOf(a) == versionOf(other) {
			t.Errorf("%+v has the version of another definition", other)
		}
	}
}

func TestCodec(t *testing.T) {
	state := newTold().(*told)
	for i := range 300 {
		c := change{score: &definition{name: fmt.Sprint("s", i%7), version: uint32(i)}, value: float64(i) - 99.5, gone: i%11 == 0}
		if i%3 == 0 {
			c.fired = []float64{5, float64(i % 4)}
		}
		d := appendChange([]byte{format}, &c)
		if i%50 == 0 {
			d = pipeline.AppendText(append(d, deltaForget), "s3")
		}
		before, _ := state.find(c.score.name)
		after := c.score.after(&c, before)
		if err := state.Fold(d); err != nil {
			t.Fatal(err)
		}
		if now, _ := state.find(c.score.name); i%50 != 0 && !reflect.DeepEqual(now, after) {
			t.Errorf("the fold gives %+v, the stage thought %+v", now, after)
		}
	}
	encoded := state.Encode(nil)
	var again told
	if err := again.Decode(encoded); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*state, again) {
		t.Errorf("decoded\n%+v\nwas\n%+v", again, *state)
	}
	for n := range encoded {
		if err := again.Decode(encoded[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are accepted", n, len(encoded))
		}
	}
	for _, delta := range []string{"", "\x02", "\x01?", "\x01=\x05ab"} {
		if err := newTold().Fold([]byte(delta)); err == nil {
			t.Errorf("the delta %q is accepted", delta)
		}
	}
	if err := again.Decode(append([]byte{format + 1}, encoded[1:]...)); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("a newer format: %v", err)
	}
}

// FuzzDecode: damaged bytes are an error, never a panic.
func FuzzDecode(f *testing.F) {
	f.Add(newTold().Encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s told
		_ = s.Decode(b)
		_ = newTold().Fold(b)
	})
}
