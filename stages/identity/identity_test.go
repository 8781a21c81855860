package identity_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
	"github.com/millstream-io/millstream/stages/identity"
)

type output struct{ events int }

func (o *output) Event(*pipeline.Event) error { o.events++; return nil }
func (o *output) Message(pipeline.Message)    {}
func (o *output) Wake(time.Time)              {}
func (o *output) Drop(string)                 {}

// open builds the stage over a replica of its own.
func open(t testing.TB, c *identity.Config) (pipeline.Linker, *links.Replica, *pipeline.Identities) {
	t.Helper()
	env := &pipeline.Env{Identities: pipeline.NewIdentities([]byte("key"))}
	newStage, problems := identity.Kind.Build(c, env)
	if problems != nil {
		t.Fatal(problems)
	}
	rules := links.NewSettings(1, 1, 1, "", env.Identities.Rules())
	r, err := links.Open(t.TempDir(), links.Options{Rules: rules, Ambiguous: env.Identities.Ambiguous, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	linker := newStage().(pipeline.Linker)
	linker.Use(r)
	return linker, r, env.Identities
}

// read is an event as clean hands it on.
func read(t testing.TB, ids *pipeline.Identities, raw string) *pipeline.Event {
	t.Helper()
	ev := &pipeline.Event{MessageID: "m", Raw: []byte(raw), ReceivedAt: time.UnixMilli(1_700_000_000_000)}
	if rej := ev.Scan(); rej != nil {
		t.Fatal(rej)
	}
	ids.Identify(ev)
	return ev
}

// names are the identifiers of an event, strongest first, as type:value.
func names(ev *pipeline.Event) string {
	var list []string
	for _, id := range ev.Identifiers {
		list = append(list, id.Type.Name+":"+id.Value)
	}
	return strings.Join(list, " ")
}

func TestIdentifiers(t *testing.T) {
	limit := 3
	c := &identity.Config{
		IDs: []map[string]identity.ID{{"user_id": {}}, {"email": {From: []string{"traits.email", "properties.email"}}}, {"phone": {}},
			{"card": {From: []string{"properties.card"}, Limit: &limit}}, {"anonymous_id": {}}},
		Block: []string{"Test@Example.com", "/^noreply@/"},
	}
	_, _, ids := open(t, c)
	for raw, want := range map[string]string{
		`{"type":"identify","userId":" 42 ","anonymousId":"a","traits":{"email":" Ann@Example.COM "}}`:                "user_id:42 email:ann@example.com anonymous_id:a",
		`{"type":"track","event":"x","anonymousId":"a","properties":{"email":"b@x.org","card":7}}`:                    "email:b@x.org card:7 anonymous_id:a",
		`{"type":"track","event":"x","userId":"u","properties":{"card":["1","1",null,{}]}}`:                           "user_id:u card:1",
		`{"type":"identify","userId":"null","anonymousId":"00000000-0000-0000-0000-000000000000"}`:                    "",
		`{"type":"identify","userId":"[object Object]","anonymousId":"undefined","traits":{"email":"noreply@x.org"}}`: "",
		`{"type":"identify","anonymousId":"a","traits":{"email":"TEST@example.com","phone":"0044 (20) 7946-0958"}}`:   "phone:+442079460958 anonymous_id:a",
		`{"type":"identify","anonymousId":"a","traits":{"phone":"020 7946 0958"}}`:                                    "anonymous_id:a",
		`{"type":"track","event":"x","channel":"server","userId":"u","anonymousId":"invented"}`:                       "user_id:u",
		`{"type":"alias","userId":"u","previousId":"old"}`:                                                            "user_id:u anonymous_id:old",
		`{"type":"track","event":"x","context":{"externalIds":[{"type":"card","id":"9"},{"type":"other","id":"1"}]}}`: "card:9",
		`{"type":"page"}`: "",
	} {
		if got := names(read(t, ids, raw)); got != want {
			t.Errorf("%s\n has %q, want %q", raw, got, want)
		}
	}
	many := read(t, ids, `{"type":"track","event":"x","properties":{"card":[`+strings.Repeat(`"x",`, 3)+`"`+strings.Join(strings.Split(strings.Repeat("abcdefghijklmnopqrstuvwxyz0123456789", 2), ""), `","`)+`"]}}`)
	if len(many.Identifiers) != pipeline.MaxIdentifiers {
		t.Errorf("%d identifiers, want the limit %d", len(many.Identifiers), pipeline.MaxIdentifiers)
	}
}

// An event states links between its strongest identifier and the others, once; then it belongs to the person they make.
func TestStatesAndResolves(t *testing.T) {
	stage, replica, ids := open(t, &identity.Config{})
	ev := read(t, ids, `{"type":"identify","userId":"u","anonymousId":"a","traits":{"email":"u@x.org"}}`)
	stated := stage.Links(nil, ev)
	if len(stated) != 2 || stated[0].Strong != ev.Identifiers[0].ID || stated[0].Weak != ev.Identifiers[1].ID || stated[1].Weak != ev.Identifiers[2].ID || stated[0].MessageID != "m" {
		t.Fatalf("stated %+v", stated)
	}
	for i := range stated {
		o := links.Linked(&stated[i])
		r, err := o.Record()
		if err != nil {
			t.Fatal(err)
		}
		r.Offset = int64(i + 1)
		if err := replica.Apply([]pipeline.Record{r}, r.Offset+1); err != nil {
			t.Fatal(err)
		}
	}
	if again := stage.Links(nil, ev); len(again) != 0 {
		t.Errorf("stated again: %+v", again)
	}
	visit := read(t, ids, `{"type":"page","anonymousId":"a"}`)
	var out output
	for _, e := range []*pipeline.Event{ev, visit, read(t, ids, `{"type":"page"}`)} {
		if err := stage.Process(context.Background(), nil, e, &out); err != nil {
			t.Fatal(err)
		}
	}
	if out.events != 3 || visit.Canonical != ev.Primary || visit.Primary == visit.Canonical || visit.IDV != 2 || ev.IDV != 2 {
		t.Errorf("%d events out; the visit has primary %v, person %v, changed at %d", out.events, visit.Primary, visit.Canonical, visit.IDV)
	}
}
