package profile

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// What other stages need of the past, see pipeline.Past, is kept like attributes, under names that no attribute can have, and is
// never shown. Like everything here it is a commutative fold of the events.

const (
	opDecayed   op = 64
	opPurchases op = 65
)

// past is the content of these.
type past interface {
	content
	read(r *reader)
	fold(r *reader) // a delta
	value(a *attribute) any
}

func (o op) newPast() past {
	if o == opDecayed {
		return &decayed{}
	}
	return &purchases{}
}

// remember adds a part of the past that another stage requires.
func (p *plan) remember(a *attribute, past pipeline.Past) {
	a.op, a.event, a.halfLife = opDecayed, past.Event, past.HalfLife.Milliseconds()
	if past.HalfLife == 0 {
		a.op = opPurchases
	}
	if past.Revenue == "" {
		return
	}
	a.path, _ = pipeline.ParsePath(past.Revenue) // the stage that asks has checked it
	a.traits = strings.HasPrefix(past.Revenue, "traits.")
	if a.read = slices.Index(p.reads, a.path); a.read < 0 {
		a.read = len(p.reads)
		p.reads = append(p.reads, a.path)
	}
}

// pastChange is change for these.
func (s *stage) pastChange(b []byte, a *attribute, old *aggregate) (_ []byte, changes bool, _ *pipeline.RejectError) {
	ms := s.ev.Time.UnixMilli()
	if a.op == opDecayed {
		bucket := floorDiv(ms, a.halfLife)
		fraction := float64(ms-bucket*a.halfLife) / float64(a.halfLife)
		b = binary.AppendVarint(a.header(b), bucket)
		return binary.AppendUvarint(b, uint64(math.Round(unit*math.Exp2(fraction)))), true, nil
	}
	var n, total int64
	if old != nil {
		total = old.past().(*purchases).total
	}
	if a.path != (pipeline.Path{}) {
		var rej *pipeline.RejectError
		if n, rej = a.micros(s.result(a), total); rej != nil {
			return b, false, rej
		}
	}
	return binary.AppendVarint(binary.AppendVarint(a.header(b), ms), n), true, nil
}

// micros is a revenue; what is absent is 0.
func (a *attribute) micros(result gjson.Result, total int64) (int64, *pipeline.RejectError) {
	text := result.Raw
	switch result.Type {
	case gjson.Null:
		return 0, nil
	case gjson.String:
		if text = result.Str; text == "" {
			return 0, nil
		}
	case gjson.Number:
	default:
		return 0, pipeline.Reject("not_a_number", "%s is not a number, and a score needs it", a.path)
	}
	number, ok := parseDecimal(text)
	if !ok {
		return 0, pipeline.Reject("not_a_number", "%s is not a number, and a score needs it", a.path)
	}
	n, ok := number.micros()
	if ok {
		_, ok = addMicros(total, n)
	}
	if !ok {
		return 0, pipeline.Reject("sum_range", "%s, or its total, is beyond what a score can take", a.path)
	}
	return n, nil
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// decayed counts events, each worth half as much with every half-life. The events of each half-life since 1970 are one whole
// number, in units of 2^-30 of what an event at its beginning is worth: float sums depend on the order of the events. What is
// 48 half-lives older than the newest event is forgotten.
//
// Stored: varint number of the newest half-life, uvarint how many follow, each uvarint, newest first, the last of them not 0. A
// delta: varint number of the half-life, uvarint units.
type decayed struct {
	newest int64
	units  []uint64
}

const (
	unit       = 1 << 30
	maxBuckets = 48
)

func (d *decayed) add(bucket int64, units uint64) {
	switch {
	case units == 0:
		return
	case len(d.units) == 0:
		d.newest = bucket
	case bucket > d.newest:
		gap := min(bucket-d.newest, maxBuckets)
		d.units = append(make([]uint64, gap, gap+int64(len(d.units))), d.units...)
		d.newest = bucket
	}
	at := d.newest - bucket
	if at >= maxBuckets {
		return
	}
	for int64(len(d.units)) <= at {
		d.units = append(d.units, 0)
	}
	if sum := d.units[at] + units; sum >= units {
		d.units[at] = sum
	} else {
		d.units[at] = math.MaxUint64
	}
	// One form for one content: what a longer list would have forgotten leaves no zeros behind.
	d.units = d.units[:min(len(d.units), maxBuckets)]
	for len(d.units) > 0 && d.units[len(d.units)-1] == 0 {
		d.units = d.units[:len(d.units)-1]
	}
}

func (d *decayed) encode(dst []byte, _ op) []byte {
	dst = binary.AppendUvarint(binary.AppendVarint(dst, d.newest), uint64(len(d.units)))
	for _, u := range d.units {
		dst = binary.AppendUvarint(dst, u)
	}
	return dst
}

func (d *decayed) read(r *reader) {
	d.newest = r.varint()
	n := r.uvarint()
	if n > maxBuckets {
		r.bad = true
		return
	}
	d.units = make([]uint64, n)
	for i := range d.units {
		d.units[i] = r.uvarint()
	}
}

func (d *decayed) fold(r *reader) { d.add(r.varint(), r.uvarint()) }

func (d *decayed) absorb(_ op, o content) {
	other := o.(*decayed)
	for i, u := range other.units {
		d.add(other.newest-int64(i), u)
	}
}

func (d *decayed) clone() content { return &decayed{d.newest, slices.Clone(d.units)} }

func (d *decayed) value(a *attribute) any {
	total := 0.0
	for i := len(d.units) - 1; i >= 0; i-- {
		total += math.Ldexp(float64(d.units[i]), -i)
	}
	return pipeline.Decayed{Count: total / unit, At: pipeline.Millis(d.newest * a.halfLife), HalfLife: time.Duration(a.halfLife) * time.Millisecond}
}

func (d *decayed) size() int { return 32 + 10*maxBuckets }

// purchases is the content of pipeline.Purchases. Money is in millionths.
//
// Stored: uvarint orders, varint first day (since 1970), varint last (Unix milliseconds), varint total, varint opening, and the
// set of days as under unique. A delta: varint Unix milliseconds, varint money.
type purchases struct {
	orders         uint64
	first, last    int64
	total, opening int64
	days           distinct
}

const dayMillis = 24 * 60 * 60 * 1000

func (p *purchases) take(ms, money int64) {
	day := floorDiv(ms, dayMillis)
	p.merge(&purchases{orders: 1, first: day, last: ms, total: money, opening: money})
	p.days.add(dayHash(day))
}

// dayHash spreads days over the range of a hash, as the sketch of many needs it.
func dayHash(day int64) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(day))
	return xxhash.Sum64(b[:])
}

// merge adds all but the days.
func (p *purchases) merge(o *purchases) {
	switch {
	case p.orders == 0 || o.first < p.first:
		p.first, p.opening = o.first, o.opening
	case o.first == p.first:
		p.opening = clampedSum(p.opening, o.opening)
	}
	if p.orders == 0 || o.last > p.last {
		p.last = o.last
	}
	p.orders += o.orders
	p.total = clampedSum(p.total, o.total)
}

func (p *purchases) encode(dst []byte, _ op) []byte {
	dst = binary.AppendVarint(binary.AppendUvarint(dst, p.orders), p.first)
	dst = binary.AppendVarint(binary.AppendVarint(dst, p.last), p.total)
	return p.days.encode(binary.AppendVarint(dst, p.opening), opUnique)
}

func (p *purchases) read(r *reader) {
	p.orders, p.first, p.last, p.total, p.opening = r.uvarint(), r.varint(), r.varint(), r.varint(), r.varint()
	r.distinct(&p.days)
}

func (p *purchases) fold(r *reader) { p.take(r.varint(), r.varint()) }

func (p *purchases) absorb(_ op, o content) {
	other := o.(*purchases)
	p.merge(other)
	p.days.absorb(opUnique, &other.days)
}

func (p *purchases) clone() content {
	c := *p
	c.days = *p.days.clone().(*distinct)
	return &c
}

func (p *purchases) value(*attribute) any {
	return pipeline.Purchases{
		Orders: float64(p.orders), Days: p.days.count(), First: pipeline.Millis(p.first * dayMillis), Last: pipeline.Millis(p.last),
		Total: microsFloat(p.total), Opening: microsFloat(p.opening),
	}
}

func (p *purchases) size() int { return 128 + 8*cap(p.days.hashes) + len(p.days.registers) }
