package links

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/millstream-io/millstream/pipeline"
)

// Kinds of operations.
const (
	OpSettings = "settings" // operation 0; later ones are ignored
	OpLink     = "link"     // an event states that two identifiers belong to one person
	OpUnlink   = "unlink"   // they do not, whatever events state
	OpBlock    = "block"    // the identifier says nothing about a person
	OpUnblock  = "unblock"  // it does again; ends a quarantine, too
	OpErase    = "erase"    // the person of the identifier is to be forgotten
)

// Operation is one record of the log, as JSON. It holds ids, never values: the log is kept for ever.
type Operation struct {
	V  int    `json:"v"`
	Op string `json:"op"`

	Strong *pipeline.ID `json:"strong,omitempty"` // link, unlink
	Weak   *pipeline.ID `json:"weak,omitempty"`
	ID     *pipeline.ID `json:"id,omitempty"` // block, unblock, erase

	MessageID string     `json:"message_id,omitempty"` // the event that stated a link first
	At        *time.Time `json:"at,omitempty"`         // when that was received, or when an operator asked
	Reason    string     `json:"reason,omitempty"`     // an operator's words

	*Settings // of OpSettings
}

const operationVersion = 1

// Linked is the operation of a link.
func Linked(s *pipeline.Statement) Operation {
	at := s.At.UTC()
	return Operation{V: operationVersion, Op: OpLink, Strong: &s.Strong, Weak: &s.Weak, MessageID: s.MessageID, At: &at}
}

// Operator is an operation that somebody asks for. Unlink needs two ids, in any order, the others one.
func Operator(op string, rules *Settings, at time.Time, reason string, ids ...pipeline.ID) (Operation, error) {
	o := Operation{V: operationVersion, Op: op, At: &at, Reason: reason}
	switch {
	case op == OpUnlink && len(ids) == 2 || op == OpLink && len(ids) == 2:
		if rules.Compare(ids[0], ids[1]) > 0 {
			ids[0], ids[1] = ids[1], ids[0]
		}
		if ids[0] == ids[1] {
			return o, fmt.Errorf("%s an identifier and itself", op)
		}
		o.Strong, o.Weak = &ids[0], &ids[1]
	case (op == OpBlock || op == OpUnblock || op == OpErase) && len(ids) == 1:
		o.ID = &ids[0]
	default:
		return o, fmt.Errorf("operation %s with %d identifiers", op, len(ids))
	}
	return o, nil
}

// Record is the operation as a record of the log.
func (o *Operation) Record() (pipeline.Record, error) {
	value, err := json.Marshal(o)
	if err != nil {
		return pipeline.Record{}, fmt.Errorf("encode operation %s: %w", o.Op, err)
	}
	return pipeline.Record{Topic: "links", Partition: 0, Value: value}, nil
}

// Parse reads a record of the log. What no version of this program can have written is an error; so is a newer version.
func Parse(value []byte) (*Operation, error) {
	o := &Operation{}
	if err := json.Unmarshal(value, o); err != nil {
		return nil, fmt.Errorf("the record is not an operation: %w", err)
	}
	if o.V != operationVersion {
		return nil, fmt.Errorf("the operation has version %d, this build reads version %d: upgrade it", o.V, operationVersion)
	}
	switch o.Op {
	case OpSettings:
		if o.Settings == nil {
			return nil, fmt.Errorf("settings without contents")
		}
	case OpLink, OpUnlink:
		if o.Strong == nil || o.Weak == nil || *o.Strong == *o.Weak || *o.Strong == uuid.Nil || *o.Weak == uuid.Nil {
			return nil, fmt.Errorf("operation %s needs two identifiers", o.Op)
		}
	case OpBlock, OpUnblock, OpErase:
		if o.ID == nil || *o.ID == uuid.Nil {
			return nil, fmt.Errorf("operation %s needs an identifier", o.Op)
		}
	default:
		return nil, fmt.Errorf("operation %q is not known to this build: upgrade it", o.Op)
	}
	return o, nil
}
