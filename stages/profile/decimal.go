package profile

import (
	"bytes"
	"math"
	"strconv"
	"strings"
)

// Sums are whole millionths in an int64: float sums depend on the order of the events (3268776.1799993 against …801).
const (
	micros    = 1_000_000
	maxMicros = 999_999_999_999_999_999 // 999,999,999,999.999999, the largest single value
)

// decimal is the text of a number: digits, scale (digits after the point, may be negative) and sign.
type decimal struct {
	negative bool
	digits   string // without the point; leading zeros possible
	fraction int    // how many of digits stand after the point
	exponent int
}

// parseDecimal reads a number as JSON writes it, also with a plus sign, with leading zeros, or without digits on one side of the
// point. A decimal comma or a currency sign is not guessed at.
func parseDecimal(s string) (d decimal, ok bool) {
	s = strings.TrimSpace(s)
	if s != "" && (s[0] == '-' || s[0] == '+') {
		d.negative = s[0] == '-'
		s = s[1:]
	}
	mantissa := s
	if e := strings.IndexAny(s, "eE"); e >= 0 {
		mantissa = s[:e]
		n, err := strconv.Atoi(s[e+1:])
		if err != nil || n > 1000 || n < -1000 {
			return d, false
		}
		d.exponent = n
	}
	point := strings.IndexByte(mantissa, '.')
	d.digits = mantissa
	if point >= 0 {
		d.digits = mantissa[:point] + mantissa[point+1:]
		d.fraction = len(mantissa) - point - 1
	}
	if d.digits == "" {
		return d, false
	}
	for i := 0; i < len(d.digits); i++ {
		if d.digits[i] < '0' || d.digits[i] > '9' {
			return d, false
		}
	}
	return d, true
}

// micros is the number in millionths, rounded half away from zero; not ok beyond ±maxMicros.
func (d decimal) micros() (n int64, ok bool) {
	// The value is digits × 10^(exponent - fraction); in millionths 6 more.
	shift := d.exponent - d.fraction + 6
	kept := len(d.digits) + min(shift, 0) // digits before what is rounded away
	for i := 0; i < kept; i++ {
		if n > maxMicros/10 {
			return 0, false
		}
		n = n*10 + int64(d.digits[i]-'0')
	}
	for ; shift > 0 && n != 0; shift-- {
		if n > maxMicros/10 {
			return 0, false
		}
		n *= 10
	}
	if kept >= 0 && kept < len(d.digits) && d.digits[kept] >= '5' {
		if n++; n > maxMicros {
			return 0, false
		}
	}
	if d.negative {
		n = -n
	}
	return n, true
}

// parseFloat reads a number for min and max; -0 is 0, so that the order of the two does not matter.
func parseFloat(s string) (float64, bool) {
	if _, ok := parseDecimal(s); !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil {
		return 0, false
	}
	return f + 0, true
}

// appendMicros appends millionths as a decimal number, exactly.
func appendMicros(dst []byte, n int64) []byte {
	u := uint64(n)
	if n < 0 {
		dst = append(dst, '-')
		u = -u
	}
	dst = strconv.AppendUint(dst, u/micros, 10)
	if u %= micros; u == 0 {
		return dst
	}
	var buf [8]byte
	digits := strconv.AppendUint(buf[:0], u+micros, 10)
	digits[0] = '.'
	return append(dst, bytes.TrimRight(digits, "0")...)
}

// microsFloat is the float64 nearest to n millionths.
func microsFloat(n int64) float64 {
	if -1<<53 <= n && n <= 1<<53 {
		return float64(n) / micros
	}
	f, _ := strconv.ParseFloat(string(appendMicros(nil, n)), 64)
	return f
}

// mean is the float64 nearest to n millionths by count, while both are below 2^53.
func mean(n int64, count uint64) float64 { return float64(n) / (float64(count) * micros) }

// appendSeconds appends milliseconds as seconds, exactly.
func appendSeconds(dst []byte, ms int64) []byte { return appendMicros(dst, ms*1000) }

// appendFloat appends a number as encoding/json does.
func appendFloat(dst []byte, f float64) []byte {
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		return strconv.AppendFloat(dst, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(dst, f, 'f', -1, 64)
}

// addMicros adds without overflow.
func addMicros(a, b int64) (sum int64, ok bool) {
	sum = a + b
	return sum, (sum > a) == (b > 0)
}
