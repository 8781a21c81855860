package chdb

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// request is one call of the HTTP interface, before its body is read.
// Source: ClickHouse docs, "HTTP interface"; src/Server/HTTPHandler.cpp.
type request struct {
	query    string // the part of the statement that stands in the address
	database string
	format   string // of the answer, unless the statement names one
	queryID  string
	settings map[string]string
	params   map[string]string // query parameters, {name:Type}
	revision uint64            // of the Native format that the client reads
	readonly bool

	compressAnswer bool // answer in ClickHouse's block framing
	compressedBody bool // body in ClickHouse's block framing

	sessionID      string
	sessionTimeout time.Duration
	sessionCheck   bool // the session must exist
}

// notSettings are parameters of the HTTP interface that are not settings, or that have no effect on an embedded engine.
var notSettings = regexp.MustCompile(`^(query|database|default_format|user|password|quota_key|query_id|session_id|session_timeout|session_check|` +
	`compress|decompress|client_protocol_version|buffer_size|wait_end_of_query|stacktrace|role|close_session)$`)

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Limits of one request.
const (
	maxParameters         = 1000
	defaultSessionTimeout = 60 * time.Second // as ClickHouse
	maxSessionTimeout     = time.Hour        // as ClickHouse
)

// parseRequest reads the address and the headers of a request.
func parseRequest(r *http.Request, parameters url.Values) (*request, error) {
	if len(parameters) > maxParameters {
		return nil, newException(codeBadArguments, "More than %d parameters", maxParameters)
	}
	q := &request{
		query:          parameters.Get("query"),
		database:       firstOf(parameters.Get("database"), r.Header.Get("X-ClickHouse-Database")),
		format:         firstOf(parameters.Get("default_format"), r.Header.Get("X-ClickHouse-Format"), "TabSeparated"),
		queryID:        firstOf(parameters.Get("query_id"), rand.Text()),
		compressAnswer: truth(parameters.Get("compress")),
		compressedBody: truth(parameters.Get("decompress")),
		readonly:       r.Method == http.MethodGet || r.Method == http.MethodHead,
		sessionID:      parameters.Get("session_id"),
		sessionTimeout: defaultSessionTimeout,
		sessionCheck:   truth(parameters.Get("session_check")),
		settings:       map[string]string{},
		params:         map[string]string{},
	}
	for name, values := range parameters {
		value := values[len(values)-1]
		if param, ok := strings.CutPrefix(name, "param_"); ok {
			q.params[param] = value
		} else if !notSettings.MatchString(name) {
			q.settings[name] = value
		}
	}
	// A revision that is not a number is an old client's: ClickHouse reads it as 0, too.
	q.revision, _ = strconv.ParseUint(parameters.Get("client_protocol_version"), 10, 32)
	return q, q.check(parameters.Get("session_timeout"))
}

func (q *request) check(sessionTimeout string) error {
	for name := range q.settings {
		if !settingName.MatchString(name) {
			return newException(codeUnknownSetting, "Unknown setting %q", name)
		}
	}
	if !settingName.MatchString(q.format) {
		return newException(codeUnknownFormat, "Unknown format %q", q.format)
	}
	if strings.ContainsFunc(q.queryID, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return newException(codeBadArguments, "Control characters in query_id")
	}
	if sessionTimeout == "" {
		return nil
	}
	seconds, err := strconv.ParseUint(sessionTimeout, 10, 32)
	if err != nil || time.Duration(seconds)*time.Second > maxSessionTimeout {
		return newException(codeSessionTimeout, "Invalid session timeout %q: want whole seconds, at most %.0f", sessionTimeout, maxSessionTimeout.Seconds())
	}
	q.sessionTimeout = time.Duration(seconds) * time.Second
	return nil
}

// setStatement is the SET of the request's settings, "" if it has none.
func (q *request) setStatement() string {
	if len(q.settings) == 0 {
		return ""
	}
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(q.settings)) {
		if i > 0 {
			b.WriteString(", ")
		} else {
			b.WriteString("SET ")
		}
		fmt.Fprintf(&b, "%s = %s", name, quoteText(q.settings[name]))
	}
	return b.String()
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func truth(v string) bool { return v == "1" || strings.EqualFold(v, "true") }
