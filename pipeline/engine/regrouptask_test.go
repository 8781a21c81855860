package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// What the tables merges and overrides are told: one merge for each pair of profiles between which identifiers moved, one
// override for each identifier.
func TestWhatTheTablesAreToldOfAnOperation(t *testing.T) {
	id := func(code byte, name string) pipeline.ID {
		x := pipeline.HashID([]byte(name))
		x[0] = code
		return x
	}
	user, mail, anon, other := id(1, "user"), id(2, "mail"), id(4, "anon"), id(4, "other")
	rules := &links.Settings{Types: []links.Type{{Name: "user_id", Code: 1}, {Name: "email", Code: 2}, {Name: "anonymous_id", Code: 4}}}
	names := map[pipeline.ID]string{user: "user", mail: "mail", anon: "anon", other: "other", {}: "nobody"}
	for _, c := range []struct {
		name    string
		outcome links.Outcome
		want    string
	}{
		// The profile of the weaker identifier may be the stronger one: then that one stays.
		{"merge", links.Outcome{Kind: links.Merge, Op: links.OpLink, Strong: mail, Weak: anon, From: user, Into: mail, Rows: []links.Row{{ID: mail, From: mail, To: user}}},
			"merge link anonymous_id mail>user, mail=user"},
		{"split", links.Outcome{Kind: links.Split, Op: links.OpUnlink, Strong: user, Weak: anon, From: user, Into: user, Rows: []links.Row{{ID: anon, From: user, To: anon}}},
			"split unlink anonymous_id user>anon, anon=anon"},
		{"split of several", links.Outcome{Kind: links.Split, Op: links.OpBlock, Strong: mail, From: user, Into: user,
			Rows: []links.Row{{ID: mail, From: user, To: mail}, {ID: anon, From: user, To: anon}, {ID: other, From: user, To: anon}}},
			"split block email user>mail, split block email user>anon, mail=mail, anon=anon, other=anon"},
		{"refused", links.Outcome{Kind: links.Refused, Op: links.OpLink, Strong: user, Weak: mail, From: mail, Into: user}, "refused link email mail>user"},
		{"quarantined, nobody moved", links.Outcome{Kind: links.Quarantined, Op: links.OpLink, Strong: user, Weak: mail, From: mail, Into: user}, "quarantined link email mail>user"},
		{"nothing", links.Outcome{Op: links.OpLink, Strong: user, Weak: mail, From: user, Into: user}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := &regroupJob{engine: &engine{settings: rules}}
			c.outcome.Offset, c.outcome.Reason, c.outcome.By, c.outcome.At = 7, "why", "m7", time.UnixMilli(1785578400250)
			w := &work{now: 1785578401000}
			if err := j.tell(w, &c.outcome); err != nil {
				t.Fatal(err)
			}
			var told []string
			var ids []pipeline.ID
			for _, r := range w.out {
				m, err := pipeline.ParseMessage(r.Key, r.Value)
				if err != nil || r.Topic != "changes" || !m.Internal() || m.Timestamp.UnixMilli() != w.now {
					t.Fatalf("%+v %v", r, err)
				}
				ids = append(ids, m.ID)
				data := gjson.ParseBytes(m.Data)
				name := func(key string) string { return names[mustID(t, data.Get(key).Str)] }
				switch m.Type {
				case pipeline.IdentityMerge:
					told = append(told, fmt.Sprintf("%s %s %s %s>%s", data.Get("kind"), data.Get("rule"), data.Get("id_type"), name("from"), name("into")))
					if data.Get("message_id").Str != "m7" || data.Get("reason").Str != "why" || data.Get("at").Str != "2026-08-01T10:00:00.250Z" {
						t.Errorf("the merge says %s", m.Data)
					}
				case pipeline.IdentityOverride:
					told = append(told, name("primary_id")+"="+name("profile_id"))
				}
				if data.Get("log_offset").Int() != 7 {
					t.Errorf("the message says %s", m.Data)
				}
			}
			if got := strings.Join(told, ", "); got != c.want {
				t.Errorf("told: %s\nwant: %s", got, c.want)
			}
			slices.SortFunc(ids, func(a, b pipeline.ID) int { return slices.Compare(a[:], b[:]) })
			if len(slices.Compact(ids)) != len(w.out) {
				t.Error("two messages have one id")
			}
		})
	}
}

func mustID(t *testing.T, text string) (id pipeline.ID) {
	t.Helper()
	if err := id.UnmarshalText([]byte(text)); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return id
}
