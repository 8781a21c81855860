package links

import (
	"slices"

	"github.com/millstream-io/millstream/pipeline"
)

// derive makes the people anew that the seeds reach over any link: Kruskal's algorithm over the links that hold, in the
// order of their identifiers, under the limits. It splits profiles, and may join others: a link that was refused may hold
// now.
func (a *applier) derive(seeds ...pipeline.ID) {
	region, held := a.region(seeds)
	for id := range region {
		a.note(id, a.profile(id))
	}
	for id := range region {
		a.dissolve(a.profile(id))
	}
	for id := range region {
		a.delete(key(keyProfile, id))
		a.delete(key(keyMembers, id))
		a.setFlag(id, flagAmbiguous, false)
	}
	slices.SortFunc(held, func(x, y pipeline.Link) int {
		if c := a.rules.Compare(x.Strong, y.Strong); c != 0 {
			return c
		}
		return a.rules.Compare(x.Weak, y.Weak)
	})
	kept := a.moved
	a.moved = map[pipeline.ID]pipeline.ID{} // the profiles on the way are not those of before
	for _, l := range held {
		x, y := a.profile(l.Strong), a.profile(l.Weak)
		if x != y && a.join(x, y) != "" {
			a.setFlag(l.Weak, flagAmbiguous, true)
		}
	}
	a.moved = kept
}

// region is all identifiers that the seeds reach over their profiles and over links that count, and these links.
func (a *applier) region(seeds []pipeline.ID) (map[pipeline.ID]bool, []pipeline.Link) {
	region := map[pipeline.ID]bool{}
	links := map[pipeline.Link]bool{}
	queue := slices.Clone(seeds)
	for len(queue) > 0 {
		id := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if region[id] {
			continue
		}
		region[id] = true
		queue = append(queue, a.members(a.profile(id))...)
		for _, l := range a.linksOf(id) {
			if !a.denied(l) && a.usable(l.Strong) && a.usable(l.Weak) {
				links[l] = true
				queue = append(queue, l.Strong, l.Weak)
			}
		}
	}
	held := make([]pipeline.Link, 0, len(links))
	for l := range links {
		held = append(held, l)
	}
	return region, held
}
