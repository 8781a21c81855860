package chdb

import (
	"compress/gzip"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/compress"
)

// answer writes the result of one request: status and headers with the first byte, then the body, compressed as the client
// asked. An error before the first byte has a status of its own, a later one is written into the body.
type answer struct {
	w       http.ResponseWriter
	control *http.ResponseController
	began   time.Time
	stats   stats
	started bool
	blocks  *compress.Writer // ClickHouse's framing; nil: none
	gzip    *gzip.Writer     // nil: none
	tag     string           // marks an exception in the body, unknown to the data
}

func newAnswer(w http.ResponseWriter) *answer {
	return &answer{w: w, control: http.NewResponseController(w), began: time.Now(), tag: strings.ToLower(rand.Text()[:16])}
}

// compress takes the answer's compression from the request: ClickHouse's framing if the client asked for it, else gzip if
// the client takes it, else none.
func (a *answer) compress(r *http.Request, q *request) {
	switch {
	case q.compressAnswer:
		method := compress.LZ4
		switch strings.ToUpper(q.settings["network_compression_method"]) {
		case "ZSTD":
			method = compress.ZSTD
		case "NONE":
			method = compress.None
		}
		a.blocks = compress.NewWriter(compress.LevelZero, method)
	case truth(q.settings["enable_http_compression"]) && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"):
		a.gzip = gzip.NewWriter(a.w)
		a.w.Header().Set("Content-Encoding", "gzip")
	}
}

// blockBytes is the largest piece that one compressed block holds (ClickHouse: max_compress_block_size, 1 MiB).
const blockBytes = 1 << 20

// Write sends a piece of the body.
func (a *answer) Write(p []byte) (int, error) {
	a.start()
	// Not possible with a ResponseWriter of a test; the server's limits hold then.
	_ = a.control.SetWriteDeadline(time.Now().Add(bodyTimeout))
	if a.gzip != nil {
		return a.gzip.Write(p)
	}
	if a.blocks == nil {
		return a.w.Write(p)
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), blockBytes)
		if err := a.blocks.Compress(rest[:n]); err != nil {
			return len(p) - len(rest), fmt.Errorf("compress a block of the answer: %w", err)
		}
		if _, err := a.w.Write(a.blocks.Data); err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func (a *answer) start() {
	if a.started {
		return
	}
	a.started = true
	a.w.Header().Set("X-ClickHouse-Summary", a.summary())
	a.w.Header().Set("X-ClickHouse-Exception-Tag", a.tag)
}

// summary is what the statement did until now. All values are texts, as from ClickHouse.
func (a *answer) summary() string {
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	b, _ := json.Marshal(map[string]string{ // a map of texts always has a JSON form
		"read_rows": number(a.stats.readRows), "read_bytes": number(a.stats.readBytes),
		"written_rows": number(a.stats.wroteRows), "written_bytes": number(a.stats.wroteBytes),
		"total_rows_to_read": "0", "result_rows": number(a.stats.resultRows), "result_bytes": "0",
		"elapsed_ns": number(uint64(time.Since(a.began).Nanoseconds())),
	})
	return string(b)
}

// finish ends the answer, with err as ClickHouse would write it.
func (a *answer) finish(err error, version string) {
	switch {
	case err == nil && !a.started: // an answer without a body
		a.w.Header().Del("Content-Encoding")
		a.start()
		return
	case err != nil && !a.started:
		a.fail(asException(err), version)
		return
	case err != nil:
		// Source: WriteBufferFromHTTPServerResponse::cancelWithException. If the client is gone, so is the reason to tell.
		m := messageOf(asException(err), version)
		_, _ = fmt.Fprintf(a, "\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n", a.tag, m, len(m), a.tag)
	}
	if a.gzip != nil {
		_ = a.gzip.Close() // the client is gone
	}
}

func (a *answer) fail(e *exception, version string) {
	h := a.w.Header()
	h.Del("Content-Encoding")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.code))
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	if e.code == codeRequiredPassword {
		h.Set("WWW-Authenticate", `Basic realm="ClickHouse server HTTP API"`)
	}
	a.w.WriteHeader(httpStatus(e.code))
	_, _ = io.WriteString(a.w, messageOf(e, version)) // the client is gone
}

func messageOf(e *exception, version string) string {
	return e.message + " (version " + version + " (embedded))\n"
}

// contentType is the media type of an answer in a format.
func contentType(format string) string {
	switch {
	case strings.HasPrefix(format, "JSON") && strings.HasSuffix(format, "EachRow"):
		return "application/x-ndjson; charset=UTF-8"
	case strings.HasPrefix(format, "JSON"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(format, "CSV"):
		return "text/csv; charset=UTF-8; header=" + headerOf(format)
	case strings.HasPrefix(format, "TSV"), strings.HasPrefix(format, "TabSeparated"):
		return "text/tab-separated-values; charset=UTF-8"
	case format == "XML":
		return "application/xml; charset=UTF-8"
	case format == "Native", strings.HasPrefix(format, "RowBinary"), format == "Parquet", strings.HasPrefix(format, "Arrow"):
		return "application/octet-stream"
	}
	return "text/plain; charset=UTF-8"
}

func headerOf(format string) string {
	if strings.Contains(format, "WithNames") {
		return "present"
	}
	return "absent"
}

// streamable reports whether answers in this format can be formatted block by block: no header, no end, nothing between.
func streamable(format string) bool {
	switch format {
	case "TabSeparated", "TSV", "TabSeparatedRaw", "TSVRaw", "CSV", "JSONEachRow", "JSONLines", "NDJSON", "JSONStringsEachRow",
		"JSONCompactEachRow", "JSONCompactStringsEachRow", "RowBinary", "Native", "Null":
		return true
	}
	return false
}
