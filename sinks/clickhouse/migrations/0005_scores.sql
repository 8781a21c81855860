-- What was told of scores: one row per score.changed. has_value is false where the profile has no such score any more; value is
-- then 0. previous is NULL the first time. sequence orders the rows of a profile.
CREATE TABLE IF NOT EXISTS scores (
  change_id          UUID,
  score              LowCardinality(String),
  version            UInt32,
  profile_id         UUID,
  sequence           UInt64 CODEC(ZSTD(1)),
  value              Float64 CODEC(ZSTD(1)),
  has_value          Bool,
  previous           Nullable(Float64) CODEC(ZSTD(1)),
  reasons            Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
  features           Map(LowCardinality(String), String) CODEC(ZSTD(1)),
  cause              LowCardinality(String),
  at                 DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  trigger_message_id String CODEC(ZSTD(1)),
  topic_id           UUID CODEC(ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toYear(at)
ORDER BY (score, profile_id, sequence)
SETTINGS non_replicated_deduplication_window = 10000;

-- What was told last of each score of everybody who has it and was not merged into somebody else.
CREATE OR REPLACE VIEW person_scores AS
SELECT profile_id AS person_id, score, argMax(s.value, s.sequence) AS value, argMax(s.version, s.sequence) AS version,
  argMax(s.reasons, s.sequence) AS reasons, argMax(s.features, s.sequence) AS features, argMax(s.at, s.sequence) AS at
FROM scores AS s
WHERE profile_id NOT IN (SELECT primary_id FROM overrides FINAL WHERE primary_id <> profile_id)
  AND profile_id NOT IN (SELECT profile_id FROM profiles FINAL WHERE merged_into IS NOT NULL)
GROUP BY score, profile_id
HAVING argMax(s.has_value, s.sequence);
