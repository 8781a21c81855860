package clickhouse

import (
	"fmt"
	"math"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// mergeRows is the table merges: what the operations of the link log did between two profiles.
type mergeRows struct {
	rows
	offset               *proto.ColUInt64
	kind                 lowText
	from, into           *proto.ColUUID
	idType, rule, reason lowText
	message              *proto.ColStr
	at                   *proto.ColDateTime64
}

func (t *mergeRows) init() {
	t.rows = rows{table: "merges", key: "concat(toString(log_offset), '/', toString(from_profile), '/', toString(into_profile))", timeColumn: "at"}
	t.offset = column(&t.rows, "log_offset", new(proto.ColUInt64))
	t.kind = column(&t.rows, "kind", newLowText())
	t.from = column(&t.rows, "from_profile", new(proto.ColUUID))
	t.into = column(&t.rows, "into_profile", new(proto.ColUUID))
	t.people = []*proto.ColUUID{t.from, t.into}
	t.idType = column(&t.rows, "id_type", newLowText())
	t.rule = column(&t.rows, "rule", newLowText())
	t.reason = column(&t.rows, "reason", newLowText())
	t.message = column(&t.rows, "trigger_message_id", new(proto.ColStr))
	t.at = column(&t.rows, "at", newTimes())
}

// add appends an identity.merge. The log offset stays that of the log: rows of an earlier log have another topic_id.
func (t *mergeRows) add(data gjson.Result) *pipeline.RejectError {
	offset, okOffset := unsigned(data.Get("log_offset"), math.MaxInt64)
	from, errFrom := uuid.Parse(data.Get("from").Str)
	into, errInto := uuid.Parse(data.Get("into").Str)
	kind := data.Get("kind").Str
	at, okAt := readTime(data.Get("at"))
	if !okOffset || errFrom != nil || errInto != nil || kind == "" || !okAt {
		return pipeline.Reject("merge_incomplete", "the message lacks a usable log_offset, kind, from, into or at")
	}
	if t.skip(stored(at), func() string { return fmt.Sprintf("%d/%s/%s", offset, from, into) }) {
		return nil
	}
	t.offset.Append(offset)
	t.kind.Append(low(kind))
	t.from.Append(from)
	t.into.Append(into)
	t.idType.Append(low(data.Get("id_type").String()))
	t.rule.Append(low(data.Get("rule").String()))
	t.reason.Append(low(data.Get("reason").String()))
	t.message.Append(valid(data.Get("message_id").String()))
	t.at.AppendRaw(stored(at))
	return nil
}

// overrideRows is the table overrides: which profile an identifier belongs to since the link log gave it to another one.
type overrideRows struct {
	rows
	primary, profile *proto.ColUUID
	version          *proto.ColUInt64
}

func (t *overrideRows) init() {
	t.rows = rows{table: "overrides"}
	t.primary = column(&t.rows, "primary_id", new(proto.ColUUID))
	t.profile = column(&t.rows, "profile_id", new(proto.ColUUID))
	t.people = []*proto.ColUUID{t.primary, t.profile}
	t.version = column(&t.rows, "version", new(proto.ColUInt64))
}

// add appends an identity.override. The link log decides who owns an identifier, so its offset is the version.
func (t *overrideRows) add(data gjson.Result) *pipeline.RejectError {
	primary, errPrimary := uuid.Parse(data.Get("primary_id").Str)
	profile, errProfile := uuid.Parse(data.Get("profile_id").Str)
	version, ok := t.sequence(data.Get("log_offset"))
	// The nil UUID is nobody: as an owner it would read as if there were no override.
	if errPrimary != nil || errProfile != nil || !ok || primary == uuid.Nil || profile == uuid.Nil {
		return pipeline.Reject("override_incomplete", "the message lacks a usable primary_id, profile_id or log_offset")
	}
	t.primary.Append(primary)
	t.profile.Append(profile)
	t.version.Append(version)
	return nil
}

// identifierRows is the table identifiers: every identifier that somebody was seen with, as it was written.
type identifierRows struct {
	rows
	typ         lowText
	value       *proto.ColStr
	id, profile *proto.ColUUID
	linked      *proto.ColDateTime64
	version     *proto.ColUInt64
	deleted     *proto.ColUInt8
}

func (t *identifierRows) init() {
	t.rows = rows{table: "identifiers"}
	t.typ = column(&t.rows, "type", newLowText())
	t.value = column(&t.rows, "value", new(proto.ColStr))
	t.id = column(&t.rows, "id", new(proto.ColUUID))
	t.profile = column(&t.rows, "profile_id", new(proto.ColUUID))
	t.people = []*proto.ColUUID{t.id, t.profile}
	t.linked = column(&t.rows, "linked_at", newTimes())
	t.version = column(&t.rows, "version", new(proto.ColUInt64))
	t.deleted = column(&t.rows, "deleted", new(proto.ColUInt8))
}

// add appends an identity.identifier.
func (t *identifierRows) add(data gjson.Result) *pipeline.RejectError {
	typ, value := data.Get("type").Str, data.Get("value").Str
	id, errID := uuid.Parse(data.Get("id").Str)
	profile, errProfile := uuid.Parse(data.Get("profile_id").Str)
	version, okVersion := t.sequence(data.Get("version"))
	linked, okLinked := readTime(data.Get("linked_at"))
	if typ == "" || value == "" || errID != nil || errProfile != nil || !okVersion || !okLinked {
		return pipeline.Reject("identifier_incomplete", "the message lacks a usable type, value, id, profile_id, linked_at or version")
	}
	t.typ.Append(low(typ))
	t.value.Append(valid(value))
	t.id.Append(id)
	t.profile.Append(profile)
	t.linked.AppendRaw(stored(linked))
	t.version.Append(version)
	t.deleted.Append(0)
	return nil
}
