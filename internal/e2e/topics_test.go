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

	"github.com/millstream-io/millstream/internal/testenv"
)

// TestAnOutsideClientReadsWhatWasPosted looks at the topics with a Kafka client that Millstream does not use: only the
// documented ones are there, and the values of `events` are the bytes that were posted.
func TestAnOutsideClientReadsWhatWasPosted(t *testing.T) {
	testenv.EachBroker(t, func(t *testing.T, brokers []string) {
		name := testenv.Name(t)
		p := start(t, write(t, survivePipeline), t.TempDir(), "NAME="+name, "BROKERS="+brokers[0], "OUT="+t.TempDir())
		posted := []string{
			`{ "messageId":"a", "type":"track","event":"X","userId":"u1","properties":{"n":1.10,"n":2, "ü":"\u00fc"} }`,
			`{"type":"nonsense","messageId":"b"}`,
			`[1,2]`,
		}
		if s := post(p.http(), `{"batch":[`+strings.Join(posted, " , ")+`]}`); s != 200 {
			t.Fatalf("the batch was answered with %d, want 200", s)
		}
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
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
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
	c, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
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
