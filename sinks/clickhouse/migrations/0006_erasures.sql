-- Ids of people who were erased: their rows are deleted from all tables, and deleted again if they come later. id: of an
-- identifier or profile; nobody has it any more. origin: the id that follows from the identifier's value; nil UUID for the profile of
-- those whom it may have meant. successor: the id of whoever comes with the value since then. topic_id: of `changes`.
CREATE TABLE IF NOT EXISTS erasures (
  id         UUID,
  origin     UUID,
  successor  UUID,
  profile_id UUID,
  log_offset UInt64 CODEC(ZSTD(1)),
  at         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
  topic_id   UUID CODEC(ZSTD(1))
) ENGINE = MergeTree
ORDER BY (id, log_offset)
SETTINGS non_replicated_deduplication_window = 10000;
