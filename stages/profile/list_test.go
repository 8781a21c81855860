package profile

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

// TestListLimits: beyond the limits which values stay depends on the set of what was added alone, and what stays is exact.
func TestListLimits(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 9))
	for o, limit := range map[op]int{opTop: maxTop, opRecent: maxRecent, opUnion: maxUnion} {
		var added []listed
		for range 3000 {
			added = append(added, listed{fmt.Sprint("v", random.IntN(500)), 1, random.Int64N(5000)}.only(o))
		}
		fold := func() (l list) {
			for _, x := range added {
				l = l.add(o, x)
			}
			return l
		}
		want := fold()
		if len(want) != limit {
			t.Errorf("%d: %d values, want %d", o, len(want), limit)
		}
		for _, x := range want {
			count, at := uint64(0), int64(0)
			for _, y := range added {
				if y.text == x.text {
					count += y.count
					at = max(at, y.at)
				}
			}
			if x.count != count || x.at != at {
				t.Errorf("%d: %+v, want %d, %d", o, x, count, at)
			}
		}
		random.Shuffle(len(added), func(i, j int) { added[i], added[j] = added[j], added[i] })
		if !reflect.DeepEqual(fold(), want) {
			t.Errorf("%d: another order is another list", o)
		}
	}
}

// TestSessions: in any order of the times the stretches are those of the sorted times, up to the limit.
func TestSessions(t *testing.T) {
	random := rand.New(rand.NewPCG(9, 8))
	for _, n := range []int{1, 10, 500, 6000} {
		times := make([]int64, n)
		for i := range times {
			times[i] = random.Int64N(60 * int64(n))
		}
		s := &sessions{gap: 30}
		for _, at := range times {
			before := len(s.list)
			covered := s.covered(at)
			s.add(stretch{at, at})
			if !s.covered(at) && len(s.list) < maxStretches || covered && len(s.list) != before {
				t.Fatalf("%d is not in a stretch", at)
			}
		}
		slices.Sort(times)
		var want []stretch
		for _, at := range times {
			if k := len(want) - 1; k >= 0 && at-want[k].to <= 30 {
				want[k].to = at
			} else {
				want = append(want, stretch{at, at})
			}
		}
		if len(want) > maxSessions && s.count() != maxSessions || len(want) <= maxSessions && !slices.Equal(s.list, want) {
			t.Errorf("%d times: %d stretches, want %d", n, len(s.list), len(want))
		}
	}
}
