package expression

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/expr-lang/expr/ast"

	"github.com/millstream-io/millstream/pipeline"
)

// Now is the name under which Vars has the time of the evaluation, if the scope has a clock.
const Now = "now"

const dayMillis = 24 * 60 * 60 * 1000

// crossing is a call of days_since, and what it is compared with.
type crossing struct {
	since    func(f *frame) any
	operator string // of days_since(x) operator limit; "" if it is used in another way
	limit    func(f *frame) any
}

// daysSince is days_since(x): the time from x until now, in days of 24 hours.
func (c *compiler) daysSince(n *ast.CallNode, args []node) node {
	if len(args) != 1 {
		return c.fail(n, "days_since needs 1 argument, it has %d", len(args))
	}
	switch args[0].typ {
	case pipeline.Time, pipeline.Text, pipeline.Any, none:
	default:
		return c.fail(n.Arguments[0], "days_since needs a time here, not %s", describe(args[0].typ))
	}
	since := args[0].eval
	c.crossings = append(c.crossings, crossing{since: since})
	return node{typ: pipeline.Number, crossing: len(c.crossings), eval: func(f *frame) any {
		now, ok1 := f.vars(Now).(time.Time)
		at, ok2 := asTime(since(f))
		if !ok1 || !ok2 {
			return nil
		}
		return days(now, at)
	}}
}

func days(now, at time.Time) float64 { return float64(now.UnixMilli()-at.UnixMilli()) / dayMillis }

// asTime is a time, or a text that is one.
func asTime(x any) (time.Time, bool) {
	switch x := x.(type) {
	case time.Time:
		return x, true
	case string:
		return parseTime(strings.TrimSpace(x))
	}
	return time.Time{}, false
}

// crosses notes that a comparison has days_since on one side, and on the other what time alone does not change.
func (c *compiler) crosses(operator string, l, r node) {
	if l.crossing == 0 {
		l, r = r, l
		operator = mirrored(operator)
	}
	if l.crossing > 0 && c.one {
		x := &c.crossings[l.crossing-1]
		x.operator, x.limit = operator, r.eval
	}
}

func mirrored(operator string) string {
	switch operator[0] {
	case '<':
		return ">" + operator[1:]
	case '>':
		return "<" + operator[1:]
	}
	return operator
}

// UsesClock tells whether the value may change without a change of any variable but Now.
func (p *Program) UsesClock() bool { return len(p.crossings) > 0 }

// Next is the first time after now at which the value can be another one although no variable but Now changes; the zero time if
// there is none. A comparison of days_since(x) with something else changes at one millisecond, and is looked at then; any other
// use, such as a comparison of two of them, is looked at when the next day since x is full.
func (p *Program) Next(vars Vars, now time.Time) time.Time {
	var next time.Time
	f := frame{vars: vars}
	for i := range p.crossings {
		x := &p.crossings[i]
		since, ok := asTime(x.since(&f))
		if !ok {
			continue
		}
		limit := 0.0
		if x.operator != "" {
			if limit, ok = x.limit(&f).(float64); !ok || math.Abs(limit) > maxDays {
				continue
			}
		}
		for _, ms := range x.times(since, now, limit) {
			if at := pipeline.Millis(ms); at.After(now) && (next.IsZero() || at.Before(next)) {
				next = at
			}
		}
	}
	return next
}

// maxDays bounds the limits whose time is worth waiting for: about 270 years.
const maxDays = 100_000

// times are the milliseconds at which the comparison changes.
func (x *crossing) times(since, now time.Time, limit float64) []int64 {
	reaches := func(d float64) bool { return d >= limit }
	exceeds := func(d float64) bool { return d > limit }
	switch x.operator {
	case "":
		return []int64{since.UnixMilli() + (int64(math.Floor(days(now, since)))+1)*dayMillis}
	case ">=", "<":
		return first(since, limit, reaches)
	case ">", "<=":
		return first(since, limit, exceeds)
	}
	return append(first(since, limit, reaches), first(since, limit, exceeds)...)
}

// first is the first millisecond at which test holds of the days since then: next to what the limit means, but as the
// comparison itself rounds.
func first(since time.Time, limit float64, test func(days float64) bool) []int64 {
	const reach = 2
	guess := int64(math.Round(limit * dayMillis))
	for d := guess - reach; d <= guess+reach; d++ {
		if test(float64(d) / dayMillis) {
			return []int64{since.UnixMilli() + d}
		}
	}
	return nil
}

// Days writes a length of time as the number with which days_since(x) can be compared exactly.
func Days(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Milliseconds())/dayMillis, 'g', -1, 64)
}
