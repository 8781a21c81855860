package profile

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
)

func TestDecimal(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0", "-0": "0", "1": "1", "+1": "1", "007": "7", " 12.50 ": "12.5", ".5": "0.5", "5.": "5", "1e3": "1000", "1.5E-2": "0.015",
		"0.0000004": "0", "0.0000005": "0.000001", "-0.0000005": "-0.000001", "0.00000149": "0.000001", "1e-7": "0", "5e-7": "0.000001",
		"999999999999.999999": "999999999999.999999", "-999999999999.999999": "-999999999999.999999", "0e400": "0",
		"999999999999.9999994": "999999999999.999999", "0.1": "0.1", "12345678.9": "12345678.9", "100e-2": "1", "0.000000000000000000000000000000001e33": "1",
		"999999999999.9999995": "range", "1000000000000": "range", "-1e12": "range", "1e300": "range", "99999999999999999999999999": "range",
		"": "no", "-": "no", ".": "no", "e5": "no", "1e": "no", "1,5": "no", "0x10": "no", "1_000": "no", "NaN": "no", "Infinity": "no", "1 2": "no", "1e99999": "no", "١": "no",
	} {
		got := "no"
		if d, ok := parseDecimal(text); ok {
			got = "range"
			if n, ok := d.micros(); ok {
				got = string(appendMicros(nil, n))
			}
		}
		if got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
	if got := string(appendMicros(nil, math.MinInt64)); got != "-9223372036854.775808" {
		t.Errorf("the smallest total is %s", got)
	}
	for _, n := range []int64{0, 1, -1, 3268776180000, 1<<53 + 1, math.MaxInt64, -1234567890123456789} {
		want, _ := strconv.ParseFloat(string(appendMicros(nil, n)), 64)
		if got := microsFloat(n); got != want {
			t.Errorf("%d millionths are %v, want %v", n, got, want)
		}
	}
	if _, ok := addMicros(math.MaxInt64, 1); ok {
		t.Error("an overflow is not seen")
	}
	if _, ok := addMicros(math.MinInt64, -1); ok {
		t.Error("an overflow below is not seen")
	}
}

// TestDistinct: exact up to the limit, then within a few standard errors; the order does not matter.
func TestDistinct(t *testing.T) {
	hash := func(i int) uint64 { return xxhash.Sum64String(strconv.Itoa(i)) }
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, maxExact, maxExact + 1, 3000, 10_000, 100_000} {
		a, b := &distinct{}, &distinct{}
		for i := range n {
			if !a.adds(hash(i)) && a.registers == nil {
				t.Fatalf("value %d of %d is not new", i, n)
			}
			a.add(hash(i))
			a.add(hash(i))
			if a.adds(hash(i)) {
				t.Fatalf("value %d of %d is still new", i, n)
			}
		}
		for _, i := range random.Perm(n) {
			b.add(hash(i))
			b.add(hash(random.IntN(n)))
		}
		if got := a.count(); n <= maxExact && got != float64(n) || math.Abs(got-float64(n)) > 0.05*float64(n) {
			t.Errorf("%d values are counted as %v", n, got)
		}
		if !reflect.DeepEqual(a.encode(nil, opUnique), b.encode(nil, opUnique)) {
			t.Errorf("%d values in another order are another state", n)
		}
	}
}

// full is a state with something of every kind.
func full(t testing.TB) *state {
	t.Helper()
	s := newState().(*state)
	for i := range 40 {
		d := append([]byte{format, 1}, binary.AppendVarint(nil, int64(1000*i))...)
		d = appendString(d, fmt.Sprint("m", i))
		d = appendString(appendString(append(d, deltaIdentifier), "user_id"), fmt.Sprint("u", i%3))
		d = appendValue(appendString(append(d, deltaTrait), fmt.Sprint("t", i%7)), value{kindText, strings.Repeat("x", i)})
		for _, o := range []op{opCount, opSum, opAvg, opMin, opMax, opMinTime, opMaxTime, opFirst, opLatest, opUnique,
			opCount | opOver, opSum | opOver, opAvg | opOver, opMin | opOver, opMaxTime | opOver, opUnique | opOver} {
			d = appendString(append(d, deltaAggregate, byte(o)), fmt.Sprint("a", o))
			if o != o.plain() {
				d = binary.AppendVarint(d, 64_000)
			}
			switch o.plain() {
			case opCount:
				d = binary.AppendUvarint(d, 1)
			case opAvg:
				d = binary.AppendUvarint(binary.AppendVarint(d, -5), 1)
			case opMin, opMax, opUnique:
				d = binary.BigEndian.AppendUint64(d, math.Float64bits(float64(i)))
			case opFirst, opLatest:
				d = appendValue(d, value{kindNumber, strconv.Itoa(i)})
			default:
				d = binary.AppendVarint(d, int64(i))
			}
		}
		d = appendString(append(d, deltaAggregate, byte(opSequence)), []string{"done", "open"}[i%2])
		d = binary.AppendUvarint(binary.AppendUvarint(binary.AppendVarint(d, 5000), 0), 2)
		d = binary.AppendUvarint(d, uint64(1+i%4/3))
		d = appendString(append(d, deltaAggregate, byte(opDecayed)), "decayed")
		d = binary.AppendUvarint(binary.AppendVarint(d, int64(i/3)), unit+uint64(i))
		d = appendString(append(d, deltaAggregate, byte(opPurchases)), "purchases")
		d = binary.AppendVarint(binary.AppendVarint(d, int64(i)*dayMillis/2), int64(i)*1e6)
		for _, o := range []op{opTop, opRecent, opUnion} {
			d = appendString(appendString(append(d, deltaAggregate, byte(o)), "list"), fmt.Sprint("value", i%8))
		}
		d = binary.AppendVarint(appendString(append(d, deltaAggregate, byte(opSessions)), "sessions"), 1500)
		if err := s.Fold(d); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestCodec(t *testing.T) {
	s := full(t)
	encoded := s.Encode(nil)
	var again state
	if err := again.Decode(encoded); err != nil {
		t.Fatal(err)
	}
	s.folds = 0 // not stored
	if !reflect.DeepEqual(*s, again) {
		t.Errorf("decoded\n%+v\nwas\n%+v", again, *s)
	}
	if s.Size() < len(encoded) {
		t.Errorf("size %d, encoded %d bytes", s.Size(), len(encoded))
	}
	for n := range encoded {
		if err := again.Decode(encoded[:n]); err == nil {
			t.Errorf("the first %d of %d bytes are accepted", n, len(encoded))
		}
	}
	newer := append([]byte{format + 1}, encoded[1:]...)
	if err := again.Decode(newer); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("a newer format: %v", err)
	}
	if err := again.Fold([]byte{format + 1}); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("a newer delta: %v", err)
	}
}

// FuzzDecode: damaged bytes are an error, never a panic, and what is accepted can be written and read again.
func FuzzDecode(f *testing.F) {
	f.Add(full(f).Encode(nil))
	f.Add(newState().Encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s state
		if s.Decode(b) != nil {
			return
		}
		var again state
		if err := again.Decode(s.Encode(nil)); err != nil {
			t.Errorf("read again: %v", err)
		}
		_ = s.Size()
		folded := newState()
		_ = folded.Fold(b)
	})
}
