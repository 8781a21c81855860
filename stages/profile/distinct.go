package profile

import (
	"math"
	"math/bits"
	"slices"
)

// distinct counts different values by their 64-bit hashes: exactly up to maxExact of them, then by a HyperLogLog sketch of
// 4 KiB (standard error 1.6 %). Which of the two it is depends on the set alone, so the order of additions does not matter.
//
// The sketch is Flajolet et al. 2007 with the estimator of Ertl 2017, "New cardinality estimation algorithms for HyperLogLog
// sketches", which needs no correction tables. It is written here, and not taken from a library, because it is part of the
// stored state: the same set must be the same bytes in every version, and a change must be seen before it is written.
type distinct struct {
	hashes    []uint64 // sorted; nil once there are registers
	registers []byte   // 2^precision of them, each the longest run of zeros seen, plus one
	estimate  float64  // of the registers
}

const (
	maxExact  = 1000
	precision = 12
)

// adds tells whether the hash would change the set.
func (d *distinct) adds(hash uint64) bool {
	if d == nil {
		return true
	}
	if d.registers != nil {
		i, rank := place(hash)
		return rank > d.registers[i]
	}
	_, found := slices.BinarySearch(d.hashes, hash)
	return !found
}

func (d *distinct) add(hash uint64) {
	if d.registers != nil {
		d.raise(hash)
		d.estimate = estimate(d.registers)
		return
	}
	i, found := slices.BinarySearch(d.hashes, hash)
	if found {
		return
	}
	d.hashes = slices.Insert(d.hashes, i, hash)
	if len(d.hashes) <= maxExact {
		return
	}
	d.registers = make([]byte, 1<<precision)
	for _, h := range d.hashes {
		d.raise(h)
	}
	d.hashes, d.estimate = nil, estimate(d.registers)
}

func (d *distinct) size() int { return 64 + 8*cap(d.hashes) + len(d.registers) }

func (d *distinct) raise(hash uint64) {
	i, rank := place(hash)
	d.registers[i] = max(d.registers[i], rank)
}

// place is the register of a hash, and how many zeros follow in it, plus one.
func place(hash uint64) (register int, rank byte) {
	rest := hash<<precision | 1<<(precision-1)
	return int(hash >> (64 - precision)), byte(bits.LeadingZeros64(rest)) + 1
}

func (d *distinct) count() float64 {
	if d == nil {
		return 0
	}
	if d.registers != nil {
		return d.estimate
	}
	return float64(len(d.hashes))
}

// estimate is Ertl's improved raw estimator (algorithm 6), rounded to a whole number.
func estimate(registers []byte) float64 {
	const q = 64 - precision
	var histogram [q + 2]float64
	for _, r := range registers {
		histogram[r]++
	}
	m := float64(len(registers))
	z := m * tau(1-histogram[q+1]/m)
	for k := q; k >= 1; k-- {
		z = 0.5 * (z + histogram[k])
	}
	z += m * sigma(histogram[0]/m)
	return math.Round(m * m / (2 * math.Ln2 * z))
}

// sigma and tau are the sums of the paper's equations 18 and 19.
func sigma(x float64) float64 {
	if x == 1 {
		return math.Inf(1)
	}
	for y, z := 1.0, x; ; {
		x *= x
		before := z
		z += x * y
		y += y
		if z == before {
			return z
		}
	}
}

func tau(x float64) float64 {
	if x == 0 || x == 1 {
		return 0
	}
	for y, z := 1.0, 1-x; ; {
		x = math.Sqrt(x)
		before := z
		y *= 0.5
		z -= (1 - x) * (1 - x) * y
		if z == before {
			return z / 3
		}
	}
}
