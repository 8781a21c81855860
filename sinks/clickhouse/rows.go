package clickhouse

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// batch turns the records of one topic into rows of its tables. It is a pure function of the records: a repetition must be
// identical to the byte. It is used by one goroutine at a time.
type batch interface {
	// add appends the record's rows. A record that cannot be a row is rejected and leaves no row.
	add(r *pipeline.Record) *pipeline.RejectError
	tables() []*rows
}

// newBatch returns an empty batch for a topic, nil for a topic that this sink does not read.
func newBatch(topic string) batch {
	var b batch
	switch topic {
	case "resolved":
		b = newEventBatch()
	case "changes":
		b = newChangeBatch()
	case "deliveries":
		b = newDeliveryBatch()
	case "dead_letters":
		b = newLetterBatch()
	default:
		return nil
	}
	for _, t := range b.tables() {
		if t.key != "" {
			t.topicIDs = column(t, "topic_id", new(proto.ColUUID))
		}
	}
	return b
}

// rows are the rows of one table, by column.
type rows struct {
	table string
	input proto.Input
	buf   proto.Buffer

	// How to ask whether a row has landed, see landed.go. Empty for Replacing tables: there a row that comes twice counts once.
	key        string // SQL expression of the row's key
	timeColumn string
	topicIDs   *proto.ColUUID   // filled by encode; nil where key is empty
	people     []*proto.ColUUID // ids of the people that the rows are about; nil: of nobody, or of them all
	origin     *origin          // where the rows come from; nil: a topic without an id

	collect  bool            // note the keys
	keys     []string        // of all rows, if collect
	have     map[string]bool // keys to leave out, because they have landed
	from, to int64           // earliest and latest time of a row, Unix milliseconds
}

// column adds a column and returns it.
func column[C proto.ColInput](t *rows, name string, c C) C {
	t.input = append(t.input, proto.InputColumn{Name: name, Data: c})
	return c
}

func (t *rows) count() int { return t.input[0].Data.Rows() }

func (t *rows) reset() {
	t.input.Reset()
	t.keys, t.from, t.to = t.keys[:0], 0, 0
}

// skip notes a row that is about to be added and tells whether it has landed before. key is only called if somebody asks.
func (t *rows) skip(at proto.DateTime64, key func() string) bool {
	if t.collect || t.have != nil {
		k := key()
		if t.have[k] {
			return true
		}
		t.keys = append(t.keys, k)
	}
	if t.count() == 0 || int64(at) < t.from {
		t.from = int64(at)
	}
	t.to = max(t.to, int64(at))
	return false
}

// sequence reads a version or sequence and puts it above those of the topics before this one.
func (t *rows) sequence(v gjson.Result) (uint64, bool) {
	var before uint64
	if t.origin != nil {
		before = pipeline.Sequence(t.origin.turns, 0)
	}
	n, ok := unsigned(v, math.MaxUint64-before)
	return before + n, ok
}

// encode returns the rows in ClickHouse's Native format. The bytes are valid until the next encode.
func (t *rows) encode() ([]byte, error) {
	if t.topicIDs != nil {
		var id pipeline.ID
		if t.origin != nil {
			id = t.origin.id
		}
		for t.topicIDs.Rows() < t.count() {
			t.topicIDs.Append(id)
		}
	}
	t.buf.Reset()
	b := proto.Block{Columns: len(t.input), Rows: t.count()}
	// Over HTTP the server reads Native of protocol revision 0, whatever its own is.
	if err := b.EncodeRawBlock(&t.buf, 0, t.input); err != nil {
		return nil, fmt.Errorf("encode rows of table %s: %w", t.table, err)
	}
	return t.buf.Buf, nil
}

// statement is the INSERT with explicit columns: a column that a user has added keeps its default.
func (t *rows) statement(database string) string {
	names := make([]string, len(t.input))
	for i, c := range t.input {
		names[i] = quoteName(c.Name)
	}
	return "INSERT INTO " + quoteName(database) + "." + quoteName(t.table) + " (" + strings.Join(names, ", ") + ")"
}

// Column types of the schema.

type (
	lowText   = *proto.ColLowCardinality[string]
	textMap   = *proto.ColMap[string, string]
	numberMap = *proto.ColMap[string, float64]
)

func newLowText() lowText { return new(proto.ColStr).LowCardinality() }

func newTextMap() textMap { return proto.NewMap[string, string](newLowText(), new(proto.ColStr)) }

func newNumberMap() numberMap {
	return proto.NewMap[string, float64](newLowText(), new(proto.ColFloat64))
}

func newTimes() *proto.ColDateTime64 {
	return new(proto.ColDateTime64).WithPrecision(proto.PrecisionMilli).WithLocation(time.UTC)
}

// nullableTimes is Nullable(DateTime64(3, 'UTC')).
type nullableTimes struct {
	*proto.ColNullable[time.Time]
	values *proto.ColDateTime64
}

func newNullableTimes() nullableTimes {
	v := newTimes()
	return nullableTimes{proto.NewColNullable[time.Time](v), v}
}

// appendTime appends a time, NULL for the zero time and for one that ClickHouse cannot hold.
func (c nullableTimes) appendTime(t time.Time) {
	ms := t.UnixMilli()
	if t.IsZero() || ms < minStored || ms > maxStored {
		c.Nulls.Append(1)
		c.values.AppendRaw(0)
		return
	}
	c.Nulls.Append(0)
	c.values.AppendRaw(proto.DateTime64(ms))
}

// ClickHouse stores whatever the Native format carries, and finds out when it reads. So every value is brought into its
// type's range here. DateTime64 holds 1900 … 2299, but toDate and toDateTime, which partitions and analysts use, wrap before
// 1970 and after 2106.
const (
	day       = int64(24 * time.Hour / time.Millisecond)
	minStored = -2208988800000 // 1900-01-01
	maxStored = 10413791999999 // 2299-12-31 23:59:59.999
	maxDate   = 49710*day - 1  // 2106-02-06 23:59:59.999, the last whole day of DateTime
)

// stored brings a time into 1970-01-02 … 2106-02-06.
func stored(t time.Time) proto.DateTime64 {
	return proto.DateTime64(min(max(t.UnixMilli(), day), maxDate))
}

// maxLowText bounds texts in LowCardinality columns and keys of maps, in bytes: they stand in dictionaries and in the index.
const maxLowText = 255

// low is a text for a LowCardinality column: valid UTF-8, not longer than maxLowText.
func low(s string) string {
	s = valid(s)
	if len(s) <= maxLowText {
		return s
	}
	n := maxLowText
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// valid replaces what is not UTF-8, which JSON output would choke on.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// view is b as a string without a copy. The bytes of a record stay as they are until WriteRange returns, and a batch is
// emptied before that.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

func quoteName(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}
