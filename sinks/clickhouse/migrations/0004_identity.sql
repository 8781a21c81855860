-- What identity stitching did. Events, overrides and profiles have their columns for it since the first schema.

-- What each operation of the link log did between two profiles, for ever. kind: merge, split, quarantined: identifiers of
-- from_profile belong to into_profile since then, one row for each such pair. refused, and a quarantine that took nobody
-- apart: the profiles that would have become one. topic_id: of `changes`.
CREATE TABLE IF NOT EXISTS merges (
  log_offset         UInt64 CODEC(Delta, ZSTD(1)),
  kind               LowCardinality(String),
  from_profile       UUID,
  into_profile       UUID,
  id_type            LowCardinality(String),
  rule               LowCardinality(String),
  reason             LowCardinality(String),
  trigger_message_id String CODEC(ZSTD(1)),
  at                 DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  topic_id           UUID CODEC(ZSTD(1))
) ENGINE = MergeTree
ORDER BY (log_offset, from_profile)
SETTINGS non_replicated_deduplication_window = 10000;

-- Identifiers as they were written. id is what stands in primary_id; profile_id whom it was last seen with.
CREATE TABLE IF NOT EXISTS identifiers (
  type       LowCardinality(String),
  value      String CODEC(ZSTD(1)),
  id         UUID,
  profile_id UUID,
  linked_at  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  version    UInt64 CODEC(ZSTD(1)),
  deleted    UInt8,
  INDEX ix_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4
) ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY (type, value)
SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 1024;
