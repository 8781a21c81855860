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

// A state key is the end of the time bucket in which the event was received (exclusive, Unix seconds, 4 bytes big endian),
// then the key of its message id. The value is the fingerprint of its content. Because the bucket is named by its end, a
// key can be judged expired without knowing the window under which it was written.
type stateKey [4 + keyBytes]byte

const (
	keyBytes         = 16
	fingerprintBytes = 8
)

// stage serves one partition.
type stage struct {
	window int64 // seconds
	width  int64 // of a bucket, seconds

	// filters are the buckets that the state has, oldest first: a cache, rebuilt from the state on first use. It may know
	// more than the state after a transaction was undone.
	filters []*filter
	loaded  bool
}

func newStage(window time.Duration) *stage {
	seconds := int64((window + time.Second - 1) / time.Second)
	return &stage{window: seconds, width: (seconds + buckets - 1) / buckets}
}

// Process drops an event that was let through before (reason duplicate), and refuses other content under the same id
// (code id_conflict).
func (s *stage) Process(_ context.Context, tx pipeline.Tx, ev *pipeline.Event, emit pipeline.Emit) error {
	if !s.loaded {
		if err := s.load(tx); err != nil {
			return fmt.Errorf("read the message ids of partition %d: %w", ev.Partition, err)
		}
	}
	now := ev.ReceivedAt.Unix()
	horizon := now - s.window
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
	copy(k[4:], key[:])
	return k
}

// remember writes the id into the bucket of now. The first id of a new bucket removes the buckets beyond the horizon.
func (s *stage) remember(tx pipeline.Tx, key [keyBytes]byte, print [fingerprintBytes]byte, now, horizon int64) error {
	end := now - now%s.width + s.width
	f := s.bucket(end)
	if f == nil {
		if err := s.expire(tx, horizon); err != nil {
			return err
		}
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

// expire removes all buckets that ended at or before the horizon, also those that only the state knows.
func (s *stage) expire(tx pipeline.Tx, horizon int64) error {
	if horizon <= 0 {
		return nil
	}
	var from, to [4]byte
	binary.BigEndian.PutUint32(to[:], uint32(horizon+1))
	if err := tx.DeleteRange(from[:], to[:]); err != nil {
		return err
	}
	for len(s.filters) > 0 && s.filters[0].end <= horizon {
		s.filters = s.filters[1:]
	}
	return nil
}

// load rebuilds the filters from the state: some seconds per 100 million ids.
func (s *stage) load(tx pipeline.Tx) error {
	s.filters = nil
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
		if len(key) != len(stateKey{}) {
			return fmt.Errorf("a state key has %d bytes: the state is not this stage's", len(key))
		}
		if e := int64(binary.BigEndian.Uint32(key)); e != end {
			seal()
			end = e
		}
		ids = append(ids, [keyBytes]byte(key[4:]))
		return nil
	})
	seal()
	s.loaded = err == nil
	return err
}
