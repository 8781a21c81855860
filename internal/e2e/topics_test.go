package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestAnOutsideClientReadsWhatWasPosted looks at the topics with a Kafka client that Millstream does not use: only the
// documented ones are there, and the values of `events` are the bytes that were posted.
func TestAnOutsideClientReadsWhatWasPosted(t *testing.T) {
	eachBroker(t, func(t *testing.T, brokers []string) {
		name, env := on(t, brokers, "OUT="+t.TempDir())
		p := start(t, write(t, survivePipeline), t.TempDir(), env...)
		posted := []string{
			`{ "messageId":"a", "type":"track","event":"X","userId":"u1","properties":{"n":1.10,"n":2, "ü":"\u00fc"} }`,
			`{"type":"nonsense","messageId":"b"}`,
			`[1,2]`,
		}
		p.batch(t, strings.Join(posted, " , "))
		got := consume(t, brokers, name+".events", len(posted))
		slices.Sort(got)
		slices.Sort(posted)
		if !slices.Equal(got, posted) {
			t.Errorf("events holds %q, want %q", got, posted)
		}
		want := []string{"changes", "dead_letters", "deliveries", "events", "links", "resolved", "state.profile", "state.resolve", "state.sink.out"}
		if topics := topics(t, brokers, name+"."); !slices.Equal(topics, want) {
			t.Errorf("topics %v, want %v", topics, want)
		}
	})
}

func consume(t *testing.T, brokers []string, topic string, n int) []string {
	t.Helper()
	c := client(t, brokers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var values []string
	for len(values) < n {
		f := c.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("%d of %d records of %s after %v", len(values), n, topic, patience)
		}
		f.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	return values
}

// topics lists the topics with that prefix, without it.
func topics(t *testing.T, brokers []string, prefix string) []string {
	t.Helper()
	c := client(t, brokers)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	resp, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, c)
	if err != nil {
		t.Fatal(fmt.Errorf("ask for the topics: %w", err))
	}
	var names []string
	for _, topic := range resp.Topics {
		if topic.Topic == nil {
			continue
		}
		if rest, ok := strings.CutPrefix(*topic.Topic, prefix); ok {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names
}
