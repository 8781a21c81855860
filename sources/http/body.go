package http

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
)

// refusal is an answer other than 200.
type refusal struct {
	status int
	retry  int // seconds of Retry-After, 0 = none
	text   string
}

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, text: fmt.Sprintf(format, args...)}
}

// busy tells a client to come again.
func busy(status, retry int, text string) *refusal {
	return &refusal{status: status, retry: retry, text: text}
}

// budget bounds the bytes of all requests together.
type budget struct {
	max  int64
	held atomic.Int64
}

// hold is one request's share of the budget. It has one owner at a time.
type hold struct {
	b     *budget
	bytes int64
}

// take reserves n bytes more; false if the budget does not have them.
func (h *hold) take(n int64) bool {
	if h.b.held.Add(n) > h.b.max {
		h.b.held.Add(-n)
		return false
	}
	h.bytes += n
	return true
}

// give returns n bytes.
func (h *hold) give(n int64) {
	h.b.held.Add(-n)
	h.bytes -= n
}

// release returns all of them; it may be called again.
func (h *hold) release() { h.give(h.bytes) }

// readBody returns the decoded body. gzip is recognised by its first bytes, whatever the headers say: RudderStack's Node
// client sends it as a form, browsers as text.
func (s *Source) readBody(w http.ResponseWriter, r *http.Request, h *hold) ([]byte, *refusal) {
	switch e := strings.ToLower(r.Header.Get("Content-Encoding")); e {
	case "", "identity", "gzip", "x-gzip":
	default:
		return nil, refuse(http.StatusUnsupportedMediaType, "the content encoding is not supported: send gzip or plain JSON")
	}
	limit := int64(s.config.MaxBody)
	if r.ContentLength > limit {
		return nil, refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes: send smaller batches", limit)
	}
	body, ref := s.readAll(http.MaxBytesReader(w, r.Body, limit), limit, r.ContentLength, h)
	if ref != nil || !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return body, ref
	}
	zr, _ := s.unzip.Get().(*gzip.Reader)
	if zr == nil {
		zr = new(gzip.Reader)
	}
	defer s.unzip.Put(zr)
	if err := zr.Reset(bytes.NewReader(body)); err != nil {
		return nil, refuse(http.StatusBadRequest, "the body is not valid gzip")
	}
	packed := int64(cap(body))
	plain, ref := s.readAll(zr, int64(s.config.MaxDecoded), 4*int64(len(body)), h)
	h.give(packed)
	return plain, ref
}

// firstRead is the largest buffer that a request gets before its first byte.
const firstRead = 64 << 10

// readAll reads up to limit bytes, and refuses more. size is a guess, -1 if there is none. The request holds the buffer's
// capacity of the budget.
func (s *Source) readAll(r io.Reader, limit, size int64, h *hold) ([]byte, *refusal) {
	if size < 0 || size > firstRead {
		size = firstRead // a client that announces much and sends slowly holds little
	}
	size = min(size, limit) + 1 // one more than expected, so that the end is seen without growing
	var buf []byte
	for {
		if !h.take(size - int64(cap(buf))) {
			return nil, busy(http.StatusTooManyRequests, 1, "too many requests wait for the broker: send again later")
		}
		grown := make([]byte, len(buf), size)
		copy(grown, buf)
		buf = grown
		for len(buf) < cap(buf) {
			n, err := r.Read(buf[len(buf):cap(buf)])
			buf = buf[:len(buf)+n]
			var tooLarge *http.MaxBytesError
			switch {
			case int64(len(buf)) > limit, errors.As(err, &tooLarge):
				return nil, refuse(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes: send smaller batches", limit)
			case err == io.EOF:
				return buf, nil
			case err != nil:
				return nil, refuse(http.StatusBadRequest, "the body ended early or is damaged: send it again")
			}
		}
		size = min(2*size, limit+1)
	}
}
