package mapping

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// TimeFormat reads the times of a column. All times without an offset are UTC.
type TimeFormat struct {
	layouts []string
	unit    time.Duration // of a number since 1970; 0: layouts
}

// auto are the forms that need no time_format: none of them can be taken for another.
var auto = []string{
	time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999",
	"2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02",
}

// ParseTimeFormat reads a time_format: "" (RFC 3339, and YYYY-MM-DD with or without hh:mm, hh:mm:ss), unix or unix_ms (a
// number of seconds or milliseconds since 1970), or a layout of Go's package time, such as 02.01.2006 or 20060102.
func ParseTimeFormat(text string) (TimeFormat, error) {
	switch text {
	case "", "auto":
		return TimeFormat{layouts: auto}, nil
	case "unix":
		return TimeFormat{unit: time.Second}, nil
	case "unix_ms":
		return TimeFormat{unit: time.Millisecond}, nil
	}
	for _, sign := range []string{"YYYY", "yyyy", "%Y", "%d", "DD", "dd"} {
		if strings.Contains(text, sign) {
			return TimeFormat{}, fmt.Errorf("%q is not a time format: write how 2006-01-02 15:04:05 would look, such as 02.01.2006, or unix, unix_ms", text)
		}
	}
	// A layout without a year would put every row into the year 0.
	probe := time.Date(2006, 1, 2, 15, 4, 5, 0, time.UTC)
	back, err := time.Parse(text, probe.Format(text))
	if err != nil || back.Year() != 2006 {
		return TimeFormat{}, fmt.Errorf("%q is not a time format: write how 2006-01-02 15:04:05 would look, such as 02.01.2006, or unix, unix_ms", text)
	}
	return TimeFormat{layouts: []string{text}}, nil
}

// rewrite returns the time as RFC 3339 in UTC, a time that is RFC 3339 as it is; false if it is no time of this format.
func (f TimeFormat) rewrite(text string) (string, bool) {
	t := strings.TrimSpace(text)
	if f.unit != 0 {
		n, err := strconv.ParseFloat(t, 64)
		if ms := n * float64(f.unit/time.Millisecond); err == nil && math.Abs(ms) < 1<<53 {
			return time.UnixMilli(int64(math.Round(ms))).UTC().Format(time.RFC3339Nano), true
		}
		return "", false
	}
	for i, layout := range f.layouts {
		if len(f.layouts) > 1 && len(t) > 10 && (len(layout) <= 10 || layout[10] != t[10]) {
			continue // auto: the character after the date tells most of them apart
		}
		if v, err := time.Parse(layout, t); err == nil {
			if i == 0 && layout == time.RFC3339Nano {
				return t, true
			}
			return v.UTC().Format(time.RFC3339Nano), true
		}
	}
	return "", false
}
