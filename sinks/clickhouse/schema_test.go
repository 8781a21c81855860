package clickhouse

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
)

// openVariable makes the test binary open a database and end: "url database".
const openVariable = "MILLSTREAM_TEST_OPEN"

func TestMigrationsOnceWhoeverStarts(t *testing.T) {
	d := newDB(t)
	want := d.query(`SELECT name, engine, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name`)
	if n := d.log.count("schema migrated"); n != 6 {
		t.Errorf("%d migrations were logged, want 6", n)
	}
	d.want(`SELECT number, name FROM schema_migrations FINAL ORDER BY number`, "\n\t\t1\ttables\n\t\t2\tviews\n\t\t3\ttopic_ids\n\t\t4\tidentity\n\t\t5\tscores\n\t\t6\terasures")
	s, err := d.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := d.log.count("schema migrated"); n != 6 {
		t.Errorf("%d migrations were logged after a second start, want 6", n)
	}

	// Four processes at once on a new database.
	racing := newName()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			self, err := os.Executable()
			if err != nil {
				t.Error(err)
				return
			}
			c := exec.CommandContext(t.Context(), self)
			c.Env = append(os.Environ(), openVariable+"="+d.url+" "+racing)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	got, err := ask(d.url, racing, `SELECT name, engine, create_table_query FROM system.tables WHERE database = currentDatabase() ORDER BY name`)
	if got = strings.ReplaceAll(got, racing+".", d.name+"."); err != nil || got != want {
		t.Errorf("the schema of racing processes differs: %v\n%s\nwant:\n%s", err, got, want)
	}
	if got, err := ask(d.url, racing, `SELECT count() FROM schema_migrations FINAL`); got != "6" || err != nil {
		t.Errorf("%s migrations recorded, %v", got, err)
	}
}

func openInChild(target string) error {
	url, name, _ := strings.Cut(target, " ")
	d := &db{url: url, name: name, log: new(logLines)}
	s, err := d.open(context.Background())
	if err != nil {
		return err
	}
	return s.Close()
}

func TestForeignSchemasAreRefused(t *testing.T) {
	d := newDB(t)
	refused := func(want string) {
		t.Helper()
		s, err := d.open(t.Context())
		if err == nil {
			s.Close()
			t.Fatalf("opened, want: %s", want)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	d.query(`INSERT INTO schema_migrations SELECT 9, 'identity', 1, '2099-01-01 00:00:00'`)
	refused("has schema 0009_identity, this build knows schemas up to 0006: upgrade millstream")
	d.query(`ALTER TABLE schema_migrations DELETE WHERE number = 9 SETTINGS mutations_sync = 2`)
	d.query(`INSERT INTO schema_migrations SELECT 2, 'views', 1, '2099-01-01 00:00:00'`)
	refused("migration 0002_views of database " + d.name + " was applied in another version than this build has (checksum 0000000000000001)")
}

func TestMigrationFiles(t *testing.T) {
	steps, err := readMigrations(migrationFiles)
	if err != nil || len(steps) != 6 || len(steps[0].statements) != 7 || len(steps[1].statements) != 8 || len(steps[2].statements) != 9 || len(steps[3].statements) != 2 || len(steps[4].statements) != 2 || len(steps[5].statements) != 1 {
		t.Fatalf("got %v %v", steps, err)
	}
	again := regexp.MustCompile(`^(CREATE TABLE IF NOT EXISTS |CREATE OR REPLACE VIEW |ALTER TABLE \w+\s+ADD COLUMN IF NOT EXISTS )`)
	clock := regexp.MustCompile(`(?i)\b(now|rand|generateUUIDv4|DEFAULT|Enum|TTL)\b`)
	for _, m := range steps {
		for _, s := range m.statements {
			var code []string
			for _, line := range strings.Split(s, "\n") {
				if !strings.HasPrefix(line, "--") {
					code = append(code, line)
				}
			}
			sql := strings.TrimSpace(strings.Join(code, "\n"))
			if !again.MatchString(sql) {
				t.Errorf("%s: a statement that cannot be run again: %.60s", m.name, sql)
			}
			if strings.HasPrefix(sql, "CREATE TABLE") && !strings.Contains(sql, "non_replicated_deduplication_window = 10000") {
				t.Errorf("%s: a table without a window: %.60s", m.name, sql)
			}
			if found := clock.FindString(sql); found != "" {
				t.Errorf("%s: %s in %.60s", m.name, found, sql)
			}
		}
	}
	for _, names := range [][]string{{"migrations/0002_x.sql"}, {"migrations/0001_x.sql", "migrations/0003_y.sql"}, {"migrations/x.sql"}, {"migrations/0001.sql"}} {
		files := fstest.MapFS{}
		for _, n := range names {
			files[n] = &fstest.MapFile{Data: []byte("SELECT 1;\n")}
		}
		if _, err := readMigrations(files); err == nil {
			t.Errorf("%v: no error", names)
		}
	}
}

func TestPreflightOfOwnTables(t *testing.T) {
	d := newDB(t)
	reopen := func() error {
		s, err := d.open(t.Context())
		if err == nil {
			err = s.Close()
		}
		return err
	}
	for _, wreck := range []string{`MODIFY SETTING non_replicated_deduplication_window = 0`, `MODIFY SETTING non_replicated_deduplication_window = 5`, `RESET SETTING non_replicated_deduplication_window`} {
		d.query(`ALTER TABLE segment_log ` + wreck)
		err := reopen()
		if err == nil {
			t.Fatalf("%s: opened", wreck)
		}
		_, repair, ok := strings.Cut(err.Error(), "repair it with: ")
		if !ok {
			t.Fatalf("%s: no repair in %v", wreck, err)
		}
		d.query(repair)
		if err := reopen(); err != nil {
			t.Errorf("%s: still refused after %s: %v", wreck, repair, err)
		}
	}
	d.query(`RENAME TABLE deliveries TO saved`)
	if err := reopen(); err == nil || !strings.Contains(err.Error(), d.name+".deliveries is missing") {
		t.Errorf("got %v", err)
	}
	d.query(`CREATE TABLE deliveries ENGINE = Null AS saved`)
	if err := reopen(); err == nil || !strings.Contains(err.Error(), "has the engine Null") {
		t.Errorf("got %v", err)
	}
	d.query(`DROP TABLE deliveries`)
	d.query(`TRUNCATE TABLE schema_migrations`) // what the error advised
	if err := reopen(); err != nil {
		t.Error(err)
	}
}

func TestPreflightFollowsMaterializedViews(t *testing.T) {
	d := newDB(t)
	for _, sql := range []string{
		"CREATE DATABASE `" + d.name + "-x`",
		"CREATE TABLE `" + d.name + "-x`.`by day` (day Date, n UInt64) ENGINE = SummingMergeTree ORDER BY day",
		"CREATE MATERIALIZED VIEW `view one` TO `" + d.name + "-x`.`by day` (day Date, n UInt64) AS SELECT toDate(time) AS day, count() AS n FROM events GROUP BY day",
		"CREATE MATERIALIZED VIEW inner_view ENGINE = MergeTree ORDER BY day AS SELECT toDate(effective_at) AS day FROM segment_log",
		"CREATE TABLE void (day Date) ENGINE = Null",
		"CREATE MATERIALIZED VIEW to_void TO void AS SELECT toDate(time) AS day FROM events",
		"CREATE TABLE last (day Date) ENGINE = MergeTree ORDER BY day",
		"CREATE MATERIALIZED VIEW chained TO last AS SELECT day FROM void",
		"CREATE TABLE memory (day Date) ENGINE = Memory",
		"CREATE MATERIALIZED VIEW to_memory TO memory AS SELECT toDate(time) AS day FROM events",
		"CREATE TABLE good (day Date) ENGINE = MergeTree ORDER BY day SETTINGS non_replicated_deduplication_window = 10000",
		"CREATE MATERIALIZED VIEW to_good TO good AS SELECT toDate(time) AS day FROM events",
		"CREATE VIEW plain AS SELECT * FROM events",
	} {
		d.query(sql)
	}
	start := func() string {
		before := d.log.String()
		s, err := d.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		return strings.TrimPrefix(d.log.String(), before)
	}
	log := start()
	for _, view := range []string{d.name + ".view one", d.name + ".inner_view", d.name + ".chained", d.name + ".to_memory"} {
		if strings.Count(log, fmt.Sprintf("view=%s ", quoteLog(view))) != 1 {
			t.Errorf("the log does not name %s once:\n%s", view, log)
		}
	}
	if n := strings.Count(log, "may be doubled"); n != 4 {
		t.Errorf("%d findings, want 4:\n%s", n, log)
	}
	for _, m := range regexp.MustCompile(`repair="(ALTER [^"]*)"`).FindAllStringSubmatch(log, -1) {
		d.query(m[1])
	}
	if log = start(); strings.Count(log, "may be doubled") != 1 || !strings.Contains(log, "to_memory") {
		t.Errorf("after the repairs:\n%s", log)
	}
}

func quoteLog(s string) string {
	if strings.Contains(s, " ") {
		return `"` + s + `"`
	}
	return s
}
