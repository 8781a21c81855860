package chdb

import (
	"crypto/rand"
	"errors"
	"io"
	"strconv"
)

// statement is one request with the connection that runs it.
type statement struct {
	request *request
	conn    *conn
	tag     string // log_comment, by which kill finds it
	close   func()
}

// openStatement opens a connection, or takes that of the session, and gives it the database and the settings of the request.
func (d *door) openStatement(q *request) (*statement, error) {
	s := &statement{request: q, tag: "millstream " + rand.Text()}
	if comment := q.settings["log_comment"]; comment != "" {
		s.tag = comment + " " + s.tag
	}
	q.settings["log_comment"] = s.tag
	d.limit(q)
	fresh := true
	var err error
	if q.sessionID == "" {
		if s.conn, err = d.engine.connect(); err != nil {
			return nil, err
		}
		s.close = s.conn.close
		if q.readonly {
			q.settings["readonly"] = "2" // settings may change, data not
		}
	} else {
		if s.conn, fresh, err = d.sessions.take(q.sessionID, q.sessionCheck); err != nil {
			return nil, err
		}
		s.close = func() { d.sessions.release(q.sessionID, q.sessionTimeout) }
		undo, err := s.conn.restore(q.settings)
		if err != nil {
			s.close()
			return nil, err
		}
		s.close = func() {
			_ = s.conn.exec(undo) // what was set before can be set again
			d.sessions.release(q.sessionID, q.sessionTimeout)
		}
	}
	database := q.database
	if fresh && database == "" || database == "default" {
		database = d.config.database // the library's own "default" is not ours to offer
	}
	if err := s.prepare(database); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// limit sets what a statement may use, unless the client does.
func (d *door) limit(q *request) {
	for name, value := range map[string]string{
		"max_memory_usage":   strconv.FormatUint(d.config.memoryLimit/4*3, 10),
		"max_execution_time": strconv.Itoa(int(statementTimeout.Seconds())),
	} {
		if _, ok := q.settings[name]; !ok {
			q.settings[name] = value
		}
	}
}

func (s *statement) prepare(database string) error {
	if database != "" {
		if err := s.conn.exec("USE " + quoteName(database)); err != nil {
			return err
		}
	}
	return s.conn.exec(s.request.setStatement())
}

// run reads the statement from address and body and writes its answer.
func (s *statement) run(a *answer, body io.Reader, userAgent string) error {
	head, shape, rest, err := readHead(s.request.query, body)
	if err != nil {
		return err
	}
	switch {
	case shape.toFile:
		return newException(codeOutfile, "INTO OUTFILE and FROM INFILE are not allowed over HTTP")
	case shape.insertData && shape.semicolon:
		return newException(codeSyntaxError, "Excessive ';' between FORMAT and the data of an INSERT")
	case shape.insertData:
		return s.insert(a, head, shape, rest)
	default:
		return s.read(a, head, shape, userAgent)
	}
}

// insert hands the data over in pieces.
func (s *statement) insert(a *answer, head []byte, shape shape, rest io.Reader) error {
	if s.request.readonly {
		return errReadonly()
	}
	i, err := s.conn.insert(head[:shape.head], shape.format, s.request.params)
	if err != nil {
		return err
	}
	if err := i.append(head[shape.data:]); err != nil {
		i.cancel()
		return err
	}
	for chunk, end := make([]byte, insertChunk), false; !end; {
		n, err := io.ReadFull(rest, chunk)
		if end = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF); end {
			err = nil
		}
		if err == nil {
			err = i.append(chunk[:n])
		}
		if err != nil {
			i.cancel()
			return err
		}
	}
	a.stats, err = i.done()
	return err
}

// read runs everything that is not an INSERT with data.
func (s *statement) read(a *answer, sql []byte, shape shape, userAgent string) error {
	q := s.request
	facts, err := s.conn.classify(sql)
	if err != nil {
		return err
	}
	if facts.statements > 1 {
		return newException(codeSyntaxError, "Multi-statements are not allowed")
	}
	if q.readonly && q.sessionID != "" && facts.class != classReadOnly {
		return errReadonly() // a session cannot leave readonly any more, so the engine is not asked
	}
	format := firstOf(shape.format, q.format)
	a.w.Header().Set("X-ClickHouse-Format", format)
	a.w.Header().Set("Content-Type", contentType(format))
	revision := uint64(0)
	write := func(b []byte) error { _, err := a.Write(b); return err }
	if format == "Native" {
		sql, revision = nativeFor(userAgent, q.revision, sql)
		write = func(b []byte) error { return writeNative(a, b, revision) }
	}
	if facts.class == classReadOnly && streamable(format) && !shape.totals && !truth(q.settings["extremes"]) {
		a.stats, err = s.conn.stream(sql, format, q.params, write)
		if err == nil && !a.started && format == "Native" {
			return writeNativeHeader(a, s.conn, sql[:min(shape.head, len(sql))], q.params, revision)
		}
		if !errors.Is(err, errNotStreamed) {
			return err
		}
	}
	a.stats, err = s.conn.query(sql, format, q.params, write)
	return err
}

func errReadonly() error {
	return newException(codeReadonly, "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly. You should use method POST for modifying queries")
}
