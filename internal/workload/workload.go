// Package workload makes a seeded population of customers and the events they send, with the truth known by construction:
// who is who, what is a repeat, what is broken, what every person has bought. The same options give the same bytes.
//
// It knows nothing of how the engine works; demos, tests and benchmarks compare what came out with Truth.
package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options of a workload.
type Options struct {
	Events int    // how many events are sent, repeats and broken ones included; at least 1
	Seed   uint64 // another seed is another population
	People int    // 0: one for every 20 events
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
}

// Truth is what is right by construction.
type Truth struct {
	Sent, Unique, Repeats, Broken int
	People                        int // who have sent anything
	// Profiles by what a pipeline without identity stitching can know: the user id of an event, else its anonymous id.
	Profiles map[string]*Profile
}

// Profile is what one identifier has done.
type Profile struct {
	UserID      string // set if the identifier is a user id
	AnonymousID string // else
	Person      int
	Events      int
	Viewed      int // products
	Orders      int
	Revenue     int64 // 10^-6 of the currency
}

// Shares of the traffic, in percent. Nothing depends on the exact figures; they are in the range of what online shops see
// (29 % of the lines of the UCI Online Retail set have no customer).
const (
	signsUp     = 65 // people who log in at some time
	repeats     = 4  // events that clients send again
	late        = 3  // events that arrive much later than the ones around them
	brokenEvery = 997
)

// devices is how many devices a person has at most.
const devices = 3

// Workload is a generated workload.
type Workload struct {
	Events []Event // in the order of sending
	Truth  Truth
}

// New generates a workload.
func New(o Options) *Workload {
	if o.People == 0 {
		o.People = max(o.Events/20, 1)
	}
	if o.Span == 0 {
		o.Span = 6 * 24 * time.Hour
	}
	g := &generator{o: o, r: rand.New(rand.NewPCG(o.Seed, 0x6d696c6c73747265)), truth: Truth{Profiles: map[string]*Profile{}}}
	return g.run()
}

// generator holds what New needs on the way.
type generator struct {
	o      Options
	r      *rand.Rand
	truth  Truth
	events []planned
	number int // of the next event: part of its message id
}

// planned is an event with the place in the order of sending.
type planned struct {
	Event
	order int64
}

func (g *generator) run() *Workload {
	for person := 0; len(g.events) < g.o.Events; person++ {
		g.person(person)
	}
	slices.SortStableFunc(g.events, func(a, b planned) int { return cmp.Compare(a.order, b.order) })
	w := &Workload{Events: make([]Event, len(g.events))}
	for i := range g.events {
		w.Events[i] = g.events[i].Event
	}
	w.Truth = g.truth
	return w
}

// person plays one person: sessions on several devices, anonymous before the first login on each, known after it.
func (g *generator) person(n int) {
	user := ""
	if g.r.IntN(100) < signsUp {
		user = fmt.Sprintf("user-%d-%d", g.o.Seed, n)
	}
	known := [devices]bool{}
	at := g.o.Start.Add(time.Duration(g.r.Int64N(int64(g.o.Span) * 2 / 3)))
	count := len(g.events)
	for range 1 + g.r.IntN(6) {
		device := g.r.IntN(devices)
		if user != "" && !known[device] && g.r.IntN(2) == 0 {
			g.identify(n, user, device, at)
			known[device] = true
		}
		who := ""
		if known[device] {
			who = user
		}
		at = g.session(n, who, device, at)
		at = at.Add(time.Duration(g.r.Int64N(int64(g.o.Span) / 12)))
	}
	if len(g.events) > count {
		g.truth.People++
	}
}

var products = []struct {
	name  string
	price int64 // cents
}{{"Kettle", 3450}, {"Mug", 899}, {"Teapot", 4200}, {"Lamp", 12999}, {"Blanket", 5495}, {"Candle", 1250}, {"Clock", 8900}, {"Chair", 23950}}

var campaigns = []string{"", "", "", "spring", "newsletter", "retargeting"}

// session plays one visit.
func (g *generator) session(person int, user string, device int, at time.Time) time.Time {
	campaign := campaigns[g.r.IntN(len(campaigns))]
	context := `{"library":{"name":"analytics.js","version":"2.0.0"}`
	if campaign != "" {
		context += `,"campaign":{"source":"` + campaign + `","medium":"email"}`
	}
	context += "}"
	for range 1 + g.r.IntN(5) {
		p := products[g.r.IntN(len(products))]
		at = at.Add(time.Duration(5+g.r.IntN(120)) * time.Second)
		price := fmt.Sprintf("%d.%02d", p.price/100, p.price%100)
		g.add(person, user, device, at, `"type":"track","event":"Product Viewed","properties":{"product":"`+p.name+`","price":`+price+`},"context":`+context, 0)
		if g.r.IntN(100) < 25 {
			at = at.Add(time.Duration(20+g.r.IntN(300)) * time.Second)
			quantity := int64(1 + g.r.IntN(4))
			cents := p.price * quantity
			total := fmt.Sprintf("%d.%02d", cents/100, cents%100)
			order := strconv.Itoa(g.number)
			g.add(person, user, device, at, `"type":"track","event":"Order Completed","properties":{"order_id":"`+order+`","product":"`+p.name+`","quantity":`+strconv.FormatInt(quantity, 10)+`,"revenue":`+total+`,"currency":"GBP"},"context":`+context, cents*10_000)
		}
	}
	return at
}

var plans = []string{"free", "plus", "pro"}

func (g *generator) identify(person int, user string, device int, at time.Time) {
	traits := fmt.Sprintf(`{"name":"Person %d","email":"person%d@example.org","plan":%q,"city":"City %d"}`, person, person, plans[g.r.IntN(len(plans))], person%50)
	g.add(person, user, device, at, `"type":"identify","traits":`+traits, 0)
}

// add plans one event, and now and then its repeat, or a broken one.
func (g *generator) add(person int, user string, device int, at time.Time, rest string, revenue int64) {
	if len(g.events) >= g.o.Events {
		return
	}
	if g.number%brokenEvery == brokenEvery/2 {
		g.broken(at)
		if len(g.events) >= g.o.Events {
			return
		}
	}
	id := g.id()
	anonymous := fmt.Sprintf("device-%d-%d-%d", g.o.Seed, person, device)
	body := `{"messageId":"` + id + `","anonymousId":"` + anonymous + `"`
	if user != "" {
		body += `,"userId":"` + user + `"`
	}
	body += `,"timestamp":"` + at.UTC().Format("2006-01-02T15:04:05.000Z") + `",` + rest + `}`
	e := Event{MessageID: id, JSON: []byte(body)}
	order := at.UnixMilli()
	if g.r.IntN(100) < late {
		order += g.r.Int64N(24 * 3600 * 1000)
	}
	g.events = append(g.events, planned{e, order})
	g.truth.Sent++
	g.truth.Unique++
	g.credit(person, user, anonymous, revenue, strings.Contains(rest, `"Product Viewed"`))
	if g.r.IntN(100) < repeats && len(g.events) < g.o.Events {
		e.Repeat = true
		g.events = append(g.events, planned{e, order + g.r.Int64N(6*3600*1000)})
		g.truth.Sent++
		g.truth.Repeats++
	}
}

// credit adds an event to the profile that it belongs to.
func (g *generator) credit(person int, user, anonymous string, revenue int64, viewed bool) {
	key := anonymous
	if user != "" {
		key = user
	}
	p := g.truth.Profiles[key]
	if p == nil {
		p = &Profile{UserID: user, Person: person}
		if user == "" {
			p.AnonymousID = anonymous
		}
		g.truth.Profiles[key] = p
	}
	p.Events++
	if viewed {
		p.Viewed++
	}
	if revenue > 0 {
		p.Orders++
		p.Revenue += revenue
	}
}

// broken plans an event that no pipeline can accept.
func (g *generator) broken(at time.Time) {
	id := g.id()
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

// Bodies cuts the events into request bodies of the batch endpoint, each of up to n events.
func (w *Workload) Bodies(n int) [][]byte {
	var bodies [][]byte
	for chunk := range slices.Chunk(w.Events, n) {
		b := []byte(`{"batch":[`)
		for i, e := range chunk {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, e.JSON...)
		}
		bodies = append(bodies, append(b, `]}`...))
	}
	return bodies
}
