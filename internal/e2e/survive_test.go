package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const survivePipeline = inOrder + counting + `sinks:
  out: {file: {path: "${OUT}"}}
`

// steps are the names that the engine calls between every two steps of its work, in the order in which an event meets them.
var steps = []string{"fenced", "restored", "produced", "processed", "sent", "committed", "stored", "acknowledged"}

// TestOneEventSurvivesAKillBetweenEveryTwoSteps sends one event, kills the process at a step, starts it again, and expects
// the event once, also after another one has come through. The steps are passed by three tasks, hence the counts.
func TestOneEventSurvivesAKillBetweenEveryTwoSteps(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		for _, step := range steps {
			for count := 1; count <= 3; count++ {
				if step == "produced" && count > 1 {
					continue
				}
				t.Run(fmt.Sprintf("%s-%d", step, count), func(t *testing.T) {
					t.Parallel()
					surviveKill(t, brokers, step, count)
				})
			}
		}
	})
}

func surviveKill(t *testing.T, brokers []string, step string, count int) {
	out, data := t.TempDir(), t.TempDir()
	file := write(t, survivePipeline)
	_, env := on(t, brokers, "OUT="+out)
	const order = `{"messageId":"m1","type":"track","event":"Order Completed","userId":"u1","timestamp":"2026-01-02T03:04:05Z","properties":{"revenue":50.00}}`

	p := start(t, file, data, append(env, fmt.Sprintf("MILLSTREAM_KILL_AT=%s:%d", step, count))...)
	status := 0
	if a := p.http(); a != "" {
		eventually(t, func() error {
			if status = post(a, batch(order)); status == 503 {
				return errors.New("Kafka does not take events")
			}
			return nil
		})
	}
	if step != "produced" && status != 0 && status != 200 {
		t.Fatalf("the post was answered with %d", status)
	}
	p.died() // at the step

	p = start(t, file, data, env...)
	if status != 200 { // the client had no answer, so it sends again
		p.batch(t, order)
	}
	once := func() error { return checkLines(out, 50) }
	eventually(t, once)
	// What the kill may have doubled stands before the order that is sent now, so it has arrived when that one has.
	p.batch(t, strings.ReplaceAll(strings.Replace(order, "m1", "m2", 1), "50.00", "20.00"))
	both := func() error { return checkLines(out, 50, 70) }
	eventually(t, both)
	p.stop()
	if err := both(); err != nil {
		t.Errorf("after the drain: %v", err)
	}
}

// checkLines checks that the file sink has written one message for each order, with these revenues.
func checkLines(dir string, revenues ...float64) error {
	lines, err := fileLines(dir)
	if err != nil {
		return err
	}
	if len(lines) != len(revenues) {
		return fmt.Errorf("%d messages in the file, want %d: %q", len(lines), len(revenues), lines)
	}
	for i, revenue := range revenues {
		if err := checkOrder(lines[i], float64(i+1), revenue); err != nil {
			return err
		}
	}
	return nil
}

// checkOrder checks the orders and the revenue of the profile in a message.
func checkOrder(line string, orders, revenue float64) error {
	var m struct {
		Type string
		Data struct {
			Profile struct{ Aggregates map[string]float64 }
		}
	}
	if err := json.Unmarshal([]byte(line), &m); err != nil {
		return err
	}
	if a := m.Data.Profile.Aggregates; a["orders"] != orders || a["revenue"] != revenue {
		return fmt.Errorf("a %s with aggregates %v, want %v orders of %v", m.Type, a, orders, revenue)
	}
	return nil
}
