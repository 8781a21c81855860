package file

import (
	"bytes"
	"errors"
	"io"
	"unicode/utf8"
)

const (
	// maxRow is the longest row that is read as one, in bytes. A quoted cell that is still open after that was a stray quote.
	maxRow = 768 << 10
	// maxCut is what travels on of a longer line: more than an event may have, so it becomes a dead letter "oversize".
	maxCut = 600 << 10
)

// row is one row of a file.
type row struct {
	bytes []byte // without the end of the line; never written to again
	line  int64  // number of its first line, from 1
	// stray: the row is a line of a table in which a quote was opened and never closed, and no row of its own.
	stray bool
	cut   bool // the line was longer than maxRow, bytes are its beginning
}

// rows cuts a stream into rows: lines, and in a table with quotes also line breaks inside of quoted cells. It reads ahead;
// offset and line say up to where rows were given out.
type rows struct {
	r         io.Reader
	quotes    bool
	delimiter []byte

	offset int64  // bytes given out
	line   int64  // lines given out
	tail   []byte // the last of them, up to tailBytes

	b   []byte // what was read ahead
	eof bool
}

// errPartial says that the stream ends in the middle of a row.
var errPartial = errors.New("the last line has no end yet")

func newRows(r io.Reader, f *form, offset, line int64) *rows {
	rs := &rows{r: r, quotes: !f.json && f.delimiter != 0, offset: offset, line: line}
	if rs.quotes {
		rs.delimiter = utf8.AppendRune(nil, f.delimiter)
	}
	return rs
}

// next gives the next row that is not blank. At the end it returns io.EOF; before that, if the last row has no end of line,
// errPartial, unless final says that nothing more will come.
func (rs *rows) next(final bool) (row, error) {
	for {
		end, lines, quoted := rs.scan()
		stray := false
		switch {
		case end > 0:
		case len(rs.b) < maxRow && !rs.eof:
			if err := rs.fill(); err != nil {
				return row{}, err
			}
			continue
		case len(rs.b) == 0:
			return row{}, io.EOF
		case len(rs.b) < maxRow && !final:
			return row{}, errPartial
		case quoted:
			// The line in which the quote opened stands alone; whatever follows is read as if it had not been there.
			end, lines, stray = bytes.IndexByte(rs.b, '\n')+1, 1, true
			if end == 0 && rs.eof {
				end = len(rs.b)
			} else if end == 0 {
				return rs.long()
			}
		case rs.eof:
			end, lines = len(rs.b), 1
		default:
			return rs.long()
		}
		r := row{bytes: rs.take(end), line: rs.line + 1, stray: stray}
		rs.line += int64(lines)
		if len(bytes.TrimSpace(r.bytes)) > 0 {
			return r, nil
		}
	}
}

// scan looks for the end of the next row in what was read ahead: the index after its line break and the lines it spans, 0 if
// there is none. quoted tells whether a quoted cell was open then.
func (rs *rows) scan() (end, lines int, quoted bool) {
	if !rs.quotes {
		return bytes.IndexByte(rs.b, '\n') + 1, 1, false
	}
	start := true // of a cell
	for i := 0; i < len(rs.b); i++ {
		c := rs.b[i]
		switch {
		case quoted:
			if c == '\n' {
				lines++
			}
			if c == '"' {
				if i+1 < len(rs.b) && rs.b[i+1] == '"' {
					i++
				} else {
					quoted = false
				}
			}
		case c == '\n':
			return i + 1, lines + 1, false
		case c == '"' && start:
			quoted, start = true, false
		case c == rs.delimiter[0] && bytes.HasPrefix(rs.b[i:], rs.delimiter):
			start = true
			i += len(rs.delimiter) - 1
		default:
			start = false
		}
	}
	return 0, 0, quoted
}

// fill reads more ahead.
func (rs *rows) fill() error {
	if len(rs.b) == cap(rs.b) {
		grown := make([]byte, len(rs.b), min(max(2*len(rs.b), 64<<10), 2*maxRow))
		copy(grown, rs.b)
		rs.b = grown
	}
	n, err := rs.r.Read(rs.b[len(rs.b):cap(rs.b)])
	rs.b = rs.b[:len(rs.b)+n]
	if err == io.EOF {
		rs.eof = true
		return nil
	}
	return err
}

// take gives out n bytes and returns them without their line break.
func (rs *rows) take(n int) []byte {
	b := rs.b[:n:n]
	rs.b = rs.b[n:]
	rs.offset += int64(n)
	rs.tail = b[max(0, n-tailBytes):]
	return bytes.TrimSuffix(bytes.TrimSuffix(b, []byte("\n")), []byte("\r"))
}

// long gives out a line that is longer than maxRow, cut.
func (rs *rows) long() (row, error) {
	r := row{bytes: bytes.Clone(rs.b[:maxCut]), line: rs.line + 1, cut: true}
	rs.line++
	for {
		end := bytes.IndexByte(rs.b, '\n') + 1
		if end > 0 || rs.eof {
			if end == 0 {
				end = len(rs.b)
			}
			rs.take(end)
			return r, nil
		}
		rs.offset += int64(len(rs.b))
		rs.b = rs.b[:0]
		if err := rs.fill(); err != nil {
			return row{}, err
		}
	}
}

// mark takes a byte order mark; that of UTF-16 is an error.
func (rs *rows) mark() error {
	for len(rs.b) < 3 && !rs.eof {
		if err := rs.fill(); err != nil {
			return err
		}
	}
	switch {
	case bytes.HasPrefix(rs.b, []byte("\xef\xbb\xbf")):
		rs.take(3)
	case bytes.HasPrefix(rs.b, []byte("\xff\xfe")), bytes.HasPrefix(rs.b, []byte("\xfe\xff")):
		return errors.New("is UTF-16: convert it to UTF-8")
	}
	return nil
}

// discard gives out everything before an offset and returns the end of that.
func (rs *rows) discard(offset int64) (tail []byte, err error) {
	for rs.offset < offset {
		if len(rs.b) == 0 {
			if rs.eof {
				return nil, io.ErrUnexpectedEOF
			}
			if err := rs.fill(); err != nil {
				return nil, err
			}
			continue
		}
		n := min(int64(len(rs.b)), offset-rs.offset)
		tail = append(tail, rs.b[:n]...)
		tail = append(tail[:0], tail[max(0, len(tail)-tailBytes):]...)
		rs.take(int(n))
	}
	rs.tail = tail
	return tail, nil
}
