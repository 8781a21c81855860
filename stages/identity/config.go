package identity

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// Config of the stage.
type Config struct {
	// IDs are the types of identifiers, the strongest first, one per entry: `- user_id: {limit: 1}`. Order and limits are fixed
	// at the first start. Default: user_id, email (traits.email), phone (traits.phone), anonymous_id.
	IDs []map[string]ID `yaml:"ids,omitempty"`
	// Block are values that say nothing about a person, besides those that programs write for "none": a value as it is, in
	// small letters or capitals, or a regular expression between slashes.
	Block []string `yaml:"block,omitempty"`
	// Key is the secret from which the ids of identifiers and profiles are made, so that nobody can test an address against
	// a public id. It is fixed at the first start. Default: the pipeline's name.
	Key pipeline.Secret `yaml:"key,omitempty"`
}

// ID is one type of identifiers.
type ID struct {
	// From are the places in an event where values stand: paths such as traits.email. user_id and anonymous_id are found where
	// SDKs put them, and every type in context.externalIds.
	From []string `yaml:"from,omitempty"`
	// Limit is how many identifiers of the type one person can have. Default: 1 for the strongest type, 5 for email and phone, 500
	// for the others.
	Limit *int `yaml:"limit,omitempty"`
	// SharedBy is how many stronger identifiers one value may belong to. Above that the value identifies nobody: an address at
	// info@, a shared phone. Default: 4 for email and phone, else any number.
	SharedBy int `yaml:"shared_by,omitempty"`
}

const (
	maxTypes = 32
	maxBlock = 10_000
	anyLimit = 500
)

var validName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// known are the types that every pipeline has.
var known = map[string]struct {
	code            byte
	from            []string
	limit, sharedBy int
}{
	"user_id":      {pipeline.CodeUserID, nil, anyLimit, 0},
	"email":        {pipeline.CodeEmail, []string{"traits.email"}, 5, 4},
	"phone":        {pipeline.CodePhone, []string{"traits.phone"}, 5, 4},
	"anonymous_id": {pipeline.CodeAnonymousID, nil, anyLimit, 0},
}

func build(config any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	c := config.(*Config)
	rules, problems := compile(c)
	blocked, wrong := c.blocked()
	if problems = append(problems, wrong...); problems != nil {
		return nil, problems
	}
	var key []byte
	if !c.Key.IsZero() {
		key = []byte(c.Key.Reveal())
	}
	env.Identities.Use(rules, blocked, key)
	env.Stitching = true
	return func() pipeline.Stage { return &stage{} }, nil
}

// compile checks the types.
func compile(c *Config) (rules []pipeline.IdentifierRule, problems []pipeline.Problem) {
	list := c.IDs
	if list == nil {
		list = []map[string]ID{{"user_id": {}}, {"email": {}}, {"phone": {}}, {"anonymous_id": {}}}
	}
	if len(list) > maxTypes {
		return nil, []pipeline.Problem{pipeline.Problemf([]string{"ids"}, "%d types of identifiers, the limit is %d", len(list), maxTypes)}
	}
	seen := map[string]bool{}
	own := byte(pipeline.CodeOwn)
	for i, entry := range list {
		at := []string{"ids", strconv.Itoa(i)}
		if len(entry) != 1 {
			problems = append(problems, pipeline.Problemf(at, "each entry is one type: write `- user_id: {limit: 1}`, the strongest type first"))
			continue
		}
		for name, id := range entry {
			at := append(at, name)
			k, isKnown := known[name]
			switch {
			case !validName.MatchString(name):
				problems = append(problems, pipeline.Problemf(at, "%q is not a name: use small letters, digits and underscores, a letter first, at most 64", name))
			case seen[name]:
				problems = append(problems, pipeline.Problemf(at, "the type %s stands twice", name))
			}
			seen[name] = true
			r := pipeline.IdentifierRule{IdentifierType: pipeline.IdentifierType{Name: name, Code: k.code}, Limit: k.limit, SharedBy: k.sharedBy}
			if !isKnown {
				r.Code, r.Limit = own, anyLimit
				own++
			}
			if i == 0 {
				r.Limit = 1
			}
			if id.Limit != nil {
				if r.Limit = *id.Limit; r.Limit < 1 {
					problems = append(problems, pipeline.Problemf(append(at, "limit"), "a limit is 1 or more"))
				}
			}
			if id.SharedBy != 0 {
				if r.SharedBy = id.SharedBy; r.SharedBy < 1 {
					problems = append(problems, pipeline.Problemf(append(at, "shared_by"), "shared_by is 1 or more"))
				}
			}
			from := id.From
			if from == nil {
				from = k.from
			}
			for n, path := range from {
				p, err := pipeline.ParsePath(path)
				if err != nil {
					problems = append(problems, pipeline.Problemf(append(at, "from", strconv.Itoa(n)), "%s", err))
					continue
				}
				r.From = append(r.From, p)
			}
			rules = append(rules, r)
		}
	}
	return rules, problems
}

// blocked compiles the values that say nothing.
func (c *Config) blocked() (func(value string) bool, []pipeline.Problem) {
	var problems []pipeline.Problem
	if len(c.Block) > maxBlock {
		problems = append(problems, pipeline.Problemf([]string{"block"}, "%d values, the limit is %d", len(c.Block), maxBlock))
	}
	values := map[string]bool{}
	var patterns []*regexp.Regexp
	for i, b := range c.Block {
		at := []string{"block", strconv.Itoa(i)}
		switch pattern, isPattern := strings.CutPrefix(b, "/"); {
		case strings.TrimSpace(b) == "":
			problems = append(problems, pipeline.Problemf(at, "an empty value identifies nobody anyway"))
		case isPattern && len(pattern) > 1 && strings.HasSuffix(pattern, "/"):
			pattern = strings.TrimSuffix(pattern, "/")
			if _, err := regexp.Compile(pattern); err != nil {
				problems = append(problems, pipeline.Problemf(at, "%s is not a regular expression: %s", b, strings.TrimPrefix(err.Error(), "error parsing regexp: ")))
				continue
			}
			patterns = append(patterns, regexp.MustCompile("(?i)"+pattern))
		default:
			values[strings.ToLower(strings.TrimSpace(b))] = true
		}
	}
	if len(values)+len(patterns) == 0 {
		return nil, problems
	}
	return func(value string) bool {
		if values[strings.ToLower(value)] {
			return true
		}
		for _, re := range patterns {
			if re.MatchString(value) {
				return true
			}
		}
		return false
	}, problems
}
