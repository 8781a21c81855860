package workload

import (
	"maps"
	"slices"
	"strings"
)

// Truth is what is right by construction. Identifiers are written type:value, such as user_id:42.
type Truth struct {
	Sent, Unique, Repeats, Broken int
	People                        int // who have sent anything
	// Profiles are what a pipeline can find at best that joins what events state to be one person, and nothing else. The key is
	// the strongest identifier; for what may be several people's it is Ambiguous and the identifier.
	Profiles map[string]*Profile
	// Owners are the true people of each identifier, in order. Those of a shared one are several.
	Owners map[string][]int
	// Links are what events state: each pair of identifiers once, in the order of their first statement.
	Links []Link
	// Merges is how often two people must have become one: for each link that holds and closes no circle, and once for each
	// address that turns out to be shared, which belonged to the first who had it.
	Merges      int
	Quarantined int // addresses that turn out to be shared by too many

	stated map[[2]string]bool
}

// Link is a statement that two identifiers are one person.
type Link struct {
	Strong, Weak string
	Refused      string // why it must not hold; empty: it must
}

// Why a link must not hold.
const (
	SharedDevice  = "somebody else logged in on this device before"
	SharedAddress = "too many people have this address"
)

// Profile is what one person, as far as the events tell, has done.
type Profile struct {
	Person      int
	Identifiers []string // strongest first; one for the ambiguous
	Missed      string   // why it is not a part of the person's main profile; empty: it is the main one
	Events      int
	Anonymous   int // events without a login
	Viewed      int // products
	Orders      int
	Revenue     int64 // 10^-6 of the currency
}

// Account tells whether the profile is somebody who has logged in.
func (p *Profile) Account() bool { return strings.HasPrefix(p.Identifiers[0], "user_id:") }

// Ambiguous is before the identifier in the key of what may be several people's.
const Ambiguous = "ambiguous "

// Why a person is more than one profile: nothing that was sent says that they are one.
const (
	NeverSaid   = "devices on which nobody said who they are"
	OnlyAddress = "addresses that no login mentions"
	AnyOfThem   = "shared devices, between logins"
)

func newTruth() Truth {
	return Truth{Profiles: map[string]*Profile{}, Owners: map[string][]int{}, stated: map[[2]string]bool{}}
}

// own notes that an identifier is of a person.
func (t *Truth) own(id string, person int) {
	if !slices.Contains(t.Owners[id], person) {
		t.Owners[id] = append(t.Owners[id], person)
	}
}

// state notes that an event states a link.
func (t *Truth) state(strong, weak, refused string) {
	if pair := [2]string{strong, weak}; !t.stated[pair] {
		t.stated[pair] = true
		t.Links = append(t.Links, Link{strong, weak, refused})
	}
}

// join makes profiles of what was done under each identifier.
func (t *Truth) join(primaries map[string]*Profile) {
	members := map[string][]string{} // by the strongest
	of := map[string]string{}
	for id := range t.Owners {
		members[id], of[id] = []string{id}, id
	}
	for _, l := range t.Links {
		a, b := of[l.Strong], of[l.Weak]
		if l.Refused != "" || a == b {
			continue
		}
		if strength(b) < strength(a) {
			a, b = b, a
		}
		for _, id := range members[b] {
			of[id] = a
		}
		members[a] = append(members[a], members[b]...)
		delete(members, b)
		t.Merges++
	}
	t.Merges += t.Quarantined
	for _, id := range slices.Sorted(maps.Keys(primaries)) {
		done, key, identifiers := primaries[id], id, []string{strings.TrimPrefix(id, Ambiguous)}
		if !strings.HasPrefix(id, Ambiguous) {
			key = of[id]
			identifiers = members[key]
		}
		p := t.Profiles[key]
		if p == nil {
			p = &Profile{Person: done.Person, Identifiers: identifiers}
			t.Profiles[key] = p
		}
		p.Events += done.Events
		p.Anonymous += done.Anonymous
		p.Viewed += done.Viewed
		p.Orders += done.Orders
		p.Revenue += done.Revenue
	}
	t.explain()
}

// explain says why people are several profiles, and counts the people.
func (t *Truth) explain() {
	main := map[int]string{}
	rank := func(key string) int {
		if strings.HasPrefix(key, Ambiguous) {
			return 9
		}
		return strength(key)
	}
	keys := slices.Sorted(maps.Keys(t.Profiles))
	for _, key := range keys {
		person := t.Profiles[key].Person
		if best, ok := main[person]; !ok || rank(key) < rank(best) {
			main[person] = key
		}
	}
	t.People = len(main)
	for _, key := range keys {
		p := t.Profiles[key]
		switch {
		case main[p.Person] == key:
		case strings.HasPrefix(key, Ambiguous):
			p.Missed = AnyOfThem
		case strength(key) == 1:
			p.Missed = OnlyAddress
		default:
			p.Missed = NeverSaid
		}
	}
}

// strength is the place of an identifier's type, the strongest first.
func strength(id string) int {
	kind, _, _ := strings.Cut(id, ":")
	return slices.Index([]string{"user_id", "email", "anonymous_id"}, kind)
}
