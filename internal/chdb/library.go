package chdb

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library holds the functions of libchdb that this package calls. Names and contracts: programs/local/chdb.h of
// chdb-io/chdb-core at 26.7. Only calls that take lengths are bound, the others end at the first zero byte.
// A process can load it once, and can have one data folder open.
type library struct {
	setSignalHandlers func(int32)

	connect  func(argc int32, argv **byte) *unsafe.Pointer
	close    func(*unsafe.Pointer)
	classify func(conn unsafe.Pointer, sql *byte, sqlLen uintptr, db *byte, dbLen uintptr, out *analysis) int32

	query       statementFunc
	stream      statementFunc
	fetch       func(conn, stream unsafe.Pointer) unsafe.Pointer
	cancel      func(conn, stream unsafe.Pointer)
	destroy     func(result unsafe.Pointer)
	buffer      func(result unsafe.Pointer) unsafe.Pointer
	length      func(result unsafe.Pointer) uintptr
	resultError func(result unsafe.Pointer) string
	resultRows  func(result unsafe.Pointer) uint64
	readRows    func(result unsafe.Pointer) uint64
	readBytes   func(result unsafe.Pointer) uint64
	wroteRows   func(result unsafe.Pointer) uint64
	wroteBytes  func(result unsafe.Pointer) uint64

	insert        statementFunc
	insertAppend  func(insert unsafe.Pointer, data *byte, n uintptr) int32
	insertDone    func(insert unsafe.Pointer) unsafe.Pointer
	insertCancel  func(insert unsafe.Pointer)
	insertError   func(insert unsafe.Pointer) string
	insertDestroy func(insert unsafe.Pointer)
}

// statementFunc runs or begins a statement with query parameters; every text comes with its length in bytes.
type statementFunc func(conn unsafe.Pointer, sql *byte, sqlLen uintptr, format *byte, formatLen uintptr,
	names **byte, nameLens *uintptr, values **byte, valueLens *uintptr, count uintptr) unsafe.Pointer

// analysis is chdb_query_analysis_v1.
type analysis struct {
	structSize uint32
	statements uint32 // 0: the text does not parse
	flags      uint32 //nolint:unused // holds the place of the C field
	class      queryClass
}

// queryClass is chdb_query_class: what a statement does to state that outlives it.
type queryClass uint32

const classReadOnly queryClass = 0 // SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS, CHECK

// loadLibrary loads libchdb into this process.
func loadLibrary(path string) (*library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("load the ClickHouse library: %w", err)
	}
	l := new(library)
	for _, f := range []struct {
		name string
		ptr  any
	}{
		{"chdb_set_signal_handlers_enabled", &l.setSignalHandlers},
		{"chdb_connect", &l.connect},
		{"chdb_close_conn", &l.close},
		{"chdb_classify_query_n", &l.classify},
		{"chdb_query_with_params_n", &l.query},
		{"chdb_stream_query_with_params_n", &l.stream},
		{"chdb_stream_fetch_result", &l.fetch},
		{"chdb_stream_cancel_query", &l.cancel},
		{"chdb_destroy_query_result", &l.destroy},
		{"chdb_result_buffer", &l.buffer},
		{"chdb_result_length", &l.length},
		{"chdb_result_error", &l.resultError},
		{"chdb_result_rows_read", &l.resultRows},
		{"chdb_result_storage_rows_read", &l.readRows},
		{"chdb_result_storage_bytes_read", &l.readBytes},
		{"chdb_result_rows_written", &l.wroteRows},
		{"chdb_result_bytes_written", &l.wroteBytes},
		{"chdb_stream_insert_with_params_n", &l.insert},
		{"chdb_stream_append", &l.insertAppend},
		{"chdb_stream_done", &l.insertDone},
		{"chdb_stream_cancel_insert", &l.insertCancel},
		{"chdb_stream_insert_error", &l.insertError},
		{"chdb_destroy_insert_stream", &l.insertDestroy},
	} {
		symbol, err := purego.Dlsym(handle, f.name)
		if err != nil {
			return nil, fmt.Errorf("bind %s of the ClickHouse library, want version %s: %w", f.name, Version, err)
		}
		purego.RegisterFunc(f.ptr, symbol)
	}
	// Before the first connection, or a nil dereference that Go would turn into a panic hangs the process.
	l.setSignalHandlers(0)
	return l, nil
}

// firstByte points at the first byte of b, nil if there is none.
func firstByte(b []byte) *byte {
	if len(b) == 0 {
		return nil
	}
	return &b[0]
}

// texts is an array of texts as C takes it: pointers, and lengths beside them. They are valid until release.
type texts struct {
	pointers []*byte
	lengths  []uintptr
	pinner   runtime.Pinner
}

func (t *texts) add(s string) {
	b := append([]byte(s), 0)
	t.pinner.Pin(&b[0])
	t.pointers = append(t.pointers, &b[0])
	t.lengths = append(t.lengths, uintptr(len(s)))
}

func (t *texts) release() { t.pinner.Unpin() }

// call runs f with the statement and its query parameters.
func (f statementFunc) call(conn unsafe.Pointer, sql []byte, format string, params map[string]string) unsafe.Pointer {
	var names, values texts
	defer names.release()
	defer values.release()
	for name, value := range params {
		names.add(name)
		values.add(value)
	}
	fb := []byte(format)
	var np, vp **byte
	var nl, vl *uintptr
	if len(params) > 0 {
		np, nl, vp, vl = &names.pointers[0], &names.lengths[0], &values.pointers[0], &values.lengths[0]
	}
	r := f(conn, firstByte(sql), uintptr(len(sql)), firstByte(fb), uintptr(len(fb)), np, nl, vp, vl, uintptr(len(params)))
	runtime.KeepAlive(sql)
	runtime.KeepAlive(fb)
	return r
}
