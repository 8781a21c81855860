package chdb

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

func openClient(t *testing.T, p *Process, method clickhouse.CompressionMethod) driver.Conn {
	t.Helper()
	c, err := clickhouse.Open(&clickhouse.Options{
		Protocol: clickhouse.HTTP, Addr: []string{p.Address()}, Compression: &clickhouse.Compression{Method: method},
		Auth: clickhouse.Auth{Database: DefaultDatabase, Username: User, Password: p.Password()},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// kinds has a column of every type of the tables that the ClickHouse sink writes.
type kinds struct {
	S   string              `ch:"s"`
	L   string              `ch:"l"`
	T   time.Time           `ch:"t"`
	NT  *time.Time          `ch:"nt"`
	U   uuid.UUID           `ch:"u"`
	NU  *uuid.UUID          `ch:"nu"`
	M   map[string]string   `ch:"m"`
	ML  map[string][]string `ch:"ml"`
	MF  map[string]float64  `ch:"mf"`
	A   []string            `ch:"a"`
	AU  []uuid.UUID         `ch:"au"`
	D   decimal.Decimal     `ch:"d"`
	B   bool                `ch:"b"`
	I8  int8                `ch:"i8"`
	U8  uint8               `ch:"u8"`
	U16 uint16              `ch:"u16"`
	U32 uint32              `ch:"u32"`
	U64 uint64              `ch:"u64"`
	F   float64             `ch:"f"`
}

const createKinds = `CREATE TABLE kinds (
  s String CODEC(ZSTD(1)), l LowCardinality(String), t DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)), nt Nullable(DateTime64(3, 'UTC')),
  u UUID, nu Nullable(UUID), m Map(LowCardinality(String), String), ml Map(LowCardinality(String), Array(String)),
  mf Map(LowCardinality(String), Float64), a Array(LowCardinality(String)), au Array(UUID), d Decimal(18, 6), b Bool,
  i8 Int8, u8 UInt8, u16 UInt16, u32 UInt32, u64 UInt64, f Float64,
  INDEX ix u TYPE bloom_filter(0.01) GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toYYYYMM(t) ORDER BY u64 SETTINGS non_replicated_deduplication_window = 10000`

func someKinds(n int) []kinds {
	rows := make([]kinds, n)
	for i := range rows {
		at := time.UnixMilli(1_700_000_000_123 + int64(i)).UTC()
		id := uuid.NewSHA1(uuid.Nil, fmt.Append(nil, i))
		rows[i] = kinds{
			S: fmt.Sprintf("text \x00 \n'%d", i), L: fmt.Sprint("low ", i%7), T: at, U: id,
			M: map[string]string{"k": fmt.Sprint(i)}, ML: map[string][]string{"email": {"a", "b"}}, MF: map[string]float64{"x": float64(i) / 4},
			A: []string{"vip", fmt.Sprint(i % 3)}, AU: []uuid.UUID{id, id}, D: decimal.New(int64(i)*1_000_001, -6), B: i%2 == 0,
			I8: int8(i), U8: uint8(i), U16: uint16(i), U32: uint32(i), U64: uint64(i), F: float64(i) * 1.5,
		}
		if i%2 == 0 {
			rows[i].NT, rows[i].NU = &at, &id
		}
	}
	return rows
}

func TestClickHouseGo(t *testing.T) {
	p := startEngine(t, testOptions(t))
	must(t, p, createKinds)
	want := someKinds(1000)
	for _, method := range []clickhouse.CompressionMethod{
		clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP, clickhouse.CompressionBrotli, clickhouse.CompressionDeflate,
	} {
		t.Run(method.String(), func(t *testing.T) {
			c := openClient(t, p, method)
			if err := c.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := c.Exec(t.Context(), "TRUNCATE TABLE kinds"); err != nil {
				t.Fatal(err)
			}
			ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": "batch " + method.String(), "async_insert": 0}))
			for range 2 { // the second is a repetition
				insertKinds(t, ctx, c, want)
			}
			var got []kinds
			if err := c.Select(t.Context(), &got, "SELECT * FROM kinds ORDER BY u64"); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(comparable(got), comparable(want)) {
				t.Errorf("read %d rows that differ from the %d that were written", len(got), len(want))
			}
			checkQueries(t, c)
		})
	}
}

// comparable makes equal decimals equal to reflect.
func comparable(rows []kinds) []string {
	texts := make([]string, len(rows))
	for i, r := range rows {
		d := r.D.String()
		r.D = decimal.Decimal{}
		var nt, nu string
		if r.NT != nil {
			nt, nu = r.NT.UTC().String(), r.NU.String()
		}
		r.NT, r.NU, r.T = nil, nil, r.T.UTC()
		texts[i] = fmt.Sprintf("%+v %s %s %s", r, d, nt, nu)
	}
	return texts
}

func insertKinds(t *testing.T, ctx context.Context, c driver.Conn, rows []kinds) {
	t.Helper()
	b, err := c.PrepareBatch(ctx, "INSERT INTO kinds")
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := b.AppendStruct(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Send(); err != nil {
		t.Fatal(err)
	}
}

func checkQueries(t *testing.T, c driver.Conn) {
	t.Helper()
	var n uint64
	if err := c.QueryRow(clickhouse.Context(t.Context(), clickhouse.WithParameters(clickhouse.Parameters{"p": "990"})),
		"SELECT count() FROM kinds WHERE u64 >= {p:UInt64}").Scan(&n); err != nil || n != 10 {
		t.Errorf("with a parameter: %d, %v", n, err)
	}
	rows, err := c.Query(t.Context(), "SELECT u64, s FROM kinds WHERE u64 > 1000000")
	if err != nil {
		t.Fatal(err)
	}
	if names := rows.Columns(); len(names) != 2 || names[1] != "s" || rows.Next() {
		t.Errorf("no rows: columns %v", names)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		t.Error(err)
	}
	rows, err = c.Query(t.Context(), "SELECT number FROM numbers(1000000)")
	if err != nil {
		t.Fatal(err)
	}
	n = 0
	for rows.Next() {
		var v uint64
		if err := rows.Scan(&v); err != nil || v != n {
			t.Fatalf("row %d: %d, %v", n, v, err)
		}
		n++
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil || n != 1_000_000 {
		t.Errorf("%d rows, %v", n, err)
	}
	var exception *clickhouse.Exception
	if err := c.Exec(t.Context(), "SELECT * FROM nothing"); !errors.As(err, &exception) || exception.Code != 60 {
		t.Errorf("unknown table: %v", err)
	}
	var text string
	if err := c.QueryRow(t.Context(), `SELECT '{"a": {"b": 1}}'::JSON.a.b::String`).Scan(&text); err != nil || text != "1" {
		t.Errorf("JSON: %q, %v", text, err)
	}
}

// The path of the ClickHouse sink: columns of ch-go, encoded by it, sent as they are.
func TestInsertFormatNative(t *testing.T) {
	p := startEngine(t, testOptions(t))
	must(t, p, "CREATE TABLE t (id UInt64, name LowCardinality(String)) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100")
	c := openClient(t, p, clickhouse.CompressionNone)
	var id proto.ColUInt64
	name := new(proto.ColStr).LowCardinality()
	for i := range 10_000 {
		id.Append(uint64(i))
		name.Append(fmt.Sprint("n", i%10))
	}
	block := proto.Block{Columns: 2, Rows: 10_000}
	var b proto.Buffer
	if err := block.EncodeRawBlock(&b, 0, proto.Input{{Name: "id", Data: &id}, {Name: "name", Data: name}}); err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"a", "a", "b"} {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": token, "async_insert": 0}))
		if err := c.InsertFormat(ctx, "Native", "INSERT INTO t (id, name)", strings.NewReader(string(b.Buf))); err != nil {
			t.Fatal(err)
		}
	}
	if got := must(t, p, "SELECT count(), uniqExact(name), sum(id) FROM t"); got != "20000\t10\t99990000\n" {
		t.Errorf("got %q", got)
	}
	for _, damaged := range [][]byte{b.Buf[:len(b.Buf)/2], b.Buf[1:], append([]byte{9, 9}, b.Buf...)} {
		if err := c.InsertFormat(t.Context(), "Native", "INSERT INTO t (id, name)", strings.NewReader(string(damaged))); err == nil {
			t.Error("a damaged block was taken")
		}
	}
	if got := must(t, p, "SELECT count() FROM t"); got != "20000\n" {
		t.Errorf("after damaged blocks: %q", got)
	}
}

// Other clients that read Native say which revision they want.
func TestNativeRevisions(t *testing.T) {
	p := startEngine(t, testOptions(t))
	for revision, want := range map[string]string{
		"0":     "\x01\x01\x01x\x05UInt8\x07",
		"54405": blockInfo + "\x01\x01\x01x\x05UInt8\x07",
		"54460": blockInfo + "\x01\x01\x01x\x05UInt8\x00\x07",
	} {
		if _, body := ask(t, p, "SELECT 7 AS x", "default_format=Native&client_protocol_version="+revision); body != want {
			t.Errorf("revision %s: %q, want %q", revision, body, want)
		}
	}
}

func TestCurl(t *testing.T) {
	p := startEngine(t, testOptions(t))
	curl, err := exec.LookPath("curl")
	if err != nil {
		t.Skipf("needs curl: %v", err)
	}
	run := func(stdin string, arguments ...string) string {
		cmd := exec.CommandContext(t.Context(), curl, append([]string{"-sS"}, arguments...)...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("curl %v: %v: %s", arguments, err, out)
		}
		return string(out)
	}
	base := p.URL()
	if got := run("", base, "-d", "CREATE TABLE t (a UInt8, b String) ENGINE = MergeTree ORDER BY a"); got != "" {
		t.Error(got)
	}
	if got := run("1,x\n2,y\n", base+"&query=INSERT+INTO+t+FORMAT+CSV", "--data-binary", "@-"); got != "" {
		t.Error(got)
	}
	if got := run("INSERT INTO t VALUES (3, 'z')", base, "--data-binary", "@-", "-H", "Transfer-Encoding: chunked"); got != "" {
		t.Error(got)
	}
	if got := run("", base, "-G", "--data-urlencode", "query=SELECT * FROM t WHERE a >= {a:UInt8} FORMAT JSONEachRow", "-d", "param_a=2"); got != "{\"a\":2,\"b\":\"y\"}\n{\"a\":3,\"b\":\"z\"}\n" {
		t.Error(got)
	}
	if got := run("", "-o", os.DevNull, "-w", "%{http_code}", "http://"+p.Address()+"/?query=SELECT+1"); got != "401" {
		t.Error(got)
	}
}

const script = `
const { createClient, ClickHouseLogLevel } = require('@clickhouse/client')
const assert = require('node:assert')
const log = { level: ClickHouseLogLevel.OFF }
async function main() {
  const client = createClient({ url: process.env.URL, log, compression: { request: true, response: true } })
  assert.ok((await client.ping()).success)
  await client.command({ query: 'CREATE TABLE js (id UInt64, name String, tags Array(String)) ENGINE = MergeTree ORDER BY id' })
  await client.insert({ table: 'js', format: 'JSONEachRow', values: [{ id: 1, name: "it's", tags: ['a'] }, { id: 2, name: 'ü', tags: [] }] })
  const { Readable } = require('node:stream')
  await client.insert({ table: 'js', format: 'JSONEachRow', values: Readable.from((function* () { for (let i = 3; i < 5000; i++) yield { id: i, name: 'n', tags: [] } })(), { objectMode: true }) })
  const json = await (await client.query({ query: 'SELECT * FROM js WHERE id <= {max:UInt64} ORDER BY id', query_params: { max: 2 } })).json()
  assert.deepEqual(json.data, [{ id: 1, name: "it's", tags: ['a'] }, { id: 2, name: 'ü', tags: [] }].map(r => ({ ...r, id: typeof json.data[0].id === 'string' ? String(r.id) : r.id })))
  assert.equal(json.rows, 2)
  let n = 0
  for await (const rows of (await client.query({ query: 'SELECT * FROM js', format: 'JSONEachRow' })).stream()) n += rows.length
  assert.equal(n, 4999)
  await assert.rejects(client.query({ query: 'SELECT * FROM nothing' }), e => e.code === '60' && e.type === 'UNKNOWN_TABLE')
  const session = createClient({ url: process.env.URL, session_id: 'js', max_open_connections: 1 })
  await session.command({ query: 'CREATE TEMPORARY TABLE x AS SELECT 42 AS n' })
  assert.deepEqual((await (await session.query({ query: 'SELECT n FROM x', format: 'JSONEachRow' })).json()), [{ n: 42 }])
  await session.close()
  const abort = new AbortController()
  setTimeout(() => abort.abort(), 100)
  await assert.rejects(client.query({ query: 'SELECT count() FROM system.numbers', abort_signal: abort.signal }))
  await client.close()
  const wrong = createClient({ url: process.env.URL.replace(/:[^:@]*@/, ':wrong@'), log })
  await assert.rejects(wrong.query({ query: 'SELECT 1' }), e => e.code === '516')
  await wrong.close()
  console.log('all well')
}
main().catch(e => { console.error(e); process.exit(1) })
`

// clientPackage is pinned, so a new release does not change what the test says.
const clientPackage = "@clickhouse/client@1.23.1"

func TestNodeClient(t *testing.T) {
	p := startEngine(t, testOptions(t))
	needNPM(t)
	folder := t.TempDir()
	install := exec.CommandContext(t.Context(), "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder, clientPackage)
	if out, err := install.CombinedOutput(); err != nil {
		t.Skipf("needs the npm package %s: %v: %s", clientPackage, err, out)
	}
	file := filepath.Join(folder, "test.js")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	node := exec.CommandContext(ctx, "node", file)
	node.Dir = folder
	node.Env = append(os.Environ(), "URL="+strings.Replace(p.URL(), "/?database=", "/", 1)) // its own form
	if out, err := node.CombinedOutput(); err != nil || string(out) != "all well\n" {
		t.Errorf("%v: %s", err, out)
	}
}
