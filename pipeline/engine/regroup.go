package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// How the data of a profile follows the link log. Each profile is an actor: what concerns it comes through the topic
// `resolved`, also from a neighbour in the same partition.
//
//   - An event that was resolved before its primary left this profile is forwarded to where that went; else it is applied.
//   - A regroup opens a turn. Turns are taken in log order: the leave is answered with one move to each destination, also with
//     an empty one; then the turn waits for the moves from those who give; then the next turn.
//   - A move is applied at once and never forwarded. One that comes before its regroup opens the turn.
//   - While a turn is open, or a fragment knows of a change that no finished turn has brought, the profile is held: data is
//     taken, nothing is decided or told.
//
// So what is told of a profile is true of exactly the people's members at one offset of the link log, and no event is in two
// profiles or none. A leave waits for the answers to earlier operations only, so every wait ends.

// codeRegroup is the key space of rosters in the store of the profile task.
const codeRegroup byte = 255

// Bounds of one move; what is more goes in several, in one transaction.
const (
	moveFragments = 100
	moveBytes     = 512 << 10
	moveValues    = 200 // of identifiers; one has at most pipeline.MaxIDBytes
)

// regroup takes a record of that kind.
func (j *profileJob) regroup(ctx context.Context, r *pipeline.Record) error {
	g, rej := pipeline.ParseRegroup(r.Value)
	if rej != nil {
		return fmt.Errorf("regroup at offset %d of partition %d: %w", r.Offset, r.Partition, rej)
	}
	j.work.now = max(j.work.now, g.Now)
	o, err := j.roster(g.Profile, true)
	if err != nil {
		return err
	}
	if g.Offset <= o.told {
		return nil // repeated
	}
	o.told = g.Offset
	t := o.turn(g.Offset)
	t.told, t.leave, t.expect = true, g.Leave, len(g.From)
	t.kind, t.rule, t.reason, t.messageID = g.Kind, g.Rule, g.Reason, g.MessageID
	if len(g.From) > 0 {
		t.from = g.From[0]
	}
	return j.drain(ctx, o)
}

// move takes a record of that kind.
func (j *profileJob) move(ctx context.Context, r *pipeline.Record) error {
	m, rej := pipeline.ParseMove(r.Value)
	if rej != nil {
		return fmt.Errorf("move at offset %d of partition %d: %w", r.Offset, r.Partition, rej)
	}
	j.work.now = max(j.work.now, m.Now)
	o, err := j.roster(m.To, true)
	if err != nil {
		return err
	}
	for i := range m.Fragments {
		f := &m.Fragments[i]
		if at, ok := o.gone(f.Primary); ok && o.pointers[at].offset > m.Offset {
			j.Logger.Error("a move met a newer pointer; please report it", "partition", r.Partition, "offset", r.Offset)
		} else if ok {
			o.pointers = slices.Delete(o.pointers, at, at+1)
		}
		o.add(f.Primary, f.IDV)
		if err := j.chain.put(o.profile, f); err != nil {
			return err
		}
	}
	for i := range m.Values {
		j.learn(o.profile, &m.Values[i])
	}
	t := o.turn(m.Offset)
	if m.Last {
		t.answers++
		t.decisions = append(t.decisions, cloneBytes(m.Decisions)...)
	}
	return j.drain(ctx, o)
}

// broken makes a refusal an error that stops the partition: a record of our own is no customer's fault, and to leave it out
// would lose data.
func broken(err error) error {
	var rej *pipeline.RejectError
	if errors.As(err, &rej) {
		return errors.New(err.Error())
	}
	return err
}

// drain takes the turns in log order, writes the roster, and evaluates the profile if nothing holds it any more.
func (j *profileJob) drain(ctx context.Context, o *roster) error {
	var last *turn
	for len(o.turns) > 0 {
		t := &o.turns[0]
		if t.told && !t.left {
			if err := j.letGo(ctx, o, t); err != nil {
				return err
			}
		}
		if !t.told || t.answers < t.expect {
			break
		}
		for _, d := range t.decisions {
			if err := j.chain.inherit(o.profile, d); err != nil {
				return err
			}
		}
		o.done = t.offset
		done := *t
		last = &done
		o.turns = o.turns[1:]
	}
	j.save(o)
	if last == nil || o.held() || last.departs(o.profile) {
		return nil
	}
	return j.evaluate(ctx, o, last)
}

// departs tells that the profile's own identifier leaves in the turn: nothing is left then.
func (t *turn) departs(profile pipeline.ID) bool {
	return slices.ContainsFunc(t.leave, func(l pipeline.Leave) bool { return l.ID == profile })
}

// letGo answers the leave of a turn: one move to each destination.
func (j *profileJob) letGo(ctx context.Context, o *roster, t *turn) error {
	t.left = true
	if t.erases() {
		return j.erase(ctx, o, t)
	}
	var moves []*pipeline.Move
	values, err := j.leaving(o, t.leave)
	if err != nil {
		return err
	}
	for _, l := range t.leave {
		i := slices.IndexFunc(moves, func(m *pipeline.Move) bool { return m.To == l.To })
		if i < 0 {
			i = len(moves)
			moves = append(moves, &pipeline.Move{Offset: t.offset, From: o.profile, To: l.To, Now: j.work.now})
		}
		m := moves[i]
		if at, ok := o.fragment(l.ID); ok {
			f := pipeline.Fragment{Primary: l.ID, IDV: o.fragments[at].idv}
			if f.Contents, err = j.chain.take(o.profile, l.ID); err != nil {
				return err
			}
			if len(f.Contents) > 0 {
				m.Fragments = append(m.Fragments, f)
				t.gave = true
			}
			o.fragments = slices.Delete(o.fragments, at, at+1)
		}
		o.point(l.ID, l.To, t.offset)
		if l.ID == o.profile {
			m.Whole = true
		}
	}
	j.partWith(o, t, values, moves)
	for _, m := range moves {
		if m.Whole {
			if err := j.depart(ctx, o, t, m); err != nil {
				return err
			}
		}
		j.send(m)
	}
	return nil
}

// depart ends a profile whose own identifier goes to another one.
func (j *profileJob) depart(ctx context.Context, o *roster, t *turn, m *pipeline.Move) error {
	var err error
	if m.Decisions, err = j.end(ctx, o, t); err != nil {
		return err
	}
	if len(m.Fragments) > 0 || len(m.Decisions) > 0 { // else nobody has heard of the profile
		j.tellOne(j.people(pipeline.ProfileMerged, o.profile, "into", m.To, t))
	}
	j.tell(j.chain.messages)
	return j.timers.set(o.profile, never)
}

// end ends what the stages have decided about a profile, and what is noted of it; what the stages say is in the chain's messages.
func (j *profileJob) end(ctx context.Context, o *roster, t *turn) ([]pipeline.StageBytes, error) {
	j.forget(o.profile)
	ev := pipeline.Event{Type: pipeline.TypeEvaluate, MessageID: t.messageID, Primary: o.profile, Canonical: o.profile, Turn: t.offset, Cause: pipeline.CauseMerge,
		ReceivedAt: pipeline.Millis(j.work.now), Time: pipeline.Millis(j.work.now)}
	return j.chain.depart(ctx, &ev)
}

// people is profile.merged, profile.split or profile.erased; word, unless empty, names the other profile.
func (j *profileJob) people(kind string, profile pipeline.ID, word string, other pipeline.ID, t *turn) *pipeline.Message {
	b := append(pipeline.AppendID([]byte(`{"profile_id":"`), profile), `",`...)
	if word != "" {
		b = append(pipeline.AppendID(fmt.Appendf(b, `"%s":"`, word), other), `",`...)
	}
	b = append(b, `"rule":`...)
	b = append(pipeline.AppendJSONString(b, t.rule), `,"reason":`...)
	b = append(pipeline.AppendJSONString(b, t.reason), `,"message_id":`...)
	b = append(pipeline.AppendJSONString(b, t.messageID), '}')
	version := pipeline.Sequence(t.offset, 0)
	meta := fmt.Appendf(nil, `{"version":%d}`, version)
	return &pipeline.Message{ID: pipeline.HashID([]byte(kind), profile[:], meta), Type: kind, Timestamp: pipeline.Millis(j.work.now), ProfileID: profile, Data: b, Meta: meta}
}

// send produces a move, in pieces if it is large.
func (j *profileJob) send(m *pipeline.Move) {
	for len(m.Values) > moveValues {
		j.produceResolved(m.To, (&pipeline.Move{Offset: m.Offset, From: m.From, To: m.To, Now: m.Now, Values: m.Values[:moveValues]}).Append(nil))
		m.Values = m.Values[moveValues:]
	}
	rest := m.Fragments
	for {
		n, size := 0, 0
		for n < len(rest) && n < moveFragments && (n == 0 || size < moveBytes) {
			for _, c := range rest[n].Contents {
				size += len(c.Bytes)
			}
			n++
		}
		piece := *m
		piece.Fragments, rest = rest[:n], rest[n:]
		if piece.Last = len(rest) == 0; !piece.Last {
			piece.Decisions, piece.Values = nil, nil
		}
		j.produceResolved(m.To, piece.Append(nil))
		if piece.Last {
			return
		}
	}
}

func (j *profileJob) produceResolved(to pipeline.ID, value []byte) {
	j.work.out = append(j.work.out, pipeline.Record{Topic: "resolved", Partition: -1, Key: pipeline.AppendID(nil, to), Value: value})
}

// evaluate looks at a profile whose last turn is over. A refusal undoes the evaluation, not the regrouping.
func (j *profileJob) evaluate(ctx context.Context, o *roster, t *turn) error {
	cause := pipeline.CauseSplit
	if t.kind == "merge" {
		cause = pipeline.CauseMerge
	}
	j.ev = j.evaluation(o, cause, t.messageID)
	mark := len(j.work.out)
	j.work.tx.Savepoint()
	err := j.chain.process(ctx, &j.ev)
	var rej *pipeline.RejectError
	if errors.As(err, &rej) {
		j.work.tx.RollbackToSavepoint()
		j.work.out, j.undone = j.work.out[:mark], true
		j.Logger.Error("a profile cannot be evaluated after it was regrouped", "stage", rej.Stage, "code", rej.Code)
		return nil
	}
	if err != nil {
		return err
	}
	if t.kind != "merge" && t.expect > 0 && j.ev.Profile != nil && j.ev.Profile.Version > 0 { // else nobody has heard of it
		j.tellOne(j.people(pipeline.ProfileSplit, o.profile, "from", t.from, t))
	}
	if _, gone := o.gone(o.profile); t.gave && !gone && j.ev.Profile != nil && j.updates[o.profile] == nil {
		j.update(j.ev.Profile) // it may have nothing any more: then no name is new, and yet it is another one
	}
	return j.through()
}

// evaluation is the event that makes the stages look at a profile.
func (j *profileJob) evaluation(o *roster, cause, messageID string) pipeline.Event {
	ev := pipeline.Event{Type: pipeline.TypeEvaluate, MessageID: messageID, Primary: o.profile, Canonical: o.profile, Cause: cause,
		ReceivedAt: pipeline.Millis(j.work.now), Time: pipeline.Millis(j.work.now)}
	j.attach(&ev, o)
	return ev
}

// attach gives an event what is known of its profile.
func (j *profileJob) attach(ev *pipeline.Event, o *roster) {
	if o == nil {
		return
	}
	ev.Turn, ev.Held = o.done, o.held()
	ev.Fragments = make([]pipeline.ID, len(o.fragments))
	for i := range o.fragments {
		ev.Fragments[i] = o.fragments[i].primary
	}
}

// place finds out where an event goes: elsewhere, then it is forwarded; nowhere, if its person was erased; or into its profile,
// whose roster it may change.
func (j *profileJob) place(ev *pipeline.Event, config uint64) (gone bool, err error) {
	o, err := j.roster(ev.Canonical, ev.IDV > 0 || ev.Primary != ev.Canonical)
	if o == nil || err != nil {
		return false, err
	}
	if i, ok := o.gone(ev.Primary); ok && o.pointers[i].offset > ev.IDV {
		if o.pointers[i].to == uuid.Nil {
			j.work.dropped.add(pipeline.TaskProfile+"/erased", 1)
			return true, nil
		}
		idv := ev.IDV
		ev.Canonical, ev.IDV, ev.Forwarded = o.pointers[i].to, o.pointers[i].offset, true
		o.owners(ev, j.plan.Identities, idv)
		j.produceResolved(ev.Canonical, pipeline.AppendResolved(nil, ev, config))
		return true, nil
	}
	if o.add(ev.Primary, ev.IDV) {
		j.save(o)
	}
	j.attach(ev, o)
	return false, nil
}

// roster is what is kept of one profile about regrouping.
type roster struct {
	profile   pipeline.ID
	told      uint64    // offset of the last regroup received
	done      uint64    // offset of the last turn finished
	fragments []holding // primaries under which the profile has data, sorted; its own id stands there in any case until it leaves
	pointers  []pointer // identifiers that have left, sorted
	turns     []turn    // not finished, in log order
}

// holding is one fragment.
type holding struct {
	primary pipeline.ID
	idv     uint64 // highest offset of a change that an event in it knew of
}

// pointer says where an identifier went, and by which operation; to nobody (the nil UUID) if it was erased.
type pointer struct {
	id, to pipeline.ID
	offset uint64
}

// turn is one operation that concerns the profile.
type turn struct {
	offset             uint64
	told, left         bool // the regroup has come; its leave has been answered
	gave               bool // with data
	leave              []pipeline.Leave
	expect, answers    int
	decisions          []pipeline.StageBytes // what profiles that were merged into this one brought; counts when the turn is over
	from               pipeline.ID
	kind, rule, reason string
	messageID          string
}

// held tells whether nothing may be decided.
func (o *roster) held() bool {
	return len(o.turns) > 0 || slices.ContainsFunc(o.fragments, func(f holding) bool { return f.idv > o.done })
}

// turn finds or opens the turn of an operation. Regroups come in log order and an answer at most one ahead, so a new turn is
// the last one.
func (o *roster) turn(offset uint64) *turn {
	for i := range o.turns {
		if o.turns[i].offset == offset {
			return &o.turns[i]
		}
	}
	o.turns = append(o.turns, turn{offset: offset})
	slices.SortFunc(o.turns, func(a, b turn) int { return int(a.offset) - int(b.offset) })
	return o.turn(offset)
}

func (o *roster) fragment(primary pipeline.ID) (int, bool) {
	return slices.BinarySearchFunc(o.fragments, primary, func(f holding, id pipeline.ID) int { return bytes.Compare(f.primary[:], id[:]) })
}

// add notes that the profile has data under a primary that knows of changes up to idv, and tells whether that is new.
func (o *roster) add(primary pipeline.ID, idv uint64) bool {
	i, ok := o.fragment(primary)
	switch {
	case !ok:
		o.fragments = slices.Insert(o.fragments, i, holding{primary, idv})
	case o.fragments[i].idv < idv:
		o.fragments[i].idv = idv
	default:
		return false
	}
	return true
}

func (o *roster) gone(id pipeline.ID) (int, bool) {
	return slices.BinarySearchFunc(o.pointers, id, func(p pointer, id pipeline.ID) int { return bytes.Compare(p.id[:], id[:]) })
}

func (o *roster) point(id, to pipeline.ID, offset uint64) {
	i, ok := o.gone(id)
	if !ok {
		o.pointers = slices.Insert(o.pointers, i, pointer{id: id})
	}
	o.pointers[i] = pointer{id, to, offset}
}

// roster reads the roster of a profile. One that was never linked has none, and gets one if wanted: with its own id, whose
// data may be there already.
func (j *profileJob) roster(profile pipeline.ID, wanted bool) (*roster, error) {
	value, err := j.lately.get(j.rosters, profile)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the roster of a profile, partition %d: %w", j.work.batch.Partition, err)
	case value == nil && !wanted:
		return nil, nil
	case value == nil:
		return &roster{profile: profile, fragments: []holding{{primary: profile}}}, nil
	}
	o := &roster{profile: profile}
	if err := o.decode(value); err != nil {
		return nil, fmt.Errorf("decode the roster of a profile, partition %d: %w", j.work.batch.Partition, err)
	}
	return o, nil
}

func (j *profileJob) save(o *roster) {
	j.value = o.encode(j.value[:0])
	j.rosters.Set(o.profile[:], j.value)
	j.lately.written(o.profile)
}

const rosterFormat = 1

// encode appends the roster: format, told, done, then the lists, each with its length before it. Numbers are uvarints.
func (o *roster) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(binary.AppendUvarint(append(dst, rosterFormat), o.told), o.done)
	dst = binary.AppendUvarint(dst, uint64(len(o.fragments)))
	for _, f := range o.fragments {
		dst = binary.AppendUvarint(append(dst, f.primary[:]...), f.idv)
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.pointers)))
	for _, p := range o.pointers {
		dst = binary.AppendUvarint(append(append(dst, p.id[:]...), p.to[:]...), p.offset)
	}
	dst = binary.AppendUvarint(dst, uint64(len(o.turns)))
	for i := range o.turns {
		dst = o.turns[i].encode(dst)
	}
	return dst
}

func (t *turn) encode(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, t.offset)
	var flags byte
	if t.told {
		flags |= 1
	}
	if t.left {
		flags |= 2
	}
	if t.gave {
		flags |= 4
	}
	dst = append(dst, flags)
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(t.expect)), uint64(t.answers))
	dst = binary.AppendUvarint(dst, uint64(len(t.leave)))
	for _, l := range t.leave {
		dst = append(append(dst, l.ID[:]...), l.To[:]...)
	}
	dst = pipeline.AppendStageBytes(dst, t.decisions)
	dst = append(dst, t.from[:]...)
	for _, s := range []string{t.kind, t.rule, t.reason, t.messageID} {
		dst = append(binary.AppendUvarint(dst, uint64(len(s))), s...)
	}
	return dst
}

func (o *roster) decode(value []byte) error {
	d := pipeline.NewDecoder(value)
	if f := d.Byte(); f != rosterFormat {
		return fmt.Errorf("%w: the roster has format %d, this build reads format %d: upgrade it", errStopped, f, rosterFormat)
	}
	o.told, o.done = d.Uvarint(), d.Uvarint()
	for n := d.Uvarint(); n > 0 && d.OK(); n-- {
		o.fragments = append(o.fragments, holding{d.ID(), d.Uvarint()})
	}
	for n := d.Uvarint(); n > 0 && d.OK(); n-- {
		o.pointers = append(o.pointers, pointer{d.ID(), d.ID(), d.Uvarint()})
	}
	for n := d.Uvarint(); n > 0 && d.OK(); n-- {
		o.turns = append(o.turns, decodeTurn(d))
	}
	if !d.Complete() {
		return errors.New("the roster ends in the middle of a field")
	}
	return nil
}

func decodeTurn(d *pipeline.Decoder) turn {
	t := turn{offset: d.Uvarint()}
	flags := d.Byte()
	t.told, t.left, t.gave = flags&1 != 0, flags&2 != 0, flags&4 != 0
	t.expect, t.answers = int(d.Uvarint()), int(d.Uvarint())
	for n := d.Uvarint(); n > 0 && d.OK(); n-- {
		t.leave = append(t.leave, pipeline.Leave{ID: d.ID(), To: d.ID()})
	}
	t.decisions = cloneBytes(d.StageBytes())
	t.from = d.ID()
	t.kind, t.rule, t.reason, t.messageID = strings.Clone(d.Text()), strings.Clone(d.Text()), strings.Clone(d.Text()), strings.Clone(d.Text())
	return t
}

// cloneBytes copies what would else be parts of a record or of the store's memory.
func cloneBytes(list []pipeline.StageBytes) []pipeline.StageBytes {
	for i := range list {
		list[i].Bytes = bytes.Clone(list[i].Bytes)
	}
	return list
}
