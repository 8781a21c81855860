// Package clickhouse is the sink that keeps what analysts query: events, profiles, changes of segments and scores, webhook deliveries and
// dead letters in ClickHouse, every record in its table exactly once.
//
//	resolved      events
//	changes       profiles, segment_log, scores, merges, overrides, identifiers
//	deliveries    deliveries
//	dead_letters  dead_letters
//	each range    progress
//
// A range of a partition is one unit. Its rows are built by a pure function of the records and sent, one statement per
// table, under a deduplication token that names the range: sending it again changes nothing, in the table and in the
// materialized views that users hang on it. Only when the token may have left the table's window the sink asks what landed
// and sends the rest.
package clickhouse

import (
	"context"
	"fmt"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// Kind is the sink as config and engine know it. Open returns a *Sink, which is a pipeline.RangeSink.
var Kind = pipeline.SinkKind{
	Name:    "clickhouse",
	Summary: "tables and views for analysts, exactly once",
	Topics:  topics(),
	Config:  func() any { return &Config{URL: pipeline.NewSecret(embedded)} },
	Build:   build,
}

func topics() []string { return []string{"resolved", "changes", "deliveries", "dead_letters"} }

// Config is what the YAML says.
type Config struct {
	// URL is "embedded" or the address of the server's HTTP interface: http://user@host:8123 or https://user@host:8443. It
	// may carry the password, so it is treated as a secret.
	URL pipeline.Secret `yaml:"url"`
	// Database is made if it does not exist. Default: the pipeline's name.
	Database string `yaml:"database"`
	// Password of the user in URL, if it does not stand there.
	Password pipeline.Secret `yaml:"password"`
}

const embedded = "embedded"

// build checks the configuration. Nothing is opened.
func build(name string, config any, env *pipeline.Env) (func(context.Context, pipeline.Deps) (any, error), []pipeline.Problem) {
	c := *config.(*Config)
	if c.Database == "" {
		c.Database = env.Pipeline
	}
	var problems []pipeline.Problem
	if err := checkDatabase(c.Database); err != nil {
		problems = append(problems, pipeline.Problemf([]string{"database"}, "%v", err))
	}
	if c.URL.Reveal() == embedded {
		if !c.Password.IsZero() {
			problems = append(problems, pipeline.Problemf([]string{"password"}, "the embedded ClickHouse has a password of its own: leave this out"))
		}
	} else if _, err := parseAddress(c.URL, c.Password, c.Database); err != nil {
		problems = append(problems, pipeline.Problemf([]string{"url"}, "%v", err))
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return func(ctx context.Context, d pipeline.Deps) (any, error) { return Open(ctx, name, c, d) }, nil
}

// checkDatabase refuses names that are ClickHouse's own or need more than backquotes.
func checkDatabase(name string) error {
	switch strings.ToLower(name) {
	case "system", "information_schema":
		return fmt.Errorf("the database %q belongs to ClickHouse: choose another name", name)
	}
	ok := name != "" && len(name) <= 128
	for _, c := range []byte(name) {
		ok = ok && (c == '_' || c == '-' || c == '.' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z')
	}
	if !ok {
		return fmt.Errorf("%q is not a database name: use at most 128 letters, digits, and any of _-. in it", name)
	}
	return nil
}

// Open connects, brings the schema up to date and looks whether the server keeps what the sink promises. It waits while the
// server cannot be reached, until ctx ends. c must have passed Kind.Build; name is the sink's in the YAML.
func Open(ctx context.Context, name string, c Config, d pipeline.Deps) (*Sink, error) {
	url, password := c.URL, c.Password
	if url.Reveal() == embedded {
		address, err := d.ClickHouse(ctx)
		if err != nil {
			return nil, fmt.Errorf("open sink %s: start the embedded ClickHouse: %w", name, err)
		}
		url, password = pipeline.NewSecret(address), pipeline.Secret{}
	}
	a, err := parseAddress(url, password, c.Database)
	if err != nil {
		return nil, fmt.Errorf("open sink %s: %w", name, err)
	}
	s, err := newSink(a, d.Logger.With("sink", name))
	if err != nil {
		return nil, fmt.Errorf("open sink %s: %w", name, err)
	}
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("open sink %s: %w", name, err)
	}
	if d.Say != nil {
		line := "clickhouse " + a.String()
		if c.URL.Reveal() == embedded {
			line += " (embedded)"
		}
		d.Say(line)
	}
	return s, nil
}
