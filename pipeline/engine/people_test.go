package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/internal/oracle"
	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
	"github.com/millstream-io/millstream/pipeline/state"
	"github.com/millstream-io/millstream/stages/clean"
	"github.com/millstream-io/millstream/stages/dedup"
	"github.com/millstream-io/millstream/stages/identity"
	"github.com/millstream-io/millstream/stages/profile"
	"github.com/millstream-io/millstream/stages/segment"
)

// This is a property test of stitching and regrouping: the real jobs, stages, stores and replicas, between topics in memory.
// Random people and operators act; resolvers with replicas that lag, the regroup task and the partitions of the profile task
// take turns at random, crash, and repeat what was not committed. Then the laws are checked against the naive answer.

// variant is one kind of run.
type variant struct {
	name                string
	users, mails, anons int
	limit, shared       int // users per person; stronger identifiers per e-mail
	events, operators   int
	traps               bool     // the pipeline of traps_test.go
	timed               bool     // with an attribute that time changes
	kinds               string   // of operations: u unlink, b block, f unblock, e erase, l link of any two
	rare                []uint64 // seeds that find what few others do
	crashes             bool
	again               bool // some events come twice
}

var variants = []variant{
	{name: "links", users: 6, mails: 4, anons: 14, limit: 99, shared: 99, events: 160, again: true},
	{name: "unlinks", users: 6, mails: 4, anons: 14, limit: 99, shared: 99, events: 160, operators: 20, kinds: "uuubf", again: true},
	{name: "limits", users: 6, mails: 4, anons: 14, limit: 1, shared: 2, events: 160, operators: 15, kinds: "uuubff", again: true},
	{name: "all", users: 6, mails: 4, anons: 14, limit: 1, shared: 2, events: 160, operators: 15, kinds: "uuubff", crashes: true, again: true},
	{name: "erasures", users: 6, mails: 4, anons: 14, limit: 1, shared: 2, events: 200, operators: 25, kinds: "ubfee", crashes: true, again: true},
	{name: "storm", users: 4, mails: 3, anons: 6, limit: 2, shared: 2, events: 90, operators: 40, kinds: "uubfff", crashes: true, rare: []uint64{28}},
	{name: "links by hand", users: 3, mails: 4, anons: 4, limit: 2, shared: 3, events: 20, operators: 40, kinds: "uuuulllll", crashes: true},
}

func TestPeople(t *testing.T) {
	seeds := uint64(12)
	if n, err := strconv.ParseUint(os.Getenv("SEEDS"), 10, 32); err == nil {
		seeds = n
	}
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for _, seed := range slices.Concat(upTo(seeds), v.rare) {
				t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
					s := newPeople(t, v, seed)
					s.settle()
					s.verify()
				})
			}
		})
	}
}

func upTo(n uint64) (list []uint64) {
	for i := range n {
		list = append(list, i)
	}
	return list
}

// UnlinkRestores: people who are joined and taken apart again are what they were, whether the moves of the link had arrived
// or not.
func TestUnlinkRestores(t *testing.T) {
	v := variants[0]
	v.events, v.crashes = 50, true // fewer than join all
	for seed := range uint64(10) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			s := newPeople(t, v, 1000+seed)
			s.settle()
			before := s.picture()
			a, b := s.strangers()
			s.operate(links.OpLink, a, b)
			if s.IntN(2) == 0 {
				s.settle()
				if s.picture() == before {
					t.Fatal("the link changed nobody")
				}
			}
			s.operate(links.OpUnlink, a, b)
			s.settle()
			if after := s.picture(); after != before {
				t.Fatalf("before:\n%s\nafter:\n%s", before, after)
			}
			s.verify()
		})
	}
}

// OrderIsNothing: the same events, in any order of arrival, some of them twice, make the same people with the same data in
// the same segments, as long as no limit refuses a link: which one a limit refuses depends on which came first.
func TestOrderIsNothing(t *testing.T) {
	v := variants[0]
	for seed := range uint64(4) {
		want := ""
		for order := range uint64(5) {
			s := newPeople(t, v, 2000+seed)
			s.Rand = rand.New(rand.NewPCG(order, seed))
			for _, events := range s.events {
				s.Shuffle(len(events), func(i, k int) { events[i], events[k] = events[k], events[i] })
				for i := range events {
					events[i].Offset = int64(i)
				}
			}
			s.settle()
			s.verify()
			if got := s.picture(); want == "" {
				want = got
			} else if got != want {
				t.Fatalf("seed %d: one order gives\n%sand order %d\n%s", seed, want, order, got)
			}
		}
	}
}

// ReplayEqualsLive: events that are read again from the beginning, beside the link log as it is, make the people that the log
// and the events made when they came: what an operator took apart stays apart.
func TestReplayEqualsLive(t *testing.T) {
	v := variants[1]
	v.kinds, v.crashes = "u", true
	for seed := range uint64(8) {
		live := newPeople(t, v, 3000+seed)
		live.settle()
		live.verify()
		replay := newPeople(t, v, 3000+seed)
		replay.Rand = rand.New(rand.NewPCG(seed, 11))
		replay.log, replay.history, replay.operated = slices.Clone(live.log), slices.Clone(live.history), v.operators
		for _, a := range replay.resolve {
			replay.apply(a, len(replay.log))
		}
		replay.settle()
		replay.verify()
		if want, got := live.picture(), replay.picture(); got != want {
			t.Fatalf("seed %d: live\n%sreplayed\n%s", seed, want, got)
		}
	}
}

const (
	resolvers  = 3
	partitions = 4
)

// people is the world of one run.
type people struct {
	*rand.Rand
	variant
	t        *testing.T
	ctx      context.Context
	settings *links.Settings
	plan     *pipeline.Plan

	log      []pipeline.Record   // links
	history  []*oracle.People    // by offset of links: who is who after it
	resolved [][]pipeline.Record // by partition
	changes  []pipeline.Message

	resolve []*actor
	regroup *actor
	profile []*actor

	events   [][]pipeline.Record // by resolver
	facts    map[string]fact     // by message id
	operated int
	repeats  bool // the regroup task's records come twice, now and then
	steps    int
}

// fact is what the oracle knows of an event.
type fact struct {
	ids   []pipeline.ID // strongest first
	order bool
	value int

	primary pipeline.ID   // as resolved
	shown   []pipeline.ID // likewise: its identifiers
}

// actor is one partition of one task: its engine, with a replica of its own if it needs one, its store and its job.
type actor struct {
	e         *engine
	name      string
	dir       string
	store     *state.Store
	part      *state.Partition
	retention state.Retention
	job       job
	newJob    func(e *engine) job
	next      int
	now       int64
	number    uint64
	changelog []pipeline.Record
	partition int32
}

func newPeople(t *testing.T, v variant, seed uint64) *people {
	s := &people{Rand: rand.New(rand.NewPCG(seed, 7)), variant: v, t: t, ctx: t.Context(), facts: map[string]fact{}, repeats: v.crashes}
	s.build()
	s.resolved = make([][]pipeline.Record, partitions)
	s.events = make([][]pipeline.Record, resolvers)
	var plain []oracle.Type
	for _, x := range s.settings.Types {
		plain = append(plain, oracle.Type{Code: x.Code, Limit: x.Limit, SharedBy: x.SharedBy})
	}
	s.history = []*oracle.People{oracle.NewPeople(plain)}
	s.history[0].Next = func(id oracle.ID, offset uint64) oracle.ID { return links.Successor(id, offset) }
	first := links.Operation{V: 1, Op: links.OpSettings, Settings: s.settings}
	s.append(&first)
	for i := range resolvers {
		s.resolve = append(s.resolve, s.actor(fmt.Sprintf("resolve-%d", i), int32(i), state.DeletedByTime, func(e *engine) job { return newResolveJob(e) }))
	}
	s.regroup = s.actor("regroup", 0, state.Compacted, func(e *engine) job { return &regroupJob{engine: e} })
	for i := range partitions {
		s.profile = append(s.profile, s.actor(fmt.Sprintf("profile-%d", i), int32(i), state.Compacted, func(e *engine) job { return newProfileJob(e) }))
	}
	for i := range v.events {
		s.newEvent(i)
		if v.again && s.IntN(10) == 0 {
			s.repeatEvent()
		}
	}
	return s
}

// build makes the plan of the run's pipeline.
func (s *people) build() {
	env := &pipeline.Env{Pipeline: "people", Identities: pipeline.NewIdentities([]byte("people"))}
	s.plan = &pipeline.Plan{Name: "people", Partitions: partitions, Identities: env.Identities}
	limit, many := s.limit, 1000
	ids := []map[string]identity.ID{{"user_id": {Limit: &limit}}, {"email": {Limit: &many, SharedBy: s.shared}}, {"anonymous_id": {Limit: &many}}}
	config := map[string]any{
		"identity": &identity.Config{IDs: ids},
		"profile":  &profile.Config{"events": {Count: "events"}, "orders": {Count: "events", Event: "Order"}, "total": {Sum: "properties.value"}},
		"segment": &segment.Config{"never_bought": {Expression: "orders == 0"}, "buyer": {Expression: "orders > 0"}, "third_order": {Expression: "orders >= 3"},
			"looks_only": {Expression: "events >= 3 and orders == 0"}, "spends": {Expression: "total >= 100"}},
	}
	if s.traps {
		attributes := trapProfile()
		if s.timed {
			(*attributes)["lately"] = profile.Attribute{Count: "events", Over: pipeline.Duration(24 * time.Hour)}
		}
		config["profile"], config["segment"] = attributes, trapSegments()
	}
	for _, k := range []pipeline.StageKind{clean.Kind, dedup.Kind, identity.Kind, profile.Kind, segment.Kind} {
		c := k.Config()
		if config[k.Name] != nil {
			c = config[k.Name]
		}
		newStage, problems := k.Build(c, env)
		if problems != nil {
			s.t.Fatal(problems)
		}
		p := pipeline.StagePlan{Kind: k.Name, Code: k.Code, New: newStage}
		if k.Task == pipeline.TaskResolve {
			s.plan.Resolve = append(s.plan.Resolve, p)
		} else {
			s.plan.Profile = append(s.plan.Profile, p)
		}
	}
	s.plan.Stitching = env.Stitching
	s.settings = links.NewSettings(partitions, 1, 1, "", env.Identities.Rules())
}

func (s *people) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// actor opens a partition with its store and, for those who need it, a replica.
func (s *people) actor(name string, partition int32, retention state.Retention, newJob func(*engine) job) *actor {
	caughtUp := make(chan struct{})
	close(caughtUp)
	a := &actor{name: name, dir: s.t.TempDir(), retention: retention, newJob: newJob, partition: partition}
	a.e = &engine{plan: s.plan, settings: s.settings, caughtUp: caughtUp, watermark: newWatermark(),
		Options: Options{Data: a.dir, Logger: slog.New(slog.DiscardHandler), Counters: &Counters{}}}
	a.e.appendLinks = func(_ context.Context, records []pipeline.Record) (int64, error) {
		for i := range records {
			o, err := links.Parse(records[i].Value)
			s.check(err)
			s.append(o)
			if s.crashes && s.IntN(5) == 0 {
				s.append(o) // another worker states it at the same time
			}
		}
		s.apply(a, len(s.log)) // in one thread nobody else would
		return int64(len(s.log)), nil
	}
	if name == "regroup" || retention == state.DeletedByTime {
		s.openReplica(a)
	}
	s.open(a)
	s.t.Cleanup(func() { s.check(errors.Join(a.part.Close(), a.store.Close())) })
	return a
}

func (s *people) openReplica(a *actor) {
	var err error
	a.e.links, err = links.Open(filepath.Join(a.dir, "links"), links.Options{Rules: s.settings, Ambiguous: s.plan.Identities.Ambiguous, Logger: a.e.Logger})
	s.check(err)
	replica := a.e.links
	s.t.Cleanup(func() { s.check(replica.Close()) })
	s.apply(a, 1)
}

func (s *people) open(a *actor) {
	var err error
	a.store, err = state.Open(filepath.Join(a.dir, "state"), state.Options{Retention: a.retention, MemtableBytes: 1 << 20, CacheBytes: 1 << 20})
	s.check(err)
	a.part, err = a.store.Partition("input", a.partition)
	s.check(err)
	a.job = a.newJob(a.e)
}

// apply brings a replica up to an offset.
func (s *people) apply(a *actor, to int) {
	if next, _ := a.e.links.Next(); int(next) < to {
		s.check(a.e.links.Apply(s.log[next:to], int64(to)))
	}
}

// append appends an operation to the link log, and applies it to the oracle.
func (s *people) append(o *links.Operation) {
	r, err := o.Record()
	s.check(err)
	r.Offset = int64(len(s.log))
	s.log = append(s.log, r)
	if o.Op == links.OpSettings {
		return
	}
	plain := oracle.Operation{Op: o.Op, Operator: o.MessageID == ""}
	if o.ID != nil {
		plain.A = *o.ID
	} else {
		plain.A, plain.B = *o.Strong, *o.Weak
	}
	after := s.history[len(s.history)-1].Clone()
	after.Apply(plain, uint64(r.Offset))
	s.history = append(s.history, after)
}

func (s *people) id(t byte, n int) pipeline.ID {
	for _, r := range s.plan.Identities.Rules() {
		if r.Code == t {
			return s.plan.Identities.ID(r.IdentifierType, s.value(t, n))
		}
	}
	panic("no such type")
}

func (s *people) value(t byte, n int) string {
	return map[byte]string{pipeline.CodeUserID: "u", pipeline.CodeEmail: "e", pipeline.CodeAnonymousID: "a"}[t] + strconv.Itoa(n)
}

// newEvent makes an event: mostly of a visitor on his own device, now and then logged in, now and then at a shared device or
// with somebody else's address.
func (s *people) newEvent(n int) {
	anon := s.IntN(s.anons)
	person := anon % s.users
	if s.IntN(12) == 0 {
		person = s.IntN(s.users)
	}
	f := fact{order: s.IntN(5) == 0, value: s.IntN(50)}
	name, traits, ids := "View", "", ""
	if f.order {
		name = "Order"
	}
	if s.IntN(5) == 0 {
		ids += fmt.Sprintf(`"userId":"u%d",`, person)
		f.ids = append(f.ids, s.id(pipeline.CodeUserID, person))
	}
	if s.IntN(6) == 0 {
		mail := person % s.mails
		if s.IntN(8) == 0 {
			mail = s.IntN(s.mails)
		}
		traits = fmt.Sprintf(`,"traits":{"email":"e%d"}`, mail)
		f.ids = append(f.ids, s.id(pipeline.CodeEmail, mail))
	}
	if len(f.ids) == 0 || s.IntN(8) > 0 {
		ids += fmt.Sprintf(`"anonymousId":"a%d",`, anon)
		f.ids = append(f.ids, s.id(pipeline.CodeAnonymousID, anon))
	}
	id := fmt.Sprintf("m%d", n)
	s.send(anon%resolvers, id, pipeline.Millis(1_700_000_000_000+int64(n)*1000),
		fmt.Sprintf(`{"type":"track","event":%q,"messageId":%q,%s"timestamp":"2023-11-14T22:00:00Z","properties":{"value":%d}%s}`, name, id, ids, f.value, traits))
	s.facts[id] = f
}

// repeatEvent lets an event come a second time.
func (s *people) repeatEvent() {
	events := &s.events[s.IntN(resolvers)]
	if len(*events) == 0 {
		return
	}
	again := (*events)[s.IntN(len(*events))]
	again.Offset = int64(len(*events))
	*events = append(*events, again)
}

// send gives a resolver an event to come; -1: the one of its partition key, as sources do.
func (s *people) send(to int, id string, received time.Time, raw string) {
	ev := pipeline.Event{Source: "web", MessageID: id, ReceivedAt: received, Raw: []byte(raw)}
	if rej := ev.Scan(); rej != nil {
		s.t.Fatal(rej)
	}
	r := pipeline.EventRecord(&ev)
	if to < 0 {
		to = int(crc32.ChecksumIEEE(r.Key)) % resolvers
	}
	r.Offset = int64(len(s.events[to]))
	s.events[to] = append(s.events[to], r)
}

// step takes a batch through an actor, in one transaction that may be lost.
func (s *people) step(a *actor, topic []pipeline.Record, most int) bool {
	if a.next >= len(topic) { // more: the replica of the regroup task has begun anew
		return false
	}
	s.take(a, topic, min(a.next+1+s.IntN(most), len(topic)))
	return true
}

// take takes the records before end through an actor; the rest of a batch that is divided is left for the next time.
func (s *people) take(a *actor, topic []pipeline.Record, end int) {
	lose := s.crashes && s.IntN(12) == 0
	for {
		w := &work{tx: a.part.Begin(), batch: &pipeline.Batch{Partition: a.partition, Records: topic[a.next:end], Next: int64(end)}, now: a.now}
		err := a.job.process(s.ctx, w)
		if errors.Is(err, errAgain) {
			w.tx.Discard()
			continue
		}
		var divided *dividedError
		if errors.As(err, &divided) {
			w.tx.Discard()
			end = int(divided.at[0])
			continue
		}
		s.check(err)
		if lose {
			w.tx.Discard()
			s.crash(a)
			return
		}
		a.number++
		pos := state.Position{Offsets: int64(end), StreamTime: w.now, Number: a.number}
		s.check(w.tx.Changelog(pos, func(key, value []byte) {
			r := pipeline.Record{Offset: int64(len(a.changelog)), Key: slices.Clone(key)}
			if value != nil {
				r.Value = append([]byte{}, value...)
			}
			a.changelog = append(a.changelog, r)
		}))
		pos.Changelog = int64(len(a.changelog))
		told := len(s.changes)
		s.publish(a, w)
		s.check(w.tx.Commit(pos))
		a.next, a.now = end, w.now
		for i := range s.changes[told:] {
			s.consistent(&s.changes[told+i])
		}
		return
	}
}

// crash forgets what is in memory; sometimes the folder too, which is then made again from the changelog.
func (s *people) crash(a *actor) {
	if s.IntN(2) == 0 {
		a.job = a.newJob(a.e)
		return
	}
	s.check(errors.Join(a.part.Close(), a.store.Close()))
	a.dir = s.t.TempDir()
	if a.e.links != nil && s.IntN(2) == 0 { // and the replica begins anew
		s.openReplica(a)
	}
	s.open(a)
	for i := range a.changelog {
		s.check(a.part.Apply(&a.changelog[i]))
	}
	s.check(a.part.Flush(int64(len(a.changelog))))
}

// publish appends what a transaction produced, in its order, to the topics.
func (s *people) publish(a *actor, w *work) {
	times := 1
	if a == s.regroup && s.repeats && s.IntN(6) == 0 {
		times = 2
	}
	for range times {
		for i := range w.out {
			r := w.out[i]
			r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
			switch r.Topic {
			case "resolved":
				p := partitionOf(s.t, r.Key)
				r.Offset, r.Partition = int64(len(s.resolved[p])), p
				s.resolved[p] = append(s.resolved[p], r)
				s.note(&r)
			case "changes":
				m, err := pipeline.ParseMessage(r.Key, r.Value)
				s.check(err)
				if times == 1 || len(m.Type) < 9 || m.Type[:9] != "identity." {
					s.changes = append(s.changes, *m)
				}
			default:
				s.t.Fatalf("a record in %s: %s", r.Topic, r.Value)
			}
		}
	}
}

// note keeps as whom an event was resolved.
func (s *people) note(r *pipeline.Record) {
	if pipeline.ResolvedKind(r) != pipeline.KindEvent {
		return
	}
	var ev pipeline.Event
	if _, rej := pipeline.ParseResolved(r, &ev); rej != nil {
		s.t.Fatal(rej)
	}
	f := s.facts[ev.MessageID]
	f.primary, f.shown = ev.Primary, nil
	for i, x := range ev.Identifiers {
		id := s.plan.Identities.ID(x.Type, x.Value)
		if o := ev.OwnerOf(i); o != nil {
			id = o.ID
		}
		f.shown = append(f.shown, id)
	}
	s.facts[ev.MessageID] = f
}

func partitionOf(t *testing.T, key []byte) int32 {
	p := sarama.NewReferenceHashPartitioner("resolved")
	n, err := p.Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}, partitions)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// operate appends an operation as an operator asks for it.
func (s *people) operate(op string, ids ...pipeline.ID) {
	o, err := links.Operator(op, s.settings, pipeline.Millis(1_700_000_000_000), "by the test", ids...)
	s.check(err)
	s.append(&o)
}

func (s *people) operator() {
	s.operated++
	var stated []*links.Operation
	for i := range s.log {
		o, err := links.Parse(s.log[i].Value)
		s.check(err)
		if o.Op == links.OpLink {
			stated = append(stated, o)
		}
	}
	if len(stated) == 0 {
		return
	}
	o := stated[s.IntN(len(stated))]
	switch s.kinds[s.IntN(len(s.kinds))] {
	case 'u':
		s.operate(links.OpUnlink, *o.Strong, *o.Weak)
	case 'b':
		s.operate(links.OpBlock, *o.Weak)
	case 'f':
		s.operate(links.OpUnblock, *o.Weak)
	case 'l':
		a, b := s.id(pipeline.CodeUserID, s.IntN(s.users)), s.id(pipeline.CodeAnonymousID, s.IntN(s.anons))
		if s.IntN(2) == 0 {
			a = s.id(pipeline.CodeEmail, s.IntN(s.mails))
		}
		s.operate(links.OpLink, a, b)
	case 'e':
		s.operate(links.OpErase, []pipeline.ID{*o.Strong, *o.Weak}[s.IntN(2)])
	}
}

// strangers are two identifiers with data of different people who were never linked.
func (s *people) strangers() (a, b pipeline.ID) {
	now := s.history[len(s.history)-1]
	data := map[oracle.ID]bool{}
	for _, f := range s.facts {
		data[now.Person(f.primary)] = true
	}
	for range 1000 {
		a, b = s.id(pipeline.CodeUserID, s.IntN(s.users)), s.id(pipeline.CodeAnonymousID, s.IntN(s.anons))
		if data[now.Person(a)] && data[now.Person(b)] && now.Person(a) != now.Person(b) && len(now.Unknown([]oracle.ID{a, b})) == 1 {
			return a, b
		}
	}
	s.t.Fatal("all are one person")
	return a, b
}

// settle lets everybody act, in random order and at random speeds, until nothing moves.
func (s *people) settle() {
	var acts []func() bool
	var speeds []int
	add := func(f func() bool) {
		acts, speeds = append(acts, f), append(speeds, []int{1, 3, 10, 30}[s.IntN(4)])
	}
	for i, a := range s.resolve {
		add(func() bool { return s.step(a, s.events[i], 4) })
		add(func() bool { return s.lag(a) })
	}
	add(func() bool { return s.lag(s.regroup) })
	add(func() bool {
		next, _ := s.regroup.e.links.Next()
		return s.step(s.regroup, s.log[:next], 3)
	})
	for _, a := range s.profile {
		add(func() bool { return s.step(a, s.resolved[a.partition], 6) })
	}
	total := 0
	for _, n := range speeds {
		total += n
	}
	for idle := 0; ; s.steps++ {
		if s.steps > 1_000_000 {
			s.t.Fatal("Terminates: still moving")
		}
		k, i := s.IntN(total), 0
		for ; k >= speeds[i]; i++ {
			k -= speeds[i]
		}
		if acts[i]() {
			idle = 0
		} else {
			idle++
		}
		if s.operated < s.operators && s.IntN(30) == 0 {
			s.operator()
		}
		if idle < 30 {
			continue
		}
		moved := false
		for _, act := range acts {
			moved = act() || moved
		}
		if !moved && s.operated >= s.operators {
			return
		}
		idle = 0
	}
}

// lag lets a replica apply one more operation.
func (s *people) lag(a *actor) bool {
	next, _ := a.e.links.Next()
	if int(next) == len(s.log) {
		return false
	}
	s.apply(a, int(next)+1)
	return true
}

// member tells what the oracle says of a person: counts, and segments.
type member struct {
	events, orders, total int
}

func (m member) segments() []string {
	var in []string
	add := func(name string, holds bool) {
		if holds {
			in = append(in, name)
		}
	}
	add("buyer", m.orders > 0)
	add("looks_only", m.events >= 3 && m.orders == 0)
	add("never_bought", m.orders == 0)
	add("spends", m.total >= 100)
	add("third_order", m.orders >= 3)
	return in
}

// verify compares the end with the naive answer.
func (s *people) verify() {
	s.t.Helper()
	end := s.history[len(s.history)-1]
	want := map[pipeline.ID]member{}
	for id, f := range s.facts {
		if f.primary == (pipeline.ID{}) {
			s.t.Errorf("EventsCountOnce: event %s was not resolved", id)
		}
		if s.isErased(end, f.primary) {
			continue
		}
		person := pipeline.ID(end.Person(f.primary))
		m := want[person]
		m.events++
		m.total += f.value
		if f.order {
			m.orders++
		}
		want[person] = m
	}
	got, segments := s.found(end)
	for person, m := range want {
		if got[person] != m {
			s.t.Errorf("EventsCountOnce: person %v has %+v, want %+v", person, got[person], m)
		}
		if !slices.Equal(segments[person], m.segments()) {
			s.t.Errorf("MembershipsEqualPredicate: person %v with %+v is in %v, want %v", person, m, segments[person], m.segments())
		}
	}
	for person := range got {
		if _, ok := want[person]; !ok {
			s.t.Errorf("FragmentsWithCanonical: profile %v has data and is nobody", person)
		}
	}
	s.verifyTransitions(segments)
	s.verifyIdentifiers(end)
}

// verifyIdentifiers keeps the newest row of each identifier, as the table does: each that an event had is there, with the person
// that it belongs to.
func (s *people) verifyIdentifiers(end *oracle.People) {
	s.t.Helper()
	type row struct {
		profile string
		version uint64
	}
	rows := map[pipeline.ID]row{}
	for _, m := range s.changes {
		if m.Type != pipeline.IdentityIdentifier {
			continue
		}
		data := gjson.ParseBytes(m.Data)
		id, err := s.plan.Identities.Parse(data.Get("type").Str + ":" + data.Get("value").Str)
		s.check(err)
		told := uuid.MustParse(data.Get("id").Str)
		if end.Now(oracle.ID(told)) != end.Now(oracle.ID(id.ID)) || m.ProfileID.String() != data.Get("profile_id").Str {
			s.t.Errorf("Identifiers: a row is not of its identifier or profile: %s", m.Data)
		}
		r := row{data.Get("profile_id").Str, data.Get("version").Uint()}
		if old, ok := rows[told]; ok && old.version == r.version && old.profile != r.profile {
			s.t.Errorf("Identifiers: %s is told of with version %d and two profiles", id.Type.Name, r.version)
		}
		if r.version >= rows[told].version {
			rows[told] = r
		}
	}
	for _, f := range s.facts {
		if s.isErased(end, f.primary) {
			continue
		}
		for _, id := range f.shown {
			if s.isErased(end, id) {
				continue
			}
			if got, want := rows[id].profile, pipeline.ID(end.Person(id)).String(); got != want {
				s.t.Errorf("Identifiers: %v is told to belong to %q, and belongs to %s", id, got, want)
			}
		}
	}
}

// isErased tells whether an id is that of somebody who was erased, or of those whom an erased identifier may have meant.
func (s *people) isErased(end *oracle.People, id pipeline.ID) bool {
	_, gone := end.Erased(id)
	for _, erased := range end.AllErased() {
		gone = gone || s.plan.Identities.Ambiguous(erased) == id
	}
	return gone
}

// found evaluates every profile as the store has it, and checks its roster.
func (s *people) found(end *oracle.People) (map[pipeline.ID]member, map[pipeline.ID][]string) {
	s.t.Helper()
	counts, segments := map[pipeline.ID]member{}, map[pipeline.ID][]string{}
	s.look(func(ev *pipeline.Event) {
		number := func(name string) int { n, _ := ev.Profile.State.Value(name).(float64); return int(n) }
		m := member{number("events"), number("orders"), number("total")}
		if m.events == 0 && len(ev.Profile.Segments) == 0 {
			return // an identifier whose data is elsewhere
		}
		counts[ev.Canonical] = m
		segments[ev.Canonical] = slices.Clone(ev.Profile.Segments)
	}, end)
	return counts, segments
}

// look shows every profile that anything was said of, evaluated; with end, it checks the rosters too.
func (s *people) look(see func(ev *pipeline.Event), end ...*oracle.People) {
	s.t.Helper()
	known := map[pipeline.ID]bool{}
	for _, log := range s.resolved {
		for i := range log {
			var id pipeline.ID
			s.check(id.UnmarshalText(log[i].Key))
			known[id] = true
		}
	}
	for id := range known {
		a := s.profile[partitionOf(s.t, pipeline.AppendID(nil, id))]
		j := newProfileJob(a.e)
		w := &work{tx: a.part.Begin(), batch: &pipeline.Batch{}, now: a.now}
		j.work, j.rosters, j.values = w, w.tx.Stage(codeRegroup), w.tx.Stage(codeValues)
		j.lately.begin()
		j.chain.begin(w)
		o, err := j.roster(id, false)
		s.check(err)
		ev := pipeline.Event{Type: pipeline.TypeEvaluate, Primary: id, Canonical: id, ReceivedAt: pipeline.Millis(a.now), Time: pipeline.Millis(a.now)}
		if o != nil {
			j.attach(&ev, o)
			if o.held() {
				s.t.Errorf("HoldsEnd: profile %v is held: told %d, done %d, %d turns", id, o.told, o.done, len(o.turns))
			}
			for _, f := range o.fragments {
				if len(end) > 0 && pipeline.ID(end[0].Person(f.primary)) != id {
					s.t.Errorf("FragmentsWithCanonical: the data of %v is at %v, and belongs to %v", f.primary, id, end[0].Person(f.primary))
				}
			}
		}
		s.check(j.chain.process(s.ctx, &ev))
		if ev.Profile != nil {
			see(&ev)
		}
		w.tx.Discard()
	}
}

// consistent checks that a transition is told of exactly the members at one offset of the link log (ConsistentCut): nothing
// of anybody else, and nothing of a member that is somewhere else.
func (s *people) consistent(m *pipeline.Message) {
	if m.Type != pipeline.SegmentEntered && m.Type != pipeline.SegmentExited {
		return
	}
	turn := gjson.GetBytes(m.Meta, "sequence").Uint() >> 32
	at := s.history[turn]
	person := func(id pipeline.ID) pipeline.ID { return pipeline.ID(at.Person(id)) }
	for _, id := range gjson.GetBytes(m.Data, "profile.previous_ids").Array() {
		var x pipeline.ID
		s.check(x.UnmarshalText([]byte(id.Str)))
		if person(x) != m.ProfileID {
			s.t.Errorf("ConsistentCut: profile %v at %d holds %v, who was %v", m.ProfileID, turn, x, person(x))
		}
	}
	for _, log := range s.resolved {
		for i := range log {
			if pipeline.ResolvedKind(&log[i]) != pipeline.KindMove {
				continue
			}
			v, rej := pipeline.ParseMove(log[i].Value)
			if rej != nil {
				s.t.Fatal(rej)
			}
			for _, f := range v.Fragments {
				inFlight := i >= s.profile[log[i].Partition].next
				if inFlight && v.To == m.ProfileID && v.Offset <= turn && person(f.Primary) == m.ProfileID {
					s.t.Errorf("ConsistentCut: profile %v at %d lacks the data of %v, which is on its way", m.ProfileID, turn, f.Primary)
				}
			}
		}
	}
}

// verifyTransitions follows every profile through what was told: enter or carried, and exit or passed, take turns
// (TransitionsAlternate), ids are told once, and the last ones say who is in.
func (s *people) verifyTransitions(final map[pipeline.ID][]string) {
	s.t.Helper()
	type key struct {
		profile pipeline.ID
		segment string
	}
	in, ids, erased := map[key]bool{}, map[pipeline.ID]bool{}, map[pipeline.ID]bool{}
	for _, m := range s.changes {
		if !m.Internal() && erased[m.ProfileID] {
			s.t.Errorf("NothingFollows: %s of %v, who was erased", m.Type, m.ProfileID)
		}
		if m.Type == pipeline.ProfileErased {
			erased[m.ProfileID] = true
			maps.DeleteFunc(in, func(k key, _ bool) bool { return k.profile == m.ProfileID })
		}
		op := gjson.GetBytes(m.Meta, "op").Str
		if op == "" {
			continue
		}
		k := key{m.ProfileID, gjson.GetBytes(m.Data, "segment").Str}
		if ids[m.ID] {
			s.t.Errorf("TransitionsAlternate: %s of %v %s is told twice", op, k.profile, k.segment)
		}
		ids[m.ID] = true
		if gjson.GetBytes(m.Meta, "delta").Int() == 0 {
			continue // carried, and in already: only noted
		}
		now := op == "enter" || op == "carried"
		if in[k] == now {
			s.t.Errorf("TransitionsAlternate: %s of %v %s, which was so already", op, k.profile, k.segment)
		}
		in[k] = now
	}
	for k, is := range maps.Clone(in) {
		if is != slices.Contains(final[k.profile], k.segment) {
			s.t.Errorf("TransitionsAlternate: of %v %s was told %v at last", k.profile, k.segment, is)
		}
	}
	for profile, segments := range final {
		for _, name := range segments {
			if !in[key{profile, name}] {
				s.t.Errorf("TransitionsAlternate: %v is in %s, and nobody was told", profile, name)
			}
		}
	}
}

// picture is everybody's data and memberships.
func (s *people) picture() string {
	end := s.history[len(s.history)-1]
	counts, segments := s.found(end)
	var b []byte
	for _, id := range slices.SortedFunc(maps.Keys(counts), func(a, b pipeline.ID) int { return slices.Compare(a[:], b[:]) }) {
		b = fmt.Appendf(b, "%v %+v %v\n", id, counts[id], segments[id])
	}
	return string(b)
}
