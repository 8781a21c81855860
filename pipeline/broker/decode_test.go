package broker

import (
	"context"
	"testing"
	"time"

	"github.com/IBM/sarama"
)

// Compaction may leave a batch without any record, and an answer may hold nothing else. The library drops such a batch; a
// reader that does not step over it asks for it for ever.
func TestEmptyBatch(t *testing.T) {
	mock := sarama.NewMockBroker(t, 1)
	defer mock.Close()
	empty := &sarama.RecordBatch{Version: 2, FirstOffset: 5, LastOffsetDelta: 9, ProducerID: 1, Records: []*sarama.Record{}}
	block := &sarama.FetchResponseBlock{HighWaterMarkOffset: 20, LastStableOffset: 20, RecordsSet: []*sarama.Records{{RecordBatch: empty}}}
	mock.SetHandlerByMap(map[string]sarama.MockResponse{
		"ApiVersionsRequest": sarama.NewMockApiVersionsResponse(t).SetApiKeys([]sarama.ApiVersionsResponseKey{
			{ApiKey: 1, MaxVersion: 11}, {ApiKey: 3, MaxVersion: 7},
		}),
		"MetadataRequest": sarama.NewMockMetadataResponse(t).SetBroker(mock.Addr(), 1).SetLeader("topic", 0, 1),
		"FetchRequest": sarama.NewMockWrapper(&sarama.FetchResponse{
			Version: 11, Blocks: map[string]map[int32]*sarama.FetchResponseBlock{"topic": {0: block}},
		}),
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := Dial(ctx, Config{Brokers: []string{mock.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f := c.newFetcher("topic", 0, 5)
	defer f.close()
	got, err := f.fetch(ctx, 1, time.Second)
	if err != nil || len(got.records) != 0 || got.next != 15 {
		t.Fatalf("got %d records, next offset %d, error %v; want none, 15, none", len(got.records), got.next, err)
	}
}

func TestBudget(t *testing.T) {
	b := newBudget(10)
	ctx, cancel := context.WithCancel(context.Background())
	if err := b.take(ctx, 25); err != nil { // alone: let through
		t.Fatal(err)
	}
	taken := make(chan error)
	go func() { taken <- b.take(ctx, 1) }()
	select {
	case <-taken:
		t.Fatal("taken above the limit")
	case <-time.After(20 * time.Millisecond):
	}
	b.give(25)
	if err := <-taken; err != nil {
		t.Fatal(err)
	}
	go func() { taken <- b.take(ctx, 10) }()
	cancel()
	if err := <-taken; err == nil {
		t.Fatal("the end of the context did not end the wait")
	}
}
