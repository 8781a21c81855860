package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

const (
	positionVersion = 1
	headBytes       = 4096 // of a file's beginning that its fingerprint covers
	tailBytes       = 64   // before the position that are remembered
)

// position is what Batch.Position holds, as JSON: one entry for each file that was ever read, in the order of their names.
type position struct {
	Version int         `json:"v"`
	Files   []fileState `json:"files"`
}

// fileState is how far a file has been read. Offsets are of the decoded content, Size and Head of the file as it lies there.
type fileState struct {
	Name   string `json:"name"` // base name without .gz
	Size   int64  `json:"size"` // when it was last opened
	Head   string `json:"head"` // hash of the first HeadN bytes
	HeadN  int64  `json:"head_n"`
	Offset int64  `json:"offset"`
	Line   int64  `json:"line"`
	Tail   string `json:"tail,omitempty"` // hash of the TailN bytes before Offset
	TailN  int64  `json:"tail_n,omitempty"`
	Done   bool   `json:"done,omitempty"` // read to its end at this size
}

func parsePosition(b []byte) (*position, error) {
	p := &position{Version: positionVersion}
	if b == nil {
		return p, nil
	}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("read the stored position of files: %w", err)
	}
	if p.Version != positionVersion {
		return nil, fmt.Errorf("the stored position of files has version %d, this build reads version %d: upgrade it", p.Version, positionVersion)
	}
	return p, nil
}

// digest is a short hash: it tells files apart, it protects nothing.
func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// verify compares the state with the file, as far as that is cheap: of a gzip file only the beginning.
func (st *fileState) verify(at found) error {
	f, err := os.Open(at.path)
	if err != nil {
		return fmt.Errorf("open %w", unwrapPath(err))
	}
	defer f.Close()
	if err := st.check(f, at.size); err != nil {
		return err
	}
	zipped, err := isGzip(f)
	if err != nil || zipped {
		return err
	}
	tail, err := readAt(f, st.Offset-st.TailN, st.TailN)
	if err != nil {
		return err
	}
	return st.checkTail(at.path, tail)
}

// check compares the state with the file. The error names what was read and what is there.
func (st *fileState) check(f *os.File, size int64) error {
	if size < st.Size {
		return fmt.Errorf("%s has %d bytes, it had %d when line %d was read: put the old file back, or give the new one another name",
			f.Name(), size, st.Size, st.Line)
	}
	head, err := readAt(f, 0, st.HeadN)
	if err != nil {
		return err
	}
	if digest(head) != st.Head {
		return fmt.Errorf("%s begins otherwise than the file whose lines up to %d were read: put the old file back, or give the new one another name",
			f.Name(), st.Line)
	}
	return nil
}

// checkTail compares the decoded bytes before the position; name is for the error.
func (st *fileState) checkTail(name string, tail []byte) error {
	if digest(tail) != st.Tail {
		return fmt.Errorf("%s was changed before its line %d, up to which it was read: put the old file back, or give the new one another name",
			name, st.Line)
	}
	return nil
}

// opened notes the file as it lies there.
func (st *fileState) opened(f *os.File, size int64) error {
	head, err := readAt(f, 0, min(size, headBytes))
	if err != nil {
		return err
	}
	st.Size, st.Head, st.HeadN = size, digest(head), int64(len(head))
	return nil
}

// moved notes how far the rows were given out.
func (st *fileState) moved(rs *rows) {
	st.Offset, st.Line = rs.offset, rs.line
	st.Tail, st.TailN = digest(rs.tail), int64(len(rs.tail))
}

func readAt(f *os.File, offset, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := f.ReadAt(b, offset); err != nil && err != io.EOF {
		return nil, fmt.Errorf("read %s at %d: %w", f.Name(), offset, err)
	}
	return b, nil
}

// isGzip tells whether the file begins like one, whatever it is called.
func isGzip(f *os.File) (bool, error) {
	b, err := readAt(f, 0, 2)
	return bytes.Equal(b, []byte{0x1f, 0x8b}), err
}
