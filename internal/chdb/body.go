package chdb

import (
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// bodyTimeout is how long a client may be silent in the middle of a body, or refuse to take an answer
// (ClickHouse: http_receive_timeout and http_send_timeout, 30 s).
const bodyTimeout = 30 * time.Second

// requestBody is the decompressed body, refused beyond limit bytes, both as sent and as decompressed.
func requestBody(w http.ResponseWriter, r *http.Request, q *request, limit int64) (io.ReadCloser, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	raw := &patientReader{r: http.MaxBytesReader(w, r.Body, limit), control: http.NewResponseController(w)}
	body := io.NopCloser(raw)
	var err error
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip":
		body, err = gzip.NewReader(raw)
	case "deflate":
		body, err = zlib.NewReader(raw)
	case "br":
		body = io.NopCloser(brotli.NewReader(raw))
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20)); err == nil {
			body = d.IOReadCloser()
		}
	default:
		return nil, newException(codeNotImplemented, "Unknown compression %q: want gzip, deflate, br or zstd", encoding)
	}
	if err != nil {
		return nil, bodyError(err)
	}
	if q.compressedBody {
		body = struct {
			io.Reader
			io.Closer
		}{compress.NewReader(body), body}
	}
	return &limitedBody{body: body, left: limit}, nil
}

// limitedBody ends with an error, and not with io.EOF, when there is more to read. Its errors are exceptions.
type limitedBody struct {
	body io.ReadCloser
	left int64
}

func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, &http.MaxBytesError{}
	}
	if err != nil && err != io.EOF { //nolint:errorlint // see below
		if errors.Is(err, io.EOF) { // the block reader wraps the end at the border of a block
			return n, io.EOF
		}
		err = bodyError(err)
	}
	return n, err
}

func (b *limitedBody) Close() error { return b.body.Close() }

func bodyError(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	if errors.Is(err, errBodyRead) {
		return newException(codeNetwork, "The request body ended early: %s", err)
	}
	return newException(codeCannotDecompress, "The request body cannot be decompressed: %s", err)
}

var errBodyRead = errors.New("read from the client")

// patientReader gives every read of the body the same time, however long the body is.
type patientReader struct {
	r       io.Reader
	control *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	// Not possible with a ResponseWriter of a test; the server's limits hold then.
	_ = p.control.SetReadDeadline(time.Now().Add(bodyTimeout))
	n, err := p.r.Read(b)
	_ = p.control.SetReadDeadline(time.Time{}) // the server watches the connection from here on, to see the client hang up
	if err != nil && !errors.Is(err, io.EOF) {
		if _, ok := errors.AsType[*http.MaxBytesError](err); !ok {
			err = errors.Join(errBodyRead, err)
		}
	}
	return n, err
}
