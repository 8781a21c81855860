package links

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// Settings is what operation 0 fixes: people depend on it, so another order or limit in the YAML renames nobody silently.
type Settings struct {
	Partitions  int32  `json:"partitions"`
	Types       []Type `json:"types"` // strongest first
	Normaliser  int    `json:"normaliser"`
	Algorithm   int    `json:"algorithm"`
	Key         string `json:"key"`                    // fingerprint of the identity key
	PhoneRegion string `json:"phone_region,omitempty"` // of numbers without a country's code
}

// Type is what the log knows of an identifier type.
type Type struct {
	Name     string `json:"name"`
	Code     byte   `json:"code"`
	Limit    int    `json:"limit,omitempty"`     // identifiers of the type that a profile can have; 0: any number
	SharedBy int    `json:"shared_by,omitempty"` // stronger identifiers that one value may be linked to; 0: any number
}

// NewSettings makes the settings of a pipeline from its rules.
func NewSettings(partitions int32, normaliser, algorithm int, key string, rules []pipeline.IdentifierRule) *Settings {
	s := &Settings{Partitions: partitions, Normaliser: normaliser, Algorithm: algorithm, Key: key}
	for _, r := range rules {
		s.Types = append(s.Types, Type{Name: r.Name, Code: r.Code, Limit: r.Limit, SharedBy: r.SharedBy})
	}
	return s
}

// Differences says in words how other settings differ in what people depend on, empty if they do not.
func (s *Settings) Differences(o *Settings) string {
	if s.Key != o.Key {
		return "identity.key is not the one of the first start"
	}
	if s.PhoneRegion != o.PhoneRegion {
		return fmt.Sprintf("clean.phone_region is %s in the YAML, and was %s at the first start", cmp.Or(o.PhoneRegion, "not set"), cmp.Or(s.PhoneRegion, "not set"))
	}
	if a, b := s.names(), o.names(); a != b {
		return fmt.Sprintf("the identifiers are %s in the YAML, and were %s at the first start", b, a)
	}
	for i, t := range s.Types {
		switch u := o.Types[i]; {
		case t.Code != u.Code:
			return fmt.Sprintf("identifier %s has code %d, and had %d at the first start", t.Name, u.Code, t.Code)
		case t.Limit != u.Limit:
			return fmt.Sprintf("the limit of identifier %s is %s in the YAML, and was %s at the first start", t.Name, number(u.Limit), number(t.Limit))
		case t.SharedBy != u.SharedBy:
			return fmt.Sprintf("shared_by of identifier %s is %s in the YAML, and was %s at the first start", t.Name, number(u.SharedBy), number(t.SharedBy))
		}
	}
	return ""
}

// String is what people depend on, for comparison.
func (s *Settings) String() string {
	var b strings.Builder
	for _, t := range s.Types {
		fmt.Fprintf(&b, "%s %d %d %d;", t.Name, t.Code, t.Limit, t.SharedBy)
	}
	return b.String()
}

func number(n int) string {
	if n == 0 {
		return "not set"
	}
	return fmt.Sprint(n)
}

func (s *Settings) names() string {
	var names []string
	for _, t := range s.Types {
		names = append(names, t.Name)
	}
	return strings.Join(names, ", ")
}

// Compare orders identifier ids, the strongest first: by the place of their type, then by their bytes. The smallest
// identifier of a person gives the profile its id.
func (s *Settings) Compare(a, b pipeline.ID) int {
	return cmp.Or(cmp.Compare(s.rank(a[0]), s.rank(b[0])), bytes.Compare(a[:], b[:]))
}

func (s *Settings) rank(code byte) int {
	for i, t := range s.Types {
		if t.Code == code {
			return i
		}
	}
	return len(s.Types) + int(code)
}

func (s *Settings) typeOf(id pipeline.ID) Type {
	for _, t := range s.Types {
		if t.Code == id[0] {
			return t
		}
	}
	return Type{}
}
