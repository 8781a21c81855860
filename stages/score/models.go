package score

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// model is how a score follows from a profile. Models are pure and shared by all partitions.
type model interface {
	// value is the score at a time, if it has one.
	value(p *pipeline.Profile, at time.Time) (v float64, ok bool, err error)
	// explain says what the value is made of: contributions, and the inputs behind them. There must be a value.
	explain(p *pipeline.Profile, at time.Time) (reasons map[string]float64, features map[string]string, err error)
	// direction is where a value goes if nothing happens but time.
	direction(value float64) direction
	// reaches returns the first millisecond after now at which the value, going in that direction without an event, has passed the
	// target: it is below when it sinks, and there or above when it rises. False: not within ten years.
	reaches(p *pipeline.Profile, now time.Time, target float64, dir direction) (time.Time, bool)
}

type direction int

const (
	sinks direction = -1
	rises direction = 1
)

// far is how far ahead a model looks.
const far = 10 * 365 * 24 * time.Hour

// pass finds the first millisecond after now at which a value that only goes in one direction has passed the target. guess,
// Unix milliseconds, is where it should be: the solution in closed form, up to rounding.
func pass(value func(at time.Time) float64, now time.Time, target float64, dir direction, guess float64) (time.Time, bool) {
	passed := func(ms int64) bool {
		v := value(pipeline.Millis(ms))
		return dir == sinks && v < target || dir == rises && v >= target
	}
	low, high := now.UnixMilli(), now.Add(far).UnixMilli()
	if !passed(high) {
		return time.Time{}, false
	}
	const slack = 16
	if a := guess - slack; a > float64(low) && a < float64(high) && !passed(int64(a)) {
		low = int64(a)
	}
	if b := guess + slack; b > float64(low) && b < float64(high) && passed(int64(b)) {
		high = int64(b)
	}
	for high-low > 1 {
		if middle := low + (high-low)/2; passed(middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return pipeline.Millis(high), true
}

// points is the decayed sum of points.
type points struct{ events []pointed }

type pointed struct {
	event  string
	weight float64
	past   string // name of a pipeline.Decayed
}

func (m *points) value(p *pipeline.Profile, at time.Time) (float64, bool, error) {
	total, any := 0.0, false
	for i := range m.events {
		if d, ok := p.State.Value(m.events[i].past).(pipeline.Decayed); ok {
			d.Count *= m.events[i].weight
			total, any = total+d.Value(at), true
		}
	}
	return total, any, nil
}

// explain: each event's points are its contribution, and how many of it there are, decayed, its feature.
func (m *points) explain(p *pipeline.Profile, at time.Time) (map[string]float64, map[string]string, error) {
	reasons, features := map[string]float64{}, map[string]string{}
	for _, e := range m.events {
		if d, ok := p.State.Value(e.past).(pipeline.Decayed); ok {
			count := d.Value(at)
			reasons[e.event], features[e.event] = e.weight*count, number(count)
		}
	}
	return reasons, features, nil
}

func (m *points) direction(value float64) direction {
	switch {
	case value > 0:
		return sinks
	case value < 0:
		return rises
	}
	return 0
}

// reaches: the sum decays as a whole, so it is at θ after half-life · log2(S/θ).
func (m *points) reaches(p *pipeline.Profile, now time.Time, target float64, dir direction) (time.Time, bool) {
	parts := make([]pipeline.Decayed, 0, len(m.events)) // read once, with their weights
	for _, e := range m.events {
		if d, ok := p.State.Value(e.past).(pipeline.Decayed); ok {
			d.Count *= e.weight
			parts = append(parts, d)
		}
	}
	value := func(at time.Time) float64 {
		total := 0.0
		for i := range parts {
			total += parts[i].Value(at)
		}
		return total
	}
	s := value(now)
	if len(parts) == 0 || s/target < 1 || target == 0 { // of the other sign, or beyond it already
		return time.Time{}, false
	}
	ahead := math.Log2(s/target) * float64(parts[0].HalfLife.Milliseconds())
	return pass(value, now, target, dir, float64(now.UnixMilli())+ahead)
}

// rfm is up to three digits: the classes of recency, frequency and money.
type rfm struct {
	past      string // name of pipeline.Purchases
	recency   []time.Duration
	frequency []float64
	monetary  []float64
}

func (m *rfm) value(p *pipeline.Profile, at time.Time) (float64, bool, error) {
	b, ok := p.State.Value(m.past).(pipeline.Purchases)
	if !ok {
		return 0, false, nil
	}
	digits, total := m.classes(b, at), 0.0
	for _, d := range digits {
		total = total*10 + d.class
	}
	return total, true, nil
}

type digit struct {
	name  string
	class float64
}

func (m *rfm) classes(b pipeline.Purchases, at time.Time) []digit {
	list := make([]digit, 0, 3)
	if n := len(m.recency); n > 0 {
		age := at.Sub(b.Last)
		older := sort.Search(n, func(i int) bool { return age <= m.recency[i] })
		list = append(list, digit{"recency", float64(n + 1 - older)})
	}
	if len(m.frequency) > 0 {
		list = append(list, digit{"frequency", float64(1 + place(m.frequency, b.Orders))})
	}
	if len(m.monetary) > 0 {
		list = append(list, digit{"monetary", float64(1 + place(m.monetary, b.Total))})
	}
	return list
}

// explain: a digit's contribution is what it is worth at its place.
func (m *rfm) explain(p *pipeline.Profile, at time.Time) (map[string]float64, map[string]string, error) {
	b, _ := p.State.Value(m.past).(pipeline.Purchases)
	reasons := map[string]float64{}
	worth := 1.0
	digits := m.classes(b, at)
	for i := len(digits) - 1; i >= 0; i-- {
		reasons[digits[i].name] = digits[i].class * worth
		worth *= 10
	}
	features := map[string]string{"recency_days": number(at.Sub(b.Last).Hours() / 24), "frequency": number(b.Orders)}
	if len(m.monetary) > 0 {
		features["monetary"] = number(b.Total)
	}
	return reasons, features, nil
}

func (m *rfm) direction(float64) direction {
	if len(m.recency) == 0 {
		return 0
	}
	return sinks
}

// reaches: recency falls just after each of its cut-offs.
func (m *rfm) reaches(p *pipeline.Profile, now time.Time, target float64, _ direction) (time.Time, bool) {
	b, ok := p.State.Value(m.past).(pipeline.Purchases)
	for i := 0; ok && i < len(m.recency); i++ {
		at := b.Last.Add(m.recency[i] + time.Millisecond)
		if v, _, _ := m.value(p, at); at.After(now) && at.Before(now.Add(far)) && v < target {
			return at, true
		}
	}
	return time.Time{}, false
}

// formula is the value of an expression. With days_since it changes by itself, see definition.wake.
type formula struct{ program *expression.Program }

// variables reads names of the scope in a profile at a time.
func variables(p *pipeline.Profile, at time.Time) expression.Vars {
	return func(name string) any {
		switch name {
		case expression.Now:
			return at
		case segments:
			return p.Segments
		}
		return p.State.Value(name)
	}
}

func (m *formula) value(p *pipeline.Profile, at time.Time) (float64, bool, error) {
	v, err := m.program.Value(variables(p, at))
	f, ok := v.(float64)
	return f, ok, err
}

// explain: the contribution of an input is how much less the score would be if the input were missing; of one without which
// there is no score, it is the score.
func (m *formula) explain(p *pipeline.Profile, at time.Time) (map[string]float64, map[string]string, error) {
	value, _, err := m.value(p, at)
	if err != nil {
		return nil, nil, err
	}
	reasons, features := map[string]float64{}, map[string]string{}
	vars := variables(p, at)
	for _, name := range m.program.Names() {
		input := vars(name)
		if input == nil {
			continue
		}
		features[name] = text(input)
		without, err := m.program.Value(func(n string) any {
			if n == name {
				return nil
			}
			return vars(n)
		})
		if err != nil {
			return nil, nil, err
		}
		rest, _ := without.(float64)
		if difference := value - rest; !math.IsNaN(difference) && !math.IsInf(difference, 0) {
			reasons[name] = difference
		}
	}
	return reasons, features, nil
}

func (m *formula) direction(float64) direction { return 0 }

func (m *formula) reaches(*pipeline.Profile, time.Time, float64, direction) (time.Time, bool) {
	return time.Time{}, false
}

// number writes a feature: twelve digits say more than anybody reads.
func number(v float64) string { return strconv.FormatFloat(v, 'g', 12, 64) }

// text writes an input of an expression.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return number(v)
	case time.Time:
		return v.UTC().Format(pipeline.TimeFormat)
	}
	return fmt.Sprint(v)
}
