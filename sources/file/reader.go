package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sources/mapping"
)

// maxRecord is the largest record with all its parts: what a broker with Kafka's default limit of 1 MiB takes, and room for
// what a dead letter adds.
const maxRecord = 900 << 10

// reader turns one file's rows into events.
type reader struct {
	source  string
	form    *form
	file    *os.File
	name    string
	rows    *rows
	cells   splitter
	table   *mapping.Table
	objects *mapping.Objects

	events, raw, firstRaw int64 // rows that made events, rows that travel as they are, the first of these
}

// open opens a file where its state says, and brings the state up to date with what lies there. count is told the bytes that are read from the disk.
func open(ctx context.Context, source string, f *form, at found, st *fileState, final bool, count func(n int)) (*reader, error) {
	file, err := os.Open(at.path)
	if err != nil {
		return nil, fmt.Errorf("open %w", unwrapPath(err))
	}
	r := &reader{source: source, form: f, file: file, name: at.name, cells: splitter{delimiter: f.delimiter}}
	if err := r.start(ctx, st, at.size, final, count); err != nil {
		_ = file.Close()
		return nil, err
	}
	return r, nil
}

func (r *reader) close() { _ = r.file.Close() }

// start checks the file against its state, reads the header and goes to the position.
func (r *reader) start(ctx context.Context, st *fileState, size int64, final bool, count func(int)) error {
	if st.Head != "" {
		if err := st.check(r.file, size); err != nil {
			return err
		}
	}
	if err := st.opened(r.file, size); err != nil {
		return err
	}
	zipped, err := isGzip(r.file)
	if err != nil {
		return err
	}
	var in io.Reader = &counted{ctx, r.file, count}
	if zipped {
		if in, err = gzip.NewReader(in); err != nil {
			return fmt.Errorf("%s is not valid gzip: %w", r.file.Name(), err)
		}
	}
	if err := r.begin(in, final); err != nil {
		return err
	}
	switch {
	case st.Offset <= r.rows.offset:
		return nil
	case zipped:
		return r.skip(st)
	}
	tail, err := readAt(r.file, st.Offset-st.TailN, st.TailN)
	if err == nil {
		err = st.checkTail(r.file.Name(), tail)
	}
	if err == nil {
		_, err = r.file.Seek(st.Offset, io.SeekStart)
	}
	r.rows = newRows(in, r.form, st.Offset, st.Line)
	return err
}

// begin takes the byte order mark and the header.
func (r *reader) begin(in io.Reader, final bool) error {
	r.rows = newRows(in, r.form, 0, 0)
	if err := r.rows.mark(); err != nil {
		return fmt.Errorf("%s %w", r.file.Name(), err)
	}
	if r.form.json {
		if r.form.mapping != nil {
			r.objects = r.form.mapping.Objects()
		}
		return nil
	}
	columns := r.form.columns
	if r.form.header {
		header, err := r.rows.next(final)
		switch {
		case errors.Is(err, io.EOF):
			return errEmpty
		case errors.Is(err, errPartial):
			return err
		case err != nil:
			return fmt.Errorf("read the header of %s: %w", r.file.Name(), err)
		}
		cells, ok := r.cells.split(header.bytes)
		if !ok || header.stray || header.cut {
			return fmt.Errorf("the header of %s has a quote that is not closed", r.file.Name())
		}
		if columns == nil {
			columns = append([]string(nil), cells...)
		}
	}
	var err error
	if r.table, err = r.form.mapping.Table(columns); err != nil {
		return fmt.Errorf("%s does not fit the mapping: %w", r.file.Name(), err)
	}
	return nil
}

// errEmpty is a table that has no header yet.
var errEmpty = errors.New("the file is empty")

// skip reads a gzip file up to the position.
func (r *reader) skip(st *fileState) error {
	tail, err := r.rows.discard(st.Offset)
	if err != nil {
		return fmt.Errorf("%s ends before its line %d, up to which it was read: %w", r.file.Name(), st.Line, err)
	}
	r.rows.line = st.Line
	return st.checkTail(r.file.Name(), tail[max(0, len(tail)-int(st.TailN)):])
}

// counted reads a file until ctx ends.
type counted struct {
	ctx   context.Context
	f     *os.File
	count func(n int)
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.f.Read(p)
	c.count(n)
	return n, err
}

// event makes the event of a row, appending to buf what has to be built. A row that makes none is an event of its own bytes,
// which says why: the stage clean rejects it.
func (r *reader) event(row row, at time.Time, buf []byte) (pipeline.Event, []byte) {
	ev := pipeline.Event{Source: r.source, ReceivedAt: at, Raw: row.bytes}
	built, id, rej := r.build(row, buf)
	if rej != nil {
		ev.Refuse(rej)
		if r.raw++; r.firstRaw == 0 {
			r.firstRaw = row.line
		}
	} else {
		if built != nil {
			ev.Raw = built[len(buf):len(built):len(built)]
			buf = built
		}
		if id != "" {
			ev.MessageID = r.source + "/" + id
		}
		_ = ev.Scan() // a field of a wrong type is clean's to reject
		r.events++
	}
	if ev.MessageID == "" || len(ev.Raw)+2*len(ev.MessageID) > maxRecord {
		var number [20]byte
		id := pipeline.HashID([]byte(r.source), []byte(r.name), strconv.AppendInt(number[:0], row.line, 10))
		ev.MessageID = r.source + "/" + id.String()
	}
	return ev, buf
}

// build appends the event of a row to buf; nil if the row is an event already.
func (r *reader) build(row row, buf []byte) (built []byte, id string, rej *pipeline.RejectError) {
	switch {
	case row.cut:
		return nil, "", pipeline.Reject("oversize", "the row has more than %d bytes; this is its beginning", maxRow)
	case row.stray:
		return nil, "", openQuote()
	}
	if r.form.json {
		ev := pipeline.Event{Raw: row.bytes}
		if rej := ev.Check(); rej != nil {
			return nil, "", rej
		}
		if r.form.mapping == nil {
			return nil, "", nil
		}
	}
	var err error
	if r.objects != nil {
		built, id, err = r.objects.Append(buf, row.bytes)
	} else if cells, ok := r.cells.split(row.bytes); ok {
		built, id, err = r.table.Append(buf, cells)
	} else {
		return nil, "", openQuote()
	}
	switch {
	case errors.As(err, &rej):
		return nil, "", rej
	case err != nil:
		return nil, "", pipeline.Reject("row_value", "%s", err)
	case len(built)-len(buf)+2*len(id) >= maxRecord:
		return nil, "", pipeline.Reject("oversize", "the event of the row has %d bytes, the limit is %d", len(built)-len(buf), pipeline.MaxEventBytes)
	}
	return built, id, nil
}

func openQuote() *pipeline.RejectError {
	return pipeline.Reject("row_quotes", "a quote in the row is not closed, or stands in the middle of a cell")
}
