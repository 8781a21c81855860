package profile

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// Config of the stage: the attributes that are kept besides traits and identifiers, by name. A name is a word of small
// letters, digits and underscores that starts with a letter, at most 64 long.
type Config map[string]Attribute

// Attribute is one aggregate over the events of a person: exactly one of the first twelve keys, and conditions.
//
// Paths are those of pipeline.ParsePath: properties.x, traits.x, context.x or a field such as timestamp. A value that is
// absent or null says nothing, and counts nowhere; null under traits deletes in `latest`.
type Attribute struct {
	Count  string `yaml:"count,omitempty"`  // "events": how many there were
	Sum    string `yaml:"sum,omitempty"`    // path of a number: exact in millionths; texts such as "12.50" count as numbers
	Avg    string `yaml:"avg,omitempty"`    // path of a number: sum by count
	Min    string `yaml:"min,omitempty"`    // path of a number or time: the smallest
	Max    string `yaml:"max,omitempty"`    // path of a number or time: the largest
	First  string `yaml:"first,omitempty"`  // path: the value of the earliest event
	Latest string `yaml:"latest,omitempty"` // path: the value of the latest event
	Unique string `yaml:"unique,omitempty"` // path: how many different values, exact up to 1,000, then within 2 %
	Top    string `yaml:"top,omitempty"`    // path: the most frequent values
	Recent string `yaml:"recent,omitempty"` // path: the different values of the latest events, latest first
	Union  string `yaml:"union,omitempty"`  // path: all values there ever were, up to 100
	// Sessions is how many stretches of events there were; two events further apart than this are in two of them.
	Sessions pipeline.Duration `yaml:"sessions,omitempty"`

	N     int               `yaml:"n,omitempty"`     // top, recent: how many values, 5 unless set, at most 50
	Over  pipeline.Duration `yaml:"over,omitempty"`  // count, sum, avg, min, max, unique: only events of the last so long
	Event string            `yaml:"event,omitempty"` // only track events of that name
	Where string            `yaml:"where,omitempty"` // only events for which this expression over the event is true
}

// op is what an attribute does. The numbers are stored and never change meaning.
type op byte

const (
	opCount   op = 1
	opSum     op = 2
	opAvg     op = 3
	opMin     op = 4
	opMax     op = 5
	opMinTime op = 6
	opMaxTime op = 7
	opFirst   op = 8
	opLatest  op = 9
	opUnique  op = 10

	opSequence op = 11 // what only other stages ask for
	opTop      op = 12
	opRecent   op = 13
	opUnion    op = 14
	opSessions op = 15

	// opOver is added to the number of one that looks at a sliding window.
	opOver op = 32
)

// plain is the operation without its window.
func (o op) plain() op { return o &^ opOver }

func (o op) isWindow() bool {
	p := o.plain()
	return o != p && p >= opCount && p <= opUnique && p != opFirst && p != opLatest
}

// maxUnique bounds the attributes of kind unique: each may take 8 KiB of every profile.
const maxUnique = 32

// plan is the compiled configuration, shared by all partitions.
type plan struct {
	attributes []attribute              // the declared ones in the order of their names, then the hidden ones
	declared   int                      // how many are declared
	byName     map[string]int           // index in attributes
	byEvent    map[string][]*attribute  // what to look at for track events of that name
	always     []*attribute             // what to look at for all others
	paths      map[string]pipeline.Path // by name, for conditions
	reads      []pipeline.Path          // the different paths of attributes
	windows    []int                    // the attributes with over
}

// attribute is one compiled Attribute.
type attribute struct {
	name   string
	key    string // of the content in a state: the name, with the length of the window, so that another length starts from nothing
	index  int    // in pipeline.AttributeSet
	over   int64  // milliseconds; 0: all events
	op     op
	path   pipeline.Path // unless op is opCount
	read   int           // index of path in plan.reads
	traits bool          // path begins with traits
	time   bool          // path is timestamp or received_at
	event  string
	where  *expression.Program // nil: always

	hidden   bool     // not in documents
	steps    []string // opSequence: names of events
	within   int64    // opSequence, opSessions: milliseconds
	n        int      // opTop, opRecent: how many values are seen
	halfLife int64    // opDecayed: milliseconds
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

func build(config any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	c := *config.(*Config)
	p := &plan{byName: map[string]int{}, byEvent: map[string][]*attribute{}, paths: map[string]pipeline.Path{}}
	var problems []pipeline.Problem
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	uniques := 0
	for _, name := range names {
		a, wrong := p.compile(name, c[name])
		if a.op == opUnique {
			uniques++
		}
		if len(wrong) == 0 {
			index, err := env.Declare(name, a.valueType())
			if err != nil {
				wrong = append(wrong, pipeline.Problemf([]string{name}, "%s", err))
			}
			a.index = index
		}
		problems = append(problems, wrong...)
		if a.over > 0 {
			p.windows = append(p.windows, len(p.attributes))
		}
		p.byName[name] = len(p.attributes)
		p.attributes = append(p.attributes, a)
	}
	if uniques > maxUnique {
		problems = append(problems, pipeline.Problemf(nil, "%d attributes of kind unique, the limit is %d", uniques, maxUnique))
	}
	if len(p.windows) > maxWindows {
		problems = append(problems, pipeline.Problemf(nil, "%d attributes with over, the limit is %d", len(p.windows), maxWindows))
	}
	if problems != nil {
		return nil, problems
	}
	p.declared = len(p.attributes)
	env.Nobody = &view{plan: p, state: newState().(*state)}
	var once sync.Once // partitions start at the same time
	return func() pipeline.Stage {
		once.Do(func() {
			for i := range env.Hidden {
				p.hide(&env.Hidden[i])
			}
			p.group()
		})
		return newStage(p)
	}, nil
}

// hide adds an aggregate that another stage requires.
func (p *plan) hide(h *pipeline.Hidden) {
	a := attribute{name: h.Name, key: h.Name, index: h.Index, hidden: true}
	switch {
	case h.Past != pipeline.Past{}:
		p.remember(&a, h.Past)
	case len(h.Events) == 1:
		a.op, a.event = opMaxTime, h.Events[0]
	default:
		a.op, a.steps, a.within = opSequence, h.Events, h.Within.Milliseconds()
	}
	p.byName[h.Name] = len(p.attributes)
	p.attributes = append(p.attributes, a)
}

// compile checks one attribute and reports everything that is wrong with it.
func (p *plan) compile(name string, c Attribute) (a attribute, problems []pipeline.Problem) {
	a = attribute{name: name, key: name, event: c.Event}
	problem := func(key, format string, args ...any) {
		path := []string{name}
		if key != "" {
			path = append(path, key)
		}
		problems = append(problems, pipeline.Problemf(path, format, args...))
	}
	if !validName.MatchString(name) {
		problem("", "%q is not a name: use small letters, digits and underscores, a letter first, at most 64", name)
	} else if _, err := expression.Compile(name, expression.Scope{Names: map[string]pipeline.AttributeType{name: pipeline.Any}}); err != nil || reserved(name) {
		problem("", "%q is a word of the expression language: choose another name", name)
	}
	kinds := c.kinds()
	if len(kinds) != 1 {
		problem("", "needs exactly one of count, sum, avg, min, max, first, latest, unique, top, recent, union, sessions, it has %d", len(kinds))
		return a, problems
	}
	kind := kinds[0]
	a.op = kind.op
	if kind.op == opSessions {
		a.within, a.key = time.Duration(c.Sessions).Milliseconds(), name+" gap "+c.Sessions.String()
	} else if kind.op == opCount {
		if kind.path != "events" {
			problem("count", "counts events: write count: events, and say which with event and where")
		}
	} else if path, err := pipeline.ParsePath(kind.path); err != nil {
		problem(kind.key, "%s", err)
	} else {
		a.path, a.traits = path, strings.HasPrefix(kind.path, "traits.")
		if a.read = slices.Index(p.reads, path); a.read < 0 {
			a.read = len(p.reads)
			p.reads = append(p.reads, path)
		}
		a.time = kind.path == "timestamp" || kind.path == "received_at"
	}
	if a.time {
		switch a.op {
		case opMin:
			a.op = opMinTime
		case opMax:
			a.op = opMaxTime
		case opSum, opAvg, opUnique, opTop, opRecent, opUnion:
			problem(kind.key, "%s is a time: use min, max, first or latest", kind.path)
		}
	}
	if a.n = c.N; c.N != 0 && a.op != opTop && a.op != opRecent {
		problem("n", "goes with top and recent, not with %s", kind.key)
	} else if c.N < 0 || c.N > maxRecent {
		problem("n", "is %d, it must be 1 to %d", c.N, maxRecent)
	} else if c.N == 0 {
		a.n = 5
	}
	if c.Over > 0 {
		switch a.op {
		case opFirst, opLatest, opTop, opRecent, opUnion, opSessions:
			problem("over", "goes with count, sum, avg, min, max and unique, not with %s", kind.key)
		}
		a.op, a.over, a.key = a.op|opOver, time.Duration(c.Over).Milliseconds(), name+" over "+c.Over.String()
		if a.over < 1000 {
			problem("over", "%s is too short: a window has at least 1s", c.Over)
		}
	}
	if c.Where != "" {
		var err error
		if a.where, err = p.where(c.Where); err != nil {
			problem("where", "%s", err)
			if e := (*expression.Error)(nil); errors.As(err, &e) {
				last := &problems[len(problems)-1]
				last.Column, last.Message = e.Column, e.Message
			}
		}
	}
	return a, problems
}

// kind is one of the twelve keys that is set.
type kind struct {
	key, path string
	op        op
}

func (c Attribute) kinds() (set []kind) {
	for _, k := range []kind{
		{"count", c.Count, opCount}, {"sum", c.Sum, opSum}, {"avg", c.Avg, opAvg}, {"min", c.Min, opMin}, {"max", c.Max, opMax},
		{"first", c.First, opFirst}, {"latest", c.Latest, opLatest}, {"unique", c.Unique, opUnique}, {"top", c.Top, opTop},
		{"recent", c.Recent, opRecent}, {"union", c.Union, opUnion},
	} {
		if k.path != "" {
			set = append(set, k)
		}
	}
	if c.Sessions != 0 {
		set = append(set, kind{key: "sessions", op: opSessions})
	}
	return set
}

// where compiles a condition over an event, and notes the paths that it reads.
func (p *plan) where(source string) (*expression.Program, error) {
	program, err := expression.CompileBool(source, expression.Scope{
		Names: map[string]pipeline.AttributeType{
			"type": pipeline.Text, "event": pipeline.Text, "source": pipeline.Text, "user_id": pipeline.Text, "anonymous_id": pipeline.Text,
			"message_id": pipeline.Text, "timestamp": pipeline.Time, "received_at": pipeline.Time,
		},
		Roots: []string{"properties", "traits", "context"},
	})
	if err != nil {
		return nil, err
	}
	for _, name := range program.Names() {
		path, err := pipeline.ParsePath(name)
		if err != nil {
			return nil, err
		}
		p.paths[name] = path
	}
	return program, nil
}

// reserved words are those that expressions over profiles or sinks use for something else.
func reserved(name string) bool {
	switch name {
	case "traits", "properties", "context", "type", "event", "source", "timestamp", "received_at", "user_id", "anonymous_id", "message_id",
		"profile_id", "primary_id", "segments", "scores", "identifiers", "aggregates", "now", "days_since",
		"entered", "exited", "changed", "created", "merged", "coalesce":
		return true
	}
	return false
}

// group makes the lists that Process walks. Only what an event can change is looked at.
func (p *plan) group() {
	for i := range p.attributes {
		for _, e := range p.attributes[i].events() {
			p.byEvent[e] = nil
		}
	}
	for i := range p.attributes {
		a := &p.attributes[i]
		events := a.events()
		if events == nil {
			p.always = append(p.always, a)
		}
		for e := range p.byEvent {
			if events == nil || slices.Contains(events, e) {
				p.byEvent[e] = append(p.byEvent[e], a)
			}
		}
	}
}

// events are the names of the track events that the attribute looks at; nil: all events.
func (a *attribute) events() []string {
	if a.event != "" {
		return []string{a.event}
	}
	return a.steps
}

// concerned returns the attributes whose event condition the event meets.
func (p *plan) concerned(ev *pipeline.Event) []*attribute {
	if ev.Type == pipeline.TypeTrack {
		if list, ok := p.byEvent[ev.Name]; ok {
			return list
		}
	}
	return p.always
}

// counts tells whether the value of no events is zero, not absent.
func (o op) counts() bool { return o == opCount || o == opSum || o == opUnique || o == opSessions }

// valueType is the type in expressions.
func (a *attribute) valueType() pipeline.AttributeType {
	switch a.op.plain() {
	case opMinTime, opMaxTime:
		return pipeline.Time
	case opFirst, opLatest:
		switch {
		case a.time:
			return pipeline.Time
		case !strings.Contains(a.path.String(), "."):
			return pipeline.Text
		}
		return pipeline.Any
	case opTop, opRecent, opUnion:
		return expression.List
	}
	return pipeline.Number
}
