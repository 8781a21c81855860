package config_test

import (
	"encoding/json"
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
