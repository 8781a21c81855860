package pipeline

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// Secret is a value that never appears in logs, errors, JSON or YAML output. Reveal gives it.
type Secret struct{ value string }

// NewSecret wraps a secret value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value, for the one place that needs it.
func (s Secret) Reveal() string { return s.value }

// IsZero tells whether no value was given.
func (s Secret) IsZero() bool { return s.value == "" }

const redacted = "[redacted]"

// String gives the word that stands for every secret, for %s and %v.
func (s Secret) String() string { return redacted }

// GoString does so for %#v.
func (s Secret) GoString() string { return redacted }

// LogValue does so for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText does so for JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalText takes the value from the configuration.
func (s *Secret) UnmarshalText(b []byte) error {
	s.value = string(b)
	return nil
}

// Duration is a length of time in the YAML: a number and s, m, h or d (24 h), such as 90d or 1h30m. Calendar units (weeks,
// months) are refused, not guessed.
type Duration time.Duration

// UnmarshalText reads a duration; it must be positive and at most 100 years.
func (d *Duration) UnmarshalText(b []byte) error {
	text := string(b)
	var total time.Duration
	for rest := text; rest != ""; {
		i := 0
		for i < len(rest) && (rest[i] >= '0' && rest[i] <= '9' || rest[i] == '.') {
			i++
		}
		j := i
		for j < len(rest) && (rest[j] < '0' || rest[j] > '9') {
			j++
		}
		unit, ok := units[rest[i:j]]
		n, err := strconv.ParseFloat(rest[:i], 64)
		if !ok || err != nil || n*float64(unit)+float64(total) > float64(100*365*24*time.Hour) {
			return fmt.Errorf("%q is not a duration: write a number and ms, s, m, h or d (24 h), such as 30d or 1h30m", text)
		}
		total += time.Duration(n * float64(unit))
		rest = rest[j:]
	}
	if total <= 0 {
		return fmt.Errorf("%q is not a duration above zero", text)
	}
	*d = Duration(total)
	return nil
}

var units = map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

func (d Duration) String() string {
	t := time.Duration(d)
	if t >= 24*time.Hour && t%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(t/(24*time.Hour)), 10) + "d"
	}
	s := t.String()
	s = strings.TrimSuffix(s, "m0s") + map[bool]string{true: "m"}[strings.HasSuffix(s, "m0s")]
	return strings.TrimSuffix(s, "h0m") + map[bool]string{true: "h"}[strings.HasSuffix(s, "h0m")]
}

// Bytes is a size in the YAML: a number and B, KB, MB, GB (powers of 1000) or KiB, MiB, GiB.
type Bytes int64

// UnmarshalText reads a size above zero.
func (s *Bytes) UnmarshalText(b []byte) error {
	text := string(b)
	number := strings.TrimRight(text, "BKMGi ")
	n, err := strconv.ParseFloat(number, 64)
	factor, ok := sizes[strings.TrimSpace(text[len(number):])]
	if err != nil || !ok || n <= 0 || n*factor > 1<<50 {
		return fmt.Errorf("%q is not a size: write a number and B, KB, MB, GB, KiB, MiB or GiB, such as 512KiB", text)
	}
	*s = Bytes(n * factor)
	return nil
}

var sizes = map[string]float64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
