package clickhouse

import "strings"

// maxMoney is the largest amount that Decimal(18, 6) holds, in millionths.
const maxMoney = 999_999_999_999_999_999

// parseMoney reads a decimal number, as JSON or a person writes it, into millionths. It never goes through a float, so
// 0.1 is 100000 exactly; digits beyond the sixth decimal are rounded, half away from zero. ok is false if the text is not a
// number, fits if the number is too large to store.
func parseMoney(text string) (millionths int64, ok, fits bool) {
	text = strings.TrimSpace(text)
	mantissa, exponent, ok := splitExponent(text)
	if !ok {
		return 0, false, false
	}
	mantissa, negative := cutSign(mantissa)
	whole, fraction, _ := strings.Cut(mantissa, ".")
	digits := whole + fraction
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, false
	}
	// weight is the power of ten of the digit in hand.
	weight := len(whole) - 1 + exponent
	var n uint64
	for i := 0; i < len(digits) && weight >= -7; i++ {
		d := uint64(digits[i] - '0')
		if weight == -7 {
			if d >= 5 {
				n++
			}
		} else if n = n*10 + d; n > maxMoney {
			return 0, true, false
		}
		weight--
	}
	for ; weight >= -6 && n > 0; weight-- {
		if n *= 10; n > maxMoney {
			return 0, true, false
		}
	}
	if n > maxMoney {
		return 0, true, false
	}
	if negative {
		return -int64(n), true, true
	}
	return int64(n), true, true
}

// splitExponent cuts e±n off. Exponents beyond ±9999 mean the same as ±9999.
func splitExponent(text string) (mantissa string, exponent int, ok bool) {
	i := strings.IndexAny(text, "eE")
	if i < 0 {
		return text, 0, true
	}
	e, negative := cutSign(text[i+1:])
	if e == "" || strings.Trim(e, "0123456789") != "" {
		return "", 0, false
	}
	for _, c := range []byte(e) {
		exponent = min(exponent*10+int(c-'0'), 9999)
	}
	if negative {
		exponent = -exponent
	}
	return text[:i], exponent, true
}

func cutSign(s string) (rest string, negative bool) {
	if strings.HasPrefix(s, "-") || strings.HasPrefix(s, "+") {
		return s[1:], s[0] == '-'
	}
	return s, false
}
