package state

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Retention says how the changelog topic of the task forgets.
type Retention uint8

const (
	// Compacted keeps the last record of every key for ever: one changelog record per changed key and commit.
	Compacted Retention = iota
	// DeletedByTime drops records by age: one changelog record per commit, whatever it changed. It suits state that ages
	// out anyway and changes with every event (dedup). Plain keys only.
	DeletedByTime
)

// Options of a store. The zero value is usable.
type Options struct {
	// CacheBytes bounds the decoded folded values of all partitions, in bytes; 256 MiB if zero.
	CacheBytes int64
	// MemtableBytes is the size of one Pebble memtable, of which two and for moments up to four exist; 16 MiB if zero. Larger
	// ones are slower for small keys.
	MemtableBytes uint64
	// Blocks is the cache of Pebble's blocks, which stores of one process share; nil gives the store one of its own, of 32 MiB
	// beside the memtables.
	Blocks *BlockCache
	// Retention of the changelog topic.
	Retention Retention
	// ManyInputs says that the task reads several topics: their changelog keys then carry the topic's name, because equal
	// partitions share one partition of the changelog. It must stay the same for the life of the changelog.
	ManyInputs bool
	// Logger takes Pebble's errors; slog.Default() if nil.
	Logger *slog.Logger

	fs vfs.FS // the disk if nil; tests crash a file system in memory
}

const (
	defaultCacheBytes    = 256 << 20
	defaultMemtableBytes = 16 << 20
	defaultBlockBytes    = 32 << 20
	memtables            = 4 // at most: then writing waits

	markerName    = "FORMAT"
	markerPrefix  = "millstream state "
	formatFolder  = 1
	maxTopics     = 254
	maxPartition  = math.MaxUint16
	topicKeyStart = "\x00t"
)

// BlockCache is a cache of Pebble's blocks that several stores share. Pebble takes the memory of the memtables from it: of N
// bytes, with two memtables per store, N − 2 · stores · MemtableBytes are left for blocks. Without any left every read of a
// block goes to the disk.
type BlockCache struct{ cache *pebble.Cache }

// NewBlockCache returns a cache of that many bytes. Release it after the last store that uses it is closed.
func NewBlockCache(bytes int64) *BlockCache { return &BlockCache{cache: pebble.NewCache(bytes)} }

// Release frees the memory.
func (b *BlockCache) Release() { b.cache.Unref() }

// Store is the state of one task in one process. Its methods may be called from any goroutine.
type Store struct {
	dir     string
	options Options
	fs      vfs.FS
	lock    *pebble.Lock
	db      *pebble.DB
	decoded *decodedCache

	mu     sync.Mutex
	closed bool
	topics map[string]byte
	owners map[owner]*Partition
	epochs uint64
}

type owner struct {
	topic     string
	partition int32
}

// Open opens the store in folder dir and creates it if the folder is missing or empty. Errors: ErrLocked, ErrForeign,
// ErrDamaged, *NewerFormatError.
func Open(dir string, o Options) (*Store, error) {
	if o.CacheBytes < 0 {
		return nil, fmt.Errorf("open state store %s: cache of %d bytes", dir, o.CacheBytes)
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	if o.MemtableBytes == 0 {
		o.MemtableBytes = defaultMemtableBytes
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	s := &Store{dir: dir, options: o, fs: o.fs, topics: map[string]byte{}, owners: map[owner]*Partition{}}
	if s.fs == nil {
		s.fs = vfs.Default
	}
	if err := s.open(); err != nil {
		return nil, fmt.Errorf("open state store %s: %w", dir, err)
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := s.fs.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	if err := s.checkMarker(); err != nil {
		return err
	}
	if s.lock, err = pebble.LockDirectory(s.dir, s.fs); err != nil {
		if pathError := (*os.PathError)(nil); errors.As(err, &pathError) {
			return err // the lock file cannot be opened: permissions, full disk
		}
		return fmt.Errorf("%w (lock %s: %w)", ErrLocked, s.fs.PathJoin(s.dir, "LOCK"), err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.lock.Close())
		}
	}()
	if s.db, err = pebble.Open(s.dir, s.pebbleOptions()); err != nil {
		var system syscall.Errno
		if errors.As(err, &system) && !errors.Is(err, os.ErrNotExist) {
			return err // a full disk, no permission, too many open files: the files may be whole
		}
		return fmt.Errorf("%w, remove the folder to rebuild it from the changelog: %w", ErrDamaged, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.db.Close())
		}
	}()
	if err := s.readTopics(); err != nil {
		return err
	}
	if s.options.Retention == Compacted { // else there are no folded values
		s.decoded, err = newDecodedCache(s.options.CacheBytes)
	}
	return err
}

// checkMarker refuses a folder that holds anything but a store of a known format, and marks a new one before the first
// other file is written.
func (s *Store) checkMarker() error {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return err
	}
	path := s.fs.PathJoin(s.dir, markerName)
	content, err := readFile(s.fs, path)
	if errors.Is(err, os.ErrNotExist) {
		for _, name := range names {
			if name != markerName+".new" {
				return fmt.Errorf("%w: give the store a folder of its own", ErrForeign)
			}
		}
		return s.writeMarker(path)
	}
	if err != nil {
		return err
	}
	var format int
	if n, err := fmt.Sscanf(string(content), markerPrefix+"%d\n", &format); n != 1 || err != nil || format < 1 {
		return fmt.Errorf("%w: file %s has unknown contents", ErrForeign, markerName)
	}
	if format > formatFolder {
		return &NewerFormatError{What: "state folder", Format: format, Supported: formatFolder}
	}
	return nil
}

func (s *Store) writeMarker(path string) error {
	f, err := s.fs.Create(path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s%d\n", markerPrefix, formatFolder)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := s.fs.Rename(path+".new", path); err != nil {
		return err
	}
	folder, err := s.fs.OpenDir(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// readFile reads at most 100 bytes, more than any marker has.
func readFile(fs vfs.FS, path string) ([]byte, error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return nil, err
	}
	content := make([]byte, min(stat.Size(), 100))
	_, err = f.ReadAt(content, 0)
	return content, err
}

func (s *Store) pebbleOptions() *pebble.Options {
	o := &pebble.Options{
		FS:                          s.fs,
		Lock:                        s.lock,
		Merger:                      newMerger(),
		FormatMajorVersion:          pebble.FormatTableFormatV6,
		MemTableSize:                s.options.MemtableBytes,
		MemTableStopWritesThreshold: memtables,
		CompactionConcurrencyRange:  func() (lower, upper int) { return 1, 2 },
		Logger:                      pebbleLogger{log: s.options.Logger.With("store", s.dir)},
	}
	o.CacheSize = memtables*int64(s.options.MemtableBytes) + defaultBlockBytes
	if s.options.Blocks != nil {
		o.Cache = s.options.Blocks.cache
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].BlockSize = 8 << 10
		o.Levels[i].IndexBlockSize = 256 << 10 // one level of index: 7 % less CPU per read and update of 100,000 profiles
	}
	return o
}

// pebbleLogger passes Pebble's errors on and drops its chatter.
type pebbleLogger struct{ log *slog.Logger }

func (pebbleLogger) Infof(string, ...any) {}

func (l pebbleLogger) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf must not return. Pebble calls it when it cannot go on, for instance when it cannot write its log.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	l.log.Log(context.Background(), slog.LevelError, "pebble cannot go on: "+fmt.Sprintf(format, args...))
	panic("pebble: " + fmt.Sprintf(format, args...))
}

func (s *Store) readTopics() (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		LowerBound: []byte(topicKeyStart), UpperBound: afterPrefix([]byte(topicKeyStart)),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if len(value) != 1 || value[0] == 0 || value[0] > maxTopics {
			return fmt.Errorf("number of an input topic: %w", ErrMalformed)
		}
		s.topics[string(it.Key()[len(topicKeyStart):])] = value[0]
	}
	return it.Error()
}

// Partition makes the caller the owner of that partition of an input topic, until Partition.Close. A second owner is
// refused with ErrOwned. Partitions above 65,535 and more than 254 topics are refused.
func (s *Store) Partition(topic string, partition int32) (*Partition, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("open state of %s-%d: store: %w", topic, partition, ErrClosed)
	}
	who := owner{topic, partition}
	if s.owners[who] != nil {
		return nil, fmt.Errorf("open state of %s-%d: %w", topic, partition, ErrOwned)
	}
	if partition < 0 || partition > maxPartition {
		return nil, fmt.Errorf("open state of %s-%d: partition beyond %d", topic, partition, maxPartition)
	}
	number, err := s.topicNumber(topic)
	if err != nil {
		return nil, fmt.Errorf("open state of %s-%d: %w", topic, partition, err)
	}
	p, err := newPartition(s, who, number, s.nextEpoch())
	if err != nil {
		return nil, fmt.Errorf("open state of %s-%d: %w", topic, partition, err)
	}
	s.owners[who] = p
	return p, nil
}

// nextEpoch returns a number that no earlier owner of any partition had. The caller holds mu.
func (s *Store) nextEpoch() uint64 {
	s.epochs++
	return s.epochs
}

// topicNumber returns the number of a topic in this store and gives it one if it is new. The caller holds mu.
func (s *Store) topicNumber(topic string) (byte, error) {
	if number, ok := s.topics[topic]; ok {
		return number, nil
	}
	if len(s.topics) == maxTopics {
		return 0, fmt.Errorf("more than %d input topics", maxTopics)
	}
	number := byte(len(s.topics) + 1) // topics are never removed
	if err := s.db.Set([]byte(topicKeyStart+topic), []byte{number}, pebble.NoSync); err != nil {
		return 0, err
	}
	s.topics[topic] = number
	return number, nil
}

// Close flushes and closes the database and releases the folder. All partitions must have been closed, else it returns
// ErrInUse and closes nothing. A second call returns ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("close state store %s: %w", s.dir, ErrClosed)
	}
	for who := range s.owners {
		return fmt.Errorf("close state store %s: %s-%d: %w", s.dir, who.topic, who.partition, ErrInUse)
	}
	s.closed = true
	if s.decoded != nil {
		s.decoded.close()
	}
	if err := errors.Join(s.db.Close(), s.lock.Close()); err != nil {
		return fmt.Errorf("close state store %s: %w", s.dir, err)
	}
	return nil
}
