package profile_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

func userID(name string) pipeline.ID {
	ev := pipeline.Event{UserID: name}
	pipeline.NewIdentities([]byte(stagetest.Key)).Identify(&ev)
	return ev.Primary
}

// TestChangesOfThePerson: what counts as changed is what changes of the person, not of the fragment that the event is in; the
// version counts the updates of all fragments.
func TestChangesOfThePerson(t *testing.T) {
	r := stagetest.New(t, stages.Kinds, `- clean: {}
- profile:
    orders: {count: events, event: Order}
    spent:  {sum: properties.total}
    basket: {avg: properties.total}
    most:   {max: properties.total}
    skus:   {unique: properties.sku}
    plan:   {latest: traits.plan}
    origin: {first: properties.source}
    seen:   {max: timestamp}
`)
	n := 0
	feed := func(user, at, rest string) string {
		t.Helper()
		n++
		r.Feed(stagetest.Record("web", fmt.Sprint("m", n), stagetest.Start.Add(time.Duration(n)*time.Second),
			fmt.Sprintf(`{"userId":%q,"timestamp":"2026-02-%s",%s}`, user, at, rest)))
		r.Commit()
		lines := r.Lines()
		_, line, _ := strings.Cut(lines[len(lines)-1], ": ")
		return line
	}
	x, y := userID("x"), userID("y")
	feed("x", "03T00:00:00Z", `"type":"track","event":"Order","properties":{"total":10,"sku":"a","source":"ads"}`)
	feed("x", "03T00:00:00Z", `"type":"identify","traits":{"plan":"pro","city":"York"}`)
	feed("y", "02T00:00:00Z", `"type":"track","event":"Order","properties":{"total":10,"sku":"b","source":"mail"}`)
	r.Regroup(pipeline.CauseMerge, map[pipeline.ID]pipeline.ID{y: x})
	profile := "profile " + x.String()[:8] + " version="
	lines := r.Lines()
	if want := profile + "3 changed=[basket city most orders origin plan seen skus spent user_id] segments=[]"; !strings.HasSuffix(lines[len(lines)-1], want) {
		t.Errorf("after the merge: %s, want %s", lines[len(lines)-1], want)
	}
	for _, c := range []struct{ user, at, rest, want string }{
		{"y", "01T00:00:00Z", `"type":"identify","traits":{"plan":"free","city":"Leeds"}`, "3 changed=[] segments=[]"},
		{"y", "04T00:00:00Z", `"type":"identify","traits":{"plan":"free","city":"York"}`, "4 changed=[plan seen] segments=[]"},
		{"y", "01T00:00:00Z", `"type":"track","event":"View","properties":{"total":10,"sku":"a","source":"web"}`, "5 changed=[origin spent] segments=[]"},
		{"x", "02T00:00:00Z", `"type":"track","event":"View","properties":{"sku":"b"}`, "5 changed=[] segments=[]"},
		{"x", "02T00:00:00Z", `"type":"track","event":"View","properties":{"total":0,"sku":"c"}`, "6 changed=[basket skus] segments=[]"},
	} {
		if got := feed(c.user, c.at, c.rest); got != profile+c.want {
			t.Errorf("%s: %s, want %s", c.rest, got, profile+c.want)
		}
	}
	// While it is regrouped, data is taken and nothing is told.
	r.Held = map[pipeline.ID]bool{x: true}
	if got := feed("y", "05T00:00:00Z", `"type":"track","event":"Order","properties":{"total":"5"}`); got != "no profile" {
		t.Errorf("held: %s", got)
	}
	r.Held = nil
	p := r.Profile(x)
	if doc := string(p.AppendJSON(nil)); !strings.Contains(doc, `"orders":3`) || !strings.Contains(doc, `"spent":35`) || !strings.Contains(doc, `"origin":"web"`) || p.Turn == 0 {
		t.Errorf("turn %d: %s", p.Turn, doc)
	}
}
