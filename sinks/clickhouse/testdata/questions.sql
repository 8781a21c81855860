-- What analysts ask, one statement each, against the tables and views that the migrations make.

-- Funnel: four steps within seven days, by first source.
SELECT first_source, count() AS viewed, countIf(level >= 2) AS added, countIf(level >= 3) AS checkout, countIf(level >= 4) AS ordered, round(ordered / viewed, 3) AS rate
FROM (
  SELECT person_id, argMin(utm_source, time) AS first_source,
    windowFunnel(604800)(toDateTime(time), event = 'Product Viewed', event = 'Product Added', event = 'Checkout Started', event = 'Order Completed') AS level
  FROM person_events
  WHERE time >= '2026-07-01' AND event IN ('Product Viewed', 'Product Added', 'Checkout Started', 'Order Completed') AND has_person
  GROUP BY person_id HAVING level >= 1)
GROUP BY first_source ORDER BY viewed DESC;

-- Retention: of the people first seen in a week, how many came back k weeks later.
SELECT cohort, dateDiff('week', cohort, week) AS k, count() AS people, round(people / first_value(people) OVER (PARTITION BY cohort ORDER BY k), 3) AS share
FROM (SELECT person_id, groupUniqArray(toMonday(time)) AS weeks, arrayMin(weeks) AS cohort FROM person_events WHERE has_person GROUP BY person_id)
ARRAY JOIN weeks AS week
GROUP BY cohort, week ORDER BY cohort, k;

-- Revenue per segment: from those who were in it when they bought, not from today's members.
SELECT i.segment AS segment, count() AS orders, uniqExact(e.person_id) AS buyers, sum(e.revenue) AS revenue
FROM (SELECT person_id, time, revenue FROM person_events WHERE event = 'Order Completed' AND currency = 'GBP') AS e
INNER JOIN (SELECT segment, profile_id, since, ifNull(until, toDateTime64('2299-01-01 00:00:00', 3, 'UTC')) AS until FROM segment_intervals) AS i
  ON i.profile_id = e.person_id AND e.time >= i.since AND e.time < i.until
GROUP BY segment ORDER BY revenue DESC;

-- RFM: quintiles of recency, frequency and money.
SELECT r, f, m, count() AS people, round(avg(money), 2) AS average
FROM (
  SELECT person_id, sum(revenue) AS money, ntile(5) OVER (ORDER BY max(time) DESC, person_id) AS r,
    ntile(5) OVER (ORDER BY count() DESC, person_id) AS f, ntile(5) OVER (ORDER BY money DESC, person_id) AS m
  FROM person_events WHERE event = 'Order Completed' AND has_person GROUP BY person_id)
GROUP BY r, f, m ORDER BY r, f, m;

-- Attribution: first, last and linear touch within 30 days before the order, of at most 200 touches a person.
WITH
  touches AS (SELECT person_id, groupArraySorted(200)((time, utm_campaign)) AS ts FROM person_events WHERE utm_campaign <> '' AND has_person GROUP BY person_id),
  orders AS (SELECT person_id, time AS at, toFloat64(revenue) AS value FROM person_events WHERE event = 'Order Completed' AND time >= '2026-07-01')
SELECT campaign, round(sum(value * (i = 1)), 2) AS first_touch, round(sum(value * (i = n)), 2) AS last_touch, round(sum(value / n), 2) AS linear
FROM (SELECT value, arrayFilter(t -> t.1 <= at AND t.1 > at - INTERVAL 30 DAY, ts).2 AS path, length(path) AS n FROM orders INNER JOIN touches USING (person_id))
ARRAY JOIN path AS campaign, arrayEnumerate(path) AS i
GROUP BY campaign ORDER BY linear DESC;

-- Overlap: people in both segments now, and their share of the smaller one.
WITH
  m AS (SELECT profile_id, groupArray(segment) AS s FROM segment_members GROUP BY profile_id),
  sizes AS (SELECT segment, count() AS n FROM segment_members GROUP BY segment)
SELECT p.1 AS a, p.2 AS b, count() AS both, round(both / least(any(x.n), any(y.n)), 3) AS share
FROM (SELECT arrayJoin(arrayFlatten(arrayMap(u -> arrayMap(v -> (u, v), arrayFilter(v -> v > u, s)), s))) AS p FROM m) AS o
INNER JOIN sizes AS x ON x.segment = p.1 INNER JOIN sizes AS y ON y.segment = p.2
GROUP BY a, b ORDER BY both DESC;

-- Health of the webhooks: per sink and day, with the retries and what is parked.
SELECT sink, toDate(hour) AS day, sum(sent) AS attempts, round(sum(delivered) / attempts, 4) AS ok, sum(retried) AS retries, sum(failed) AS lost_or_parked, round(max(p99)) AS worst_p99_ms
FROM delivery_health WHERE hour >= '2026-08-01' AND hour < '2026-08-08'
GROUP BY sink, day ORDER BY sink, day;

-- Identity: share of events that changed hands after they were processed, of events of nobody, and of late ones.
SELECT toStartOfMonth(time) AS month, count() AS events, round(countIf(person_id <> profile_id) / events, 4) AS merged_later, countIf(NOT has_person) AS nobody, round(avg(late), 4) AS late
FROM person_events GROUP BY month ORDER BY month;

-- Merges and splits: what the link log did per week. An operation may have several rows.
SELECT toMonday(at) AS week, uniqExactIf(log_offset, kind = 'merge') AS merges, uniqExactIf(log_offset, kind = 'split') AS splits,
  uniqExactIf(log_offset, kind = 'refused') AS refused, uniqExactIf(log_offset, kind = 'quarantined') AS quarantined
FROM merges GROUP BY week ORDER BY week;

-- Time to conversion: days from the first event to the first order, by first source.
SELECT first_source, countIf(converted) AS buyers, round(buyers / count(), 3) AS rate, arrayMap(x -> round(x / 86400, 1), quantilesExactIf(0.25, 0.5, 0.9)(seconds, converted)) AS days
FROM (
  SELECT person_id, argMin(utm_source, time) AS first_source, countIf(event = 'Order Completed') > 0 AS converted,
    dateDiff('second', min(time), minIf(time, event = 'Order Completed')) AS seconds
  FROM person_events WHERE has_person GROUP BY person_id)
GROUP BY first_source ORDER BY buyers DESC, first_source;

-- Dead letters: what was refused, where and why.
SELECT stage, code, count() AS letters, min(failed_at) AS first, max(failed_at) AS last
FROM dead_letters GROUP BY stage, code ORDER BY letters DESC, stage, code;
