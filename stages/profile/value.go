package profile

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"strconv"

	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// value is what a trait, or a first or latest attribute, holds. The kinds are stored and never change meaning.
type value struct {
	kind byte
	text string
}

const (
	kindNone   = 0   // deleted (null)
	kindText   = 's' // text
	kindNumber = 'n' // the literal, as the sender wrote it; finite as a float64
	kindTrue   = 't'
	kindFalse  = 'f'
	kindJSON   = 'j' // object, array, or a number beyond a float64; without white space
	kindTime   = 'm' // Unix milliseconds, decimal
)

// valueOf takes a JSON value; the text of strings is copied.
func valueOf(r gjson.Result) value {
	switch r.Type {
	case gjson.String:
		return value{kindText, r.Str}
	case gjson.Number:
		if math.IsInf(r.Num, 0) || math.IsNaN(r.Num) {
			return value{kindJSON, r.Raw}
		}
		return value{kindNumber, r.Raw}
	case gjson.True:
		return value{kind: kindTrue}
	case gjson.False:
		return value{kind: kindFalse}
	case gjson.JSON:
		var b bytes.Buffer
		if json.Compact(&b, []byte(r.Raw)) == nil {
			return value{kindJSON, b.String()}
		}
	}
	return value{}
}

func timeValue(ms int64) value {
	return value{kindTime, strconv.FormatInt(ms, 10)}
}

// any is the value as expressions see it.
func (v value) any() any {
	switch v.kind {
	case kindText:
		return v.text
	case kindNumber:
		f, _ := strconv.ParseFloat(v.text, 64)
		return f
	case kindTrue:
		return true
	case kindFalse:
		return false
	case kindTime:
		ms, _ := strconv.ParseInt(v.text, 10, 64)
		return pipeline.Millis(ms)
	case kindJSON:
		return fromJSON(gjson.Parse(v.text))
	}
	return nil
}

// fromJSON is a JSON value as expressions see it: an array of strings is a list, any other array or object its text.
func fromJSON(r gjson.Result) any {
	if !r.IsArray() {
		return pipeline.Scalar(r)
	}
	list := []string{}
	for _, item := range r.Array() {
		if item.Type != gjson.String {
			return r.Raw
		}
		list = append(list, item.Str)
	}
	return list
}

// appendJSON appends the value as JSON; times are Unix seconds.
func (v value) appendJSON(dst []byte) []byte {
	switch v.kind {
	case kindText:
		return pipeline.AppendJSONString(dst, v.text)
	case kindTrue:
		return append(dst, "true"...)
	case kindFalse:
		return append(dst, "false"...)
	case kindTime:
		ms, _ := strconv.ParseInt(v.text, 10, 64)
		return appendSeconds(dst, ms)
	case kindNumber, kindJSON:
		return append(dst, v.text...)
	}
	return append(dst, "null"...)
}

// stamp orders values: by the event's time, then by its message id, never by arrival.
type stamp struct {
	ms int64 // Unix milliseconds
	id string
}

func (s stamp) compare(o stamp) int {
	if c := cmp.Compare(s.ms, o.ms); c != 0 {
		return c
	}
	return cmp.Compare(s.id, o.id)
}

// compareAt orders stamped values. Two events with the same time and message id reach a profile only if one id was used twice
// beyond what dedup sees; then the value decides, so that the order of arrival still does not.
func compareAt(s stamp, v value, os stamp, ov value) int {
	if c := s.compare(os); c != 0 {
		return c
	}
	if c := cmp.Compare(v.kind, ov.kind); c != 0 {
		return c
	}
	return cmp.Compare(v.text, ov.text)
}
