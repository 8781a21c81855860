package pipeline

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/tidwall/gjson"
)

// IdentifierType is a kind of identifier. Its code is the first byte of every id of the type and never changes meaning.
type IdentifierType struct {
	Name string
	Code byte
}

// Codes of the identifier types that every pipeline knows. Own types are numbered from CodeOwn.
const (
	CodeUserID      = 1
	CodeEmail       = 2
	CodePhone       = 3
	CodeAnonymousID = 4
	CodeOwn         = 16
	CodeAmbiguous   = 255
)

// Identifier is one usable identifier of an event.
type Identifier struct {
	Type  IdentifierType
	Value string // normalised
	ID    ID
}

// Identities turns values into identifier ids for one pipeline. It is safe for concurrent use.
type Identities struct {
	inner, outer [sha256.BlockSize]byte // the key in the pads of HMAC (RFC 2104)

	rules   []IdentifierRule
	blocked func(value string) bool

	region string // of phone numbers in national form, "" if there is none
	phones func(number string) string
}

// NewIdentities returns the ids of the pipeline whose identity key is key. Without the key nobody can test a value against
// a public id, so two pipelines with different keys have different ids for the same person.
func NewIdentities(key []byte) *Identities {
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	i := &Identities{}
	copy(i.inner[:], key)
	copy(i.outer[:], key)
	for n := range i.inner {
		i.inner[n] ^= 0x36
		i.outer[n] ^= 0x5c
	}
	return i
}

// ID is the identifier id of a normalised value: the type code, then HMAC-SHA-256(key, type name ‖ 0 ‖ value), stamped as
// a UUID of version 8. It is crypto/hmac in two calls without allocations: four ids an event are made so.
func (i *Identities) ID(t IdentifierType, value string) ID {
	var buf [256]byte
	sum := sha256.Sum256(append(append(append(append(buf[:0], i.inner[:]...), t.Name...), 0), value...))
	sum = sha256.Sum256(append(append(buf[:0], i.outer[:]...), sum[:]...))
	var id ID
	id[0] = t.Code
	copy(id[1:], sum[:])
	return versioned(id)
}

// Use sets what the YAML says about identifiers, before the first event: the types, strongest first, and which values say
// nothing about a person. key replaces the key of NewIdentities, nil keeps it.
func (i *Identities) Use(rules []IdentifierRule, blocked func(value string) bool, key []byte) {
	if key != nil {
		fresh := NewIdentities(key)
		i.inner, i.outer = fresh.inner, fresh.outer
	}
	i.rules, i.blocked = rules, blocked
}

// UsePhones sets how phone numbers become identifiers, before the first event: e164 returns the number in the form of E.164, ""
// if it identifies nobody. region is the country that it takes numbers in national form to be of.
func (i *Identities) UsePhones(region string, e164 func(number string) string) {
	i.region, i.phones = region, e164
}

// PhoneRegion is what UsePhones has set, "" if it was not called, or there are no phone numbers among the identifiers.
func (i *Identities) PhoneRegion() string {
	if !slices.ContainsFunc(i.Rules(), func(r IdentifierRule) bool { return r.Code == CodePhone }) {
		return ""
	}
	return i.region
}

// Rules are those that Use has set; before it, those of a pipeline without the stage identity.
func (i *Identities) Rules() []IdentifierRule {
	if i.rules == nil {
		return plainRules
	}
	return i.rules
}

var plainRules = []IdentifierRule{{IdentifierType: IdentifierType{"user_id", CodeUserID}}, {IdentifierType: IdentifierType{"anonymous_id", CodeAnonymousID}}}

// Parse reads an identifier in the form type:value, such as user_id:42.
func (i *Identities) Parse(text string) (Identifier, error) {
	name, value, ok := strings.Cut(text, ":")
	if !ok {
		return Identifier{}, fmt.Errorf("%q is not an identifier: write type:value, such as user_id:42", text)
	}
	var names []string
	for _, r := range i.Rules() {
		if names = append(names, r.Name); r.Name != name {
			continue
		}
		v := i.normal(r.IdentifierType, value)
		if v == "" {
			return Identifier{}, fmt.Errorf("%q identifies nobody: it is empty, blocked, or not in the form of its type", value)
		}
		return Identifier{Type: r.IdentifierType, Value: v, ID: i.ID(r.IdentifierType, v)}, nil
	}
	return Identifier{}, fmt.Errorf("there is no identifier type %q: the pipeline has %s", name, strings.Join(names, ", "))
}

// Ambiguous is the profile id of those whom an ambiguous identifier may mean.
func (i *Identities) Ambiguous(id ID) ID {
	return i.ID(IdentifierType{"ambiguous", CodeAmbiguous}, id.String())
}

// Fingerprint changes with the key and tells nothing about it.
func (i *Identities) Fingerprint() string {
	return i.ID(IdentifierType{Name: "fingerprint"}, "").String()
}

// MaxIdentifiers bounds the identifiers of one event; Identify leaves out what is beyond.
const MaxIdentifiers = 32

// Identify fills ev.Identifiers, strongest first, and ev.Primary from what Scan found; it tells whether there were at most
// MaxIdentifiers. An event whose ids are all unusable keeps the nil primary: it is stored, and has no profile.
//
// The anonymous id that server libraries invent beside a user id says nothing about a device, so it is left out. The previous
// id of an alias is one that a device or a visitor had: an anonymous id.
func (i *Identities) Identify(ev *Event) (complete bool) {
	ev.Identifiers, complete = ev.Identifiers[:0], true
	for _, r := range i.Rules() {
		start := len(ev.Identifiers)
		take := func(value string) {
			v := i.normal(r.IdentifierType, value)
			switch {
			case v == "" || slices.ContainsFunc(ev.Identifiers[start:], func(x Identifier) bool { return x.Value == v }):
			case len(ev.Identifiers) >= MaxIdentifiers:
				complete = false
			default:
				ev.Identifiers = append(ev.Identifiers, Identifier{Type: r.IdentifierType, Value: v, ID: i.ID(r.IdentifierType, v)})
			}
		}
		switch r.Code {
		case CodeUserID:
			take(ev.UserID)
		case CodeAnonymousID:
			if !ev.serverSide() {
				take(ev.AnonymousID)
			}
			if ev.Type == TypeAlias && i.rules != nil {
				take(ev.PreviousID)
			}
		}
		for _, p := range r.From {
			each(p.Result(ev), take)
		}
		if i.rules != nil {
			ev.external(r.Name, take)
		}
		if found := ev.Identifiers[start:]; len(found) > 1 {
			slices.SortFunc(found, func(a, b Identifier) int { return bytes.Compare(a.ID[:], b.ID[:]) })
		}
	}
	ev.Primary = ID{}
	if len(ev.Identifiers) > 0 {
		ev.Primary = ev.Identifiers[0].ID
	}
	ev.Canonical = ev.Primary
	return complete
}

// normal is the value as an identifier of the type, "" if it identifies nobody.
func (i *Identities) normal(t IdentifierType, value string) string {
	v := Usable(value)
	switch t.Code {
	case CodeEmail:
		v = strings.ToLower(v)
	case CodePhone:
		if v != "" && i.phones != nil {
			v = i.phones(v)
		} else {
			v = phone(v)
		}
	}
	if v != "" && i.blocked != nil && i.blocked(v) {
		return ""
	}
	return v
}

// phone is the number in the form of E.164, "" if it is none: without its country's code nobody knows whose it is.
func phone(v string) string {
	v = strings.NewReplacer(" ", "", "-", "", "(", "", ")", "", ".", "", "/", "", "\u00a0", "").Replace(v)
	if digits, ok := strings.CutPrefix(v, "00"); ok {
		v = "+" + digits
	}
	digits, ok := strings.CutPrefix(v, "+")
	if !ok || len(digits) < 7 || len(digits) > 15 || strings.Trim(digits, "0123456789") != "" {
		return ""
	}
	return v
}

// each takes a value, or the values of an array.
func each(r gjson.Result, take func(string)) {
	switch {
	case r.IsArray():
		r.ForEach(func(_, v gjson.Result) bool {
			if !v.IsArray() {
				each(v, take)
			}
			return true
		})
	case r.Type == gjson.String:
		take(r.Str)
	case r.Type == gjson.Number:
		take(r.Raw)
	}
}

// external takes the values of that type in context.externalIds: [{"type": …, "id": …}].
func (ev *Event) external(name string, take func(string)) {
	for _, c := range [...][]byte{ev.OwnContext, ev.Context} {
		if !bytes.Contains(c, []byte(`"externalIds"`)) {
			continue
		}
		gjson.Get(text(c), "externalIds").ForEach(func(_, v gjson.Result) bool {
			if v.Get("type").Str == name {
				each(v.Get("id"), take)
			}
			return true
		})
	}
}

func (ev *Event) serverSide() bool { return ev.Channel == "server" && Usable(ev.UserID) != "" }

// PartitionKey is the key of the event in the topic `events`: all sources use it, so that the events of one device or
// person meet in one partition. Anonymous id (not beside a user id on a server), else user id, else message id; unusable
// values are skipped.
func (ev *Event) PartitionKey() string {
	if v := Usable(ev.AnonymousID); v != "" && !ev.serverSide() {
		return v
	}
	if v := Usable(ev.UserID); v != "" {
		return v
	}
	return ev.MessageID
}

// Usable is the value as an identifier: without surrounding space, or "" if it can identify nobody: what programs write
// when they have no id.
func Usable(value string) string {
	v := strings.TrimSpace(value)
	if v == "" || len(v) > MaxIDBytes || placeholders[strings.ToLower(v)] || strings.Trim(v, "0-") == "" {
		return ""
	}
	return v
}

// placeholders are values that programs write for "none", in lower case. The list is Segment Unify's suggestions (docs of
// identity resolution, 2026) and what JavaScript, Java, Python and spreadsheets print. Zeros and dashes alone, the zero
// UUID among them, are unusable too.
var placeholders = map[string]bool{
	"null": true, "nil": true, "none": true, "undefined": true, "nan": true, "n/a": true, "na": true, "#n/a": true,
	"anonymous": true, "anon": true, "guest": true, "unknown": true, "(null)": true, "[null]": true, "<nil>": true,
	"not set": true, "(not set)": true, "[object object]": true, "false": true, "true": true, "-1": true, "undefined undefined": true,
	"00000000-0000-0000-0000-000000000000": true, "ffffffff-ffff-ffff-ffff-ffffffffffff": true,
}

// IdentifierRule is what the YAML says about one type of identifiers.
type IdentifierRule struct {
	IdentifierType
	From     []Path // where its values stand in an event, besides user_id and anonymous_id at their own places and context.externalIds
	Limit    int    // identifiers of the type that one profile can have; 0: any number
	SharedBy int    // stronger identifiers that one value may be linked to, above which it identifies nobody; 0: any number
}
