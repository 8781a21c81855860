package chdb

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"
)

// maxSessions is how many sessions may be open at once; each holds a connection and its temporary tables.
const maxSessions = 64

// sessions keeps the connections of requests with a session_id: database, SET and temporary tables outlive the request.
// A session runs one request at a time; a second one is refused, as ClickHouse does.
type sessions struct {
	connect func() (*conn, error)

	mu     sync.Mutex
	byID   map[string]*session
	closed bool
}

type session struct {
	conn   *conn
	busy   bool
	expire *time.Timer
}

func newSessions(connect func() (*conn, error)) *sessions {
	return &sessions{connect: connect, byID: map[string]*session{}}
}

// take returns the connection of the session and whether it is new. The caller gives it back with release.
func (s *sessions) take(id string, mustExist bool) (c *conn, fresh bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byID[id]; e != nil {
		if e.busy {
			return nil, false, newException(codeSessionLocked, "Session %q is locked by a concurrent client", id)
		}
		e.busy = true
		e.expire.Stop()
		return e.conn, false, nil
	}
	if mustExist {
		return nil, false, newException(codeSessionNotFound, "Session %q not found", id)
	}
	if len(s.byID) >= maxSessions || s.closed {
		return nil, false, newException(codeTooManyQueries, "More than %d sessions", maxSessions)
	}
	if c, err = s.connect(); err != nil {
		return nil, false, err
	}
	s.byID[id] = &session{conn: c, busy: true}
	return c, true, nil
}

// release gives the session back; it ends when no request comes within the time.
func (s *sessions) release(id string, keep time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byID[id]
	e.busy = false
	if s.closed {
		s.remove(id, e)
		return
	}
	e.expire = time.AfterFunc(keep, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.byID[id] == e && !e.busy {
			s.remove(id, e)
		}
	})
}

func (s *sessions) remove(id string, e *session) {
	delete(s.byID, id)
	e.conn.close()
}

// restore is the SET that undoes a change of these settings: a parameter of one request does not stay in the session.
// Names that are no settings are left to the SET of the request to refuse.
func (c *conn) restore(settings map[string]string) (string, error) {
	var names []string
	for name := range settings {
		names = append(names, quoteText(name))
	}
	var undo []string
	sql := "SELECT name, value, changed FROM system.settings WHERE name IN (" + strings.Join(names, ", ") + ")"
	_, err := c.query([]byte(sql), "JSONCompactStringsEachRow", nil, func(b []byte) error {
		for d := json.NewDecoder(bytes.NewReader(b)); d.More(); {
			var row [3]string
			if err := d.Decode(&row); err != nil {
				return err
			}
			value := "DEFAULT"
			if truth(row[2]) {
				value = quoteText(row[1])
			}
			undo = append(undo, row[0]+" = "+value)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read the settings of the session: %w", err)
	}
	return "SET " + strings.Join(undo, ", "), nil
}

// close ends all sessions that run nothing; a busy one ends with its request.
func (s *sessions) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for id, e := range s.byID {
		if !e.busy {
			e.expire.Stop()
			s.remove(id, e)
		}
	}
}
