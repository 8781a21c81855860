package clickhouse

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// minWindow is how many parts a table must remember the tokens of, at least. The migrations give 10,000.
const minWindow = 1000

// prepare makes the database, brings the schema up to date and looks whether the server keeps what the sink promises. It
// waits for the server until ctx ends.
func (s *Sink) prepare(ctx context.Context) error {
	steps, err := readMigrations(migrationFiles)
	if err != nil {
		return err
	}
	return s.until(ctx, func(ctx context.Context) (string, error) {
		for _, step := range []struct {
			what string
			do   func(context.Context) error
		}{
			{"look for the database, or create it", s.createDatabase},
			{"ask for settings", s.preflightSettings},
			{"migrate the schema", func(ctx context.Context) error { return s.migrate(ctx, steps) }},
			{"look at the tables", s.preflightTables},
		} {
			if err := step.do(ctx); err != nil {
				return step.what, err
			}
			s.trouble.over(s.log, step.what)
		}
		return "", nil
	})
}

// preflightSettings refuses a server that does not know the settings of an insert, or a user who may not set them.
func (s *Sink) preflightSettings(ctx context.Context) error {
	var version string
	if err := s.conn.QueryRow(ctx, "SELECT version()").Scan(&version); err != nil {
		return fmt.Errorf("ask for the server's version: %w", err)
	}
	var readonly string
	if err := s.conn.QueryRow(ctx, "SELECT toString(getSetting('readonly'))").Scan(&readonly); err != nil {
		return fmt.Errorf("ask for the user's rights: %w", err)
	}
	if readonly == "1" || readonly == "2" {
		return refuse("the ClickHouse user of %s may only read (readonly = %s): give the sink a user that may insert and change settings", s.address, readonly)
	}
	s.settings = make(clickhouse.Settings)
	all := insertSettings("")
	maps.Copy(all, newSettings())
	for name, value := range all {
		fixed, err := s.texts(ctx, "SELECT toString(readonly) FROM system.settings WHERE name = "+quoteText(name))
		isNew := newSettings()[name] != nil
		switch {
		case err != nil:
			return fmt.Errorf("ask for the setting %s: %w", name, err)
		case len(fixed) == 0 && isNew:
		case len(fixed) == 0:
			return refuse("ClickHouse %s does not know the setting %s, without which rows may be doubled: use 24.8 or later", version, name)
		case fixed[0] == "1":
			return refuse("the profile of the ClickHouse user of %s fixes the setting %s: allow it to be changed, the sink sends it with every insert", s.address, name)
		case isNew:
			s.settings[name] = value
		}
	}
	return nil
}

// tableInfo is what system.tables says of a table or view.
type tableInfo struct {
	database, name    string
	engine, full, sql string
	uuid              string
	viewDatabases     []string // materialized views that read it
	views             []string
}

func (t *tableInfo) String() string { return t.database + "." + t.name }

var windowPattern = regexp.MustCompile(`(replicated_deduplication_window|non_replicated_deduplication_window) = ([0-9]+)`)

// window is how many parts the table remembers the tokens of, 0 if none, -1 if it stores nothing itself.
func (t *tableInfo) window(defaults map[string]int64) int64 {
	if !strings.HasSuffix(t.engine, "MergeTree") {
		if t.engine == "Null" {
			return -1
		}
		return 0
	}
	setting := t.windowSetting()
	for _, m := range windowPattern.FindAllStringSubmatch(t.full, -1) {
		if m[1] == setting {
			n, _ := strconv.ParseInt(m[2], 10, 64)
			return n
		}
	}
	return defaults[setting]
}

func (t *tableInfo) windowSetting() string {
	if strings.HasPrefix(t.engine, "Replicated") || strings.HasPrefix(t.engine, "Shared") {
		return "replicated_deduplication_window"
	}
	return "non_replicated_deduplication_window"
}

// repair is the statement that gives the table its window.
func (t *tableInfo) repair() string {
	return "ALTER TABLE " + quoteName(t.database) + "." + quoteName(t.name) + " MODIFY SETTING " + t.windowSetting() + " = 10000"
}

// writtenTables are the tables that the sink inserts into.
func writtenTables() []string {
	tables := []string{"progress", "topic_ids"}
	for _, topic := range topics() {
		for _, t := range newBatch(topic).tables() {
			tables = append(tables, t.table)
		}
	}
	return tables
}

// preflightTables refuses tables of ours without a deduplication window, and says so of tables that users' materialized
// views write: there each repeated insert would be counted again.
func (s *Sink) preflightTables(ctx context.Context) error {
	defaults, err := s.windowDefaults(ctx)
	if err != nil {
		return err
	}
	s.windows = make(map[string]int64)
	for _, name := range writtenTables() {
		t, err := s.describe(ctx, s.address.database, name)
		if err != nil {
			return err
		}
		if t == nil {
			return refuse("table %s.%s is missing although its migration was applied: restore it, or TRUNCATE TABLE %s and start again to make it anew", s.address.database, name, s.table("schema_migrations"))
		}
		w := t.window(defaults)
		if w < minWindow {
			if !strings.HasSuffix(t.engine, "MergeTree") {
				return refuse("table %s has the engine %s, which does not recognise a repeated insert: it must be of the MergeTree family", t, t.engine)
			}
			return refuse("table %s remembers only %d inserts, so that a repeated one may be doubled; repair it with: %s", t, w, t.repair())
		}
		s.windows[name] = w
		if err := s.preflightViews(ctx, t, defaults, 0); err != nil {
			return err
		}
	}
	return nil
}

// maxViewDepth bounds how far views on views are followed.
const maxViewDepth = 8

// preflightViews follows the materialized views on a table to the tables that they write.
func (s *Sink) preflightViews(ctx context.Context, t *tableInfo, defaults map[string]int64, depth int) error {
	if depth >= maxViewDepth {
		return nil
	}
	for i := range min(len(t.views), len(t.viewDatabases)) {
		view, err := s.describe(ctx, t.viewDatabases[i], t.views[i])
		if err != nil {
			return err
		}
		if view == nil || view.engine != "MaterializedView" {
			continue
		}
		target, err := s.target(ctx, view)
		if err != nil {
			return err
		}
		if target == nil {
			s.log.Warn("the target of a materialized view cannot be seen, so nobody knows whether repeated inserts are doubled in it", "view", view.String(), "table", t.String())
			continue
		}
		switch w := target.window(defaults); {
		case w < 0 || w >= minWindow:
		case strings.HasSuffix(target.engine, "MergeTree"):
			s.log.Error("a materialized view writes a table that does not recognise a repeated insert: its rows may be doubled", "view", view.String(), "target", target.String(), "window", w, "repair", target.repair())
		default:
			s.log.Error("a materialized view writes a table that does not recognise a repeated insert: its rows may be doubled", "view", view.String(), "target", target.String(), "engine", target.engine, "repair", "make the target a MergeTree with non_replicated_deduplication_window = 10000")
		}
		if err := s.preflightViews(ctx, target, defaults, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// targetPattern finds database and table after TO in the statement that system.tables gives for a materialized view.
var targetPattern = regexp.MustCompile("^CREATE MATERIALIZED VIEW " + namePattern + `\.` + namePattern + "(?: UUID '[^']*')? TO (" + namePattern + `)\.(` + namePattern + ")")

const namePattern = "(?:`[^`]+`|[^\\s.(`]+)"

// target is the table that a materialized view writes, nil if it cannot be seen.
func (s *Sink) target(ctx context.Context, view *tableInfo) (*tableInfo, error) {
	if m := targetPattern.FindStringSubmatch(view.sql); m != nil {
		return s.describe(ctx, strings.Trim(m[1], "`"), strings.Trim(m[2], "`"))
	}
	inner, err := s.describe(ctx, view.database, ".inner_id."+view.uuid)
	if inner != nil || err != nil {
		return inner, err
	}
	return s.describe(ctx, view.database, ".inner."+view.name)
}

// describe looks a table up, nil if there is none.
func (s *Sink) describe(ctx context.Context, database, name string) (*tableInfo, error) {
	found, err := s.conn.Query(ctx, "SELECT engine, engine_full, create_table_query, toString(uuid), dependencies_database, dependencies_table FROM system.tables WHERE database = ? AND name = ?", database, name)
	if err != nil {
		return nil, fmt.Errorf("look at table %s.%s: %w", database, name, err)
	}
	defer found.Close()
	if !found.Next() {
		return nil, found.Err()
	}
	t := &tableInfo{database: database, name: name}
	if err := found.Scan(&t.engine, &t.full, &t.sql, &t.uuid, &t.viewDatabases, &t.views); err != nil {
		return nil, fmt.Errorf("look at table %s.%s: %w", database, name, err)
	}
	return t, nil
}

// windowDefaults are the windows of tables that do not set one.
func (s *Sink) windowDefaults(ctx context.Context) (map[string]int64, error) {
	defaults := make(map[string]int64)
	for _, table := range [...]string{"system.merge_tree_settings", "system.replicated_merge_tree_settings"} {
		found, err := s.conn.Query(ctx, "SELECT name, value FROM "+table+" WHERE name IN ('replicated_deduplication_window', 'non_replicated_deduplication_window')")
		if err != nil {
			return nil, fmt.Errorf("ask for the server's defaults in %s: %w", table, err)
		}
		for found.Next() {
			var name, value string
			if err := found.Scan(&name, &value); err != nil {
				_ = found.Close()
				return nil, fmt.Errorf("ask for the server's defaults in %s: %w", table, err)
			}
			defaults[name], _ = strconv.ParseInt(value, 10, 64)
		}
		if err := found.Close(); err != nil {
			return nil, fmt.Errorf("ask for the server's defaults in %s: %w", table, err)
		}
	}
	return defaults, nil
}
