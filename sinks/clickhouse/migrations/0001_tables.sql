-- The tables of the first schema. Rules for every migration:
--   * Statements end with a semicolon at the end of a line and may be run again: processes that start together all run them.
--   * No now(), rand(), generateUUIDv4() or DEFAULT that asks the server: a repeated insert must be identical.
--   * Every table has a deduplication window, or a repeated insert doubles its rows.
--   * No Enum: the Native format stores any number in it, and then the column cannot be read.
--   * Nullable only where absent is not the same as zero or empty.

-- One row per accepted event. profile_id is who the person was taken for when the event was processed, primary_id the
-- strongest identifier on the event, which never changes; the nil UUID is nobody. revenue 0 is none.
CREATE TABLE IF NOT EXISTS events (
  message_id      String CODEC(ZSTD(1)),
  source          LowCardinality(String),
  type            LowCardinality(String),
  event           LowCardinality(String),
  time            DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  original_time   Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
  sent_at         Nullable(DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)),
  received_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  profile_id      UUID,
  primary_id      UUID,
  user_id         String CODEC(ZSTD(1)),
  anonymous_id    String CODEC(ZSTD(1)),
  properties      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
  page_path       String CODEC(ZSTD(1)),
  page_referrer   String CODEC(ZSTD(1)),
  utm_source      LowCardinality(String),
  utm_medium      LowCardinality(String),
  utm_campaign    LowCardinality(String),
  country         LowCardinality(String),
  device          LowCardinality(String),
  library         LowCardinality(String),
  revenue         Decimal(18, 6) CODEC(ZSTD(1)),
  currency        LowCardinality(String),
  raw             String CODEC(ZSTD(3)),
  late            Bool,
  config          UInt64 CODEC(ZSTD(1)),
  kafka_partition UInt16 CODEC(ZSTD(1)),
  kafka_offset    UInt64 CODEC(Delta, ZSTD(1)),
  INDEX ix_primary primary_id TYPE bloom_filter(0.01) GRANULARITY 1,
  INDEX ix_message message_id TYPE bloom_filter(0.01) GRANULARITY 1
) ENGINE = MergeTree
PARTITION BY toYYYYMM(time)
ORDER BY (toDate(time), event, cityHash64(anonymous_id))
SETTINGS non_replicated_deduplication_window = 10000;

-- The latest state of each profile is the row with the highest version. deleted: erased.
CREATE TABLE IF NOT EXISTS profiles (
  profile_id  UUID,
  version     UInt64 CODEC(ZSTD(1)),
  deleted     UInt8,
  merged_into Nullable(UUID),
  first_seen  DateTime64(3, 'UTC') CODEC(ZSTD(1)),
  last_seen   DateTime64(3, 'UTC') CODEC(ZSTD(1)),
  identifiers Map(LowCardinality(String), Array(String)) CODEC(ZSTD(1)),
  traits      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
  aggregates  Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
  segments    Array(LowCardinality(String)),
  scores      Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
  updated_at  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
) ENGINE = ReplacingMergeTree(version, deleted)
ORDER BY profile_id
SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 1024;

-- Identifiers that have, or once had, another owner than themselves. Rows are never deleted: an id that is on its own again
-- points to itself.
CREATE TABLE IF NOT EXISTS overrides (
  primary_id UUID,
  profile_id UUID,
  version    UInt64 CODEC(ZSTD(1))
) ENGINE = ReplacingMergeTree(version)
ORDER BY primary_id
SETTINGS non_replicated_deduplication_window = 10000;

-- Who entered and left segments. op: enter, exit, and for merges passed (by the id that is given up) and carried (by the one
-- that stays). delta: 1 this id is in from now on, -1 it is out, 0 nothing changes. sequence orders the rows of a profile.
CREATE TABLE IF NOT EXISTS segment_log (
  transition_id      UUID,
  segment            LowCardinality(String),
  version            UInt32,
  profile_id         UUID,
  sequence           UInt64 CODEC(ZSTD(1)),
  op                 LowCardinality(String),
  delta              Int8,
  since              DateTime64(3, 'UTC') CODEC(ZSTD(1)),
  cause              LowCardinality(String),
  effective_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  emitted_at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  trigger_message_id String CODEC(ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toYear(effective_at)
ORDER BY (segment, profile_id, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

-- One row per attempt of a webhook. outcome: delivered, unchanged, retried, parked, rejected.
CREATE TABLE IF NOT EXISTS deliveries (
  webhook_id UUID,
  sink       LowCardinality(String),
  type       LowCardinality(String),
  profile_id UUID,
  attempt    UInt16,
  queued_at  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  sent_at    DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  latency_ms UInt32 CODEC(ZSTD(1)),
  status     UInt16,
  outcome    LowCardinality(String),
  error      String CODEC(ZSTD(1)),
  INDEX ix_profile profile_id TYPE bloom_filter(0.01) GRANULARITY 4
) ENGINE = MergeTree
PARTITION BY toYYYYMM(sent_at)
ORDER BY (sink, sent_at)
SETTINGS non_replicated_deduplication_window = 10000;

-- Records that a stage or sink refused. topic, kafka_partition, kafka_offset: where the record was read. payload: its bytes.
CREATE TABLE IF NOT EXISTS dead_letters (
  id              UUID,
  stage           LowCardinality(String),
  code            LowCardinality(String),
  reason          String CODEC(ZSTD(1)),
  topic           LowCardinality(String),
  kafka_partition UInt16,
  kafka_offset    UInt64 CODEC(ZSTD(1)),
  ids             Array(UUID),
  payload         String CODEC(ZSTD(3)),
  headers         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
  received_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  failed_at       DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  INDEX ix_ids ids TYPE bloom_filter(0.01) GRANULARITY 1
) ENGINE = MergeTree
PARTITION BY toYYYYMM(failed_at)
ORDER BY (stage, code, failed_at)
SETTINGS non_replicated_deduplication_window = 10000;

-- How far each partition of each topic is stored: everything below next_offset, and so all that the broker got before
-- complete_until.
CREATE TABLE IF NOT EXISTS progress (
  topic           LowCardinality(String),
  kafka_partition UInt16,
  next_offset     UInt64,
  complete_until  DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (topic, kafka_partition)
SETTINGS non_replicated_deduplication_window = 10000;
