-- Kafka gives every topic an id. A topic that is deleted and made again under the same name has another, and its offsets
-- start over: a place in Kafka is (topic_id, partition, offset). The nil UUID stands in rows of before this migration.

-- The topics that rows were read from. turns: what is added to the turns in versions and sequences (turn << 32 | number) of
-- that topic, so that they are above those of the topics before it, whose counting was lost with them.
CREATE TABLE IF NOT EXISTS topic_ids (
  topic      LowCardinality(String),
  topic_id   UUID,
  turns      UInt64,
  first_seen DateTime64(3, 'UTC')
) ENGINE = MergeTree
ORDER BY (topic, topic_id)
SETTINGS non_replicated_deduplication_window = 10000;

ALTER TABLE progress
  ADD COLUMN IF NOT EXISTS topic_id UUID,
  MODIFY ORDER BY (topic, kafka_partition, topic_id);

ALTER TABLE events ADD COLUMN IF NOT EXISTS topic_id UUID CODEC(ZSTD(1));

ALTER TABLE segment_log ADD COLUMN IF NOT EXISTS topic_id UUID CODEC(ZSTD(1));

ALTER TABLE deliveries ADD COLUMN IF NOT EXISTS topic_id UUID CODEC(ZSTD(1));

ALTER TABLE dead_letters ADD COLUMN IF NOT EXISTS topic_id UUID CODEC(ZSTD(1));

-- The same as before, with the new column of events.
CREATE OR REPLACE VIEW person_events AS
SELECT e.*,
  if(o.profile_id = toUUID('00000000-0000-0000-0000-000000000000'), e.primary_id, o.profile_id) AS person_id,
  e.primary_id <> toUUID('00000000-0000-0000-0000-000000000000') AS has_person
FROM events AS e
LEFT ANY JOIN (SELECT primary_id, profile_id FROM overrides FINAL) AS o USING (primary_id)
SETTINGS join_use_nulls = 0;

CREATE OR REPLACE VIEW person_timeline AS
SELECT *, {person:UUID} AS person_id
FROM events
WHERE primary_id IN (
  SELECT primary_id FROM overrides FINAL WHERE profile_id = {person:UUID}
  UNION ALL
  SELECT {person:UUID} WHERE {person:UUID} NOT IN (
    SELECT primary_id FROM overrides FINAL WHERE primary_id = {person:UUID} AND profile_id <> {person:UUID}));

-- The size of each segment at the end of each hour in which it changed. Somebody who was in it by topics that are gone, and
-- enters again by the new ones, counts once.
CREATE OR REPLACE VIEW segment_sizes AS
SELECT segment, hour, sum(change) OVER (PARTITION BY segment ORDER BY hour) AS size, entered, exited
FROM (
  SELECT segment, toStartOfHour(effective_at) AS hour, sum(change) AS change, countIf(op = 'enter') AS entered, countIf(op = 'exit') AS exited
  FROM (
    SELECT segment, effective_at, op,
      (delta = 1) - (lagInFrame(delta, 1, -1) OVER (
        PARTITION BY segment, profile_id ORDER BY sequence ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) = 1) AS change
    FROM segment_log
    WHERE delta <> 0)
  GROUP BY segment, hour);
