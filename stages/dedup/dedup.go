// Package dedup is the stage that lets each event through once.
//
// An event is known by its message id: the sender's own wherever it comes from (an export that is loaded again through
// another source is recognised), else the id within its source. Only an exact match is dropped; the same id with other
// content is refused, and the first stands. What arrives after the window is let through and flagged late, never guessed.
package dedup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// Kind describes the stage.
var Kind = pipeline.StageKind{
	Name:    "dedup",
	Task:    pipeline.TaskResolve,
	Code:    2,
	Summary: "lets each event through once",
	After:   []string{"clean"},
	Config:  func() any { return &Config{Window: pipeline.Duration(24 * time.Hour)} },
	Build:   build,
}

// Config of the stage.
type Config struct {
	// Window is how long a message id is remembered after its event was received: 1m … 90d, 24h unless set.
	Window pipeline.Duration `yaml:"window"`
}

const (
	minWindow = time.Minute
	maxWindow = 90 * 24 * time.Hour
)

func build(config any, env *pipeline.Env) (func() pipeline.Stage, []pipeline.Problem) {
	c := config.(*Config)
	window := time.Duration(c.Window)
	if window < minWindow || window > maxWindow {
		return nil, []pipeline.Problem{pipeline.Problemf([]string{"window"}, "window is %s: choose between 1m and 90d", c.Window)}
	}
	env.Horizon = window
	return func() pipeline.Stage { return newStage(window) }, nil
}

// buckets is how many buckets a window has: ids are forgotten at most a 24th of the window after its end.
const buckets = 24

// Keys and values of the state:
//
//	bucket, key of the message id   fingerprint of the content, 8 bytes
//	bucket                          1: the buckets beyond the horizon were removed when this one was the newest
//
// bucket is the end of the time bucket in which the event was received (exclusive, Unix seconds, 4 bytes big endian). Because
// a bucket is named by its end, it can be judged expired without knowing the window under which it was written.
type stateKey [bucketBytes + keyBytes]byte

const (
	bucketBytes      = 4
	keyBytes         = 16
	fingerprintBytes = 8
)

// expiryShare is how many events share one look at whether there is something to expire. Which events look depends on their
// keys, so that what is written stays a function of state and event, whatever the stage has in memory.
const expiryShare = 64

// stage serves one partition.
type stage struct {
	window int64 // seconds
	width  int64 // of a bucket, seconds

	// filters are the buckets that the state has, oldest first: a cache, rebuilt from the state on first use. It may know
	// more than the state after a transaction was undone. Buckets up to dropped are not in it any more: if an undone
	// transaction makes an event need them again, the cache is rebuilt.
	filters []*filter
	loaded  bool
	dropped int64
}

func newStage(window time.Duration) *stage {
	seconds := int64((window + time.Second - 1) / time.Second)
	return &stage{window: seconds, width: (seconds + buckets - 1) / buckets}
}

// Process drops an event that was let through before (reason duplicate), and refuses other content under the same id
// (code id_conflict).
func (s *stage) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	now := ev.ReceivedAt.Unix()
	horizon := now - s.window
	if !s.loaded || horizon < s.dropped {
		if err := s.load(tx); err != nil {
			return fmt.Errorf("read the message ids of partition %d: %w", ev.Partition, err)
		}
	}
	s.forget(horizon)
	ev.Late = ev.Time.Unix() < horizon
	key, print := idKey(ev), fingerprint(ev)
	known, err := s.find(tx, key, horizon)
	switch {
	case err != nil:
		return fmt.Errorf("look up a message id of partition %d: %w", ev.Partition, err)
	case known == nil:
		if err := s.remember(tx, key, print, now, horizon); err != nil {
			return fmt.Errorf("remember a message id of partition %d: %w", ev.Partition, err)
		}
		return emit.Event(ev)
	case bytes.Equal(known, print[:]):
		emit.Drop("duplicate")
		return nil
	}
	return pipeline.Reject("id_conflict", "an event with the same message id and other content was accepted before")
}

// idKey is the first 128 bits of a SHA-256. Ids come from clients, and a collision would lose an event, so the hash must
// be one for which nobody can make collisions.
func idKey(ev *pipeline.Event) (key [keyBytes]byte) {
	var buf [256]byte
	b := buf[:0]
	if !ev.OwnID {
		b = append(append(b, ev.Source...), 0)
	}
	b = append(append(b, 0), ev.MessageID...)
	sum := sha256.Sum256(b)
	copy(key[:], sum[:])
	return key
}

// find returns the fingerprint under which the id is known, nil if it is new.
func (s *stage) find(tx pipeline.Tx, key [keyBytes]byte, horizon int64) ([]byte, error) {
	for i := len(s.filters) - 1; i >= 0; i-- { // the newest first: repeats come soon
		f := s.filters[i]
		if f.end <= horizon {
			break
		}
		if !f.mayHave(key) {
			continue
		}
		k := newStateKey(f.end, key)
		if known, err := tx.Get(k[:]); known != nil || err != nil {
			return known, err
		}
	}
	return nil, nil
}

func newStateKey(end int64, key [keyBytes]byte) (k stateKey) {
	binary.BigEndian.PutUint32(k[:], uint32(end))
	copy(k[bucketBytes:], key[:])
	return k
}

// remember writes the id into the bucket of now.
func (s *stage) remember(tx pipeline.Tx, key [keyBytes]byte, print [fingerprintBytes]byte, now, horizon int64) error {
	end := now - now%s.width + s.width
	f := s.bucket(end)
	if f == nil {
		f = s.addBucket(end)
	}
	if f.full() {
		if err := f.grow(tx); err != nil {
			return err
		}
	}
	f.add(key)
	k := newStateKey(end, key)
	tx.Set(k[:], print[:])
	if key[keyBytes-1]%expiryShare == 0 {
		return expire(tx, end, horizon)
	}
	return nil
}

func (s *stage) bucket(end int64) *filter {
	for i := len(s.filters) - 1; i >= 0; i-- {
		if s.filters[i].end == end {
			return s.filters[i]
		}
	}
	return nil
}

// addBucket starts a bucket, as large as the one before it has become.
func (s *stage) addBucket(end int64) *filter {
	i, size := len(s.filters), 0
	for i > 0 && s.filters[i-1].end > end {
		i--
	}
	if i > 0 {
		size = s.filters[i-1].count
	}
	f := newFilter(end, size+size/4)
	s.filters = append(s.filters, nil)
	copy(s.filters[i+1:], s.filters[i:])
	s.filters[i] = f
	return f
}

// expire removes the buckets beyond the horizon from the state, once per bucket.
func expire(tx pipeline.Tx, newest, horizon int64) error {
	var done, from, to [bucketBytes]byte
	binary.BigEndian.PutUint32(done[:], uint32(newest))
	if value, err := tx.Get(done[:]); value != nil || err != nil {
		return err
	}
	tx.Set(done[:], []byte{1})
	binary.BigEndian.PutUint32(to[:], uint32(max(horizon, 0)+1))
	return tx.DeleteRange(from[:], to[:])
}

// forget removes the buckets beyond the horizon from memory.
func (s *stage) forget(horizon int64) {
	for len(s.filters) > 0 && s.filters[0].end <= horizon {
		s.dropped = s.filters[0].end
		s.filters = s.filters[1:]
	}
}

// load rebuilds the filters from the state: some seconds per 100 million ids.
func (s *stage) load(tx pipeline.Tx) error {
	s.filters, s.dropped = nil, 0
	var end int64
	var ids [][keyBytes]byte
	seal := func() {
		if len(ids) == 0 {
			return
		}
		f := newFilter(end, len(ids)+len(ids)/4)
		for _, id := range ids {
			f.add(id)
		}
		s.filters = append(s.filters, f)
		ids = ids[:0]
	}
	err := tx.Scan(nil, func(key, _ []byte) error {
		if len(key) == bucketBytes {
			return nil
		}
		if len(key) != len(stateKey{}) {
			return fmt.Errorf("a state key has %d bytes: the state is not this stage's", len(key))
		}
		if e := int64(binary.BigEndian.Uint32(key)); e != end {
			seal()
			end = e
		}
		ids = append(ids, [keyBytes]byte(key[bucketBytes:]))
		return nil
	})
	seal()
	s.loaded = err == nil
	return err
}
