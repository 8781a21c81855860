// Package workload makes a seeded population of customers and the events they send, with the truth known by construction:
// who is who, what is a repeat, what is broken, what every person has bought. The same options give the same bytes.
//
// It knows nothing of how the engine works; demos and tests compare what came out with Truth. Visitors browse on several
// devices, log in on some of them, leave an address or never say who they are; families share a tablet, offices an address.
package workload

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"
)

// Options of a workload.
type Options struct {
	Events int    // how many events are sent, repeats and broken ones included; at least 1
	Seed   uint64 // another seed is another population
	// Start is the time of the first event; they spread over Span. Results do not depend on it, only timestamps do.
	Start time.Time
	Span  time.Duration // 0: 6 days
}

// Event is one event to send.
type Event struct {
	MessageID string
	JSON      []byte // the event's own bytes; a repeat has the same
	Repeat    bool   // the same event was sent before
	Broken    bool   // must become a dead letter
	Device    string // the anonymous id; events of one must be sent in order, as one device does
}

// Shares, in percent. Nothing depends on the exact figures; they are in the range of what online shops see (29 % of the lines
// of the UCI Online Retail set have no customer).
const (
	repeats     = 4 // events that clients send again
	late        = 3 // events that arrive much later than the ones around them
	brokenEvery = 997
)

// Workload is a generated workload.
type Workload struct {
	Events []Event // in the order of sending
	Truth  Truth
}

// New generates a workload.
func New(o Options) *Workload {
	if o.Span == 0 {
		o.Span = 6 * 24 * time.Hour
	}
	g := &generator{o: o, r: rand.New(rand.NewPCG(o.Seed, 0x6d696c6c73747265)), truth: newTruth(), primaries: map[string]*Profile{}}
	for person := 0; len(g.events) < g.o.Events; {
		person += g.someone(person)
	}
	slices.SortStableFunc(g.events, func(a, b planned) int { return cmp.Compare(a.order, b.order) })
	w := &Workload{Events: make([]Event, len(g.events))}
	for i := range g.events {
		w.Events[i] = g.events[i].Event
	}
	g.truth.join(g.primaries)
	w.Truth = g.truth
	return w
}

// generator holds what New needs on the way.
type generator struct {
	o         Options
	r         *rand.Rand
	truth     Truth
	primaries map[string]*Profile // what was done under each strongest identifier
	events    []planned
	number    int // of the next event: part of its message id
}

// planned is an event with the place in the order of sending.
type planned struct {
	Event
	order int64
}

// percent is true in p of 100 cases.
func (g *generator) percent(p int) bool { return g.r.IntN(100) < p }

// act is one event of a visitor.
type act struct {
	at      time.Time
	kind    string // type and name, as JSON
	details string // the rest, as JSON
	email   string // an address that the event carries
	viewed  bool
	revenue int64 // 10^-6
	onTime  bool  // never late
}

// add plans one event, and now and then its repeat, or a broken one before it. Nothing is added beyond Options.Events.
func (g *generator) add(v *visitor, d *device, a act) {
	if g.number%brokenEvery == brokenEvery/2 {
		g.broken(a.at)
	}
	if len(g.events) >= g.o.Events {
		return
	}
	id := g.id()
	user := ""
	if d.known {
		user = v.user
	}
	body := `{"messageId":"` + id + `","anonymousId":"` + d.anonymous + `"`
	if user != "" {
		body += `,"userId":"` + user + `"`
	}
	body += `,"timestamp":"` + a.at.UTC().Format("2006-01-02T15:04:05.000Z") + `",` + a.kind + `,` + a.details + `}`
	e := Event{MessageID: id, JSON: []byte(body), Device: d.anonymous}
	order := a.at.UnixMilli()
	if !a.onTime && g.percent(late) {
		order += g.r.Int64N(24 * 3600 * 1000)
	}
	g.events = append(g.events, planned{e, order})
	g.truth.Sent++
	g.truth.Unique++
	g.credit(v, user, d, a)
	if g.percent(repeats) && len(g.events) < g.o.Events {
		e.Repeat = true
		g.events = append(g.events, planned{e, order + g.r.Int64N(6*3600*1000)})
		g.truth.Sent++
		g.truth.Repeats++
	}
}

// credit notes in the truth whose event it is and which identifiers it states to be one person.
func (g *generator) credit(v *visitor, user string, d *device, a act) {
	var ids []string // strongest first
	if user != "" {
		ids = append(ids, "user_id:"+user)
	}
	if a.email != "" {
		ids = append(ids, "email:"+a.email)
	}
	ids = append(ids, "anonymous_id:"+d.anonymous)
	for _, id := range ids {
		g.truth.own(id, v.person)
	}
	for _, weak := range ids[1:] {
		refused := ""
		switch {
		case v.office != "" && weak == "email:"+v.office:
			refused = SharedAddress
		case d.owner != nil && d.owner != v && weak == "anonymous_id:"+d.anonymous:
			refused = SharedDevice
		}
		g.truth.state(ids[0], weak, refused)
	}
	primary := ids[0]
	if user == "" && d.ambiguous {
		primary = Ambiguous + ids[0]
	}
	p := g.primaries[primary]
	if p == nil {
		p = &Profile{Person: v.person}
		g.primaries[primary] = p
	}
	p.Events++
	if user == "" {
		p.Anonymous++
	}
	if a.viewed {
		p.Viewed++
	}
	if a.revenue > 0 {
		p.Orders++
		p.Revenue += a.revenue
	}
}

// broken plans an event that no pipeline can accept.
func (g *generator) broken(at time.Time) {
	id := g.id()
	if len(g.events) >= g.o.Events {
		return
	}
	bodies := []string{
		`{"messageId":"%s","userId":{"id":1},"type":"track","event":"Product Viewed"}`,
		`{"messageId":"%s","userId":"u","event":"Product Viewed"}`,
		`{"messageId":"%s","userId":"u","type":"track","event":"Product Viewed","properties":[1,2]}`,
	}
	body := fmt.Sprintf(bodies[g.r.IntN(len(bodies))], id)
	g.events = append(g.events, planned{Event{MessageID: id, JSON: []byte(body), Broken: true}, at.UnixMilli()})
	g.truth.Sent++
	g.truth.Unique++
	g.truth.Broken++
}

func (g *generator) id() string {
	g.number++
	return fmt.Sprintf("%d-%07d", g.o.Seed, g.number)
}

// Lanes deals the events out to senders and cuts what each has into request bodies of the batch endpoint, of up to n events.
// Events of one device are in one lane, in order.
func (w *Workload) Lanes(lanes, n int) [][]Body {
	events := make([][]Event, lanes)
	for _, e := range w.Events {
		h := fnv.New32a()
		_, _ = h.Write([]byte(e.Device)) // never fails
		i := h.Sum32() % uint32(lanes)
		events[i] = append(events[i], e)
	}
	out := make([][]Body, lanes)
	for i := range events {
		for chunk := range slices.Chunk(events[i], n) {
			b := []byte(`{"batch":[`)
			for j, e := range chunk {
				if j > 0 {
					b = append(b, ',')
				}
				b = append(b, e.JSON...)
			}
			out[i] = append(out[i], Body{JSON: append(b, `]}`...), Events: len(chunk)})
		}
	}
	return out
}

// Body is the body of one request.
type Body struct {
	JSON   []byte
	Events int // in it
}
