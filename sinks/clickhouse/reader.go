package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/millstream-io/millstream/pipeline"
)

// Reader looks at what a sink has stored. It makes nothing and changes nothing. It is safe for concurrent use.
type Reader struct {
	address *address
	conn    clickhouse.Conn
}

// ErrUnreachable is the error of OpenReader when no server answers.
var ErrUnreachable = errors.New("ClickHouse does not answer")

// OpenReader opens the database of a sink of the pipeline that has that name. It waits for the server until ctx ends. c must have passed
// Kind.Build; running returns the address of the embedded ClickHouse, and is called only if c asks for that one.
func OpenReader(ctx context.Context, c Config, name string, running func(context.Context) (string, error)) (*Reader, error) {
	address, err := c.locate(ctx, name, running)
	if err != nil {
		return nil, err
	}
	conn, err := address.open(address.database)
	if err != nil {
		return nil, err
	}
	r := &Reader{address: address, conn: conn}
	if err := r.reach(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return r, nil
}

// reach waits until the server answers.
func (r *Reader) reach(ctx context.Context) error {
	for {
		var one uint8
		err := r.conn.QueryRow(ctx, "SELECT 1").Scan(&one)
		if err == nil {
			return nil
		}
		f := explain(err)
		if f.answered && f.repair != "" {
			return r.failed("look at the tables", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("look at the tables at %s: %w (%s)", r.address, ErrUnreachable, f.text)
		case <-time.After(firstPause):
		}
	}
}

// Select reads all rows into a pointer to a slice of structs, by their tags `ch:"column"`; every ? in the query stands for an
// argument. what is said in errors, which hold no customer data: "read the profile".
func (r *Reader) Select(ctx context.Context, what string, rows any, query string, args ...any) error {
	if err := r.conn.Select(ctx, rows, query, args...); err != nil {
		return r.failed(what, err)
	}
	return nil
}

// failed describes an error without repeating what ClickHouse quotes.
func (r *Reader) failed(what string, err error) error {
	f := explain(err)
	switch {
	case f.repair == "":
		return fmt.Errorf("%s in ClickHouse at %s: %s", what, r.address, f.text)
	case missing(err):
		return fmt.Errorf("%s in ClickHouse at %s: the pipeline has not run there with this version yet (%s)", what, r.address, f.text)
	}
	return fmt.Errorf("%s in ClickHouse at %s: %s: %s", what, r.address, f.text, f.repair)
}

// missing tells whether a database, table or column is not there: UNKNOWN_DATABASE, UNKNOWN_TABLE, UNKNOWN_IDENTIFIER.
func missing(err error) bool {
	var x *clickhouse.Exception
	return errors.As(err, &x) && (x.Code == 81 || x.Code == 60 || x.Code == 47)
}

// Close releases the connections.
func (r *Reader) Close() error { return r.conn.Close() }

// locate is the address that the configuration means.
func (c Config) locate(ctx context.Context, name string, running func(context.Context) (string, error)) (*address, error) {
	if c.Database == "" {
		c.Database = name
	}
	if c.URL.Reveal() == embedded {
		found, err := running(ctx)
		if err != nil {
			return nil, fmt.Errorf("reach the embedded ClickHouse: %w", err)
		}
		c.URL, c.Password = pipeline.NewSecret(found), pipeline.Secret{}
	}
	return parseAddress(c.URL, c.Password, c.Database)
}
