package profile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// randomDelta is what some event says: a few things of every kind, with times and values that often meet.
func randomDelta(random *rand.Rand, i int) []byte {
	d := binary.AppendVarint([]byte{format, byte(random.IntN(2))}, random.Int64N(2000)+700_000*random.Int64N(3)) // windows expire
	d = appendString(d, fmt.Sprint("m", i))
	d = appendString(appendString(append(d, deltaIdentifier), "anonymous_id"), fmt.Sprint("a", random.IntN(150)))
	d = appendString(appendString(append(d, deltaIdentifier), "user_id"), fmt.Sprint("u", random.IntN(3)))
	for range 3 {
		v := value{kindNumber, strconv.Itoa(random.IntN(3))}
		if random.IntN(5) == 0 {
			v = value{}
		}
		d = appendValue(appendString(append(d, deltaTrait), fmt.Sprint("t", random.IntN(400))), v)
	}
	for _, o := range []op{opCount, opSum, opAvg, opMin, opMax, opMinTime, opMaxTime, opFirst, opLatest, opUnique,
		opCount | opOver, opSum | opOver, opAvg | opOver, opMin | opOver, opMax | opOver, opMinTime | opOver, opMaxTime | opOver, opUnique | opOver} {
		if random.IntN(3) == 0 {
			continue
		}
		d = appendString(append(d, deltaAggregate, byte(o)), fmt.Sprint("a", o))
		if o != o.plain() {
			d = binary.AppendVarint(d, 2000)
		}
		switch o.plain() {
		case opCount:
			d = binary.AppendUvarint(d, 1)
		case opAvg:
			d = binary.AppendUvarint(binary.AppendVarint(d, random.Int64N(1000)-500), 1)
		case opMin, opMax:
			d = binary.BigEndian.AppendUint64(d, math.Float64bits(random.NormFloat64()))
		case opUnique:
			d = binary.BigEndian.AppendUint64(d, random.Uint64()>>uint(random.IntN(2)*56))
		case opFirst, opLatest:
			d = appendValue(d, value{kindText, strconv.Itoa(random.IntN(9))})
		default:
			d = binary.AppendVarint(d, random.Int64N(1000)-500)
		}
	}
	if random.IntN(2) == 0 {
		d = appendString(append(d, deltaAggregate, byte(opDecayed)), "decayed")
		d = binary.AppendUvarint(binary.AppendVarint(d, random.Int64N(120)-60), random.Uint64N(1<<31))
		d = appendString(append(d, deltaAggregate, byte(opPurchases)), "purchases")
		d = binary.AppendVarint(binary.AppendVarint(d, random.Int64N(1500)*dayMillis/2), random.Int64N(1e9)-1e6)
	}
	for _, o := range []op{opTop, opRecent, opUnion} {
		d = appendString(appendString(append(d, deltaAggregate, byte(o)), "list"), fmt.Sprint("value", random.IntN(300)))
	}
	d = binary.AppendVarint(appendString(append(d, deltaAggregate, byte(opSessions)), "sessions"), 3)
	if random.IntN(100) == 0 { // rarely: a sequence keeps a hundred times per step
		d = appendString(append(d, deltaAggregate, byte(opSequence)), "sequence")
		d = binary.AppendUvarint(binary.AppendUvarint(binary.AppendVarint(d, 1), 0), 3)
		d = binary.AppendUvarint(d, 1<<random.IntN(3))
	}
	return d
}

// TestAbsorb: however the events are split into fragments, and in whatever order and grouping the fragments are merged, in
// memory or as contents that move, the result is the state of all events in one. The numbers of events reach the limits.
func TestAbsorb(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 2))
	for _, events := range []int{0, 1, 5, 60, 3000} {
		deltas := make([][]byte, events)
		for i := range deltas {
			deltas[i] = randomDelta(random, i)
		}
		fold := func(s *state, delta []byte) {
			t.Helper()
			if err := s.Fold(delta); err != nil {
				t.Fatal(err)
			}
		}
		whole := newState().(*state)
		for _, d := range deltas {
			fold(whole, d)
		}
		want := whole.Encode(nil)
		if events == 3000 && (len(whole.traits) != maxTraits || whole.aggregates[len(whole.aggregates)-1].content == nil && !strings.Contains(fmt.Sprint(whole.aggregates), "a10")) {
			t.Fatal("the limits are not reached")
		}
		for range 8 {
			parts := make([]*state, 1+random.IntN(6))
			for i := range parts {
				parts[i] = newState().(*state)
			}
			for _, i := range random.Perm(events) {
				fold(parts[random.IntN(len(parts))], deltas[i])
			}
			for len(parts) > 1 {
				random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
				last := parts[len(parts)-1]
				parts = parts[:len(parts)-1]
				before := last.Encode(nil)
				if random.IntN(2) == 0 {
					fold(parts[0], append([]byte{format, deltaAbsorb}, before...))
				} else {
					parts[0].absorb(last)
					fold(last, randomDelta(random, 1<<20)) // shares nothing
				}
			}
			if got := parts[0].Encode(nil); !bytes.Equal(got, want) {
				t.Fatalf("%d events in fragments are\n%x\nin one\n%x", events, got, want)
			}
			if c := whole.clone(); !bytes.Equal(c.Encode(nil), want) {
				t.Fatal("a clone differs")
			} else if fold(c, randomDelta(random, 1<<20)); !bytes.Equal(whole.Encode(nil), want) {
				t.Fatal("a clone shares something")
			}
		}
	}
}

// TestTrim: two fragments that are too large together become what a store can hold.
func TestTrim(t *testing.T) {
	large := func(prefix string) []byte {
		s := newState().(*state)
		s.first, s.last = 1, 1
		for i := range 100 {
			s.setTrait(fmt.Sprintf("%s%03d", prefix, i), stamp{1, "m"}, value{kindText, strings.Repeat("x", maxTraitBytes)})
		}
		return s.Encode(nil)
	}
	s := newState().(*state)
	for _, prefix := range []string{"b", "a"} {
		if err := s.Fold(append([]byte{format, deltaAbsorb}, large(prefix)...)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.Encode(nil)); n > maxStateBytes || s.Size() > maxMemoryBytes || s.trait("a099") == nil || s.trait("b000") == nil || s.trait("b099") != nil {
		t.Errorf("%d bytes, size %d, %d traits", n, s.Size(), len(s.traits))
	}
	if clampedSum(math.MaxInt64, 1) != math.MaxInt64 || clampedSum(math.MinInt64, -1) != math.MinInt64 || clampedSum(2, -3) != -1 {
		t.Error("sums are not clamped")
	}
}
