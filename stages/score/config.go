package score

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
	"github.com/millstream-io/millstream/stages/score/clv"
)

// Config of the stage: scores by name. A name is a word of small letters, digits and underscores that starts with a letter, at
// most 64 long.
type Config map[string]Score

// Score is one score: exactly one of the first five keys, what that needs, and the rules by which the world is told.
type Score struct {
	Points     map[string]float64 `yaml:"points,omitempty" json:",omitempty"`     // points by the name of a track event
	RFM        *RFM               `yaml:"rfm,omitempty" json:",omitempty"`        // recency, frequency, money
	GammaGamma *clv.GammaGamma    `yaml:"gammagamma,omitempty" json:",omitempty"` // value of the time to come; needs bgnbd, too
	BGNBD      *BGNBD             `yaml:"bgnbd,omitempty" json:",omitempty"`      // alone: the probability to be a customer still
	Expr       string             `yaml:"expr,omitempty" json:",omitempty"`       // number of an expression over the profile

	HalfLife pipeline.Duration `yaml:"half_life,omitempty" json:",omitempty"` // of points
	Event    string            `yaml:"event,omitempty" json:",omitempty"`     // track event that is a purchase
	Revenue  string            `yaml:"revenue,omitempty" json:",omitempty"`   // path of what a purchase is worth
	Horizon  pipeline.Duration `yaml:"horizon,omitempty" json:",omitempty"`   // of gammagamma
	Eligible string            `yaml:"eligible,omitempty" json:",omitempty"`  // condition over the profile; others have no score

	MinDelta float64   `yaml:"min_delta,omitempty" json:"-"` // tell when it has changed by so much
	Cross    []float64 `yaml:"cross,omitempty" json:"-"`     // tell when it passes one of these
}

// RFM are the cut-offs between classes, ascending, at most eight of each. The score has a digit for each of them that is set, in
// this order: the number of the class, of which the best is one more than there are cut-offs, the worst 1.
type RFM struct {
	Recency   []pipeline.Duration `yaml:"recency,omitempty"`   // time since the last purchase; the shortest is the best
	Frequency []float64           `yaml:"frequency,omitempty"` // purchases
	Monetary  []float64           `yaml:"monetary,omitempty"`  // revenue of all of them
}

// BGNBD are the parameters of the model, and the unit of its times.
type BGNBD struct {
	R     float64 `yaml:"r"`
	Alpha float64 `yaml:"alpha"`
	A     float64 `yaml:"a"`
	B     float64 `yaml:"b"`
	Unit  string  `yaml:"unit,omitempty"` // day, or week, which is the default
}

func (m *BGNBD) model() clv.BGNBD { return clv.BGNBD{R: m.R, Alpha: m.Alpha, A: m.A, B: m.B} }

func (m *BGNBD) unit() (time.Duration, bool) {
	switch m.Unit {
	case "day":
		return 24 * time.Hour, true
	case "", "week":
		return 7 * 24 * time.Hour, true
	}
	return 0, false
}

// Limits of one pipeline and of one score.
const (
	maxScores     = 64
	maxPoints     = 32
	maxCross      = 32
	maxPointValue = 1e9
)

// plan is the compiled configuration, shared by all partitions.
type plan struct {
	scores []definition // in the order of their names
	byName map[string]int
	once   sync.Once
}

// definition is one compiled score.
type definition struct {
	name     string
	version  uint32 // hash of the definition: another one is another version
	index    int    // as an attribute
	model    model
	eligible *expression.Program   // nil: everybody is
	clocks   []*expression.Program // those that time alone can change
	reads    pipeline.AttributeSet // what it is made of
	// readsSegments says that it is made of segments, too, of which nothing tells whether they changed.
	readsSegments bool
	cross         []float64 // ascending
	minDelta      float64
	always        bool // no rule: tell every change that an event makes

	// Known when all stages and sinks are built.
	deltas     []float64 // ascending
	thresholds []float64 // cross, and where segments begin or end; ascending
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

func build(config any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	c := *config.(*Config)
	p := &plan{byName: map[string]int{}}
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	var problems []pipeline.Problem
	if len(names) > maxScores {
		problems = append(problems, pipeline.Problemf(nil, "%d scores, the limit is %d", len(names), maxScores))
	}
	b := builder{env: env, scope: scope(env)} // scores do not read each other
	for _, name := range names {
		b.name, b.problems = name, nil
		d := b.compile(c[name])
		problems = append(problems, b.problems...)
		p.byName[name] = len(p.scores)
		p.scores = append(p.scores, d)
	}
	env.Scores = append(env.Scores, names...)
	if problems != nil {
		return nil, problems
	}
	return func() pipeline.Stage {
		p.once.Do(func() { p.complete(env) })
		return &stage{plan: p}
	}, nil
}

// complete takes what segments and sinks want to know. It is called once, when all of them are built.
func (p *plan) complete(env *pipeline.Env) {
	for i := range p.scores {
		d := &p.scores[i]
		d.deltas = slices.Clone(env.Deltas[d.name])
		if d.minDelta > 0 {
			d.deltas = append(d.deltas, d.minDelta)
		}
		slices.Sort(d.deltas)
		d.deltas = slices.Compact(d.deltas)
		d.thresholds = append(slices.Clone(d.cross), env.Watched[d.name]...)
		slices.Sort(d.thresholds)
		d.thresholds = slices.Compact(d.thresholds)
	}
}

// scope is what expressions of scores may read: attributes and traits, and segments if their stage stands before this one.
func scope(env *pipeline.Env) expression.Scope {
	s := expression.Scope{Names: map[string]pipeline.AttributeType{}, Roots: []string{"traits"}, Clock: true}
	for _, a := range env.Attributes {
		s.Names[a.Name] = a.Type
	}
	if len(env.Segments) > 0 {
		s.Names[segments] = expression.List
	}
	return s
}

const segments = "segments"

// builder compiles one score after the other.
type builder struct {
	env      *pipeline.Env
	scope    expression.Scope
	name     string
	problems []pipeline.Problem
}

func (b *builder) problem(key, format string, args ...any) {
	path := []string{b.name}
	if key != "" {
		path = append(path, strings.Split(key, "/")...)
	}
	b.problems = append(b.problems, pipeline.Problemf(path, format, args...))
}

func (b *builder) compile(c Score) definition {
	d := definition{name: b.name, version: versionOf(c), cross: slices.Clone(c.Cross), minDelta: c.MinDelta, always: c.MinDelta == 0 && len(c.Cross) == 0}
	if !validName.MatchString(b.name) {
		b.problem("", "%q is not a name: use small letters, digits and underscores, a letter first, at most 64", b.name)
	}
	b.rules(c)
	slices.Sort(d.cross)
	d.cross = slices.Compact(d.cross)
	if c.Eligible != "" {
		d.eligible = b.expression("eligible", c.Eligible, &d, expression.CompileBool)
	}
	d.model = b.model(c, &d)
	if len(b.problems) > 0 {
		return d
	}
	index, err := b.env.Declare(b.name, pipeline.Number)
	if err != nil {
		b.problem("", "%s", err)
	}
	d.index = index
	return d
}

func (b *builder) rules(c Score) {
	if c.MinDelta < 0 {
		b.problem("min_delta", "min_delta is %g, it must be above 0", c.MinDelta)
	}
	if len(c.Cross) > maxCross {
		b.problem("cross", "%d thresholds, the limit is %d", len(c.Cross), maxCross)
	}
}

// model makes the model, and checks that it has the keys that it needs and no others.
func (b *builder) model(c Score, d *definition) model {
	kinds := c.kinds()
	if len(kinds) != 1 {
		b.problem("", "needs exactly one of points, rfm, bgnbd, gammagamma (with bgnbd), expr, it has %d", len(kinds))
		return nil
	}
	kind := kinds[0]
	for _, k := range []struct {
		key         string
		set, needed bool
		of          []string
	}{
		{"half_life", c.HalfLife > 0, true, []string{"points"}},
		{"event", c.Event != "", true, []string{"rfm", "bgnbd", "gammagamma"}},
		{"revenue", c.Revenue != "", kind == "gammagamma" || kind == "rfm" && len(c.RFM.Monetary) > 0, []string{"rfm", "gammagamma"}},
		{"horizon", c.Horizon > 0, true, []string{"gammagamma"}},
	} {
		switch belongs := slices.Contains(k.of, kind); {
		case k.set && !belongs:
			b.problem(k.key, "%s belongs to %s, not to %s", k.key, strings.Join(k.of, ", "), kind)
		case belongs && k.needed && !k.set:
			b.problem(kind, "%s needs %s", kind, k.key)
		}
	}
	if c.Revenue != "" {
		if _, err := pipeline.ParsePath(c.Revenue); err != nil {
			b.problem("revenue", "%s", err)
		}
	}
	switch kind {
	case "points":
		return b.points(c, d)
	case "expr":
		return b.formula(c, d)
	case "rfm":
		return b.rfm(c, d)
	}
	return b.lifetime(c, d)
}

func (c Score) kinds() (set []string) {
	for _, k := range []struct {
		key string
		set bool
	}{{"points", c.Points != nil}, {"rfm", c.RFM != nil}, {"gammagamma", c.GammaGamma != nil}, {"bgnbd", c.BGNBD != nil && c.GammaGamma == nil}, {"expr", c.Expr != ""}} {
		if k.set {
			set = append(set, k.key)
		}
	}
	return set
}

func (b *builder) points(c Score, d *definition) model {
	m := &points{}
	if len(c.Points) == 0 || len(c.Points) > maxPoints {
		b.problem("points", "points of %d events, it must be 1 … %d", len(c.Points), maxPoints)
	}
	if h := time.Duration(c.HalfLife); c.HalfLife > 0 && (h < time.Minute || h > 10*365*24*time.Hour) {
		b.problem("half_life", "half_life is %s, it must be 1m … 3650d", c.HalfLife)
	}
	for event, weight := range c.Points {
		if event == "" || weight == 0 || math.Abs(weight) > maxPointValue {
			b.problem("points/"+event, "%g points for %q: name an event, and write a number other than 0, at most %g", weight, event, maxPointValue)
		}
		m.events = append(m.events, pointed{event: event, weight: weight, past: b.require(pipeline.Past{Event: event, HalfLife: time.Duration(c.HalfLife)}, d)})
	}
	slices.SortFunc(m.events, func(a, b pointed) int { return strings.Compare(a.event, b.event) })
	return m
}

// require asks for a part of the past, and returns its name.
func (b *builder) require(p pipeline.Past, d *definition) string {
	a, err := b.env.RequirePast(p)
	if err != nil {
		b.problem("", "%s", err)
		return ""
	}
	d.reads.Add(a.Index)
	return a.Name
}

func (b *builder) purchases(c Score, d *definition) string {
	if c.Event == "" {
		return ""
	}
	return b.require(pipeline.Past{Event: c.Event, Revenue: c.Revenue}, d)
}

func (b *builder) rfm(c Score, d *definition) model {
	m := &rfm{past: b.purchases(c, d), frequency: c.RFM.Frequency, monetary: c.RFM.Monetary}
	recency := []float64{}
	for _, r := range c.RFM.Recency {
		m.recency = append(m.recency, time.Duration(r))
		recency = append(recency, float64(r))
	}
	for key, cuts := range map[string][]float64{"rfm/recency": recency, "rfm/frequency": m.frequency, "rfm/monetary": m.monetary} {
		if len(cuts) > 8 || slices.ContainsFunc(cuts, func(v float64) bool { return v < 0 }) {
			b.problem(key, "cut-offs are at most 8 numbers, 0 or more")
		}
		for i := range cuts {
			if i > 0 && cuts[i] <= cuts[i-1] {
				b.problem(key, "cut-offs must ascend")
				break
			}
		}
	}
	if len(m.recency)+len(m.frequency)+len(m.monetary) == 0 {
		b.problem("rfm", "rfm needs the cut-offs of recency, frequency or monetary")
	}
	if c.Revenue != "" && len(m.monetary) == 0 {
		b.problem("revenue", "revenue is not used without cut-offs of monetary")
	}
	slices.SortStableFunc(b.problems, func(a, b pipeline.Problem) int {
		return strings.Compare(strings.Join(a.Path, "/"), strings.Join(b.Path, "/"))
	})
	return m
}

func (b *builder) lifetime(c Score, d *definition) model {
	if c.BGNBD == nil {
		b.problem("gammagamma", "gammagamma says what a purchase is worth; how many will come needs bgnbd, too")
		return nil
	}
	unit, ok := c.BGNBD.unit()
	if !ok {
		b.problem("bgnbd/unit", "the unit is %q: write day or week", c.BGNBD.Unit)
	}
	if err := c.BGNBD.model().Valid(); err != nil {
		b.problem("bgnbd", "%s: take them from `millstream score fit`", err)
	}
	l := lifetime{past: b.purchases(c, d), model: c.BGNBD.model(), unit: unit}
	if c.GammaGamma == nil {
		return &alive{l}
	}
	if err := c.GammaGamma.Valid(); err != nil {
		b.problem("gammagamma", "%s: take them from `millstream score fit`", err)
	}
	return &worth{lifetime: l, money: *c.GammaGamma, horizon: time.Duration(c.Horizon)}
}

func (b *builder) formula(c Score, d *definition) model {
	m := &formula{program: b.expression("expr", c.Expr, d, expression.Compile)}
	if m.program == nil {
		return nil
	}
	if t := m.program.Type(); t != pipeline.Number && t != pipeline.Any {
		b.problem("expr", "the expression is not a number")
	}
	return m
}

// expression compiles an expression over the profile, and notes what it reads.
func (b *builder) expression(key, source string, d *definition, compile func(string, expression.Scope) (*expression.Program, error)) *expression.Program {
	program, err := compile(source, b.scope)
	if err != nil {
		b.problem(key, "%s", err)
		if e := (*expression.Error)(nil); errors.As(err, &e) {
			last := &b.problems[len(b.problems)-1]
			last.Column, last.Message = e.Column, e.Message
		}
		return nil
	}
	if program.UsesClock() {
		d.clocks = append(d.clocks, program)
	}
	for _, name := range program.Names() {
		if name == segments {
			d.readsSegments = true
		} else if strings.HasPrefix(name, "traits.") {
			d.reads.Add(pipeline.TraitsIndex)
		} else if a, ok := b.env.Attribute(name); ok {
			d.reads.Add(a.Index)
		}
	}
	return program
}

// versionOf is the version of a definition: the 32-bit FNV-1a hash of what decides its value. How the world is told is no part
// of it.
func versionOf(c Score) uint32 {
	text, err := json.Marshal(c)
	if err != nil { // numbers of a YAML are finite
		panic(fmt.Sprintf("encode a definition: %v", err))
	}
	h := fnv.New32a()
	h.Write(text)
	return h.Sum32()
}
