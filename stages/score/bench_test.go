package score

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/score/clv"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// BenchmarkProcess: an event of a known customer, whose scores are evaluated, and whose next thresholds are found.
func BenchmarkProcess(b *testing.B) {
	bgnbd := &BGNBD{R: 0.243, Alpha: 4.414, A: 0.793, B: 2.426}
	for name, score := range map[string]Score{
		"points": {Points: map[string]float64{"A": 1, "B": 20}, HalfLife: pipeline.Duration(7 * 24 * time.Hour), Cross: []float64{10, 50}},
		"rfm":    {RFM: &RFM{Recency: []pipeline.Duration{1e15, 2e15}, Frequency: []float64{2, 5}}, Event: "A", Cross: []float64{20}},
		"bgnbd":  {BGNBD: bgnbd, Event: "A", Cross: []float64{0.2, 0.5}},
		"ltv":    {GammaGamma: &clv.GammaGamma{P: 6.25, Q: 3.74, V: 15.44}, BGNBD: bgnbd, Event: "A", Revenue: "properties.x", Horizon: pipeline.Duration(90 * 24 * time.Hour), Cross: []float64{5}},
		"expr":   {Expr: "a0 * 2 + a1", Cross: []float64{1e9}},
	} {
		b.Run(name, func(b *testing.B) {
			env := &pipeline.Env{}
			for _, a := range []string{"a0", "a1"} {
				if _, err := env.Declare(a, pipeline.Number); err != nil {
					b.Fatal(err)
				}
			}
			newStage, problems := Kind.Build(&Config{"s": score}, env)
			if problems != nil {
				b.Fatal(problems)
			}
			at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
			state := customer{
				decayed:   pipeline.Decayed{Count: 30, At: at.Add(-time.Hour), HalfLife: 7 * 24 * time.Hour},
				purchases: pipeline.Purchases{Orders: 4, Days: 4, First: at.Add(-300 * 24 * time.Hour).Truncate(24 * time.Hour), Last: at.Add(-20 * 24 * time.Hour), Total: 200, Opening: 50},
			}
			stagetest.Bench(b, Kind, newStage, func(i int, ev *pipeline.Event) {
				id := pipeline.HashID(strconv.AppendInt(nil, int64(i%50), 10))
				*ev = pipeline.Event{MessageID: "m" + strconv.Itoa(i), ReceivedAt: at, Time: at, Type: "track", Canonical: id,
					Profile: &pipeline.Profile{ID: id, Version: 1, State: state}}
			})
		})
	}
}

// customer is a profile that has everything.
type customer struct {
	decayed   pipeline.Decayed
	purchases pipeline.Purchases
}

func (c customer) Value(name string) any {
	switch {
	case strings.HasPrefix(name, "decayed"):
		return c.decayed
	case strings.HasPrefix(name, "purchases"):
		return c.purchases
	}
	return 7.0
}

func (c customer) AppendDocument(dst []byte, _ *pipeline.Profile) []byte {
	return append(dst, `{}`...)
}
