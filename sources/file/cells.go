package file

import (
	"bytes"
	"encoding/csv"
	"io"
	"strings"
)

// splitter cuts rows of a table into cells.
type splitter struct {
	delimiter rune // 0: runs of spaces
	rest      []byte
	csv       *csv.Reader
	read      int64 // InputOffset after the last row
}

// Read gives encoding/csv the row in hand and nothing beyond it.
func (s *splitter) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// split returns the cells of a row; they are valid until the next call. False: the quotes are wrong.
func (s *splitter) split(row []byte) ([]string, bool) {
	if s.delimiter == 0 {
		return strings.Fields(string(row)), true
	}
	if s.csv == nil {
		s.csv = csv.NewReader(s)
		s.csv.Comma, s.csv.FieldsPerRecord, s.csv.ReuseRecord = s.delimiter, -1, true
		s.read = 0
	}
	s.rest = append(bytes.Clone(row), '\n')
	want := s.read + int64(len(s.rest))
	cells, err := s.csv.Read()
	s.read = s.csv.InputOffset()
	if err != nil || s.read != want { // want: the row was one row for encoding/csv too
		s.csv = nil // it may have kept part of the row
		return nil, false
	}
	return cells, true
}
