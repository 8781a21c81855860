package profile_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/stages"
	"github.com/millstream-io/millstream/stages/stagetest"
)

const lawYAML = `- clean: {}
- dedup: {}
- profile:
    orders:   {count: events, event: Order}
    pounds:   {sum: properties.total, where: 'properties.currency == "GBP"'}
    revenue:  {sum: properties.total}
    basket:   {avg: properties.total}
    smallest: {min: properties.total}
    largest:  {max: properties.total}
    first:    {first: properties.sku}
    latest:   {latest: properties.sku}
    plan:     {latest: traits.plan}
    skus:     {unique: properties.sku}
    since:    {min: timestamp}
    until:    {max: timestamp}
    top_skus: {top: properties.sku, n: 3}
    recent:   {recent: properties.sku, n: 4, where: 'properties.currency == "GBP"'}
    money:    {union: properties.currency}
    sessions: {sessions: 90m}
`

// order is one event of the tests here; all arrive at the same time, so any order of them is possible.
type order struct {
	id       string
	user     int
	at       time.Time
	cents    int64
	currency string
	sku      int
	plan     string // of its traits; "" none
}

func (o order) record() pipeline.Record {
	traits := ""
	if o.plan != "" {
		traits = fmt.Sprintf(`,"context":{"traits":{"plan":%s,"only_%s":1}}`, o.plan, o.id)
	}
	return stagetest.Record("web", o.id, stagetest.Start, fmt.Sprintf(
		`{"type":"track","event":"Order","messageId":%q,"userId":"u%d","anonymousId":"a%s","timestamp":%q,"properties":{"total":"%d.%02d","currency":%q,"sku":%d}%s}`,
		o.id, o.user, o.id, o.at.Format(time.RFC3339Nano), o.cents/100, o.cents%100, o.currency, o.sku, traits))
}

func orders(random *rand.Rand, n int) []order {
	list := make([]order, n)
	for i := range list {
		list[i] = order{
			id: fmt.Sprintf("m%d", i), user: random.IntN(4), at: stagetest.Start.Add(-time.Duration(random.IntN(200)) * time.Hour),
			cents: random.Int64N(5_000_000), currency: []string{"GBP", "EUR"}[random.IntN(2)], sku: random.IntN(30),
			plan: []string{"", `"pro"`, `"free"`, "null"}[random.IntN(4)],
		}
	}
	return list
}

func run(t *testing.T, list []order) *stagetest.Runner {
	t.Helper()
	r := stagetest.New(t, stages.Kinds, lawYAML)
	for _, o := range list {
		r.Feed(o.record())
	}
	r.Commit()
	return r
}

// TestOrderDoesNotMatter: any order of the events, with repeats that dedup drops, gives the same profiles and the same states.
// The limits are reached: each person has more than a hundred anonymous ids and some more than 256 traits.
func TestOrderDoesNotMatter(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	list := orders(random, 1500)
	reference := run(t, list)
	docs, states := reference.Profiles(), commutative(t, reference)
	if len(docs) != 4 {
		t.Fatalf("%d profiles", len(docs))
	}
	atLimit := 0
	for _, doc := range docs {
		var p struct {
			Identifiers map[string][]string
			Traits      map[string]any
		}
		if err := json.Unmarshal([]byte(doc), &p); err != nil {
			t.Fatal(err)
		}
		if n := len(p.Identifiers["anonymous_id"]); n != 100 {
			t.Errorf("%d anonymous ids, want 100", n)
		}
		for _, declared := range []string{"plan", "top_skus", "recent", "money"} { // not counted; the other plan may be deleted
			delete(p.Traits, declared)
		}
		if n := len(p.Traits); n > 256 {
			t.Errorf("%d traits", n)
		} else if n >= 255 {
			atLimit++
		}
	}
	if atLimit == 0 {
		t.Error("nobody has as many traits as are possible")
	}
	for range 6 {
		shuffled := append([]order(nil), list...)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for range 200 {
			at := random.IntN(len(shuffled))
			shuffled = append(shuffled[:at:at], append([]order{shuffled[random.IntN(len(shuffled))]}, shuffled[at:]...)...)
		}
		r := run(t, shuffled)
		for i, doc := range r.Profiles() {
			if doc != docs[i] {
				t.Fatalf("another order gives\n%s\ninstead of\n%s", doc, docs[i])
			}
		}
		if got := commutative(t, r); got != states {
			t.Fatalf("another order gives the states\n%s\ninstead of\n%s", got, states)
		}
	}
}

// commutative is what the store holds of the profiles, without the number of updates: how often a profile changed is the
// one thing that depends on the order.
func commutative(t *testing.T, r *stagetest.Runner) string {
	t.Helper()
	var b strings.Builder
	for _, line := range strings.Split(r.State(), "\n") {
		if _, text, ok := strings.Cut(line, " = "); ok && strings.HasPrefix(line, "profile folded") {
			full, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			_, n := binary.Uvarint(full[1:])
			fmt.Fprintf(&b, "%x\n", full[1+n:])
		}
	}
	return b.String()
}

// TestOracle compares every attribute with its plain definition.
func TestOracle(t *testing.T) {
	list := orders(rand.New(rand.NewPCG(8, 9)), 400)
	r := run(t, list)
	for user := range 4 {
		want := naive(list, user)
		var got struct {
			Traits     map[string]any
			Aggregates map[string]json.Number
		}
		if err := json.Unmarshal(document(t, r, user), &got); err != nil {
			t.Fatal(err)
		}
		for name, value := range want {
			if g, ok := got.Aggregates[name]; !ok || g.String() != value {
				t.Errorf("user %d: %s is %s, want %s", user, name, g, value)
			}
		}
		for name, values := range naiveLists(list, user) {
			if fmt.Sprint(got.Traits[name]) != fmt.Sprint(values) {
				t.Errorf("user %d: %s are %v, want %v", user, name, got.Traits[name], values)
			}
		}
		if plan := naivePlan(list, user); fmt.Sprint(got.Traits["plan"]) != plan {
			t.Errorf("user %d: plan is %v, want %s", user, got.Traits["plan"], plan)
		}
	}
}

func document(t *testing.T, r *stagetest.Runner, user int) []byte {
	t.Helper()
	ev := pipeline.Event{UserID: fmt.Sprintf("u%d", user)}
	pipeline.NewIdentities([]byte(stagetest.Key)).Identify(&ev)
	p := r.Profile(ev.Primary)
	if p == nil {
		t.Fatalf("user %d has no profile", user)
	}
	return p.AppendJSON(nil)
}

// naive computes the attributes of one user from the list of all orders.
func naive(list []order, user int) map[string]string {
	var first, latest *order
	count, total, pounds := int64(0), new(big.Rat), new(big.Rat)
	var smallest, largest int64
	skus := map[int]bool{}
	for i := range list {
		o := &list[i]
		if o.user != user {
			continue
		}
		amount := big.NewRat(o.cents, 100)
		total.Add(total, amount)
		if o.currency == "GBP" {
			pounds.Add(pounds, amount)
		}
		if count == 0 || o.cents < smallest {
			smallest = o.cents
		}
		largest = max(largest, o.cents)
		count++
		skus[o.sku] = true
		if first == nil || o.at.Before(first.at) || o.at.Equal(first.at) && o.id < first.id {
			first = o
		}
		if latest == nil || o.at.After(latest.at) || o.at.Equal(latest.at) && o.id > latest.id {
			latest = o
		}
	}
	average, _ := new(big.Rat).Quo(total, big.NewRat(count, 1)).Float64()
	return map[string]string{
		"orders": fmt.Sprint(count), "revenue": trimmed(total), "pounds": trimmed(pounds), "basket": number(average),
		"smallest": trimmed(big.NewRat(smallest, 100)), "largest": trimmed(big.NewRat(largest, 100)),
		"skus": fmt.Sprint(len(skus)), "first": fmt.Sprint(first.sku), "latest": fmt.Sprint(latest.sku),
		"sessions": naiveSessions(list, user), "since": fmt.Sprint(first.at.Unix()), "until": fmt.Sprint(latest.at.Unix()),
	}
}

// naiveLists are the attributes that are lists.
func naiveLists(list []order, user int) map[string][]string {
	count, latest, money := map[string]int{}, map[string]time.Time{}, map[string]bool{}
	for _, o := range list {
		if o.user != user {
			continue
		}
		sku := fmt.Sprint(o.sku)
		count[sku]++
		money[o.currency] = true
		if t, ok := latest[sku]; o.currency == "GBP" && (!ok || o.at.After(t)) {
			latest[sku] = o.at
		}
	}
	top := slices.SortedFunc(maps.Keys(count), func(a, b string) int { return cmp.Or(count[b]-count[a], strings.Compare(a, b)) })
	recent := slices.SortedFunc(maps.Keys(latest), func(a, b string) int { return cmp.Or(latest[b].Compare(latest[a]), strings.Compare(a, b)) })
	return map[string][]string{"top_skus": top[:3], "recent": recent[:4], "money": slices.Sorted(maps.Keys(money))}
}

func naiveSessions(list []order, user int) string {
	var times []time.Time
	for _, o := range list {
		if o.user == user {
			times = append(times, o.at)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	n := 1
	for i := 1; i < len(times); i++ {
		if times[i].Sub(times[i-1]) > 90*time.Minute {
			n++
		}
	}
	return fmt.Sprint(n)
}

func naivePlan(list []order, user int) string {
	var last *order
	for i := range list {
		o := &list[i]
		if o.user == user && o.plan != "" && (last == nil || o.at.After(last.at) || o.at.Equal(last.at) && o.id > last.id) {
			last = o
		}
	}
	if last.plan == "null" {
		return "<nil>"
	}
	return strings.Trim(last.plan, `"`)
}

func trimmed(r *big.Rat) string {
	s := r.FloatString(2)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

func number(f float64) string {
	b, _ := json.Marshal(f)
	return string(b)
}

// TestSumsAreExact: with floats the total of these amounts is 3268776.1799993 or …801, depending on their order.
func TestSumsAreExact(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	const total = 326877618 // pence
	list := make([]order, 2000)
	left := int64(total)
	for i := range list {
		list[i] = order{id: fmt.Sprintf("m%d", i), at: stagetest.Start, currency: "GBP", cents: random.Int64N(2 * total / 2000)}
		if i == len(list)-1 {
			list[i].cents = left
		}
		left -= list[i].cents
	}
	for range 3 {
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if doc := document(t, run(t, list), 0); !bytes.Contains(doc, []byte(`"pounds":3268776.18,`)) {
			t.Errorf("the total is not 3268776.18: %s", doc)
		}
	}
}

// TestLimits: what is refused beyond them, and what stays.
func TestLimits(t *testing.T) {
	r := stagetest.New(t, stages.Kinds, "- clean: {}\n- profile:\n    note: {latest: properties.note}\n")
	feed := func(id, raw string) string {
		t.Helper()
		r.Feed(stagetest.Record("web", id, stagetest.Start, raw))
		r.Commit()
		lines := r.Lines()
		return lines[len(lines)-1]
	}
	traits := func(from, to int) string {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, `,"t%05d":1`, i)
		}
		return `{"type":"identify","userId":"u","traits":{` + b.String()[1:] + `}}`
	}
	for id, raw := range map[string]string{
		"many":       traits(0, 257),
		"long value": `{"type":"identify","userId":"u","traits":{"x":"` + strings.Repeat("x", 8<<10) + `"}}`,
		"long name":  `{"type":"identify","userId":"u","traits":{"` + strings.Repeat("x", 256) + `":1}}`,
		"long text":  `{"type":"track","event":"E","userId":"u","properties":{"note":"` + strings.Repeat("x", 8<<10+1) + `"}}`,
	} {
		if line := feed(id, raw); !strings.Contains(line, "dead profile/traits_limit") {
			t.Errorf("%s: %.200s", id, line)
		}
	}
	// Later names push earlier ones out only if they stand before them.
	feed("1", traits(1000, 1256))
	if line := feed("2", traits(2000, 2010)); !strings.Contains(line, "changed=[]") {
		t.Errorf("traits beyond the limit: %s", line)
	}
	if line := feed("3", traits(0, 2)); !strings.Contains(line, "changed=[t00000 t00001]") {
		t.Errorf("traits before the others: %s", line)
	}
	// A profile that grows beyond what a state can hold refuses events instead of failing.
	long := strings.Repeat("x", 8<<10-2)
	refused := 0
	for i := range 200 {
		line := feed(fmt.Sprint("big", i), fmt.Sprintf(`{"type":"identify","userId":"big","traits":{"t%d":%q}}`, i, long))
		if strings.Contains(line, "dead profile/profile_too_large") {
			refused++
		}
	}
	if refused < 50 || refused > 120 {
		t.Errorf("%d of 200 events were refused", refused)
	}
}
