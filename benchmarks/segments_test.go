package benchmarks

import (
	"context"
	"fmt"
	"testing"
)

// BenchmarkSegments measures what more segments cost when an event concerns few of them, and the whole pipeline of the
// documentation with 100 segments, of which 32 read what orders change.
func BenchmarkSegments(b *testing.B) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	addrs := addresses(b)
	const people, visit = 100_000, 10
	var bare, few figures
	b.Run("copy", func(b *testing.B) {
		for range b.N {
			bare = runCopy(ctx, b, addrs)
		}
		bare.report(b)
	})
	for _, w := range []struct {
		name, file string
		concerned  int // more segments that orders concern
		others     int // and that nothing concerns
	}{
		{"segments=10", "pipeline", 0, 0}, {"segments=10000", "pipeline", 0, 9_990}, {"full/segments=100", "full", 32, 64},
	} {
		b.Run(w.name, func(b *testing.B) {
			var more []string
			for i := range w.concerned {
				more = append(more, fmt.Sprintf("spent_%d: revenue > %d", i, 50*(i+1)))
			}
			for i := range w.others {
				more = append(more, fmt.Sprintf(`tier_%d: traits.tier_%d == "gold"`, i, i))
			}
			var f figures
			for range b.N {
				f = runPipeline(ctx, b, addrs, load(b, topicPrefix(b), w.file, more...), people, visit)
			}
			f.report(b)
			f.over(b, bare, "copy")
			if w.file == "pipeline" {
				f.over(b, few, "10-segments")
			}
			if w.name == "segments=10" {
				few = f
			}
		})
	}
}
