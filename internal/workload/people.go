package workload

import (
	"fmt"
	"strconv"
	"time"
)

// Who there is, in percent of those who come, and what they do.
const (
	families   = 6  // two people, one tablet
	offices    = 2  // officePeople people, one address
	signsUp    = 65 // have an account
	subscribes = 12 // sessions without a login in which somebody leaves an address
	logsOut    = 10 // sessions with a login after which somebody logs out

	devices      = 3 // that one person has at most
	officePeople = 6
	// officeRoom is how many events are left when an office begins, so that all its people log in.
	officeRoom = 10 * officePeople
)

// visitor is one true person.
type visitor struct {
	person  int
	user    string // the account, "" without one
	email   string // left with a login or for the newsletter
	office  string // the address shared with colleagues that stands for it, if any
	devices [devices]*device
}

// device is one browser. Programs know it by an anonymous id, which is another one after a log-out.
type device struct {
	name      string
	logouts   int
	anonymous string
	known     bool // the visitor is logged in
	// owner is set if the device is shared without logging out: who logged in first has it.
	owner *visitor
	// ambiguous: several people have logged in, so an event without a login may be of each of them.
	ambiguous bool
}

func newDevice(name string) *device { return &device{name: name, anonymous: name} }

func (d *device) logOut() {
	d.logouts++
	d.anonymous, d.known = d.name+"-"+strconv.Itoa(d.logouts), false
}

// someone plays one person, a family or an office, and returns how many people that are.
func (g *generator) someone(person int) int {
	switch x := g.r.IntN(100); {
	case x < families:
		return g.family(person)
	case x < families+offices && g.o.Events-len(g.events) > officeRoom:
		return g.office(person)
	}
	v := g.visitor(person, g.percent(signsUp))
	g.visits(v, g.begin())
	return 1
}

func (g *generator) visitor(person int, account bool) *visitor {
	v := &visitor{person: person, email: fmt.Sprintf("person%d@example.org", person)}
	if account {
		v.user = fmt.Sprintf("user-%d-%d", g.o.Seed, person)
	}
	for i := range v.devices {
		v.devices[i] = newDevice(fmt.Sprintf("device-%d-%d-%d", g.o.Seed, person, i))
	}
	return v
}

// begin is a time for a first visit.
func (g *generator) begin() time.Time {
	return g.o.Start.Add(time.Duration(g.r.Int64N(int64(g.o.Span) * 2 / 3)))
}

// visits plays the sessions of one person: anonymous before the login on each device, known after it.
func (g *generator) visits(v *visitor, at time.Time) {
	for range 1 + g.r.IntN(6) {
		d := v.devices[g.r.IntN(devices)]
		if v.user != "" && !d.known && g.percent(30) {
			g.login(v, d, at, false)
		}
		at = g.session(v, d, at)
		switch {
		case !d.known && g.percent(subscribes):
			at = at.Add(time.Minute)
			g.subscribe(v, d, at)
		case !d.known && v.user != "" && g.percent(50):
			at = at.Add(time.Minute)
			g.login(v, d, at, false)
			at = g.session(v, d, at)
		case d.known && g.percent(logsOut):
			d.logOut()
		}
		at = at.Add(time.Duration(g.r.Int64N(int64(g.o.Span) / 12)))
	}
}

// family plays two people with accounts. They share a tablet and never log out there: the second one logs in over the first.
// Afterwards the login expires, and who uses the tablet then nobody can know.
//
// Nobody uses the tablet before the first login, and logins on it are never late: what an event without a login means there
// depends on whether it was taken in before the second login or after it, and the truth is to be one.
func (g *generator) family(person int) int {
	first, second := g.visitor(person, true), g.visitor(person+1, true)
	tablet := newDevice(fmt.Sprintf("tablet-%d-%d", g.o.Seed, person))
	tablet.owner = first
	at := g.begin()
	g.login(first, tablet, at, true)
	end := g.session(first, tablet, at).Add(time.Hour)
	g.visits(first, end)

	g.login(second, tablet, end, true)
	end = g.session(second, tablet, end).Add(time.Hour)
	g.visits(second, end)
	if g.percent(50) {
		tablet.known, tablet.ambiguous = false, true
		g.session(second, tablet, end)
	}
	return 2
}

// office plays colleagues who all log in with the office's address, which so says nothing about a person.
func (g *generator) office(person int) int {
	address := fmt.Sprintf("info@office%d.example.org", person)
	g.truth.Quarantined++
	var staff []*visitor
	for i := range officePeople {
		v := g.visitor(person+i, true)
		v.email, v.office = address, address
		g.identify(v, v.devices[0], g.begin(), false)
		staff = append(staff, v)
	}
	for _, v := range staff { // they stay logged in
		at := g.begin()
		for range 1 + g.r.IntN(4) {
			at = g.session(v, v.devices[0], at)
			at = at.Add(time.Duration(g.r.Int64N(int64(g.o.Span) / 12)))
		}
	}
	return officePeople
}

// login states who is there: with an address, or with the account alone.
func (g *generator) login(v *visitor, d *device, at time.Time, onTime bool) {
	if g.percent(70) {
		g.identify(v, d, at, onTime)
		return
	}
	d.known = true
	g.add(v, d, act{at: at, kind: `"type":"track","event":"Signed In"`, details: library(""), onTime: onTime})
}

var plans = []string{"free", "plus", "pro"}

func (g *generator) identify(v *visitor, d *device, at time.Time, onTime bool) {
	d.known = true
	traits := fmt.Sprintf(`"traits":{"name":"Person %d","email":%q,"plan":%q,"city":"City %d"}`, v.person, v.email, plans[g.r.IntN(len(plans))], v.person%50)
	g.add(v, d, act{at: at, kind: `"type":"identify"`, details: traits, email: v.email, onTime: onTime})
}

func (g *generator) subscribe(v *visitor, d *device, at time.Time) {
	g.add(v, d, act{at: at, kind: `"type":"track","event":"Newsletter Subscribed"`, details: fmt.Sprintf(`"properties":{"email":%q},`, v.email) + library(""), email: v.email})
}

var products = []struct {
	name  string
	price int64 // cents
}{{"Kettle", 3450}, {"Mug", 899}, {"Teapot", 4200}, {"Lamp", 12999}, {"Blanket", 5495}, {"Candle", 1250}, {"Clock", 8900}, {"Chair", 23950}}

var campaigns = []string{"", "", "", "spring", "newsletter", "retargeting"}

// session plays one visit and returns its end.
func (g *generator) session(v *visitor, d *device, at time.Time) time.Time {
	campaign := campaigns[g.r.IntN(len(campaigns))]
	for range 1 + g.r.IntN(5) {
		p := products[g.r.IntN(len(products))]
		at = at.Add(time.Duration(5+g.r.IntN(120)) * time.Second)
		g.add(v, d, act{at: at, kind: `"type":"track","event":"Product Viewed"`, viewed: true,
			details: fmt.Sprintf(`"properties":{"product":%q,"price":%s},`, p.name, money(p.price)) + library(campaign)})
		if g.percent(25) {
			at = at.Add(time.Duration(20+g.r.IntN(300)) * time.Second)
			quantity := int64(1 + g.r.IntN(4))
			cents := p.price * quantity
			g.add(v, d, act{at: at, kind: `"type":"track","event":"Order Completed"`, revenue: cents * 10_000,
				details: fmt.Sprintf(`"properties":{"order_id":"%d","product":%q,"quantity":%d,"revenue":%s,"currency":"GBP"},`, g.number, p.name, quantity, money(cents)) + library(campaign)})
		}
	}
	return at
}

func money(cents int64) string { return fmt.Sprintf("%d.%02d", cents/100, cents%100) }

// library is the context that SDKs add.
func library(campaign string) string {
	context := `"context":{"library":{"name":"analytics.js","version":"2.0.0"}`
	if campaign != "" {
		context += `,"campaign":{"source":"` + campaign + `","medium":"email"}`
	}
	return context + "}"
}
