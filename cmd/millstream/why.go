package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/millstream-io/millstream/pipeline"
)

func whyCommand() *cobra.Command {
	var o lookupOptions
	c := &cobra.Command{
		Use:     "why PIPELINE MESSAGE_ID",
		GroupID: "people",
		Short:   "Show each hop of an event, and what it led to",
		Long: `Follows an event by its message id: where it came in, whether it was dropped as a repeat or refused, whose it was
then and is now, and which merges, transitions, scores and deliveries it led to. The status is 1 if nothing
is known of it.

  millstream why pipeline.yaml web/01a21218-7b18-7478-86cb-098af29fc2c4`,
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return o.open(c.Context(), args[0], true, func(l *lookup) error {
				h, err := l.hops(c.Context(), args[1])
				if err != nil {
					return err
				}
				if !h.known() {
					said := "no event with that message id is in table events, among the dead letters or in topic events"
					if !h.TopicRead {
						said = "no event with that message id is in table events or among the dead letters; topic events is too long to be read to its end for this"
					}
					return &exitError{exitCheckFailed, errors.New(said)}
				}
				if o.json {
					return printJSON(os.Stdout, h)
				}
				h.print(os.Stdout)
				return nil
			})
		},
	}
	o.flags(c)
	return c
}

// hops is what happened to an event, in the order of the pipeline.
type hops struct {
	MessageID string `json:"message_id"`
	// Arrivals are the records of topic `events`, which keeps them for 7 days; TopicRead: it was read to its end.
	Arrivals    []arrival     `json:"arrivals"`
	TopicRead   bool          `json:"topic_read"`
	DeadLetters []letter      `json:"dead_letters"`
	Events      []storedEvent `json:"events"` // more than one if it came again after the window of dedup, or under another key
	Merges      []mergeRow    `json:"merges"`
	Transitions []transition  `json:"transitions"`
	Scores      []scoreRow    `json:"scores"`
	Deliveries  []attempt     `json:"deliveries"` // of these transitions and scores
}

func (h *hops) known() bool { return len(h.Arrivals)+len(h.DeadLetters)+len(h.Events) > 0 }

// arrival is a record of topic `events`.
type arrival struct {
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Source    string    `json:"source"`
	Received  time.Time `json:"received_at"`
	Outcome   string    `json:"outcome"` // accepted, duplicate, refused, or waiting: not stored yet
}

// storedEvent is a row of table events.
type storedEvent struct {
	Source    string      `json:"source" ch:"source"`
	Type      string      `json:"type" ch:"type"`
	Event     string      `json:"event" ch:"event"`
	Time      time.Time   `json:"time" ch:"time"`
	Original  *time.Time  `json:"original_time" ch:"original_time"`
	Sent      *time.Time  `json:"sent_at" ch:"sent_at"`
	Received  time.Time   `json:"received_at" ch:"received_at"`
	Late      bool        `json:"late" ch:"late"`
	Partition uint16      `json:"partition" ch:"kafka_partition"` // in topic `resolved`
	Offset    uint64      `json:"offset" ch:"kafka_offset"`
	Primary   pipeline.ID `json:"primary_id" ch:"primary_id"` // nil UUID: nobody
	Then      pipeline.ID `json:"profile_then" ch:"profile_id"`
	Now       pipeline.ID `json:"profile_now" ch:"profile_now"`
}

type letter struct {
	ID        pipeline.ID `json:"id" ch:"id"`
	Stage     string      `json:"stage" ch:"stage"`
	Code      string      `json:"code" ch:"code"`
	Reason    string      `json:"reason" ch:"reason"`
	Topic     string      `json:"topic" ch:"topic"`
	Partition uint16      `json:"partition" ch:"kafka_partition"`
	Offset    uint64      `json:"offset" ch:"kafka_offset"`
	Failed    time.Time   `json:"failed_at" ch:"failed_at"`
}

type mergeRow struct {
	At     time.Time   `json:"at" ch:"at"`
	Kind   string      `json:"kind" ch:"kind"`
	From   pipeline.ID `json:"from_profile" ch:"from_profile"`
	Into   pipeline.ID `json:"into_profile" ch:"into_profile"`
	IDType string      `json:"id_type" ch:"id_type"`
	Rule   string      `json:"rule" ch:"rule"`
	Reason string      `json:"reason" ch:"reason"`
	Offset uint64      `json:"log_offset" ch:"log_offset"`
}

type scoreRow struct {
	At        time.Time   `json:"at" ch:"at"`
	Score     string      `json:"score" ch:"score"`
	Value     float64     `json:"value" ch:"value"`
	HasValue  bool        `json:"has_value" ch:"has_value"`
	Previous  *float64    `json:"previous" ch:"previous"`
	Cause     string      `json:"cause" ch:"cause"`
	ProfileID pipeline.ID `json:"profile_id" ch:"profile_id"`
	ID        pipeline.ID `json:"change_id" ch:"change_id"`
}

type attempt struct {
	WebhookID pipeline.ID `json:"webhook_id" ch:"webhook_id"`
	Sink      string      `json:"sink" ch:"sink"`
	Type      string      `json:"type" ch:"type"`
	Attempt   uint16      `json:"attempt" ch:"attempt"`
	SentAt    time.Time   `json:"sent_at" ch:"sent_at"`
	LatencyMS uint32      `json:"latency_ms" ch:"latency_ms"`
	Status    uint16      `json:"status" ch:"status"`
	Outcome   string      `json:"outcome" ch:"outcome"`
}

// maxHops bounds the rows of each kind.
const maxHops = 1000

// hops looks for an event in the tables, then in the topic.
func (l *lookup) hops(ctx context.Context, id string) (*hops, error) {
	h := &hops{MessageID: id, Arrivals: []arrival{}, DeadLetters: []letter{}, Events: []storedEvent{}, Merges: []mergeRow{},
		Transitions: []transition{}, Scores: []scoreRow{}, Deliveries: []attempt{}}
	for _, q := range []struct {
		what  string
		rows  any
		query string
		ids   int
	}{
		{"read the event", &h.Events, `SELECT source, type, event, time, original_time, sent_at, received_at, late, kafka_partition, kafka_offset, primary_id, profile_id,
  primary_id AS profile_now FROM events WHERE message_id = ? ORDER BY received_at, kafka_offset LIMIT ?`, 1},
		{"read the dead letters", &h.DeadLetters, `SELECT id, stage, code, reason, topic, kafka_partition, kafka_offset, failed_at FROM dead_letters
WHERE headers['ms-id'] = ? OR JSONExtractString(payload, 'messageId') = ? OR JSONExtractString(payload, 'data', 'message_id') = ? ORDER BY failed_at LIMIT ?`, 3},
		{"read the merges", &h.Merges, `SELECT at, kind, from_profile, into_profile, id_type, rule, reason, log_offset FROM merges
WHERE trigger_message_id = ? ORDER BY log_offset, from_profile LIMIT ?`, 1},
		{"read the transitions", &h.Transitions, transitionColumns + ` WHERE trigger_message_id = ? ORDER BY effective_at, profile_id, sequence LIMIT ?`, 1},
		{"read the scores", &h.Scores, `SELECT at, score, value, has_value, previous, cause, profile_id, change_id FROM scores
WHERE trigger_message_id = ? ORDER BY at, profile_id, sequence LIMIT ?`, 1},
		{"read the deliveries", &h.Deliveries, `SELECT webhook_id, sink, type, attempt, sent_at, latency_ms, status, outcome FROM deliveries
WHERE webhook_id IN (SELECT transition_id FROM segment_log WHERE trigger_message_id = ? UNION ALL SELECT change_id FROM scores WHERE trigger_message_id = ?)
ORDER BY sent_at, sink LIMIT ?`, 2},
	} {
		args := append(slices.Repeat([]any{id}, q.ids), maxHops)
		if err := l.tables.Select(ctx, q.what, q.rows, q.query, args...); err != nil {
			return nil, err
		}
	}
	for i := range h.Events {
		e := &h.Events[i]
		if e.Primary == (pipeline.ID{}) {
			continue
		}
		var err error
		if e.Now, err = l.owner(ctx, e.Primary); err != nil {
			return nil, err
		}
	}
	return h, l.arrivals(ctx, h)
}

// Limits of reading the topic: 7 days of a large pipeline are not for a question.
const (
	topicBudget = 10 * time.Second
	maxArrivals = 1000
)

// arrivals reads topic `events` for copies of the event, for at most topicBudget.
func (l *lookup) arrivals(ctx context.Context, h *hops) error {
	topic := pipeline.TopicName(l.plan.Name, "events")
	exists, err := l.cluster.HasTopic(ctx, topic)
	if err != nil || !exists {
		h.TopicRead = err == nil
		return err
	}
	reading, cancel := context.WithTimeout(ctx, topicBudget)
	defer cancel()
	for partition := range l.plan.Partitions {
		_, err := l.cluster.ReadToEnd(reading, topic, partition, 0, func(r *pipeline.Record) error {
			if string(r.Header(pipeline.HeaderID)) != h.MessageID || len(h.Arrivals) >= maxArrivals {
				return nil
			}
			var ev pipeline.Event
			if rej := pipeline.ParseEventRecord(r, &ev); rej != nil && ev.ReceivedAt.IsZero() {
				ev.ReceivedAt = r.Time
			}
			h.Arrivals = append(h.Arrivals, arrival{Partition: r.Partition, Offset: r.Offset, Source: string(r.Header(pipeline.HeaderSource)), Received: ev.ReceivedAt.UTC()})
			return nil
		})
		if err != nil {
			if ctx.Err() == nil && reading.Err() != nil {
				break // the tables have said the rest
			}
			return fmt.Errorf("read topic events: %w", err)
		}
		h.TopicRead = partition == l.plan.Partitions-1
	}
	h.judge()
	return nil
}

// judge tells what became of each arrival. Of those that are not refused as many are accepted as there are rows; in one partition
// the first is.
func (h *hops) judge() {
	slices.SortStableFunc(h.Arrivals, func(a, b arrival) int { return a.Received.Compare(b.Received) })
	rows, seen := len(h.Events), map[int32]bool{}
	var rest []*arrival
	for i := range h.Arrivals {
		a := &h.Arrivals[i]
		switch {
		case slices.ContainsFunc(h.DeadLetters, func(d letter) bool {
			return d.Topic == "events" && int32(d.Partition) == a.Partition && int64(d.Offset) == a.Offset
		}):
			a.Outcome = "refused"
		case rows > 0 && !seen[a.Partition]:
			a.Outcome, seen[a.Partition] = "accepted", true
			rows--
		default:
			rest = append(rest, a)
		}
	}
	for _, a := range rest {
		switch {
		case rows > 0: // after the window of dedup
			a.Outcome = "accepted"
			rows--
		case len(h.Events) > 0:
			a.Outcome = "duplicate"
		default:
			a.Outcome = "waiting"
		}
	}
}
