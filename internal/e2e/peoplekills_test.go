package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millstream-io/millstream/internal/oracle"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// The key is the same in every run, so that the ids are.
const peopleKillPipeline = known + "      key: the same\n" + shopping + `sinks:
  out: {file: {path: "${OUT}"}}
  crm:
    webhook: {url: "${CRM}", secret: "${SECRET}", allow: ["127.0.0.0/8"]}
    when: entered("loyal") or exited("loyal") or entered("never_bought") or exited("never_bought") or entered("viewed") or exited("viewed")
`

// crowd is a population and what it sends, in order.
type crowd struct {
	*rand.Rand
	seed   uint64
	events []string
	ids    map[string][]string // by message id: "type value" of the identifiers that the event carries
}

// newCrowd makes people of whom two thirds log in, on up to two devices, and the others have devices that name each other. Where
// some log in another one does next, and an eighth of them have one address. The order is random but for what one person does.
// Nothing here depends on which of two users comes first, so every run must give the same people.
func newCrowd(seed uint64, people int) *crowd {
	c := &crowd{seed: seed, Rand: rand.New(rand.NewPCG(seed, 1)), ids: map[string][]string{}}
	var lives [][]func()
	for i := range people {
		lives = append(lives, c.life(i))
	}
	for len(lives) > 0 {
		i := c.IntN(len(lives))
		lives[i][0]()
		if lives[i] = lives[i][1:]; len(lives[i]) == 0 {
			lives[i] = lives[len(lives)-1]
			lives = lives[:len(lives)-1]
		}
	}
	return c
}

// life is what one person does.
func (c *crowd) life(i int) (acts []func()) {
	user, mail := fmt.Sprintf("u%d", i), fmt.Sprintf("p%d@example.com", i)
	if i%8 == 5 {
		mail = "info@example.com"
	}
	act := func(user, mail string, devices ...string) {
		acts = append(acts, func() { c.add(user, mail, devices...) })
	}
	if i%3 == 0 { // never logs in, and has devices that know of each other: links and events meet from all partitions
		for range 4 + c.IntN(6) {
			x, y := c.IntN(3), c.IntN(3)
			devices := []string{fmt.Sprintf("ring%d-%d", i, x), fmt.Sprintf("ring%d-%d", i, y)}
			if x == y || c.IntN(3) > 0 {
				devices = devices[:1]
			}
			act("", "", devices...)
		}
		return acts
	}
	for d := range 1 + c.IntN(2) {
		device := fmt.Sprintf("d%d-%d", i, d)
		for range 1 + c.IntN(3) {
			act("", "", device)
		}
		act(user, mail, device)
		act(user, "", device)
	}
	if i%8 == 0 { // two users at one device, then somebody: all acts of one life, so in this order
		device := fmt.Sprintf("shared%d", i)
		act(user, "", device)
		act("guest-"+user, "", device)
		act("", "", device)
	}
	return acts
}

// add sends an event: a login if there is an address, else a view or an order. One in ten is sent twice.
func (c *crowd) add(user, mail string, devices ...string) {
	id := fmt.Sprintf("m%d", len(c.ids))
	body := `{"messageId":"` + id + `","anonymousId":"` + devices[0] + `"`
	if len(devices) > 1 {
		body += `,"context":{"externalIds":[{"type":"anonymous_id","id":"` + devices[1] + `"}]}`
	}
	if user != "" {
		body += `,"userId":"` + user + `"`
		c.ids[id] = append(c.ids[id], "user_id "+user)
	}
	switch {
	case mail != "":
		body += `,"type":"identify","traits":{"email":"` + mail + `"}}`
		c.ids[id] = append(c.ids[id], "email "+mail)
	case c.IntN(3) == 0:
		body += fmt.Sprintf(`,"type":"track","event":"Order Completed","properties":{"revenue":%d.25}}`, c.IntN(50))
	default:
		body += `,"type":"track","event":"Product Viewed"}`
	}
	for _, d := range devices {
		c.ids[id] = append(c.ids[id], "anonymous_id "+d)
	}
	c.events = append(c.events, body)
	if c.IntN(10) == 0 {
		c.events = append(c.events, body)
	}
}

// TestKilledPeopleAreTheSame posts the events of a population piece by piece while the process is killed. People, counts and
// memberships must be those that the oracle computes, and those of a run in peace; what is told must be told once.
func TestKilledPeopleAreTheSame(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newCrowd(seed, 240)
	eachBroker(t, func(t *testing.T, brokers []string) {
		kills := 20
		if strings.HasSuffix(t.Name(), "/kafka") {
			kills = 5
		}
		peace, peopleInPeace := liveThrough(t, brokers, c, 0)
		war, peopleInWar := liveThrough(t, brokers, c, kills)
		if err := samePeople(peace, war); err != nil {
			t.Errorf("without and with kills: %v", err)
		}
		for _, list := range c.ids {
			for _, text := range list {
				if a, b := peopleInPeace[text], peopleInWar[text]; a != b {
					t.Errorf("%s is of %v without kills and of %v with them", text, a, b)
				}
			}
		}
	})
}

// liveThrough sends the events of a crowd to a pipeline that is killed some times, and checks what became of them. It returns
// everybody, and whom each identifier belongs to.
func liveThrough(t *testing.T, brokers []string, c *crowd, kills int) (map[string]person, map[string]pipeline.ID) {
	t.Helper()
	out, data, box := t.TempDir(), t.TempDir(), newInbox(t)
	name, env := on(t, brokers, "OUT="+out, "CRM="+box.server.URL)
	file := write(t, peopleKillPipeline)
	p := start(t, file, data, env...)
	r := rand.New(rand.NewPCG(c.seed, uint64(kills)))
	pieces := slices.Collect(slices.Chunk(c.events, len(c.events)/40+1))
	for n, piece := range pieces {
		events, dies := strings.Join(piece, ","), n*kills/len(pieces) != (n+1)*kills/len(pieces)
		if dies { // while it takes the piece in, or what came of it
			victim := p.cmd.Process
			time.AfterFunc(time.Duration(r.IntN(150))*time.Millisecond, func() { _ = victim.Kill() })
			taken := post(p.http(), batch(events)) == http.StatusOK
			p.died()
			p = start(t, file, data, env...)
			if taken {
				continue
			}
		}
		p.batch(t, events)
	}
	truth := &truth{t: t, naming: naming{pipeline.NewIdentities([]byte("the same"))}, brokers: brokers, name: name, crowd: c}
	eventually(t, func() error {
		want, err := truth.people()
		if err != nil {
			return err
		}
		got, err := alive(out)
		if err != nil {
			return err
		}
		return truth.compare(want, got)
	})
	told := truth.transitions()
	eventually(t, func() error {
		box.mu.Lock()
		defer box.mu.Unlock()
		for id := range told {
			if box.bodies[id] == "" {
				return fmt.Errorf("webhook %s has not arrived", id)
			}
		}
		if len(box.bodies) != len(told) {
			return fmt.Errorf("%d webhook ids, want %d", len(box.bodies), len(told))
		}
		return nil
	})
	p.stop()
	box.check(t)
	want, err := truth.people()
	if err != nil {
		t.Fatal(err)
	}
	got, err := alive(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := truth.compare(want, got); err != nil {
		t.Errorf("after the end: %v", err)
	}
	for id, p := range got {
		p.PreviousIDs, p.Traits = nil, nil
		got[id] = p
	}
	whose := map[string]pipeline.ID{}
	for _, list := range c.ids {
		for _, text := range list {
			whose[text] = pipeline.ID(truth.now.Person(truth.parse(text)))
		}
	}
	return got, whose
}

// truth is what the oracle makes of the topics links and resolved.
type truth struct {
	naming
	t       *testing.T
	brokers []string
	name    string
	crowd   *crowd
	now     *oracle.People
}

func (w *truth) parse(text string) pipeline.ID {
	kind, value, _ := strings.Cut(text, " ")
	return w.id(kind, value)
}

// strongest is the strongest identifier of an event. The codes of the types are in the order of their strength.
func (w *truth) strongest(message string) (id pipeline.ID) {
	for i, text := range w.crowd.ids[message] {
		if x := w.parse(text); i == 0 || bytes.Compare(x[:], id[:]) < 0 {
			id = x
		}
	}
	return id
}

// people is what everybody must be. It is an error if an event is missing.
func (w *truth) people() (map[pipeline.ID]*person, error) {
	w.t.Helper()
	w.now = oracle.NewPeople([]oracle.Type{{Code: pipeline.CodeUserID, Limit: 1}, {Code: pipeline.CodeEmail, Limit: 5, SharedBy: 4}, {Code: pipeline.CodeAnonymousID, Limit: 500}})
	for _, r := range readAll(w.t, w.brokers, w.name+".links", 1) {
		o, err := links.Parse(r.Value)
		if err != nil {
			return nil, err
		}
		if o.Op == links.OpLink {
			w.now.Apply(oracle.Operation{Op: o.Op, A: *o.Strong, B: *o.Weak}, uint64(r.Offset))
		}
	}
	want, seen := map[pipeline.ID]*person{}, map[string]bool{}
	for _, r := range readAll(w.t, w.brokers, w.name+".resolved", 2) {
		record := pipeline.Record{Value: r.Value}
		if pipeline.ResolvedKind(&record) != pipeline.KindEvent {
			continue
		}
		var ev pipeline.Event
		if _, rej := pipeline.ParseResolved(&record, &ev); rej != nil {
			return nil, rej
		}
		if ev.Forwarded {
			continue
		}
		if seen[ev.MessageID] {
			w.t.Errorf("event %s was resolved twice", ev.MessageID)
		}
		seen[ev.MessageID] = true
		if strongest := w.strongest(ev.MessageID); ev.Primary != strongest && ev.Primary != w.Ambiguous(strongest) {
			w.t.Errorf("event %s is kept under %v, which is not its own", ev.MessageID, ev.Primary)
		}
		id := pipeline.ID(w.now.Person(ev.Primary))
		if want[id] == nil {
			want[id] = &person{ID: id.String(), Aggregates: map[string]float64{}}
		}
		var body struct {
			Event      string
			Properties struct{ Revenue float64 }
		}
		if err := json.Unmarshal(ev.Raw, &body); err != nil {
			return nil, err
		}
		switch body.Event {
		case "Order Completed":
			want[id].Aggregates["orders"]++
			want[id].Aggregates["revenue"] += body.Properties.Revenue
		case "Product Viewed":
			want[id].Aggregates["views"]++
		}
	}
	if len(seen) != len(w.crowd.ids) {
		return nil, fmt.Errorf("%d events are resolved, want %d", len(seen), len(w.crowd.ids))
	}
	for _, p := range want {
		for name, in := range map[string]bool{"loyal": p.Aggregates["views"] >= 2 && p.Aggregates["orders"] >= 1, "never_bought": p.Aggregates["orders"] == 0, "viewed": p.Aggregates["views"] >= 1} {
			if in {
				p.Segments = append(p.Segments, name)
			}
		}
	}
	return want, nil
}

// compare tells the first difference of counts, segments and members.
func (w *truth) compare(want map[pipeline.ID]*person, got map[string]person) error {
	for id, x := range want {
		y, ok := got[id.String()]
		y.Identifiers, y.Traits = nil, nil
		if !ok || x.String() != y.String() {
			return fmt.Errorf("%v is %v, want %v", id, y, x)
		}
		for _, text := range y.PreviousIDs {
			var other pipeline.ID
			if err := other.UnmarshalText([]byte(text)); err != nil || pipeline.ID(w.now.Person(other)) != id {
				return fmt.Errorf("%v holds %s, which is of %v", id, text, w.now.Person(other))
			}
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d people, want %d", len(got), len(want))
	}
	return nil
}

// transitions checks that those of each profile and segment take turns, memberships that go with a merge included, and returns
// the ids of those that a receiver is told of.
func (w *truth) transitions() map[string]bool {
	w.t.Helper()
	in, ids, told := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range readAll(w.t, w.brokers, w.name+".changes", 2) {
		m, err := pipeline.ParseMessage(r.Key, r.Value)
		if err != nil {
			w.t.Fatal(err)
		}
		var data struct{ Segment string }
		var meta struct {
			Op    string
			Delta int
		}
		if err := json.Unmarshal(m.Data, &data); err != nil {
			w.t.Fatal(err)
		}
		if len(m.Meta) > 0 {
			if err := json.Unmarshal(m.Meta, &meta); err != nil {
				w.t.Fatal(err)
			}
		}
		if meta.Op == "" {
			continue
		}
		if ids[m.ID.String()] {
			w.t.Errorf("%s of %v and %s is told twice", meta.Op, m.ProfileID, data.Segment)
		}
		ids[m.ID.String()] = true
		if m.Type == pipeline.SegmentEntered || m.Type == pipeline.SegmentExited {
			told[m.ID.String()] = true
		}
		key := m.ProfileID.String() + " " + data.Segment
		now := meta.Op == "enter" || meta.Op == "carried"
		if meta.Delta != 0 && in[key] == now {
			w.t.Errorf("%s of %v and %s, which was so already", meta.Op, m.ProfileID, data.Segment)
		}
		if meta.Delta != 0 {
			in[key] = now
		}
	}
	return told
}

// readAll reads the committed records of a topic up to now, partition by partition.
func readAll(t *testing.T, brokers []string, topic string, partitions int32) (all []*kgo.Record) {
	t.Helper()
	for p := range partitions {
		all = append(all, committedIn(t, brokers, topic, p)...)
	}
	return all
}
