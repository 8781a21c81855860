package engine

import "github.com/millstream-io/millstream/pipeline"

// lately has the rosters of the profiles that one partition looked at lately, encoded, as they are committed; nil: there is
// none. Every event asks for one, and they rarely change. What the running transaction has written is asked of the
// transaction, so an abort leaves nothing wrong behind. There are two halves: when the young one is full it becomes the old
// one, and what was there is forgotten unless it was asked for since.
type lately struct {
	young, old map[pipeline.ID][]byte
	changed    map[pipeline.ID]bool // by the running transaction
}

// latelyHalf is how many rosters a half holds, most of them of less than 100 bytes.
const latelyHalf = 8 << 10

// begin starts a transaction.
func (l *lately) begin() {
	if l.young == nil {
		l.young, l.changed = map[pipeline.ID][]byte{}, map[pipeline.ID]bool{}
	}
	clear(l.changed)
}

// get returns the encoded roster of a profile, nil if there is none; it must not be changed.
func (l *lately) get(rosters pipeline.Tx, profile pipeline.ID) ([]byte, error) {
	if l.changed[profile] {
		return rosters.Get(profile[:])
	}
	value, ok := l.young[profile]
	if ok {
		return value, nil
	}
	if value, ok = l.old[profile]; !ok {
		stored, err := rosters.Get(profile[:])
		if err != nil {
			return nil, err
		}
		if stored != nil {
			value = append(make([]byte, 0, len(stored)), stored...)
		}
	}
	if len(l.young) >= latelyHalf {
		l.young, l.old = make(map[pipeline.ID][]byte, latelyHalf), l.young
	}
	l.young[profile] = value
	return value, nil
}

// written notes that the running transaction has another roster for the profile.
func (l *lately) written(profile pipeline.ID) {
	delete(l.young, profile)
	delete(l.old, profile)
	l.changed[profile] = true
}
