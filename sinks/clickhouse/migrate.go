package clickhouse

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// migrationFiles are migrations/NNNN_name.sql. A file that was released never changes: what is to change comes as a new one.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// migration is one step of the schema.
type migration struct {
	number     uint32
	name       string
	checksum   uint64 // first 8 bytes of the file's SHA-256
	statements []string
}

// readMigrations reads the steps in order. Files are checked when the program is tested, so an error is a defect of the build.
func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, path := range names {
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return nil, fmt.Errorf("read migration %s: %w", path, err)
		}
		digits, name, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(path, "migrations/"), ".sql"), "_")
		number, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || number != uint64(i+1) {
			return nil, fmt.Errorf("migration %s is not number %d", path, i+1)
		}
		sum := sha256.Sum256(text)
		all = append(all, migration{uint32(number), name, binary.BigEndian.Uint64(sum[:]), statementsOf(string(text))})
	}
	return all, nil
}

// statementsOf splits a file at semicolons that end a line.
func statementsOf(text string) []string {
	var all []string
	for _, s := range strings.Split(text, ";\n") {
		if s = strings.TrimSpace(s); s != "" {
			all = append(all, s)
		}
	}
	return all
}

const createMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations (
  number     UInt32,
  name       String,
  checksum   UInt64,
  applied_at DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(applied_at)
ORDER BY number
SETTINGS non_replicated_deduplication_window = 10000`

// createDatabase makes the database if there is none. A user without the right to make one may use an existing one.
func (s *Sink) createDatabase(ctx context.Context) error {
	conn, err := s.address.open("") // a connection to a database that does not exist is refused
	if err != nil {
		return err
	}
	defer conn.Close()
	var found uint64
	if err := conn.QueryRow(ctx, "SELECT count() FROM system.databases WHERE name = ?", s.address.database).Scan(&found); err != nil {
		return fmt.Errorf("look for the database: %w", err)
	}
	if found > 0 {
		return nil
	}
	if err := conn.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+quoteName(s.address.database)+" ENGINE = Atomic"); err != nil {
		return fmt.Errorf("create the database: %w", err)
	}
	return nil
}

// migrate brings the schema up to date. Processes that start together may all run it: every statement can be repeated, and
// the rows that they write about it replace each other.
func (s *Sink) migrate(ctx context.Context, steps []migration) error {
	if err := s.conn.Exec(ctx, createMigrations); err != nil {
		return fmt.Errorf("create the table schema_migrations: %w", err)
	}
	applied, err := s.applied(ctx, steps)
	if err != nil {
		return err
	}
	for _, m := range steps {
		if applied[m.number] {
			continue
		}
		for i, statement := range m.statements {
			if err := s.conn.Exec(ctx, statement); err != nil {
				return fmt.Errorf("run statement %d of migration %04d_%s: %w", i+1, m.number, m.name, err)
			}
		}
		ctx := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"async_insert": 0}))
		err := s.conn.Exec(ctx, "INSERT INTO schema_migrations (number, name, checksum, applied_at) VALUES (?, ?, ?, fromUnixTimestamp64Milli(?, 'UTC'))",
			m.number, m.name, m.checksum, time.Now().UnixMilli())
		if err != nil {
			return fmt.Errorf("record migration %04d_%s: %w", m.number, m.name, err)
		}
		s.log.Info("ClickHouse schema migrated", "database", s.address.database, "migration", fmt.Sprintf("%04d_%s", m.number, m.name))
	}
	return nil
}

// applied returns the numbers of the steps that have been applied. It refuses a schema that this program did not make.
func (s *Sink) applied(ctx context.Context, steps []migration) (map[uint32]bool, error) {
	found, err := s.conn.Query(ctx, "SELECT number, name, checksum FROM schema_migrations FINAL ORDER BY number DESC")
	if err != nil {
		return nil, fmt.Errorf("read schema_migrations: %w", err)
	}
	defer found.Close()
	applied := make(map[uint32]bool)
	for found.Next() {
		var m migration
		if err := found.Scan(&m.number, &m.name, &m.checksum); err != nil {
			return nil, fmt.Errorf("read schema_migrations: %w", err)
		}
		if int(m.number) > len(steps) {
			return nil, refuse("database %s has schema %04d_%s, this build knows schemas up to %04d: upgrade millstream", s.address.database, m.number, m.name, len(steps))
		}
		if m.number == 0 || steps[m.number-1].checksum != m.checksum {
			return nil, refuse("migration %04d_%s of database %s was applied in another version than this build has (checksum %016x): the schema is not that of a release; use another database, or the build that made it",
				m.number, m.name, s.address.database, m.checksum)
		}
		applied[m.number] = true
	}
	return applied, found.Err()
}
