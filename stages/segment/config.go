package segment

import (
	"hash/fnv"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/expression"
)

// maxSegments bounds the segments of one pipeline; a profile that enters all of them is still one state value.
const maxSegments = 10_000

// plan is the compiled configuration, shared by all partitions.
type plan struct {
	segments     []definition // in the order of their names
	byName       map[string]int
	readers      []readers        // by attribute: segments that read it
	clocks       []int            // segments that time alone can change
	scored       []int            // segments that read a score
	initial      []int            // segments to evaluate for a new profile, beside those that its event concerns
	traitReaders map[string][]int // by the name of a trait: segments that read it
	definitions  uint64           // hash of all names and versions
}

// readers are the segments that read an attribute.
type readers struct {
	attribute int // index
	segments  []int
}

// definition is one compiled segment.
type definition struct {
	name    string
	version uint32 // hash of the condition: another text is another version
	program *expression.Program
}

var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

func build(config any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	c := *config.(*Config)
	p := &plan{byName: map[string]int{}, traitReaders: map[string][]int{}}
	scope := expression.Scope{Names: map[string]pipeline.AttributeType{}, Roots: []string{"traits"}, Clock: true}
	for _, a := range env.Attributes {
		scope.Names[a.Name] = a.Type
	}
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	var problems []pipeline.Problem
	if len(names) > maxSegments {
		problems = append(problems, pipeline.Problemf(nil, "%d segments, the limit is %d", len(names), maxSegments))
	}
	all := fnv.New64a()
	for _, name := range names {
		if !validName.MatchString(name) {
			problems = append(problems, pipeline.Problemf([]string{name}, "%q is not a name: use small letters, digits and underscores, a letter first, at most 64", name))
		}
		d, wrong := c[name].compile(name, scope, env)
		if problems = append(problems, wrong...); wrong != nil {
			continue
		}
		p.index(d, env)
		all.Write([]byte(name))
		all.Write([]byte{0, byte(d.version >> 24), byte(d.version >> 16), byte(d.version >> 8), byte(d.version)})
	}
	if problems != nil {
		return nil, problems
	}
	p.definitions = all.Sum64()
	env.Segments = append(env.Segments, names...)
	var once sync.Once // partitions start at the same time
	return func() pipeline.Stage {
		once.Do(func() { p.initial = p.beginning(env.Nobody) })
		return newStage(p)
	}, nil
}

// beginning is what a new profile may be in whatever its first event says: segments that hold of somebody of whom nothing is
// known, and those that look at more than the profile.
func (p *plan) beginning(nobody pipeline.ProfileState) (segments []int) {
	for i := range p.segments {
		if nobody == nil || slices.Contains(p.clocks, i) || slices.Contains(p.scored, i) {
			segments = append(segments, i)
			continue
		}
		if in, err := p.segments[i].program.Bool(nobody.Value); in || err != nil {
			segments = append(segments, i)
		}
	}
	return segments
}

// index adds a segment to the lists of those that read its inputs.
func (p *plan) index(d definition, env *pipeline.Env) {
	i := len(p.segments)
	p.byName[d.name] = i
	p.segments = append(p.segments, d)
	if d.program.UsesClock() {
		p.clocks = append(p.clocks, i)
	}
	for _, input := range d.program.Names() {
		if trait, ok := strings.CutPrefix(input, "traits."); ok {
			// A nested part is found under the key at the top, and a key with dots also under its own name.
			for _, key := range traitKeys(trait) {
				if readers := p.traitReaders[key]; !slices.Contains(readers, i) {
					p.traitReaders[key] = append(readers, i)
				}
			}
		} else if at, ok := indexOf(env, input); ok {
			k := slices.IndexFunc(p.readers, func(r readers) bool { return r.attribute == at })
			if k < 0 {
				k = len(p.readers)
				p.readers = append(p.readers, readers{attribute: at})
			}
			p.readers[k].segments = append(p.readers[k].segments, i)
			if slices.Contains(env.Scores, input) { // it may pass a border by time alone
				p.scored = append(p.scored, i)
				for _, border := range d.program.Borders(input) {
					env.Watch(input, border)
				}
			}
		}
	}
}

// indexOf is the index of a declared or hidden attribute.
func indexOf(env *pipeline.Env, name string) (int, bool) {
	for i := range env.Hidden {
		if env.Hidden[i].Name == name {
			return env.Hidden[i].Index, true
		}
	}
	a, ok := env.Attribute(name)
	return a.Index, ok
}

// traitKeys are the names of traits that the path may mean.
func traitKeys(path string) []string {
	if quoted, ok := strings.CutPrefix(path, `"`); ok {
		key, _, _ := strings.Cut(quoted, `"`)
		return []string{key}
	}
	key, _, nested := strings.Cut(path, ".")
	if nested {
		return []string{key, path}
	}
	return []string{key}
}

// versionOf is the version of a condition: the 32-bit FNV-1a hash of its text, without white space that means nothing. It is
// part of the transition ids, so a changed condition begins new ones.
func versionOf(source string) uint32 {
	var b strings.Builder
	quote := rune(0)
	space := false
	for _, r := range strings.TrimSpace(source) {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '"' || r == '\'' || r == '`':
			quote = r
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			space = true
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	h := fnv.New32a()
	h.Write([]byte(b.String()))
	return h.Sum32()
}
