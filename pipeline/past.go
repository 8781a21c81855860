package pipeline

import (
	"fmt"
	"math"
	"time"
)

// Past is what a stage needs of the events of a profile beyond declared attributes. The stage `profile` keeps it; the stage that
// asked reads it by name from the ProfileState. Nobody else sees it.
type Past struct {
	// Event is the name of the track events that count.
	Event string
	// HalfLife, if set, asks for a Decayed.
	HalfLife time.Duration
	// Revenue is the path of a number, "" for none; without HalfLife it is Purchases that are asked for.
	Revenue string
}

// Name is the name under which ProfileState.Value has it. It says all of what is kept, so what is asked for in other words
// starts from nothing, and what is asked for twice is kept once.
func (p Past) Name() string {
	if p.HalfLife > 0 {
		return fmt.Sprintf("~decayed %s %s", Duration(p.HalfLife), p.Event)
	}
	return fmt.Sprintf("~purchases %s %s", p.Revenue, p.Event)
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

// Require asks the stage `profile` to keep a part of the past, and returns the index by which changes of it stand in
// Event.Inputs. Stages call it while they are built.
func (e *Env) Require(p Past) (int, error) {
	for _, r := range e.Required {
		if r.Past == p {
			return r.Index, nil
		}
	}
	if len(e.Attributes)+len(e.Required) >= MaxAttributes-1 {
		return 0, fmt.Errorf("more than %d attributes, those that scores need included", MaxAttributes-1)
	}
	// Declared attributes count from the front, these from the back: neither knows how many of the others there will be.
	i := TraitsIndex - 1 - len(e.Required)
	e.Required = append(e.Required, Required{p, i})
	return i, nil
}

// Required is a Past that a stage asked for. Index is as in Event.Inputs.
type Required struct {
	Past
	Index int
}
