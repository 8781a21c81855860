package main

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages/profile"
)

// rule is what the YAML says of a declared attribute.
type rule struct {
	profile.Attribute
	text string // {count: events, event: Order Completed}
}

// rulesOf are the attributes declared under profile, by name.
func rulesOf(plan *pipeline.Plan) map[string]rule {
	rules := map[string]rule{}
	for _, stage := range plan.Profile {
		if c, ok := stage.Config.(*profile.Config); ok {
			for name, a := range *c {
				rules[name] = rule{a, written(a)}
			}
		}
	}
	return rules
}

// written is a part of the YAML in one line, the keys in the order of the reference.
func written(config any) string {
	var words []string
	v := reflect.ValueOf(config)
	for i := range v.NumField() {
		key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if f := v.Field(i); key != "-" && !f.IsZero() {
			words = append(words, fmt.Sprintf("%s: %v", key, f.Interface()))
		}
	}
	return "{" + strings.Join(words, ", ") + "}"
}

// Limits of provenance: the events that it reads, the latest ones first, and how many at once.
const (
	maxLooked = 10_000
	looked    = 1000
)

// told is one event of a person's timeline, for its contents.
type told struct {
	Raw        string    `ch:"raw"`
	Time       time.Time `ch:"time"`
	ReceivedAt time.Time `ch:"received_at"`
	Source     string    `ch:"source"`
	MessageID  string    `ch:"message_id"`
}

// provenance finds the event that set each trait: of the events that carry it the latest by their own time, as the stage profile
// decides; of a declared `first` the earliest. What many events make together (top, recent, union), what a condition under
// `where` chose and what only the context of a batch held has none.
func (l *lookup) provenance(ctx context.Context, id pipeline.ID, traits map[string]string, rules map[string]rule) (map[string]*setBy, error) {
	p := provenance{rules: rules, plain: map[string]bool{}, paths: map[string]pipeline.Path{}, latest: map[string]*setBy{}, earliest: map[string]*setBy{}}
	if err := p.want(traits); err != nil {
		return nil, err
	}
	complete := false
	for offset := 0; offset < maxLooked && !complete && !p.satisfied(); offset += looked {
		var events []told
		const query = `SELECT raw, time, received_at, source, message_id FROM person_timeline(person = ?)
ORDER BY time DESC, received_at DESC, topic_id, kafka_partition, kafka_offset DESC LIMIT ? OFFSET ?`
		if err := l.tables.Select(ctx, "read the events of the profile", &events, query, id.String(), looked, offset); err != nil {
			return nil, err
		}
		for i := range events {
			p.look(&events[i])
		}
		complete = len(events) < looked
	}
	if complete {
		maps.Copy(p.latest, p.earliest)
	}
	return p.latest, nil
}

// provenance is what has been found so far, going back in time.
type provenance struct {
	rules            map[string]rule
	plain            map[string]bool          // traits that are not declared, flattened with dots
	paths            map[string]pipeline.Path // of those declared under first and latest
	firsts           int                      // how many of these are first
	latest, earliest map[string]*setBy
}

// want notes what to look for.
func (p *provenance) want(traits map[string]string) error {
	for name := range traits {
		r, declared := p.rules[name]
		switch text := r.First + r.Latest; {
		case !declared:
			p.plain[name] = true
		case text != "" && r.Where == "":
			path, err := pipeline.ParsePath(text)
			if err != nil {
				return err
			}
			if p.paths[name] = path; r.First != "" {
				p.firsts++
			}
		}
	}
	return nil
}

// satisfied tells that older events have nothing to add.
func (p *provenance) satisfied() bool {
	return p.firsts == 0 && len(p.latest) == len(p.plain)+len(p.paths)
}

// look takes the next older event.
func (p *provenance) look(e *told) {
	ev := pipeline.Event{Raw: []byte(e.Raw), Source: e.Source, MessageID: e.MessageID, ReceivedAt: e.ReceivedAt, Time: e.Time}
	if ev.Check() != nil || ev.Scan() != nil {
		return // it was accepted once; what it says cannot be read any more
	}
	by := &setBy{At: e.Time.UTC(), Source: e.Source, MessageID: e.MessageID}
	for name, path := range p.paths {
		r := p.rules[name]
		switch carries := (r.Event == "" || ev.Type == pipeline.TypeTrack && ev.Name == r.Event) && path.Of(&ev) != nil; {
		case !carries:
		case r.First != "":
			p.earliest[name] = by // the last one that is looked at is the earliest
		case p.latest[name] == nil:
			p.latest[name] = by
		}
	}
	if ev.Type != pipeline.TypeGroup { // those are the group's, not the person's
		note(p.latest, p.plain, gjson.ParseBytes(ev.Traits), by)
	}
}

// note says which of the traits, whose names are flattened with dots, the object sets and no later event has set.
func note(found map[string]*setBy, plain map[string]bool, object gjson.Result, by *setBy) {
	if !object.IsObject() {
		return
	}
	object.ForEach(func(key, _ gjson.Result) bool {
		if plain[key.Str] && found[key.Str] == nil {
			found[key.Str] = by
		}
		for name := range plain {
			if strings.HasPrefix(name, key.Str+".") && found[name] == nil {
				found[name] = by
			}
		}
		return true
	})
}
