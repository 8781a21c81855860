package mapping

import (
	"testing"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/sinktest"
)

const profileData = `{"segment":"vip","cause":"live","n":[1,2],"profile":{"profile_id":"4f9ed348-2ca8-8b5c-9553-805bfcffbb31","previous_ids":["11111111-2222-8333-8444-555555555555"],
"identifiers":{"user_id":["u1"],"email":["a@example.com","b@example.com"]},"traits":{"plan":"gold","line.item":"x","address":{"city":"Köln"},"vip":true,"none":null},
"aggregates":{"orders_90d":3,"revenue":1234.5,"last_order":1767323045,"last_seen":1767000001},"segments":["hot","vip"],"scores":{"churn":0.25},"first_seen":1767000000,"last_seen":1767323045.678}}`

func TestMapping(t *testing.T) {
	env := &pipeline.Env{}
	for name, typ := range map[string]pipeline.AttributeType{"orders_90d": pipeline.Number, "revenue": pipeline.Number, "plan": pipeline.Text, "last_order": pipeline.Time, "churn": pipeline.Number, "never": pipeline.Text} {
		if _, err := env.Declare(name, typ); err != nil {
			t.Fatal(err)
		}
	}
	const previous = `"previous_ids":["11111111-2222-8333-8444-555555555555"]`
	for source, want := range map[string]string{
		"type":                          `"segment.entered"`,
		"timestamp":                     `"2026-01-02T03:04:05.678Z"`,
		"profile_id":                    `"` + sinktest.Message(0, 0).ProfileID.String() + `"`,
		"id":                            `"` + sinktest.Message(0, 0).ID.String() + `"`,
		"data.segment":                  `"vip"`,
		"data.profile.traits.plan":      `"gold"`,
		"data.n":                        `"[1,2]"`,
		"identifiers.email[1]":          `"b@example.com"`,
		"identifiers.email":             `["a@example.com","b@example.com"]`,
		"identifiers.email[7]":          ``,
		"identifiers.phone[0]":          ``,
		"traits.plan":                   `"gold"`,
		`traits["line.item"]`:           `"x"`,
		"traits.address.city":           `"Köln"`,
		"traits.address":                `"{\"city\":\"Köln\"}"`,
		"traits.vip":                    `true`,
		"traits.none":                   ``,
		"traits.absent":                 ``,
		"plan":                          `"gold"`,
		"orders_90d":                    `3`,
		"revenue * 2":                   `2469`,
		"orders_90d / 0":                ``,
		"last_order":                    `"2026-01-02T03:04:05.000Z"`,
		"number(last_order)":            `1767323045`,
		"churn":                         `0.25`,
		"scores.churn":                  `0.25`,
		"aggregates.revenue":            `1234.5`,
		"never":                         ``,
		"segments":                      `["hot","vip"]`,
		`"vip" in segments`:             `true`,
		"first_seen":                    `"2025-12-29T09:20:00.000Z"`,
		"last_seen":                     `"2026-01-02T03:04:05.678Z"`,
		`upper(plan) + "!"`:             `"GOLD!"`,
		`plan == "gold" ? "yes" : "no"`: `"yes"`,
	} {
		fields, problems := Compile(map[string]string{"field": source}, env)
		if problems != nil {
			t.Fatal(problems)
		}
		m := sinktest.Message(0, 0)
		m.Data = []byte(profileData)
		got, err := fields.Body(m)
		wanted := `{` + previous + `}`
		if want != "" {
			wanted = `{"field":` + want + `,` + previous + `}`
		}
		if err != nil || string(got) != wanted {
			t.Errorf("%s gives %s, %v, want %s", source, got, err, wanted)
		}
	}
}

func TestMappingIsSortedAndHasPreviousIDs(t *testing.T) {
	fields, problems := Compile(map[string]string{"z": "type", "a": "data.reason", "m\"x": "data.into", "Z": "1"}, &pipeline.Env{})
	if problems != nil {
		t.Fatal(problems)
	}
	m := sinktest.Message(0, 0)
	m.Type, m.Data = "profile.merged", []byte(`{"reason":"login","into":"x"}`)
	if got, err := fields.Body(m); err != nil || string(got) != `{"Z":1,"a":"login","m\"x":"x","previous_ids":[],"z":"profile.merged"}` {
		t.Errorf("body is %s, %v", got, err)
	}
	if fields, problems = Compile(map[string]string{"previous_ids": `"none"`}, &pipeline.Env{}); problems != nil {
		t.Fatal(problems)
	}
	if got, err := fields.Body(m); err != nil || string(got) != `{"previous_ids":"none"}` {
		t.Errorf("body is %s, %v", got, err)
	}
}

func TestValueAsText(t *testing.T) {
	for source, want := range map[string]string{
		"identifiers.email[0]": "a@example.com", "aggregates.orders_90d": "3", "aggregates.revenue": "1234.5", "identifiers.phone[0]": "",
		"segments": `["hot","vip"]`, "first_seen": "2025-12-29T09:20:00.000Z", "traits.vip": "true", "aggregates.revenue / 0": "",
	} {
		v, problem := CompileValue([]string{"key"}, source, &pipeline.Env{})
		if problem != nil {
			t.Fatal(problem)
		}
		m := sinktest.Message(0, 0)
		m.Data = []byte(profileData)
		if got, err := v.Text(m); err != nil || got != want {
			t.Errorf("%s gives %q, %v, want %q", source, got, err, want)
		}
	}
	if _, problem := CompileValue([]string{"key"}, "traits.plan + nope", &pipeline.Env{}); problem == nil || problem.Path[0] != "key" || problem.Column != 14 {
		t.Errorf("problem is %+v", problem)
	}
}
