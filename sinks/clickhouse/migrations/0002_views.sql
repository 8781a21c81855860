-- Views for people who write no joins. Plain ones: nothing to keep in step, nothing that an insert could write by half.
-- SELECT * is fixed when a view is made: a migration that adds a column to events makes person_events and person_timeline
-- again.

-- Events with who they belong to now: the override of primary_id, else primary_id itself. Never the stamped profile_id,
-- which is wrong after an un-merge. Nobody is the nil UUID and has_person = false; a NULL in its place made GROUP BY
-- person_id twice as slow. BI tools set join_use_nulls = 1, with which the view would not run.
CREATE OR REPLACE VIEW person_events AS
SELECT e.*,
  if(o.profile_id = toUUID('00000000-0000-0000-0000-000000000000'), e.primary_id, o.profile_id) AS person_id,
  e.primary_id <> toUUID('00000000-0000-0000-0000-000000000000') AS has_person
FROM events AS e
LEFT ANY JOIN (SELECT primary_id, profile_id FROM overrides FINAL) AS o USING (primary_id)
SETTINGS join_use_nulls = 0;

-- The events of one person, by the index: SELECT * FROM person_timeline(person = '…') ORDER BY time.
CREATE OR REPLACE VIEW person_timeline AS
SELECT *, {person:UUID} AS person_id
FROM events
WHERE primary_id IN (
  SELECT primary_id FROM overrides FINAL WHERE profile_id = {person:UUID}
  UNION ALL
  SELECT {person:UUID} WHERE {person:UUID} NOT IN (
    SELECT primary_id FROM overrides FINAL WHERE primary_id = {person:UUID} AND profile_id <> {person:UUID}));

-- The latest state of everybody who was not merged into somebody else or erased.
CREATE OR REPLACE VIEW people AS
SELECT profile_id AS person_id, * EXCEPT (version, deleted, merged_into)
FROM profiles FINAL
WHERE merged_into IS NULL;

-- Who is in which segment now, since when, by which version of its rule.
CREATE OR REPLACE VIEW segment_members AS
SELECT segment, profile_id, argMax(l.since, l.sequence) AS since, argMax(l.version, l.sequence) AS version
FROM segment_log AS l
WHERE delta <> 0
GROUP BY segment, profile_id
HAVING argMax(delta, sequence) = 1;

-- Every stay in a segment. until is NULL while it lasts.
CREATE OR REPLACE VIEW segment_intervals AS
SELECT segment, profile_id, effective_at AS since, if(next = toDateTime64(0, 3, 'UTC'), NULL, next) AS until
FROM (
  SELECT segment, profile_id, delta, effective_at,
    leadInFrame(effective_at, 1, toDateTime64(0, 3, 'UTC')) OVER (
      PARTITION BY segment, profile_id ORDER BY sequence ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS next
  FROM segment_log
  WHERE delta <> 0)
WHERE delta = 1;

-- The size of each segment at the end of each hour in which it changed.
CREATE OR REPLACE VIEW segment_sizes AS
SELECT segment, hour, sum(change) OVER (PARTITION BY segment ORDER BY hour) AS size, entered, exited
FROM (
  SELECT segment, toStartOfHour(effective_at) AS hour, sum(delta) AS change, countIf(op = 'enter') AS entered, countIf(op = 'exit') AS exited
  FROM segment_log
  GROUP BY segment, hour);

-- Message ids that were accepted more than once: under another partition key, or beyond the horizon of dedup. Reads the
-- whole table: for a look, not for a dashboard.
CREATE OR REPLACE VIEW id_conflicts AS
SELECT groupUniqArray(source) AS sources, message_id, count() AS copies, uniqExact(event, properties) AS contents,
  groupUniqArray(kafka_partition) AS partitions, min(received_at) AS first_received, max(received_at) AS last_received, max(late) AS late
FROM events
WHERE cityHash64(message_id) GLOBAL IN (SELECT cityHash64(message_id) AS h FROM events GROUP BY h HAVING count() > 1)
GROUP BY message_id
HAVING copies > 1;

-- Attempts of webhooks per sink and hour.
CREATE OR REPLACE VIEW delivery_health AS
SELECT sink, toStartOfHour(sent_at) AS hour, count() AS sent, countIf(outcome IN ('delivered', 'unchanged')) AS delivered,
  countIf(outcome = 'retried') AS retried, countIf(outcome IN ('parked', 'rejected')) AS failed,
  quantileTDigest(0.5)(latency_ms) AS p50, quantileTDigest(0.99)(latency_ms) AS p99
FROM deliveries
GROUP BY sink, hour;
