package pipeline

import (
	"fmt"
	"math"
	"time"
)

// Past is what a stage needs of the events of a profile beyond declared attributes, see Env.RequirePast. The stage `profile`
// keeps it, and nobody else sees it.
type Past struct {
	// Event is the name of the track events that count.
	Event string
	// HalfLife, if set, asks for a Decayed.
	HalfLife time.Duration
	// Revenue is the path of a number, "" for none; without HalfLife it is Purchases that are asked for.
	Revenue string
}

// name says all of what is kept, so what is asked for in other words starts from nothing, and what is asked for twice is kept
// once.
func (p Past) name() string {
	if p.HalfLife > 0 {
		return fmt.Sprintf("decayed %q by %s", p.Event, Duration(p.HalfLife))
	}
	return fmt.Sprintf("purchases %q of %s", p.Event, p.Revenue)
}

// Decayed is how many events there were, each counting less the older it is: 1 at its own time, half after a half-life.
type Decayed struct {
	Count    float64 // at the time At
	At       time.Time
	HalfLife time.Duration
}

// Value is the count at a time.
func (d Decayed) Value(at time.Time) float64 {
	return d.Count * math.Exp2(-float64(at.Sub(d.At))/float64(d.HalfLife))
}

// Purchases are the purchases of a profile. Days are those of UTC.
type Purchases struct {
	Orders  float64   // events
	Days    float64   // different days with an event; exact up to 1,000, then within 2 %
	First   time.Time // 00:00 of the first day
	Last    time.Time
	Total   float64 // of the revenue
	Opening float64 // of the first day
}
