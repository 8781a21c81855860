package profile

import (
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// list is the content of top, recent and union: different values, sorted by their texts.
//
//	top     how often each came. Up to 256 values; of more those with the smallest hashes are counted, so that which ones
//	        does not depend on the order of events
//	recent  when each came last; the latest 50 stay
//	union   the first 100 in the order of the texts stay
type list []listed

type listed struct {
	text  string
	count uint64 // top
	at    int64  // recent: Unix milliseconds
}

const (
	maxTop    = 256
	maxRecent = 50
	maxUnion  = 100
	// maxListValues bounds what one event can bring to an attribute.
	maxListValues = 100
)

// only keeps what the operation keeps.
func (x listed) only(o op) listed {
	if o != opTop {
		x.count = 0
	}
	if o != opRecent {
		x.at = 0
	}
	return x
}

func (l list) find(text string) (int, bool) {
	return slices.BinarySearchFunc(l, text, func(x listed, text string) int { return strings.Compare(x.text, text) })
}

// add adds what an event, or another list, says of a value.
func (l list) add(o op, x listed) list {
	i, found := l.find(x.text)
	if found {
		l[i].count += x.count
		l[i].at = max(l[i].at, x.at)
		return l
	}
	limit, last := maxUnion, byText
	switch o {
	case opTop:
		limit, last = maxTop, byHash
	case opRecent:
		limit, last = maxRecent, byTime
	}
	l = insert(l, i, x)
	if len(l) <= limit {
		return l
	}
	worst := 0
	for k := range l {
		if last(l[k], l[worst]) > 0 {
			worst = k
		}
	}
	return slices.Delete(l, worst, worst+1)
}

func byText(a, b listed) int { return strings.Compare(a.text, b.text) }

func byHash(a, b listed) int {
	return cmp.Or(cmp.Compare(xxhash.Sum64String(a.text), xxhash.Sum64String(b.text)), byText(a, b))
}

// byTime puts the latest first, byCount the most frequent.
func byTime(a, b listed) int { return cmp.Or(cmp.Compare(b.at, a.at), byText(a, b)) }

func byCount(a, b listed) int { return cmp.Or(cmp.Compare(b.count, a.count), byText(a, b)) }

// shown is what others see, in its order: at most n of top and recent.
func (l list) shown(o op, n int) list {
	if o != opUnion {
		order := byCount
		if o == opRecent {
			order = byTime
		}
		l = slices.Clone(l)
		slices.SortFunc(l, order)
		l = l[:min(n, len(l))]
	}
	return l
}

func (l list) texts() []string {
	texts := make([]string, len(l))
	for i := range l {
		texts[i] = l[i].text
	}
	return texts
}

func (l *list) absorb(o op, c content) {
	for _, x := range *c.(*list) {
		*l = l.add(o, x)
	}
}

func (l *list) clone() content {
	c := slices.Clone(*l)
	return &c
}

func (l list) size() int {
	n := 24
	for i := range l {
		n += 40 + len(l[i].text)
	}
	return n
}

// Layout: uvarint number; each: string text, then top: uvarint count · recent: varint Unix milliseconds.
func (l list) encode(dst []byte, o op) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(l)))
	for i := range l {
		dst = appendString(dst, l[i].text)
		switch o {
		case opTop:
			dst = binary.AppendUvarint(dst, l[i].count)
		case opRecent:
			dst = binary.AppendVarint(dst, l[i].at)
		}
	}
	return dst
}

func (r *reader) list(o op) *list {
	n := r.uvarint()
	if n > uint64(len(r.s)) {
		r.bad, r.s = true, ""
		return nil
	}
	l := make(list, n)
	for i := range l {
		l[i].text = r.string()
		switch o {
		case opTop:
			l[i].count = r.uvarint()
		case opRecent:
			l[i].at = r.varint()
		}
	}
	return &l
}

// listChange is stage.change for top, recent and union: a part of the delta for each value.
func (s *stage) listChange(b []byte, a *attribute, old, seen *aggregate, at stamp) (_ []byte, changes bool, _ *pipeline.RejectError) {
	texts, rej := a.texts(s.result(a))
	if rej != nil || len(texts) == 0 {
		return b, false, rej
	}
	var own, before list
	if old != nil {
		own = *old.values()
	}
	if seen != nil {
		before = *seen.values()
	}
	after := slices.Clone(before)
	for _, text := range texts {
		after = after.add(a.op, listed{text, 1, at.ms})
		if i, found := own.find(text); found && (a.op == opUnion || a.op == opRecent && own[i].at >= at.ms) {
			continue // nothing new
		}
		b = appendString(a.header(b), text)
	}
	return b, !slices.Equal(before.shown(a.op, a.n).texts(), after.shown(a.op, a.n).texts()), nil
}

// texts are the values of the event, without repeats: a text, a number, true or false, or each of those in a list.
func (a *attribute) texts(result gjson.Result) ([]string, *pipeline.RejectError) {
	values := []gjson.Result{result}
	if result.IsArray() {
		values = result.Array()
	}
	if len(values) > maxListValues {
		return nil, pipeline.Reject("traits_limit", "%s of attribute %s has %d entries, the limit is %d", a.path, a.name, len(values), maxListValues)
	}
	var texts []string
	for _, v := range values {
		text := textOf(v)
		if v.Type == gjson.Null || v.Type == gjson.JSON || text == "" || slices.Contains(texts, text) {
			continue
		}
		if len(text) > maxNameBytes {
			return nil, pipeline.Reject("traits_limit", "%s of attribute %s has a value of %d bytes, the limit is %d", a.path, a.name, len(text), maxNameBytes)
		}
		texts = append(texts, text)
	}
	return texts, nil
}
