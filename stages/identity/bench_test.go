package identity_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
	"github.com/millstream-io/millstream/stages/identity"
)

// BenchmarkProcess: what an event of a known person costs, with two identifiers that are linked: nothing new is stated, and the
// person is found. The process knows 1,000 people by heart; of 500,000 it reads most from the replica's store.
func BenchmarkProcess(b *testing.B) {
	for _, people := range []int{1_000, 500_000} {
		stage, replica, ids := open(b, &identity.Config{})
		events := make([]*pipeline.Event, people)
		var records []pipeline.Record
		for i := range events {
			events[i] = read(b, ids, fmt.Sprintf(`{"type":"track","event":"x","userId":"u%d","anonymousId":"a%d"}`, i, i))
			for _, s := range stage.Links(nil, events[i]) {
				o := links.Linked(&s)
				r, err := o.Record()
				if err != nil {
					b.Fatal(err)
				}
				r.Offset = int64(len(records) + 1)
				records = append(records, r)
			}
		}
		for at := 0; at < len(records); at += 1000 {
			part := records[at:min(at+1000, len(records))]
			if err := replica.Apply(part, part[len(part)-1].Offset+1); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprintf("people=%d", people), func(b *testing.B) {
			b.ReportAllocs()
			for i := range b.N {
				ev := events[i*7919%people]
				if stated := stage.Links(nil, ev); len(stated) > 0 {
					b.Fatalf("event %d states %d links again", i, len(stated))
				}
				if err := stage.Process(context.Background(), nil, ev, passed{}); err != nil || ev.IDV == 0 {
					b.Fatal(ev.IDV, err)
				}
			}
		})
	}
}

// passed takes what the stage passes on.
type passed struct{ pipeline.Emit }

func (passed) Event(*pipeline.Event) error { return nil }
