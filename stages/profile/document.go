package profile

import (
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// view is a profile as the stages after this one and the receivers see it.
type view struct {
	plan     *plan
	state    *state
	now      int64         // Unix milliseconds
	previous []pipeline.ID // the other ids of the person that have been profiles, or could have been
}

var _ pipeline.ProfileState = (*view)(nil)

// Value returns the value of a declared attribute, or of traits.x; parts of nested traits are traits.x.y.
func (v *view) Value(name string) any {
	if key, ok := strings.CutPrefix(name, "traits."); ok {
		return v.trait(key)
	}
	i, ok := v.plan.byName[name]
	if !ok {
		return nil
	}
	a := v.aggregate(i, i)
	if p := a.past(); p != nil {
		return p.value(&v.plan.attributes[i])
	}
	if a == nil && v.plan.attributes[i].op.plain().counts() {
		return 0.0 // of nothing: somebody who has never bought has 0 orders
	}
	return a.any()
}

// aggregate is the content of an attribute now, nil if there is none; guess is where it may stand in the state.
func (v *view) aggregate(attribute, guess int) *aggregate {
	a := &v.plan.attributes[attribute]
	x := a.of(v.state, guess).in(v.now)
	if l := x.values(); l != nil {
		shown := l.shown(x.op, a.n)
		x = &aggregate{op: x.op, content: &shown}
	}
	return x
}

// of finds the content of an attribute in a state, nil if there is none.
func (a *attribute) of(st *state, guess int) *aggregate {
	if i, ok := st.findAggregate(a.key, a.op, guess); ok {
		return &st.aggregates[i]
	}
	return nil
}

// trait finds a trait by its path: a key that contains a dot is in quotes, as in pipeline.Path.
func (v *view) trait(path string) any {
	if t := v.state.trait(path); t != nil { // the usual case, and keys with dots
		return t.value.any()
	}
	key, rest := cutKey(path)
	t := v.state.trait(key)
	switch {
	case t == nil:
		return nil
	case rest == "":
		return t.value.any()
	case t.value.kind != kindJSON:
		return nil
	}
	r := gjson.Parse(t.value.text)
	for rest != "" {
		key, rest = cutKey(rest)
		r = member(r, key)
	}
	return fromJSON(r)
}

// cutKey takes the first key off a path.
func cutKey(path string) (key, rest string) {
	if strings.HasPrefix(path, `"`) {
		if end := strings.IndexByte(path[1:], '"'); end >= 0 {
			return path[1 : 1+end], strings.TrimPrefix(path[2+end:], ".")
		}
	}
	key, rest, _ = strings.Cut(path, ".")
	return key, rest
}

// member is the value under a key, the first of duplicates; the key is taken as it is, without gjson's path syntax.
func member(r gjson.Result, key string) (found gjson.Result) {
	r.ForEach(func(k, v gjson.Result) bool {
		if k.Str == key {
			found = v
			return false
		}
		return true
	})
	return found
}

// AppendDocument appends the profile as receivers see it. Keys are sorted, so equal profiles are equal bytes.
func (v *view) AppendDocument(dst []byte, p *pipeline.Profile) []byte {
	dst = append(dst, `{"profile_id":"`...)
	dst = pipeline.AppendID(dst, p.ID)
	dst = append(dst, `","previous_ids":[`...)
	for i, id := range v.previous {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(pipeline.AppendID(append(dst, '"'), id), '"')
	}
	dst = append(dst, `],"identifiers":{`...)
	dst = v.appendIdentifiers(dst)
	dst = append(dst, `},"traits":{`...)
	dst = v.appendTraits(dst)
	dst = append(dst, `},"aggregates":{`...)
	first, next := true, 0
	for i := range v.plan.declared {
		x := v.aggregate(i, next)
		if x != nil {
			next++
		}
		if x != nil && x.isNumber() {
			dst = appendKey(dst, v.plan.attributes[i].name, &first)
			dst = x.appendJSON(dst)
		}
	}
	dst = append(dst, `},"segments":[`...)
	for i, s := range p.Segments {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = pipeline.AppendJSONString(dst, s)
	}
	dst = append(dst, `],"scores":{`...)
	dst = appendScores(dst, p.Scores)
	dst = append(dst, `},"first_seen":"`...)
	var earliest, latest int64 // a profile without events: 1970
	if !v.state.empty() {
		earliest, latest = v.state.first, v.state.last
	}
	dst = pipeline.AppendTime(dst, pipeline.Millis(earliest))
	dst = append(dst, `","last_seen":"`...)
	dst = pipeline.AppendTime(dst, pipeline.Millis(latest))
	return append(dst, `"}`...)
}

func (v *view) appendIdentifiers(dst []byte) []byte {
	for i := range v.state.identifiers {
		x := &v.state.identifiers[i]
		switch {
		case i == 0:
			dst = append(pipeline.AppendJSONString(dst, x.typ), `:[`...)
		case v.state.identifiers[i-1].typ != x.typ:
			dst = append(dst, `],`...)
			dst = append(pipeline.AppendJSONString(dst, x.typ), `:[`...)
		default:
			dst = append(dst, ',')
		}
		dst = pipeline.AppendJSONString(dst, x.value)
	}
	if len(v.state.identifiers) > 0 {
		dst = append(dst, ']')
	}
	return dst
}

// appendTraits appends the traits and the declared texts and lists, both sorted by name; of two with one name the declared one counts.
func (v *view) appendTraits(dst []byte) []byte {
	first := true
	next := 0 // attribute
	text := func(i int) *aggregate {
		if x := v.aggregate(i, i); x != nil && !x.isNumber() && (x.content != nil || x.stamped.value.kind != kindNone) {
			return x
		}
		return nil
	}
	for i := range v.state.traits {
		t := &v.state.traits[i]
		shadowed := false
		for ; next < v.plan.declared && v.plan.attributes[next].name <= t.name; next++ {
			if x := text(next); x != nil {
				name := v.plan.attributes[next].name
				shadowed = name == t.name
				dst = x.appendJSON(appendKey(dst, name, &first))
			}
		}
		if !shadowed && t.value.kind != kindNone {
			dst = t.value.appendJSON(appendKey(dst, t.name, &first))
		}
	}
	for ; next < v.plan.declared; next++ {
		if x := text(next); x != nil {
			dst = x.appendJSON(appendKey(dst, v.plan.attributes[next].name, &first))
		}
	}
	return dst
}

func appendScores(dst []byte, scores map[string]float64) []byte {
	names := make([]string, 0, len(scores))
	for name := range scores {
		names = append(names, name)
	}
	slices.Sort(names)
	first := true
	for _, name := range names {
		dst = appendFloat(appendKey(dst, name, &first), scores[name])
	}
	return dst
}

func appendKey(dst []byte, key string, first *bool) []byte {
	if !*first {
		dst = append(dst, ',')
	}
	*first = false
	return append(pipeline.AppendJSONString(dst, key), ':')
}
