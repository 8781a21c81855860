package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/millstream-io/millstream/pipeline"
)

// eventsPerCommit is about what one partition takes in 50 ms.
const eventsPerCommit = 2000

// benchmark runs event b.N times, in transactions with a savepoint per event, a changelog and a commit.
func benchmark(b *testing.B, o Options, event func(s pipeline.Tx, i int)) {
	s := openStore(b, b.TempDir(), o)
	p := openPartition(b, s, topic, 0)
	b.Cleanup(func() {
		p.Close()
		s.Close()
	})
	emitted := 0
	emit := func(key, value []byte) { emitted += len(key) + len(value) }
	b.ReportAllocs()
	for i := 0; b.Loop(); {
		tx := p.Begin()
		stage := tx.Stage(1)
		for range eventsPerCommit {
			tx.Savepoint()
			event(stage, i)
			i++
		}
		pos := Position{Offsets: int64(i), Changelog: int64(i)}
		if err := tx.Changelog(pos, emit); err != nil {
			b.Fatal(err)
		}
		if err := tx.Commit(pos); err != nil {
			b.Fatal(err)
		}
	}
	events := float64(b.N) * eventsPerCommit
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/events, "ns/event")
	b.ReportMetric(float64(emitted)/events, "changelog-B/event")
}

// dedupKey is a 16-byte id without order behind a bucket, as dedup writes.
func dedupKey(dst []byte, i int) []byte {
	dst = append(dst[:0], 0, 0, 0, byte(i>>20))
	dst = binary.BigEndian.AppendUint64(dst, uint64(i)*0x9e3779b97f4a7c15)
	return binary.BigEndian.AppendUint64(dst, uint64(i)*0xc2b2ae3d27d4eb4f)
}

// BenchmarkDedup: a Get that misses and a Set per event; one operation is a transaction.
func BenchmarkDedup(b *testing.B) {
	for _, misses := range []bool{true, false} {
		b.Run(fmt.Sprintf("get=%v", misses), func(b *testing.B) {
			var key, value []byte
			benchmark(b, Options{Retention: DeletedByTime}, func(s pipeline.Tx, i int) {
				key = dedupKey(key, i)
				value = binary.BigEndian.AppendUint64(value[:0], uint64(i))
				if misses {
					if v, err := s.Get(key); v != nil || err != nil {
						b.Fatal(v, err)
					}
				}
				s.Set(key, value)
			})
		})
	}
}

// total is a folded value that costs next to nothing itself.
type total struct {
	sum  uint64
	rest [1000]byte // as long as a profile
}

func emptyTotal() pipeline.Folded { return &total{} }

func (t *total) Fold(delta []byte) error { t.sum += uint64(delta[0]); return nil }

func (t *total) Encode(dst []byte) []byte {
	return append(binary.BigEndian.AppendUint64(append(dst, 1), t.sum), t.rest[:]...)
}

func (t *total) Decode(full []byte) error {
	t.sum = binary.BigEndian.Uint64(full[1:])
	copy(t.rest[:], full[9:])
	return nil
}

func (t *total) Size() int { return 1008 }

// BenchmarkProfile: a Load and a Merge of a 12-byte delta per event; one operation is a transaction.
func BenchmarkProfile(b *testing.B) {
	for _, profiles := range []int{200, 10_000, 100_000} {
		b.Run(fmt.Sprintf("profiles=%d", profiles), func(b *testing.B) {
			var key []byte
			delta := []byte("123456789012")
			benchmark(b, Options{CacheBytes: 64 << 20}, func(s pipeline.Tx, i int) {
				// half of the events on a hundredth of the profiles
				n := uint64(i) * 0x9e3779b97f4a7c15 >> 33
				if n&1 == 0 {
					n = n >> 1 % uint64(profiles/100)
				} else {
					n = n >> 1 % uint64(profiles)
				}
				key = binary.BigEndian.AppendUint64(append(key[:0], "profile/"...), n*0x9e3779b97f4a7c15)
				if _, err := s.Load(key, emptyTotal); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Merge(key, emptyTotal, delta); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// BenchmarkOverlay compares the overlay with pebble's own, the indexed batch: a Get that misses and a Set in a transaction
// that is thrown away, on an empty store.
func BenchmarkOverlay(b *testing.B) {
	b.Run("overlay", func(b *testing.B) {
		p := openMem(b, Options{Retention: DeletedByTime})
		var key []byte
		b.ReportAllocs()
		for b.Loop() {
			tx := p.Begin()
			s := tx.Stage(1)
			for i := range eventsPerCommit {
				key = dedupKey(key, i)
				if v, err := s.Get(key); v != nil || err != nil {
					b.Fatal(v, err)
				}
				s.Set(key, key)
			}
			tx.Discard()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/eventsPerCommit, "ns/event")
	})
	b.Run("indexed", func(b *testing.B) {
		db, err := pebble.Open("", &pebble.Options{FS: vfs.NewMem()})
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		var key []byte
		b.ReportAllocs()
		for b.Loop() {
			batch := db.NewIndexedBatch()
			for i := range eventsPerCommit {
				key = dedupKey(key, i)
				if _, _, err := batch.Get(key); !errors.Is(err, pebble.ErrNotFound) {
					b.Fatal(err)
				}
				if err := batch.Set(key, key, nil); err != nil {
					b.Fatal(err)
				}
			}
			batch.Close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/eventsPerCommit, "ns/event")
	})
}
