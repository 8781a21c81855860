package config_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

func TestWhen(t *testing.T) {
	profile := `{"profile_id":"x","traits":{"plan":"gold","a.b":"dotted","deep":{"list":[{"x":7}]},"revenue":"a trait of that name"},"aggregates":{"orders":4,"revenue":750,"last_seen":1772359200.25},"segments":["vip"]}`
	entered := pipeline.Message{Type: pipeline.SegmentEntered, Data: json.RawMessage(`{"segment":"vip","profile":` + profile + `}`)}
	exited := pipeline.Message{Type: pipeline.SegmentExited, Data: json.RawMessage(`{"segment":"vip","profile":` + profile + `}`)}
	updated := pipeline.Message{Type: pipeline.ProfileUpdated, Data: json.RawMessage(profile[:len(profile)-1] + `,"changed":["orders","email","plan","city"]}`)}
	nested := pipeline.Message{Type: pipeline.ProfileUpdated, Data: json.RawMessage(`{"profile":` + profile + `,"changed":["orders"]}`)}
	created := pipeline.Message{Type: pipeline.ProfileCreated, Data: json.RawMessage(`{"profile_id":"x","traits":{},"aggregates":{},"changed":["orders"]}`)}
	erased := pipeline.Message{Type: "profile.erased", Data: json.RawMessage(`{"profile_id":"x"}`)}
	merged := pipeline.Message{Type: pipeline.ProfileMerged, Data: json.RawMessage(`{"profile_id":"x","into":"y","rule":"merge","reason":"","message_id":"m"}`), Meta: json.RawMessage(`{"version":4294967296}`)}
	split := pipeline.Message{Type: pipeline.ProfileSplit, Data: json.RawMessage(`{"profile_id":"x","from":"y","rule":"split","reason":"asked","message_id":""}`)}
	broken := pipeline.Message{Type: pipeline.ProfileUpdated, Data: json.RawMessage(`[]`)}

	all := []*pipeline.Message{&entered, &exited, &updated, &nested, &created, &erased, &broken, &merged, &split}
	for when, want := range map[string]string{
		`entered("vip")`:                       "1........",
		`exited("vip")`:                        ".1.......",
		`entered("vip") or changed("orders")`:  "1.111....",
		`entered("other")`:                     ".........",
		`merged()`:                             ".......1.",
		`merged() or entered("vip")`:           "1......1.",
		`merged() and orders >= 3`:             ".........",
		`not merged()`:                         "1111111.1",
		`erased()`:                             ".....1...",
		`has(traits.plan)`:                     "1111.....",
		`orders < 3`:                           ".........",
		`created()`:                            "....1....",
		`not created()`:                        "1111.1111",
		`changed("email")`:                     "..1......",
		`changed("revenue")`:                   ".........",
		`changed("traits.city")`:               "..1......",
		`orders >= 3`:                          "1111.....",
		`orders >= 3 and entered("vip")`:       "1........",
		`revenue > 500`:                        "1111.....",
		`plan == "gold"`:                       "1111.....",
		`traits.plan == "gold"`:                "1111.....",
		`traits["a.b"] == "dotted"`:            "1111.....",
		`traits.deep.list[0].x == 7`:           "1111.....",
		`has(traits.none)`:                     ".........",
		`last_seen >= "2026-03-01T10:00:00Z"`:  "1111.....",
		`last_seen > "2026-03-01T10:00:00.3Z"`: ".........",
	} {
		plan, d := load(t, "pipeline: x\nstages:\n  - clean\n  - profile: {orders: {count: events}, revenue: {sum: properties.r}, plan: {latest: traits.plan}, last_seen: {max: timestamp}}\n"+
			"  - segment: {vip: orders > 3, other: orders > 4}\nsinks:\n  s:\n    webhook: {url: https://x}\n    when: |\n      "+when+"\n")
		if plan == nil {
			t.Errorf("%s: %s", when, messages(d))
			continue
		}
		got := ""
		for _, m := range all {
			ok, err := plan.Sinks[0].When(m)
			if err != nil {
				t.Errorf("%s: %v", when, err)
			}
			got += map[bool]string{true: "1", false: "."}[ok]
		}
		if got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
}

// TestWhenOfScores: changed("score", delta) is true where the stage says that this delta was reached.
func TestWhenOfScores(t *testing.T) {
	message := func(score, meta string) *pipeline.Message {
		return &pipeline.Message{Type: pipeline.ScoreChanged, Data: json.RawMessage(`{"score":"` + score + `","value":12,"profile":{"aggregates":{"heat":99,"orders":4},"scores":{"heat":12}}}`), Meta: json.RawMessage(meta)}
	}
	all := []*pipeline.Message{
		message("heat", `{"deltas":[]}`), message("heat", `{"deltas":[2.5,5]}`), message("heat", `{"deltas":[2.5]}`), message("other", `{"deltas":[5]}`), message("heat", ``),
		{Type: pipeline.ProfileUpdated, Data: json.RawMessage(`{"scores":{"heat":12},"changed":["heat"]}`)},
	}
	for when, want := range map[string]string{
		`changed("heat")`:                   "111.1.",
		`changed("heat", 5)`:                ".1....",
		`changed("heat", 2.5) and heat > 4`: ".11...",
		`heat == 12`:                        "111111",
		`changed("other", 5)`:               "...1..",
	} {
		plan, d := load(t, "pipeline: x\nstages:\n  - clean\n  - profile: {orders: {count: events}}\n  - segment: {vip: orders > 3}\n  - score: {heat: x, other: x}\n"+
			"sinks:\n  s:\n    webhook: {url: https://x}\n    when: |\n      "+when+"\n")
		if plan == nil {
			t.Errorf("%s: %s", when, messages(d))
			continue
		}
		got := ""
		for _, m := range all {
			ok, err := plan.Sinks[0].When(m)
			if err != nil {
				t.Errorf("%s: %v", when, err)
			}
			got += map[bool]string{true: "1", false: "."}[ok]
		}
		if got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	for when, want := range map[string]string{
		`changed("heat", 0)`:      `changed("heat", delta) needs a constant number above 0`,
		`changed("heat", orders)`: `changed("heat", delta) needs a constant number above 0`,
		`changed("heap", 5)`:      `did you mean "heat"?`,
		`changed("heat",1) or changed("heat",2) or changed("heat",3) or changed("heat",4) or changed("heat",5) or changed("heat",6) or changed("heat",7) or changed("heat",8) or changed("heat",9)`: "more than 8 different numbers",
	} {
		_, d := load(t, "pipeline: x\nstages:\n  - clean\n  - profile: {orders: {count: events}}\n  - score: {heat: x}\nsinks:\n  s:\n    webhook: {url: https://x}\n    when: |\n      "+when+"\n")
		if said := messages(d); !strings.Contains(said, want) {
			t.Errorf("%s: %s", when, said)
		}
	}
}

// TestScoreStandsOnEitherSide of segment, but after profile.
func TestScoreStandsOnEitherSide(t *testing.T) {
	for stages, want := range map[string]string{
		"clean profile score segment": "",
		"clean profile segment score": "",
		"clean score profile segment": "the stage profile comes before score",
	} {
		yaml := "pipeline: x\nstages:\n"
		for _, name := range strings.Fields(stages) {
			yaml += "  - " + name + "\n"
		}
		_, d := load(t, yaml)
		if said := messages(d); (said == "") != (want == "") || !strings.Contains(said, want) {
			t.Errorf("%s: %s", stages, said)
		}
	}
}
