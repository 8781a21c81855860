package clean

import (
	"strconv"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

const (
	// maxAhead is how far an event may lie in the future; beyond, the clock is wrong.
	maxAhead = 5 * time.Minute
	// maxOwnSkew is how far an event's own sentAt may be from its arrival and still tell the sender's clock. An event that
	// is loaded again from an archive was sent long ago: correcting it would move it to today. A batch's sentAt comes with
	// the request itself, so there any distance is the clock's.
	maxOwnSkew = 24 * time.Hour
)

// earliest is the smallest time of an event: ClickHouse and spreadsheets use the day before as "none".
var earliest = time.Date(1970, 1, 2, 0, 0, 0, 0, time.UTC)

// eventTime returns when the event happened, in milliseconds, and what its sender claimed (zero if nothing usable).
//
//	timestamp and originalTimestamp   timestamp: somebody (a gateway, an export) has corrected it already
//	one of them, and a usable sentAt  receivedAt - (sentAt - claimed), as Segment does: the sender's clock may be wrong,
//	                                  the time between happening and sending is right
//	one of them                       as claimed
//	none                              receivedAt
//
// The first rule is RudderStack's processor's, the formula is in Segment's spec of the common fields (2026). The result is
// clamped to 1970-01-02 … receivedAt + 5 min.
func eventTime(ev *pipeline.Event) (at, claimed time.Time) {
	written, hasWritten := parseTime(ev.Timestamp)
	original, hasOriginal := parseTime(ev.Original)
	switch {
	case hasWritten && hasOriginal:
		at, claimed = written, original
	case hasOriginal:
		claimed = original
		at = unskew(ev, claimed)
	case hasWritten:
		claimed = written
		at = unskew(ev, claimed)
	default:
		at = ev.ReceivedAt
	}
	if at.Before(earliest) {
		at = earliest
	}
	if latest := ev.ReceivedAt.Add(maxAhead); at.After(latest) {
		at = latest
	}
	return at.Truncate(time.Millisecond), claimed
}

// unskew moves a claimed time by what the sender's clock is wrong.
func unskew(ev *pipeline.Event, claimed time.Time) time.Time {
	if sent, ok := parseTime(ev.OwnSentAt); ok && sent.After(earliest) {
		if skew := ev.ReceivedAt.Sub(sent); skew.Abs() <= maxOwnSkew {
			return claimed.Add(skew)
		}
	}
	if sent, ok := parseTime(ev.SentAt); ok && sent.After(earliest) {
		return claimed.Add(ev.ReceivedAt.Sub(sent))
	}
	return claimed
}

// parseTime reads a time as senders write it: RFC 3339 with any fraction and offset, the same with a space for the T,
// without a zone (UTC) or as a date alone (midnight UTC), as spreadsheets and databases write them; or Unix seconds or
// milliseconds, told apart by size. The result has milliseconds and lies in the years 1900 … 2261.
func parseTime(s string) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if s == "" {
		return time.Time{}, false
	}
	var t time.Time
	if len(s) > 10 && s[4] == '-' && s[7] == '-' {
		var err error
		for _, layout := range layouts(s) {
			if t, err = time.Parse(layout, s); err == nil {
				break
			}
		}
		if err != nil {
			return time.Time{}, false
		}
	} else if day, err := time.Parse(time.DateOnly, s); err == nil {
		t = day
	} else {
		n, err := strconv.ParseFloat(s, 64)
		switch {
		case err != nil || !(n > -1e11 && n < 1e14): // also NaN
			return time.Time{}, false
		case n < 1e11: // as seconds the year 5138, as milliseconds 1973
			n *= 1000
		}
		t = pipeline.Millis(int64(n))
	}
	if t.Year() < 1900 || t.Year() > 2261 { // year 1 is how Go programs write "none"
		return time.Time{}, false
	}
	return t.UTC().Truncate(time.Millisecond), true
}

var rfc3339 = []string{time.RFC3339}

// layouts are the ways to write the time s, the most frequent one alone if s ends in Z.
func layouts(s string) []string {
	sep := s[10:11]
	if sep != "T" && sep != " " && sep != "t" {
		return nil
	}
	if sep == "T" && s[len(s)-1] == 'Z' {
		return rfc3339
	}
	zoned := "2006-01-02" + sep + "15:04:05"
	return []string{zoned + "Z07:00", zoned, zoned + "Z0700", zoned + "z", zoned + " Z07:00", zoned + " UTC", "2006-01-02" + sep + "15:04"}
}
