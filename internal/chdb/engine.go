package chdb

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"
)

// engine is one open data folder. Its methods may be called concurrently.
type engine struct {
	lib      *library
	path     string
	keep     *conn // the engine lives as long as one connection is open
	timezone string
	version  string // of ClickHouse, "26.7.2.1"
}

// conn is one connection, with its own database, settings and temporary tables. It runs one statement at a time: two at
// once get each other's answers without any error. To open one costs 0.1 ms, so every request has its own.
type conn struct {
	lib    *library
	handle *unsafe.Pointer
}

// stats is what one statement read and wrote.
type stats struct {
	resultRows, readRows, readBytes, wroteRows, wroteBytes uint64
}

// openEngine opens the data folder at path and creates the database. All memory together, of statements, merges and
// caches, is limited to memoryLimit bytes.
func openEngine(lib *library, path, database string, memoryLimit uint64) (*engine, error) {
	e := &engine{lib: lib, path: path}
	var err error
	e.keep, err = e.open("--max_server_memory_usage="+strconv.FormatUint(memoryLimit, 10), "--max_memory_usage=0")
	if err != nil {
		return nil, fmt.Errorf("open the ClickHouse data folder %s: %w (it may be in use by another process)", path, err)
	}
	if err := e.keep.exec("CREATE DATABASE IF NOT EXISTS " + quoteName(database) + " ENGINE = Atomic"); err != nil {
		e.close()
		return nil, fmt.Errorf("create the embedded database: %w", err)
	}
	_, err = e.keep.query([]byte("SELECT timezone(), version()"), "TSVRaw", nil, func(b []byte) error {
		e.timezone, e.version, _ = strings.Cut(strings.TrimSpace(string(b)), "\t")
		return nil
	})
	if err != nil {
		e.close()
		return nil, fmt.Errorf("ask the engine for time zone and version: %w", err)
	}
	return e, nil
}

// connect opens a connection. The caller closes it.
func (e *engine) connect() (*conn, error) { return e.open() }

func (e *engine) open(args ...string) (*conn, error) {
	var argv texts
	defer argv.release()
	for _, a := range append([]string{"clickhouse", "--path=" + e.path}, args...) {
		argv.add(a)
	}
	argc := int32(len(argv.pointers))
	argv.pointers = append(argv.pointers, nil)
	h := e.lib.connect(argc, &argv.pointers[0])
	runtime.KeepAlive(argv.pointers)
	if h == nil || *h == nil {
		return nil, errors.New("the ClickHouse library refused the connection")
	}
	return &conn{lib: e.lib, handle: h}, nil
}

// close closes the data folder. Every connection must be closed before. The library's threads go with the process: its own
// call to stop them fails as soon as there is a table.
func (e *engine) close() { e.keep.close() }

// kill cancels the statement with this log_comment. It repeats, with an interval of 100 ms, until done is closed: the first
// KILL may come before the statement is registered, and then it would run for ever.
func (e *engine) kill(comment string, done <-chan struct{}) {
	c, err := e.connect()
	if err != nil {
		return // out of memory; the statement ends at its own limits
	}
	defer c.close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_ = c.exec("KILL QUERY WHERE Settings['log_comment'] = " + quoteText(comment) + " ASYNC")
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

func (c *conn) close() { c.lib.close(c.handle) }

// exec runs a statement without an answer.
func (c *conn) exec(sql string) error {
	_, err := c.query([]byte(sql), "Null", nil, func([]byte) error { return nil })
	return err
}

// classify says what the statement would do, without running it.
func (c *conn) classify(sql []byte) (analysis, error) {
	a := analysis{structSize: uint32(unsafe.Sizeof(analysis{}))}
	if c.lib.classify(*c.handle, firstByte(sql), uintptr(len(sql)), nil, 0, &a) != 0 {
		return a, newException(codeUnknown, "the ClickHouse library cannot classify a statement")
	}
	runtime.KeepAlive(sql)
	return a, nil
}

// query runs one statement and hands the whole answer to emit, once, if it has any. The bytes are the engine's: they are
// valid until emit returns.
func (c *conn) query(sql []byte, format string, params map[string]string, emit func([]byte) error) (stats, error) {
	r := c.lib.query.call(*c.handle, sql, format, params)
	if r == nil {
		return stats{}, newException(codeUnknown, "the ClickHouse library gave no answer")
	}
	defer c.lib.destroy(r)
	if m := c.lib.resultError(r); m != "" {
		return stats{}, engineException(m)
	}
	s := c.lib.stats(r)
	if b := c.lib.bytes(r); len(b) > 0 {
		return s, emit(b)
	}
	return s, nil
}

// errNotStreamed is the answer to a statement that only query can run.
var errNotStreamed = errors.New("statement cannot be streamed")

// stream runs a SELECT and hands its answer to emit block by block, each formatted on its own. The bytes are the engine's:
// they are valid until emit returns. An error of emit cancels the statement.
func (c *conn) stream(sql []byte, format string, params map[string]string, emit func([]byte) error) (stats, error) {
	r := c.lib.stream.call(*c.handle, sql, format, params)
	if r == nil {
		return stats{}, newException(codeUnknown, "the ClickHouse library gave no answer")
	}
	defer c.lib.destroy(r)
	if m := c.lib.resultError(r); m != "" {
		if strings.Contains(m, "DB::Exception: Streaming query is not supported for query") {
			return stats{}, errNotStreamed
		}
		return stats{}, engineException(m)
	}
	var total stats
	for {
		more, err := c.fetch(r, &total, emit)
		if err != nil {
			c.lib.cancel(*c.handle, r)
			return total, err
		}
		if !more {
			return total, nil
		}
	}
}

func (c *conn) fetch(stream unsafe.Pointer, total *stats, emit func([]byte) error) (more bool, err error) {
	r := c.lib.fetch(*c.handle, stream)
	if r == nil {
		return false, nil
	}
	defer c.lib.destroy(r)
	if m := c.lib.resultError(r); m != "" {
		return false, engineException(m)
	}
	s := c.lib.stats(r)
	total.resultRows += s.resultRows
	total.readRows, total.readBytes = max(total.readRows, s.readRows), max(total.readBytes, s.readBytes)
	b := c.lib.bytes(r)
	if len(b) == 0 {
		return false, nil
	}
	return true, emit(b)
}

// insert is an open INSERT. Its connection runs nothing else until done or cancel.
type insert struct {
	lib    *library
	stream unsafe.Pointer
}

// insert begins an INSERT. sql stands without its FORMAT clause and data.
func (c *conn) insert(sql []byte, format string, params map[string]string) (*insert, error) {
	i := &insert{lib: c.lib, stream: c.lib.insert.call(*c.handle, sql, format, params)}
	if i.stream == nil {
		return nil, newException(codeUnknown, "the ClickHouse library refused the insert")
	}
	if m := c.lib.insertError(i.stream); m != "" {
		c.lib.insertDestroy(i.stream)
		return nil, engineException(m)
	}
	return i, nil
}

// append hands over data, which is copied. It waits when the engine is behind.
func (i *insert) append(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	failed := i.lib.insertAppend(i.stream, &data[0], uintptr(len(data))) != 0
	runtime.KeepAlive(data)
	if failed {
		if m := i.lib.insertError(i.stream); m != "" {
			return engineException(m)
		}
		return newException(codeUnknown, "the ClickHouse library refused the data")
	}
	return nil
}

// done writes what was appended and ends the INSERT.
func (i *insert) done() (stats, error) {
	defer i.lib.insertDestroy(i.stream)
	r := i.lib.insertDone(i.stream)
	if r == nil {
		return stats{}, newException(codeUnknown, "the ClickHouse library gave no answer to the insert")
	}
	defer i.lib.destroy(r)
	if m := i.lib.resultError(r); m != "" {
		return stats{}, engineException(m)
	}
	return i.lib.stats(r), nil
}

// cancel ends the INSERT. Blocks that the engine has already written stay.
func (i *insert) cancel() {
	i.lib.insertCancel(i.stream)
	i.lib.insertDestroy(i.stream)
}

func (l *library) stats(r unsafe.Pointer) stats {
	return stats{resultRows: l.resultRows(r), readRows: l.readRows(r), readBytes: l.readBytes(r), wroteRows: l.wroteRows(r), wroteBytes: l.wroteBytes(r)}
}

// bytes is the result's own memory, valid until it is destroyed.
func (l *library) bytes(r unsafe.Pointer) []byte {
	n := l.length(r)
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(l.buffer(r)), n)
}

// quoteText and quoteName write a string literal and a name as ClickHouse reads them.
func quoteText(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
func quoteName(s string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(s) + "`"
}
