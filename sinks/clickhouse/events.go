package clickhouse

import (
	"strconv"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/tidwall/gjson"

	"github.com/millstream-io/millstream/pipeline"
)

// eventBatch turns records of `resolved` into rows of events: one for each accepted event, of the first time that it is in the
// topic. What tells profiles of each other, and events that follow a profile to where it went, are no rows.
type eventBatch struct {
	rows
	flat  flattener
	event pipeline.Event // the one in hand

	messageID          *proto.ColStr
	source, typ, name  lowText
	time, received     *proto.ColDateTime64
	original, sent     nullableTimes
	profileID, primary *proto.ColUUID
	userID, anonymous  *proto.ColStr
	properties         textMap
	path, referrer     *proto.ColStr
	utmSource          lowText
	utmMedium          lowText
	utmCampaign        lowText
	country, device    lowText
	library            lowText
	revenue            *proto.ColDecimal64
	currency           lowText
	raw                *proto.ColStr
	late               *proto.ColBool
	config             *proto.ColUInt64
	partition          *proto.ColUInt16
	offset             *proto.ColUInt64
}

func newEventBatch() *eventBatch {
	b := &eventBatch{rows: rows{table: "events", key: "toString(kafka_offset)", timeColumn: "time"}}
	t := &b.rows
	b.messageID = column(t, "message_id", new(proto.ColStr))
	b.source = column(t, "source", newLowText())
	b.typ = column(t, "type", newLowText())
	b.name = column(t, "event", newLowText())
	b.time = column(t, "time", newTimes())
	b.original = column(t, "original_time", newNullableTimes())
	b.sent = column(t, "sent_at", newNullableTimes())
	b.received = column(t, "received_at", newTimes())
	b.profileID = column(t, "profile_id", new(proto.ColUUID))
	b.primary = column(t, "primary_id", new(proto.ColUUID))
	t.people = []*proto.ColUUID{b.primary}
	b.userID = column(t, "user_id", new(proto.ColStr))
	b.anonymous = column(t, "anonymous_id", new(proto.ColStr))
	b.properties = column(t, "properties", newTextMap())
	b.path = column(t, "page_path", new(proto.ColStr))
	b.referrer = column(t, "page_referrer", new(proto.ColStr))
	b.utmSource = column(t, "utm_source", newLowText())
	b.utmMedium = column(t, "utm_medium", newLowText())
	b.utmCampaign = column(t, "utm_campaign", newLowText())
	b.country = column(t, "country", newLowText())
	b.device = column(t, "device", newLowText())
	b.library = column(t, "library", newLowText())
	b.revenue = new(proto.ColDecimal64)
	column(t, "revenue", proto.Alias(b.revenue, "Decimal(18, 6)"))
	b.currency = column(t, "currency", newLowText())
	b.raw = column(t, "raw", new(proto.ColStr))
	b.late = column(t, "late", new(proto.ColBool))
	b.config = column(t, "config", new(proto.ColUInt64))
	b.partition = column(t, "kafka_partition", new(proto.ColUInt16))
	b.offset = column(t, "kafka_offset", new(proto.ColUInt64))
	return b
}

func (b *eventBatch) tables() []*rows { return []*rows{&b.rows} }

func (b *eventBatch) add(r *pipeline.Record) *pipeline.RejectError {
	switch pipeline.ResolvedKind(r) {
	case pipeline.KindRegroup, pipeline.KindMove, pipeline.KindSighting:
		return nil
	}
	ev := &b.event
	config, rej := pipeline.ParseResolved(r, ev)
	if rej != nil || ev.Forwarded {
		return rej
	}
	b.flatten(ev)
	revenue, currency, rej := b.money(ev)
	if rej != nil {
		return rej
	}
	received := stored(ev.ReceivedAt)
	at := min(stored(ev.Time), received+proto.DateTime64(5*time.Minute/time.Millisecond))
	if b.skip(at, func() string { return strconv.FormatInt(r.Offset, 10) }) {
		return nil
	}

	b.messageID.Append(valid(ev.MessageID))
	b.source.Append(low(ev.Source))
	b.typ.Append(low(ev.Type))
	b.name.Append(low(ev.Name))
	b.time.AppendRaw(at)
	b.original.appendTime(ev.OriginalTime)
	b.sent.appendTime(sentAt(ev))
	b.received.AppendRaw(received)
	b.profileID.Append(ev.Canonical)
	b.primary.Append(ev.Primary)
	b.userID.Append(ev.UserID)
	b.anonymous.Append(ev.AnonymousID)
	b.flat.appendTo(b.properties)
	b.appendContext(ev)
	b.revenue.Append(proto.Decimal64(revenue))
	b.currency.Append(currency)
	b.raw.AppendBytes(ev.Raw)
	b.late.Append(ev.Late)
	b.config.Append(config)
	b.partition.Append(uint16(r.Partition))
	b.offset.Append(uint64(r.Offset))
	return nil
}

// flatten reads the properties; of identify and group the traits.
func (b *eventBatch) flatten(ev *pipeline.Event) {
	object := ev.Properties
	if (ev.Type == pipeline.TypeIdentify || ev.Type == pipeline.TypeGroup) && ev.Traits != nil {
		object = ev.Traits
	}
	b.flat.begin(len(object))
	b.flat.object(gjson.Parse(view(object)))
}

// money finds revenue and currency among the flattened properties. A revenue that is not a number counts as none; one that
// the column cannot hold is rejected, because any other value in its place would be wrong in every sum.
func (b *eventBatch) money(ev *pipeline.Event) (millionths int64, currency string, rej *pipeline.RejectError) {
	revenue, code := b.property(ev, "revenue"), b.property(ev, "currency")
	if code.kind == gjson.String {
		currency = low(code.text)
	}
	if revenue.kind != gjson.Number && revenue.kind != gjson.String {
		return 0, currency, nil
	}
	millionths, number, fits := parseMoney(revenue.text)
	if number && !fits {
		return 0, "", pipeline.Reject("revenue_range", "properties.revenue is beyond 999,999,999,999.999999")
	}
	return millionths, currency, nil
}

// property is a field of the flattened object, also one that is beyond its limits.
func (b *eventBatch) property(ev *pipeline.Event, name string) flatField {
	f, ok := b.flat.find(name)
	if !ok && b.flat.cut {
		v := gjson.Get(view(ev.Properties), name)
		f = flatField{name, v.Raw, v.Type}
		if v.Type == gjson.String {
			f.text = v.Str
		}
	}
	return f
}

// sentAt is when the sender's clock sent the event, zero if it did not say so in a form that is unambiguous.
func sentAt(ev *pipeline.Event) time.Time {
	for _, s := range [...]string{ev.OwnSentAt, ev.SentAt} {
		if s == "" {
			continue
		}
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
			return t
		}
	}
	return time.Time{}
}

// contextFields are the columns that come from the context object.
type contextFields struct {
	path, referrer                   string
	utmSource, utmMedium, utmCampain string
	country                          string
	deviceType, os                   string
	library                          string
}

func (b *eventBatch) appendContext(ev *pipeline.Event) {
	var c contextFields
	c.read(gjson.Parse(view(ev.OwnContext)))
	if ev.Context != nil {
		c.read(gjson.Parse(view(ev.Context))) // fills only what the event's own context left empty
	}
	if ev.Type == pipeline.TypePage {
		fill(&c.path, gjson.Get(view(ev.Properties), "path"))
		fill(&c.referrer, gjson.Get(view(ev.Properties), "referrer"))
	}
	if c.deviceType == "" {
		c.deviceType = c.os
	}
	b.path.Append(c.path)
	b.referrer.Append(c.referrer)
	b.utmSource.Append(low(c.utmSource))
	b.utmMedium.Append(low(c.utmMedium))
	b.utmCampaign.Append(low(c.utmCampain))
	b.country.Append(low(c.country))
	b.device.Append(low(c.deviceType))
	b.library.Append(low(c.library))
}

func (c *contextFields) read(context gjson.Result) {
	if !context.IsObject() {
		return
	}
	context.ForEach(func(key, v gjson.Result) bool {
		if !v.IsObject() {
			return true
		}
		switch key.Str {
		case "page":
			v.ForEach(func(k, x gjson.Result) bool {
				switch k.Str {
				case "path":
					fill(&c.path, x)
				case "referrer":
					fill(&c.referrer, x)
				}
				return true
			})
		case "campaign":
			v.ForEach(func(k, x gjson.Result) bool {
				switch k.Str {
				case "source":
					fill(&c.utmSource, x)
				case "medium":
					fill(&c.utmMedium, x)
				case "name":
					fill(&c.utmCampain, x)
				}
				return true
			})
		case "location":
			fill(&c.country, v.Get("country"))
		case "device":
			fill(&c.deviceType, v.Get("type"))
		case "os":
			fill(&c.os, v.Get("name"))
		case "library":
			fill(&c.library, v.Get("name"))
		}
		return true
	})
}

// fill takes a text or number if there is none yet.
func fill(dst *string, v gjson.Result) {
	if *dst != "" {
		return
	}
	switch v.Type {
	case gjson.String:
		*dst = v.Str
	case gjson.Number:
		*dst = v.Raw
	}
}
