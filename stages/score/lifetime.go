package score

import (
	"math"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/score/clv"
)

// lifetime is what the models of purchases share. A day with purchases is one transaction, as for `millstream score fit`.
type lifetime struct {
	past  string // name of pipeline.Purchases
	model clv.BGNBD
	unit  time.Duration
}

// history is the profile's history at a time, false before the first purchase.
func (l *lifetime) history(p *pipeline.Profile, at time.Time) (clv.History, bool) {
	b, ok := l.purchases(p)
	if !ok {
		return clv.History{}, false
	}
	return l.of(&b, at), true
}

func (l *lifetime) purchases(p *pipeline.Profile) (pipeline.Purchases, bool) {
	b, ok := p.State.Value(l.past).(pipeline.Purchases)
	return b, ok
}

// of is the history that purchases make at a time.
func (l *lifetime) of(b *pipeline.Purchases, at time.Time) clv.History {
	h := clv.History{X: math.Max(b.Days-1, 0)}
	since := func(t time.Time) float64 { return math.Max(float64(t.Sub(b.First))/float64(l.unit), 0) }
	if h.X > 0 {
		h.TX = since(b.Last.Truncate(24 * time.Hour))
		h.M = (b.Total - b.Opening) / h.X
	}
	h.T = math.Max(since(at), h.TX) // an event may be up to five minutes ahead of the clock
	return h
}

func historyFeatures(h clv.History) map[string]string {
	return map[string]string{"x": number(h.X), "t_x": number(h.TX), "T": number(h.T)}
}

// alive is the probability that somebody is a customer still, 0 … 1.
type alive struct{ lifetime }

func (m *alive) value(p *pipeline.Profile, at time.Time) (float64, bool, error) {
	h, ok := m.history(p, at)
	if !ok {
		return 0, false, nil
	}
	return m.model.Alive(h), true, nil
}

// explain: contributions to the logarithm of the odds. Frequency speaks for, silence against. Nothing is known of who bought
// once: the probability is 1.
func (m *alive) explain(p *pipeline.Profile, at time.Time) (map[string]float64, map[string]string, error) {
	h, _ := m.history(p, at)
	reasons := map[string]float64{}
	if h.X > 0 {
		reasons["frequency"] = math.Log(m.model.B+h.X-1) - math.Log(m.model.A)
		reasons["silence"] = -(m.model.R + h.X) * (math.Log(m.model.Alpha+h.T) - math.Log(m.model.Alpha+h.TX))
	}
	return reasons, historyFeatures(h), nil
}

func (m *alive) direction(float64) direction { return sinks }

// reaches solves P(alive) = θ for T.
func (m *alive) reaches(p *pipeline.Profile, now time.Time, target float64, dir direction) (time.Time, bool) {
	b, ok := m.purchases(p)
	h := m.of(&b, now)
	if !ok || h.X == 0 || target <= 0 {
		return time.Time{}, false
	}
	odds := (1/target - 1) * (m.model.B + h.X - 1) / m.model.A
	t := (m.model.Alpha+h.TX)*math.Pow(odds, 1/(m.model.R+h.X)) - m.model.Alpha
	guess := float64(now.UnixMilli()) + (t-h.T)*float64(m.unit.Milliseconds())
	return pass(func(at time.Time) float64 { return m.model.Alive(m.of(&b, at)) }, now, target, dir, guess)
}

// worth is what somebody is expected to spend within the horizon.
type worth struct {
	lifetime
	money   clv.GammaGamma
	horizon time.Duration
}

func (m *worth) factors(h clv.History) (purchases, mean float64) {
	return m.model.Expected(h, float64(m.horizon)/float64(m.unit)), m.money.Mean(h)
}

func (m *worth) value(p *pipeline.Profile, at time.Time) (float64, bool, error) {
	h, ok := m.history(p, at)
	if !ok {
		return 0, false, nil
	}
	purchases, mean := m.factors(h)
	return purchases * mean, true, nil
}

// explain: the two factors of the value.
func (m *worth) explain(p *pipeline.Profile, at time.Time) (map[string]float64, map[string]string, error) {
	h, _ := m.history(p, at)
	purchases, mean := m.factors(h)
	features := historyFeatures(h)
	features["m"] = number(h.M)
	return map[string]float64{"expected_purchases": purchases, "average_value": mean}, features, nil
}

func (m *worth) direction(float64) direction { return sinks }

func (m *worth) reaches(p *pipeline.Profile, now time.Time, target float64, dir direction) (time.Time, bool) {
	b, ok := m.purchases(p)
	if !ok || target <= 0 {
		return time.Time{}, false
	}
	return pass(func(at time.Time) float64 {
		purchases, mean := m.factors(m.of(&b, at))
		return purchases * mean
	}, now, target, dir, math.NaN())
}
