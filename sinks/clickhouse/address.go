package clickhouse

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// address is where the server is and as whom to speak to it.
type address struct {
	secure         bool
	host           string // with port
	user, password string
	database       string
}

// String is the address as operators may see it: the word PASSWORD stands for the password.
func (a *address) String() string {
	u := url.URL{Scheme: "http", Host: a.host, Path: "/", RawQuery: url.Values{"database": {a.database}}.Encode()}
	if a.secure {
		u.Scheme = "https"
	}
	if a.password != "" {
		u.User = url.UserPassword(a.user, "PASSWORD")
	} else if a.user != "" {
		u.User = url.User(a.user)
	}
	return u.String()
}

// parseAddress reads the url. Its errors never repeat it, because it may hold a password.
func parseAddress(secret, password pipeline.Secret, database string) (*address, error) {
	const form = "write http://user@host:8123, https://user@host:8443, or embedded"
	u, err := url.Parse(secret.Reveal())
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return nil, errors.New("this is not the address of a ClickHouse server: " + form + " (special characters of a password are percent-encoded)")
	}
	a := &address{host: u.Host, user: u.User.Username(), password: password.Reveal(), database: database}
	switch u.Scheme {
	case "http":
		a.host = withPort(u, "8123")
	case "https":
		a.secure, a.host = true, withPort(u, "8443")
	case "clickhouse", "tcp", "native":
		return nil, fmt.Errorf("%s:// is the native protocol, over which columns cannot be sent ready-made: %s", u.Scheme, form)
	default:
		return nil, errors.New("this is neither http:// nor https://: " + form)
	}
	if p, ok := u.User.Password(); ok {
		if a.password != "" {
			return nil, errors.New("the password stands in the url and under password: write it once")
		}
		a.password = p
	}
	if a.user == "" && a.password != "" {
		a.user = "default"
	}
	if u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return nil, errors.New("an address has no path: the database has a key of its own, database")
	}
	for key := range u.Query() {
		if key != "database" {
			return nil, errors.New("an address has no parameters: settings belong to the profile of the ClickHouse user")
		}
	}
	return a, nil
}

func withPort(u *url.URL, port string) string {
	if u.Port() != "" {
		return u.Host
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// Limits of talking to the server.
const (
	dialTimeout = 10 * time.Second
	// answerTimeout is how long a statement may run. Above it the connection is taken for dead; the statement is sent again.
	answerTimeout = 5 * time.Minute
	// maxInserts is how many ranges are encoded and sent at once; it bounds the memory of the sink.
	maxInserts = 4
)

// open makes the client. It does not connect yet. Without a database it speaks to the user's default one.
func (a *address) open(database string) (clickhouse.Conn, error) {
	o := &clickhouse.Options{
		Protocol:     clickhouse.HTTP,
		Addr:         []string{a.host},
		Auth:         clickhouse.Auth{Database: database, Username: a.user, Password: a.password},
		DialTimeout:  dialTimeout,
		ReadTimeout:  answerTimeout,
		MaxOpenConns: maxInserts + 4,
		MaxIdleConns: maxInserts,
	}
	if a.secure {
		o.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conn, err := clickhouse.Open(o)
	if err != nil {
		return nil, fmt.Errorf("make a client for ClickHouse at %s: %w", a, err)
	}
	return conn, nil
}
