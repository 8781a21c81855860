package segment

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/stagetest"
)

// BenchmarkProcess: two segments read what changed; the others do not, and must not cost.
func BenchmarkProcess(b *testing.B) {
	for _, segments := range []int{10, 100, 10_000} {
		b.Run(fmt.Sprintf("segments=%d", segments), func(b *testing.B) {
			env := &pipeline.Env{}
			for i := range 50 {
				if _, err := env.Declare("a"+strconv.Itoa(i), pipeline.Number); err != nil {
					b.Fatal(err)
				}
			}
			config := Config{"hot_1": {Expression: "a0 >= 3 and a1 > 500"}, "hot_2": {Expression: "a0 > 1000000"}}
			for i := range segments - 2 {
				config["cold_"+strconv.Itoa(i)] = Condition{Expression: fmt.Sprintf("a%d > %d and traits.plan == \"pro\"", 1+i%49, i)}
			}
			newStage, problems := Kind.Build(&config, env)
			if problems != nil {
				b.Fatal(problems)
			}
			at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
			profiles := make([]attributes, 50)
			stagetest.Bench(b, Kind, newStage, func(i int, ev *pipeline.Event) {
				id := pipeline.HashID(strconv.AppendInt(nil, int64(i%50), 10))
				p := &profiles[i%50]
				p.values++
				*ev = pipeline.Event{MessageID: "m" + strconv.Itoa(i), ReceivedAt: at, Time: at, Type: "track", Canonical: id, Changed: []string{"a0"},
					Profile: &pipeline.Profile{ID: id, Version: 1, State: p}}
				ev.Inputs.Add(0)
			})
		})
	}
}

// attributes is a profile whose attributes all have one value.
type attributes struct{ values float64 }

func (a *attributes) Value(string) any { return a.values }

func (a *attributes) AppendDocument(dst []byte, _ *pipeline.Profile) []byte {
	return append(dst, `{}`...)
}
