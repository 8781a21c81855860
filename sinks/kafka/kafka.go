package kafka

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/mapping"
)

const (
	// maxRecord is the largest record that is written: Kafka's default limit is 1 MiB.
	maxRecord = 900 << 10
	// writeTime is how long one Write works; the contract's five seconds less what it takes to give up.
	writeTime = 4500 * time.Millisecond
	// retryPause is the time until records are tried again that a cluster has not taken.
	retryPause = 2 * time.Second
	sayGap     = 10 * time.Second // between two lines about that
)

// codeOversize is the code of a message that is larger than the topic takes.
const codeOversize = "oversize"

// sink is the pipeline.Sink. It is safe for use by several partitions at once.
type sink struct {
	topic   string
	mapping *mapping.Mapping     // nil: the message as it is
	key     *mapping.Value       // nil: the profile id
	client  pipeline.KafkaClient // nil: records go into the engine's transaction
	log     *slog.Logger
	trouble trouble
}

// Close gives up the connection.
func (s *sink) Close() error {
	if s.client == nil {
		return nil
	}
	return s.client.Close()
}

// Write makes the records. On the pipeline's cluster the engine writes them, else they are produced here.
func (s *sink) Write(ctx context.Context, _ pipeline.Tx, attempts []pipeline.Attempt) ([]pipeline.Outcome, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	outcomes := make([]pipeline.Outcome, len(attempts))
	w := write{sink: s, outcomes: outcomes}
	for i := range attempts {
		r, err := s.record(attempts[i].Record)
		var rej *pipeline.RejectError
		switch {
		case errors.As(err, &rej):
			outcomes[i] = pipeline.Outcome{Kind: pipeline.Rejected, Code: rej.Code, Reason: rej.Reason}
		case err != nil:
			return nil, err
		case r == nil:
			outcomes[i].Kind = pipeline.Unchanged
		case s.client == nil:
			outcomes[i] = pipeline.Outcome{Kind: pipeline.Delivered, Record: r}
		default:
			w.records, w.places = append(w.records, *r), append(w.places, i)
		}
	}
	if s.client != nil {
		bounded, cancel := context.WithTimeout(ctx, writeTime)
		defer cancel()
		w.send(bounded, 0, len(w.records))
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return outcomes, nil
}

// record makes the record of a message; nil if the message is for the tables alone.
func (s *sink) record(from *pipeline.Record) (*pipeline.Record, error) {
	m, err := pipeline.ParseMessage(from.Key, from.Value)
	if err != nil || m.Internal() {
		return nil, err
	}
	id := m.ID.String()
	r := &pipeline.Record{Topic: s.topic, Partition: -1, Headers: []pipeline.Header{{Key: pipeline.HeaderID, Value: []byte(id)}}}
	key := ""
	if s.key != nil {
		if key, err = s.key.Text(m); err != nil {
			return nil, err
		}
	}
	if key == "" {
		key = m.ProfileID.String()
	}
	r.Key = []byte(key)
	if s.mapping != nil {
		if r.Value, err = s.mapping.Body(m); err != nil {
			return nil, err
		}
	} else {
		m.Meta = nil
		r.Value = m.AppendJSON(make([]byte, 0, len(m.Data)+160))
	}
	if n := len(r.Key) + len(r.Value); n > maxRecord {
		return nil, pipeline.Reject(codeOversize, "the record has %d bytes, the limit is %d", n, maxRecord)
	}
	return r, nil
}

// write is one call of Write to another cluster.
type write struct {
	*sink
	outcomes []pipeline.Outcome
	records  []pipeline.Record
	places   []int // of the records in outcomes
	failed   error // why nothing more is sent
}

// send produces the records from … to. When one of them is too large for the topic, halves of the range find out which; what was
// written before that is written again then. After any other error nothing more is sent, so that records of one key keep their order.
func (w *write) send(ctx context.Context, from, to int) {
	if from == to {
		return
	}
	if w.failed == nil {
		err := w.client.Produce(ctx, w.records[from:to])
		if errors.Is(err, pipeline.ErrRecordTooLarge) {
			if to-from == 1 {
				w.outcomes[w.places[from]] = pipeline.Outcome{Kind: pipeline.Rejected, Code: codeOversize, Reason: "the record is larger than the topic takes"}
				return
			}
			middle := (from + to) / 2
			w.send(ctx, from, middle)
			w.send(ctx, middle, to)
			return
		}
		if w.failed = err; err != nil && w.trouble.due(time.Now()) {
			w.log.Warn("the cluster does not take messages; they wait and are sent again", "error", err)
		}
	}
	if w.failed == nil {
		return // Delivered is the zero value
	}
	for _, i := range w.places[from:to] {
		w.outcomes[i] = pipeline.Outcome{Kind: pipeline.RetryAt, At: time.Now().Add(retryPause), Reason: "the cluster has not taken it"}
	}
}

// trouble throttles a line. It is safe for concurrent use.
type trouble struct {
	mu   sync.Mutex
	last time.Time
}

func (t *trouble) due(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.last) < sayGap {
		return false
	}
	t.last = now
	return true
}
