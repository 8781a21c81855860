package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestOpenTwice(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "task", "profile")
	s := openStore(t, dir, Options{})
	_, err := Open(dir, Options{})
	wantError(t, "second store", err, ErrLocked)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "second close", s.Close(), ErrClosed)
	_, err = s.Partition(topic, 0)
	wantError(t, "partition of a closed store", err, ErrClosed)
	if err := openStore(t, dir, Options{}).Close(); err != nil {
		t.Fatal(err)
	}
}

// The lock holds between processes: the test runs itself again on the folder.
func TestOpenInAnotherProcess(t *testing.T) {
	const name = "MILLSTREAM_STATE_TEST_DIR"
	if dir := os.Getenv(name); dir != "" {
		_, err := Open(dir, Options{})
		fmt.Println(err)
		return
	}
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	defer s.Close()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOpenInAnotherProcess$")
	child.Env = append(os.Environ(), name+"="+dir)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), ErrLocked.Error()) || !strings.Contains(string(out), filepath.Join(dir, "LOCK")) {
		t.Errorf("got %q, %v; want %q naming the lock", out, err, ErrLocked)
	}
}

func TestOpenRefusesForeignFolder(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "letter.txt")
	if err := os.WriteFile(mine, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(dir, Options{})
	wantError(t, "folder with a file", err, ErrForeign)
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("the folder was touched: %v", files)
	}
	if _, err = Open(mine, Options{}); err == nil {
		t.Error("a file was opened as a folder")
	}
}

func TestOpenRefusesOtherFormats(t *testing.T) {
	for content, check := range map[string]func(error) bool{
		"millstream state 2\n": func(err error) bool {
			var newer *NewerFormatError
			return errors.As(err, &newer) && newer.Format == 2 && strings.Contains(err.Error(), "later")
		},
		"millstream state 0\n":    func(err error) bool { return errors.Is(err, ErrForeign) },
		"something else":          func(err error) bool { return errors.Is(err, ErrForeign) },
		"":                        func(err error) bool { return errors.Is(err, ErrForeign) },
		strings.Repeat("x", 5000): func(err error) bool { return errors.Is(err, ErrForeign) },
	} {
		dir := t.TempDir()
		if err := openStore(t, dir, Options{}).Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, markerName), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); !check(err) {
			t.Errorf("marker %.20q: got %v", content, err)
		}
	}
}

// A process that dies while it makes the folder leaves something that the next one can use.
func TestOpenAfterDeathWhileCreating(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, markerName+".new"), []byte("mill"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := openStore(t, dir, Options{}).Close(); err != nil {
		t.Fatal(err)
	}
}

// Tables that are gone or torn are found, at the latest when they are read, and never give a wrong value.
func TestDamagedTables(t *testing.T) {
	for _, remove := range []bool{true, false} {
		dir := t.TempDir()
		s := openStore(t, dir, Options{})
		p := openPartition(t, s, topic, 0)
		tx := p.Begin()
		for i := range 1000 {
			set(tx.Stage(1), fmt.Sprint(i), strings.Repeat("v", 100))
		}
		commit(t, tx, Position{Number: 1})
		if err := s.db.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
		if err != nil || len(tables) == 0 {
			t.Fatalf("tables %v, %v", tables, err)
		}
		for _, table := range tables {
			if remove {
				err = os.Remove(table)
			} else {
				err = os.Truncate(table, 100)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		_, err = Open(dir, Options{})
		wantError(t, fmt.Sprintf("removed=%v", remove), err, ErrDamaged)
	}
}

func TestPartitionOwners(t *testing.T) {
	p := openMem(t, Options{})
	s := p.store
	_, err := s.Partition(topic, 0)
	wantError(t, "second owner", err, ErrOwned)
	wantError(t, "close of the store", s.Close(), ErrInUse)
	other := openPartition(t, s, "shop.moves", 0)
	if err := errors.Join(p.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
	wantError(t, "second close", p.Close(), ErrClosed)
	for _, partition := range []int32{-1, maxPartition + 1} {
		if _, err := s.Partition(topic, partition); err == nil {
			t.Errorf("partition %d was taken", partition)
		}
	}
	if err := openPartition(t, s, topic, 0).Close(); err != nil {
		t.Fatal(err)
	}
}

// Every partition has its own keys, whatever their numbers and topics look like as bytes.
func TestPartitionsAreApart(t *testing.T) {
	dir := t.TempDir()
	for run := range 2 {
		s := openStore(t, dir, Options{})
		for i, name := range []string{"a", "ab", "b"} {
			for _, number := range []int32{0, 1, 255, 256, maxPartition} {
				p := openPartition(t, s, name, number)
				id := fmt.Sprintf("%s-%d", name, number)
				tx := p.Begin()
				if run == 0 {
					set(tx.Stage(0), "k", id)
					set(tx.Stage(255), "\xff\xff", id)
					merge(t, tx.Stage(0), "k", id)
					commit(t, tx, Position{Offsets: int64(i), Number: uint64(number)})
				} else {
					want(t, id, scan(t, tx.Stage(0), "")+scan(t, tx.Stage(255), ""), "k="+id+"\xff\xff="+id)
					want(t, id, load(t, tx.Stage(0), "k"), id)
					if pos, known := p.Position(); !known || pos.Offsets != int64(i) || pos.Number != uint64(number) {
						t.Errorf("%s: position %+v, %v", id, pos, known)
					}
				}
				if run == 1 && number == 255 {
					if err := p.Reset(); err != nil {
						t.Fatal(err)
					}
					tx := p.Begin()
					want(t, "after reset", scan(t, tx.Stage(0), "")+scan(t, tx.Stage(255), "")+load(t, tx.Stage(0), "k"), "")
					if _, known := p.Position(); known {
						t.Error("position is known after reset")
					}
				}
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTooManyTopics(t *testing.T) {
	s := openMem(t, Options{}).store // has one topic
	for i := range maxTopics {
		p, err := s.Partition(fmt.Sprint(i), 0)
		if i == maxTopics-1 {
			if err == nil {
				t.Error("more topics than numbers")
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// An object that an owner has left in the cache is never served to the next owner of the partition.
func TestDecodedObjectsEndWithTheirOwner(t *testing.T) {
	p := openMem(t, Options{})
	s := p.store
	tx := p.Begin()
	merge(t, tx.Stage(1), "f", "one")
	commit(t, tx, Position{})
	tx = p.Begin()
	merge(t, tx.Stage(1), "f", "not committed") // changes the cached object in place
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	next := openPartition(t, s, topic, 0)
	want(t, "next owner", load(t, next.Begin().Stage(1), "f"), "one")
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
}

// Two owners of two partitions, and a third that opens and closes, share one database and one cache. Run with -race.
func TestPartitionsInParallel(t *testing.T) {
	s := openStore(t, "state", Options{CacheBytes: 20_000, fs: vfs.NewMem()})
	var owners sync.WaitGroup
	for number := range int32(3) {
		p := openPartition(t, s, topic, number)
		owners.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(number), 1))
			truth := map[string]string{}
			for i := range 300 {
				tx := p.Begin()
				for range 20 {
					key := fmt.Sprint(rng.IntN(50))
					merge(t, tx.Stage(1), key, fmt.Sprint(number, i))
					truth[key] = strings.TrimSpace(truth[key] + " " + fmt.Sprint(number, i))
				}
				commit(t, tx, Position{Number: uint64(i)})
				if number == 2 {
					if err := p.Close(); err != nil {
						t.Error(err)
					}
					p, _ = s.Partition(topic, number)
				}
			}
			tx := p.Begin()
			for key, value := range truth {
				want(t, key, load(t, tx.Stage(1), key), value)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	owners.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSharedBlockCache(t *testing.T) {
	blocks := NewBlockCache(1 << 20)
	for _, dir := range []string{"a", "b"} {
		p := openMem(t, Options{Blocks: blocks})
		tx := p.Begin()
		set(tx.Stage(1), "k", dir)
		commit(t, tx, Position{})
		want(t, dir, get(t, p.Begin().Stage(1), "k"), dir)
		if err := errors.Join(p.Close(), p.store.Close()); err != nil {
			t.Fatal(err)
		}
	}
	blocks.Release()
}
