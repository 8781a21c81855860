package links_test

import (
	"testing"
	"time"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/pipeline/links"
)

// Whoever comes with the identifiers of somebody who was erased is somebody else, of whom nothing is known. Others whom links
// led to are what they would be without the one who was erased.
func TestErase(t *testing.T) {
	w := newWorld(t, []links.Type{{Name: "user_id", Code: 1, Limit: 1}, {Name: "email", Code: 2, SharedBy: 1}, {Name: "anonymous_id", Code: 4}})
	user, other, mail, device, blocked := id(1, 1), id(1, 2), id(2, 1), id(4, 1), id(4, 9)
	operate := func(op string, ids ...pipeline.ID) {
		o, err := links.Operator(op, w.rules, time.UnixMilli(1), "", ids...)
		check(t, err)
		w.append(&o)
		w.apply(w.replica, 3)
	}
	resolve := func(ids ...pipeline.ID) pipeline.Resolution {
		var event []pipeline.Identifier
		for _, x := range ids {
			event = append(event, pipeline.Identifier{ID: x})
		}
		r, err := w.replica.Resolve(event)
		check(t, err)
		return r
	}
	w.append(link(user, device))
	w.append(link(other, device)) // refused: a device of two users
	w.append(link(user, mail))
	operate(links.OpBlock, blocked)
	operate(links.OpErase, device)

	mine := resolve(user, device)
	if mine.Primary == user || mine.Primary != mine.Canonical || mine.IDV != 0 || mine.Primary[0] != user[0] {
		t.Errorf("the user is %+v after the erasure, want somebody new", mine)
	}
	if r := resolve(device); r.Canonical == device || r.Canonical == mine.Canonical || r.Canonical[0] != device[0] {
		t.Errorf("the device is %+v, want it on its own, not ambiguous", r)
	}
	if n := w.replica.Unknown(nil, []pipeline.Identifier{{ID: user}, {ID: device}}); len(n) != 1 || n[0].Strong != mine.Canonical {
		t.Errorf("a new login states %v", n)
	}
	w.append(link(user, device)) // by a worker that had not seen the erasure
	w.append(link(other, mail))  // likewise
	w.apply(w.replica, 1)
	if a, b := resolve(user), resolve(device); a.Canonical == b.Canonical {
		t.Error("a link of before the erasure counts")
	}
	if r := resolve(other); r.Canonical != other || r.IDV != 0 {
		t.Errorf("the other user is %+v", r)
	}

	operate(links.OpErase, blocked)
	if r := resolve(blocked); r.Canonical[0] != pipeline.CodeAmbiguous {
		t.Error("an erasure ended a block")
	}
	operate(links.OpUnblock, blocked)
	if r := resolve(blocked); r.Canonical == blocked || r.Canonical[0] != blocked[0] {
		t.Errorf("unblocked: %+v", r)
	}
	operate(links.OpErase, user)
	if again := resolve(user); again.Canonical == mine.Canonical {
		t.Error("a second erasure did nothing")
	}
	if known, err := w.replica.Known(resolve(user).Canonical); !known || err != nil {
		t.Errorf("that the user was erased is not known: %v", err)
	}
	if known, err := w.replica.Known(id(1, 7)); known || err != nil {
		t.Errorf("somebody of whom the log says nothing is known: %v", err)
	}
}
