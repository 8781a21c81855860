package links

import (
	"encoding/json"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// Kinds of outcomes, as in the table merges.
const (
	Nothing     = ""            // a repeated or redundant link, or an operation on what is not there
	Merge       = "merge"       // two profiles became one
	Split       = "split"       // profiles were taken apart, and maybe others joined
	Refused     = "refused"     // the link would break a limit: kept as evidence
	Quarantined = "quarantined" // too many people share the weaker identifier: its links are withdrawn
	Erased      = "erased"      // a person is forgotten; others whom links led to may have been split or joined by that
)

// Outcome is what an operation did.
type Outcome struct {
	Offset uint64      `json:"offset"`
	Kind   string      `json:"kind"`
	Op     string      `json:"op"`
	Strong pipeline.ID `json:"strong"` // or the id of block, unblock and erase
	Weak   pipeline.ID `json:"weak"`
	From   pipeline.ID `json:"from"` // profiles of the two before the operation: of Weak, and of Strong; the erased one
	Into   pipeline.ID `json:"into"`
	Reason string      `json:"reason"`
	By     string      `json:"message_id"`
	At     time.Time   `json:"at"`
	Rows   []Row       `json:"rows"`             // identifiers whose profile is another one now, in the order of ids
	Erased []Erasure   `json:"erased,omitempty"` // the identifiers of the erased person, in the order of ids
}

// Row is one identifier that changed its profile.
type Row struct {
	ID, From, To pipeline.ID
}

func encodeOutcome(o *Outcome) ([]byte, error) { return json.Marshal(o) }

func decodeOutcome(b []byte) (*Outcome, error) {
	o := &Outcome{}
	return o, json.Unmarshal(b, o)
}
