package links_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// A pipeline whose grace is over closes the replica under those who still use it.
func TestCloseWhileInUse(t *testing.T) {
	types := []links.Type{{Name: "user_id", Code: 1, Limit: 1}, {Name: "anonymous_id", Code: 4}}
	w := newWorld(t, types)
	for i := range 200 {
		w.append(link(id(1, i), id(4, i)))
	}
	w.apply(w.replica, 3)
	other := w.open(t.TempDir())
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for i := 0; ; i++ {
				event := []pipeline.Identifier{{ID: id(1, i%200)}, {ID: id(4, i%200)}}
				other.Unknown(nil, event)
				if _, err := other.Resolve(event); err != nil {
					if !errors.Is(err, links.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	users.Go(func() {
		for i := range w.log {
			if err := other.Apply(w.log[i:i+1], int64(i+1)); err != nil {
				if !errors.Is(err, links.ErrClosed) {
					t.Error(err)
				}
				return
			}
		}
	})
	check(t, other.Close())
	users.Wait()
	if err := other.Apply(nil, 1); !errors.Is(err, links.ErrClosed) {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}
