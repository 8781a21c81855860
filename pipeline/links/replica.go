package links

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// Options of a replica.
type Options struct {
	Rules *Settings
	// Ambiguous makes the profile id of those whom an ambiguous identifier may mean.
	Ambiguous func(id pipeline.ID) pipeline.ID
	// TopicID is Kafka's id of the log: a replica of another log is thrown away.
	TopicID pipeline.ID
	Logger  *slog.Logger
}

// Replica is what one process knows of the link log. It is safe for concurrent use; Apply has one caller.
type Replica struct {
	Options
	db *pebble.DB

	life   sync.RWMutex // held for reading by every call, for writing by Close: Pebble panics when it is used after its end
	closed bool

	mu      sync.RWMutex // held for reading while an event is resolved: all its answers are those of one offset
	cache   *cache
	erased  bool // somebody was; else nobody is asked for
	next    int64
	changed chan struct{} // closed at the next change
}

const (
	replicaFormat = 2 // 1: before erasures, and the same but for them
	memtableBytes = 4 << 20
	blockBytes    = 16 << 20
)

// ErrClosed says that the replica was closed.
var ErrClosed = errors.New("the replica of the links is closed")

// errOther says that the folder's replica was made under other rules.
var errOther = errors.New("a replica of another log")

// Open opens the replica in a folder, which is created if it is missing. A replica of another log, or of other rules, is
// thrown away: the log makes it anew.
func Open(dir string, o Options) (*Replica, error) {
	r, err := open(dir, o)
	if errors.Is(err, errOther) {
		o.Logger.Info("the replica of the links belongs to another log or to other rules; it is made anew")
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("throw the replica of the links away: %w", err)
		}
		r, err = open(dir, o)
	}
	return r, err
}

func open(dir string, o Options) (*Replica, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the replica of the links: %w", err)
	}
	blocks := pebble.NewCache(blockBytes + 4*memtableBytes) // memtables take theirs from it
	defer blocks.Unref()
	options := &pebble.Options{Cache: blocks, MemTableSize: memtableBytes, FormatMajorVersion: pebble.FormatTableFormatV6, Logger: quiet{o.Logger}}
	for i := range options.Levels {
		options.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // most identifiers have no flags: "absent" must be cheap
		options.Levels[i].BlockSize = 8 << 10
		options.Levels[i].IndexBlockSize = 256 << 10 // one level of index
	}
	db, err := pebble.Open(dir, options)
	if err != nil {
		return nil, fmt.Errorf("open the replica of the links: %w", err)
	}
	r := &Replica{Options: o, db: db, cache: newCache(), changed: make(chan struct{})}
	if err := r.place(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return r, nil
}

// place reads the position: format, next offset, topic id, rules.
func (r *Replica) place() error {
	v, err := read(r.db, []byte{keyPlace})
	if err != nil || v == nil {
		return err
	}
	if v[0] > replicaFormat {
		return fmt.Errorf("the replica of the links has format %d, this build reads format %d: upgrade it", v[0], replicaFormat)
	}
	if len(v) < 25 || pipeline.ID(v[9:25]) != r.TopicID || string(v[25:]) != r.Rules.String() {
		return errOther
	}
	r.next = int64(binary.BigEndian.Uint64(v[1:]))
	erased, err := read(r.db, []byte{keyErased})
	r.erased = erased != nil
	return err
}

func (r *Replica) encodePlace(next int64) []byte {
	v := binary.BigEndian.AppendUint64([]byte{replicaFormat}, uint64(next))
	return append(append(v, r.TopicID[:]...), r.Rules.String()...)
}

// enter begins a call; leave ends it.
func (r *Replica) enter() error {
	r.life.RLock()
	if r.closed {
		r.life.RUnlock()
		return ErrClosed
	}
	return nil
}

func (r *Replica) leave() { r.life.RUnlock() }

// Reset empties the replica: the log has less than it knows.
func (r *Replica) Reset() error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.db.DeleteRange([]byte{0}, []byte{0xff}, pebble.NoSync); err != nil {
		return fmt.Errorf("empty the replica of the links: %w", err)
	}
	r.cache.clear()
	r.next, r.erased = 0, false
	return nil
}

// Next is the offset of the first operation that is not applied, and a channel that closes when that changes.
func (r *Replica) Next() (int64, <-chan struct{}) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.next, r.changed
}

// Apply applies consecutive records of the log; next is the offset behind them. Nothing is synced to the disk: after a crash
// the log repeats.
func (r *Replica) Apply(records []pipeline.Record, next int64) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	g := newGraph(r.db)
	a := &applier{graph: g, rules: r.Rules}
	for i := range records {
		rec := &records[i]
		if rec.Offset < r.next {
			continue
		}
		o, err := Parse(rec.Value)
		if err != nil {
			return fmt.Errorf("offset %d of the links: %w", rec.Offset, err)
		}
		out, err := a.apply(o, uint64(rec.Offset))
		if err != nil {
			return fmt.Errorf("apply offset %d of the links: %w", rec.Offset, err)
		}
		if out.Kind != Nothing {
			v, err := encodeOutcome(out)
			if err != nil {
				return fmt.Errorf("encode the outcome of offset %d of the links: %w", rec.Offset, err)
			}
			g.set(outcomeKey(out.Offset), v)
		}
	}
	g.set([]byte{keyPlace}, r.encodePlace(next))
	return r.commit(g, next)
}

func (r *Replica) commit(g *graph, next int64) error {
	b := r.db.NewBatch()
	defer b.Close()
	for k, v := range g.writes {
		var err error
		if v == nil {
			err = b.Delete([]byte(k), nil)
		} else {
			err = b.Set([]byte(k), v, nil)
		}
		if err != nil {
			return fmt.Errorf("write the links: %w", err)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := b.Commit(pebble.NoSync); err != nil {
		return fmt.Errorf("write the links: %w", err)
	}
	for id := range g.touched {
		r.cache.forget(id)
	}
	if _, ok := g.writes[string([]byte{keyErased})]; ok {
		r.erased = true
	}
	r.next = next
	close(r.changed)
	r.changed = make(chan struct{})
	return nil
}

// Unknown is of pipeline.Links. It takes an error of the store for "known": Resolve then tells it.
func (r *Replica) Unknown(dst []pipeline.Link, ids []pipeline.Identifier) []pipeline.Link {
	if r.enter() != nil {
		return dst
	}
	defer r.leave()
	r.mu.RLock()
	defer r.mu.RUnlock()
	ids, err := r.now(ids)
	if err != nil {
		return dst
	}
	hub := pipeline.ID{}
	for i := range ids {
		id := ids[i].ID
		p, err := r.find(id)
		switch {
		case err != nil:
			return dst
		case p.unusable():
		case hub == uuid.Nil:
			if hub = id; p.ambiguous() {
				return dst
			}
		case id != hub:
			if l := (pipeline.Link{Strong: hub, Weak: id}); !r.knows(l) {
				dst = append(dst, l)
			}
		}
	}
	return dst
}

// Resolve is of pipeline.Links. The primary is the strongest identifier that says something about a person; one that may
// mean several people, and one that is blocked or shared by too many, stand for a profile of their own.
func (r *Replica) Resolve(ids []pipeline.Identifier) (pipeline.Resolution, error) {
	if err := r.enter(); err != nil {
		return pipeline.Resolution{}, err
	}
	defer r.leave()
	r.mu.RLock()
	defer r.mu.RUnlock()
	current, err := r.now(ids)
	if err != nil {
		return pipeline.Resolution{}, err
	}
	for i := range current {
		id := current[i].ID
		p, err := r.find(id)
		switch {
		case err != nil:
			return pipeline.Resolution{}, err
		case p.unusable():
			continue
		case p.ambiguous():
			return r.nobody(id, ids)
		}
		return r.owners(pipeline.Resolution{Primary: id, Canonical: p.profile, IDV: p.changed}, ids)
	}
	return r.nobody(current[0].ID, ids)
}

func (r *Replica) nobody(id pipeline.ID, ids []pipeline.Identifier) (pipeline.Resolution, error) {
	x := r.Ambiguous(id)
	return r.owners(pipeline.Resolution{Primary: x, Canonical: x}, ids)
}

// owners adds the profiles of the identifiers that are not the resolution's, and the ids of those that have another one since
// somebody was erased. Most events have none.
func (r *Replica) owners(to pipeline.Resolution, ids []pipeline.Identifier) (pipeline.Resolution, error) {
	for i := range ids {
		if ids[i].ID == to.Primary {
			continue
		}
		id := ids[i].ID
		if r.erased {
			var err error
			if id, err = r.successor(id); err != nil {
				return pipeline.Resolution{}, err
			}
		}
		p, err := r.find(id)
		if err != nil {
			return pipeline.Resolution{}, err
		}
		if p.profile != to.Canonical || id != ids[i].ID {
			to.Owners = append(to.Owners, pipeline.Owner{Index: i, ID: id, Profile: p.profile, IDV: p.changed})
		}
	}
	return to, nil
}

// find reads what is known of an identifier, from the cache or the store.
func (r *Replica) find(id pipeline.ID) (place, error) {
	if p, ok := r.cache.get(id); ok {
		return p, nil
	}
	p := place{id: id, profile: id}
	v, err := read(r.db, key(keyProfile, id))
	if err == nil && len(v) == 16 {
		p.profile = pipeline.ID(v)
	}
	if err == nil {
		if v, err = read(r.db, key(keyChanged, p.profile)); len(v) == 8 {
			p.changed = binary.BigEndian.Uint64(v)
		}
	}
	if err == nil {
		if v, err = read(r.db, key(keyState, id)); len(v) > 0 {
			p.flags = v[0]
		}
	}
	if err != nil {
		return place{}, err
	}
	r.cache.put(p)
	return p, nil
}

// knows tells whether the log has had the link. That it has changes only for erased identifiers, of which nobody asks, so the
// cache is never wrong.
func (r *Replica) knows(l pipeline.Link) bool {
	if r.cache.hasLink(l) {
		return true
	}
	v, err := read(r.db, key(keyEdge, l.Strong, l.Weak))
	if err != nil || v == nil {
		return err != nil
	}
	r.cache.putLink(l)
	return true
}

func outcomeKey(offset uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{keyOutcome}, offset)
}

// Outcomes visits the outcomes of offsets in [from, to), in order; operations that did nothing have none.
func (r *Replica) Outcomes(from, to int64, fn func(*Outcome) error) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: outcomeKey(uint64(from)), UpperBound: outcomeKey(uint64(to))})
	if err != nil {
		return fmt.Errorf("read the outcomes of the links: %w", err)
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		var o *Outcome
		if o, err = decodeOutcome(it.Value()); err == nil {
			err = fn(o)
		}
	}
	return errors.Join(err, it.Close())
}

// Forget drops the outcomes below an offset: the regroup task has committed them.
func (r *Replica) Forget(below int64) error {
	if err := r.enter(); err != nil {
		return err
	}
	defer r.leave()
	if err := r.db.DeleteRange(outcomeKey(0), outcomeKey(uint64(below)), pebble.NoSync); err != nil {
		return fmt.Errorf("drop outcomes of the links: %w", err)
	}
	return nil
}

// Members are the identifiers of the profile that an identifier, which is not erased, belongs to, and that profile.
func (r *Replica) Members(id pipeline.ID) (profile pipeline.ID, members []pipeline.ID, err error) {
	if err := r.enter(); err != nil {
		return id, nil, err
	}
	defer r.leave()
	r.mu.RLock()
	defer r.mu.RUnlock()
	g := newGraph(r.db)
	profile = g.profile(id)
	return profile, g.members(profile), g.err
}

// Close closes the store after the calls under way; later ones return ErrClosed. It may be called twice.
func (r *Replica) Close() error {
	r.life.Lock()
	defer r.life.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return r.db.Close()
}

// quiet takes Pebble's log lines: errors only.
type quiet struct{ logger *slog.Logger }

func (quiet) Infof(string, ...any) {}

func (q quiet) Errorf(format string, args ...any) {
	q.logger.Error("the replica of the links", "error", fmt.Sprintf(format, args...))
}

func (q quiet) Fatalf(format string, args ...any) {
	panic("links: " + fmt.Sprintf(format, args...))
}
