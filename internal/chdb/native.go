package chdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	chproto "github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

// The Native format grows with the protocol revision of its reader (ClickHouse: src/Core/ProtocolDefines.h):
//
//	0        columns only; what the engine writes and what every INSERT over HTTP carries
//	> 0      8 bytes of block information before the columns
//	≥ 54454  also one byte after the type of each column, 0 = default serialization
const revisionSerialization = 54454

// blockInfo is BlockInfo::write: field 1 is_overflows = 0, field 2 bucket_num = -1, end.
const blockInfo = "\x01\x00\x02\xff\xff\xff\xff\x00"

// helloQuery is what clickhouse-go asks first. It reads later answers at the revision it gets here, and this one at its own.
const helloQuery = "SELECT displayName(), version(), revision(), timezone()"

// helloAnswer tells clickhouse-go to read at revision 0: all later blocks pass untouched, whatever types they have.
const helloAnswer = "SELECT 'millstream', version(), toUInt32(0), timezone()"

// nativeFor returns the statement to run and the revision to answer with.
func nativeFor(userAgent string, revision uint64, sql []byte) ([]byte, uint64) {
	if !strings.Contains(userAgent, "clickhouse-go/") {
		return sql, revision
	}
	if string(bytes.TrimSpace(sql)) == helloQuery {
		return []byte(helloAnswer), revision
	}
	return sql, 0
}

// writeNative writes Native blocks of revision 0, of which b holds one or more whole ones, for a reader of the revision.
func writeNative(w io.Writer, b []byte, revision uint64) error {
	if revision == 0 {
		_, err := w.Write(b)
		return err
	}
	if revision < revisionSerialization {
		// The engine streams one block at a time, and answers that it does not stream fit in one block.
		if _, err := io.WriteString(w, blockInfo); err != nil {
			return err
		}
		_, err := w.Write(b)
		return err
	}
	for r := proto.NewReader(bytes.NewReader(b)); ; {
		block := chproto.Block{ServerContext: &column.ServerContext{Timezone: time.UTC}}
		if err := block.Decode(r, 0); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("decode a block for revision %d of the client: %w", revision, err)
		}
		var out proto.Buffer
		if err := block.Encode(&out, revision); err != nil {
			return fmt.Errorf("encode a block for revision %d of the client: %w", revision, err)
		}
		if _, err := w.Write(out.Buf); err != nil {
			return err
		}
	}
}

// writeNativeHeader writes the names and types of a SELECT that found no rows: the engine gives no block then, and clients
// want one. sql stands without its FORMAT clause.
func writeNativeHeader(w io.Writer, c *conn, sql []byte, params map[string]string, revision uint64) error {
	var columns []struct{ name, typ string }
	describe := fmt.Appendf(nil, "DESCRIBE TABLE (%s\n)", bytes.TrimRight(sql, "; \t\r\n"))
	_, err := c.query(describe, "JSONCompactEachRow", params, func(b []byte) error {
		for d := json.NewDecoder(bytes.NewReader(b)); d.More(); {
			var row []any
			if err := d.Decode(&row); err != nil {
				return err
			}
			name, _ := row[0].(string)
			typ, _ := row[1].(string)
			columns = append(columns, struct{ name, typ string }{name, typ})
		}
		return nil
	})
	if err != nil {
		return err
	}
	var out proto.Buffer
	if revision > 0 {
		out.Buf = append(out.Buf, blockInfo...)
	}
	out.PutUVarInt(uint64(len(columns)))
	out.PutUVarInt(0)
	for _, c := range columns {
		out.PutString(c.name)
		out.PutString(c.typ)
		if revision >= revisionSerialization {
			out.PutBool(false)
		}
	}
	_, err = w.Write(out.Buf)
	return err
}
