package kafka

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/millstream-io/millstream/pipeline"
)

const positionVersion = 1

// position is what Batch.Position holds, as JSON.
type position struct {
	Version int         `json:"v"`
	Topic   string      `json:"topic"`
	TopicID pipeline.ID `json:"topic_id"` // Kafka's: a topic that is made again has another, and its offsets start over
	// Next is the offset to go on from, of each partition that was ever begun. One that is not here is read from its start.
	Next map[int32]int64 `json:"next"`
}

// parsePosition reads a stored position of the topic; nil if there is none.
func parsePosition(b []byte, topic string) (*position, error) {
	if b == nil {
		return nil, nil
	}
	p := &position{}
	if err := json.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("read the stored position in topic %s: %w", topic, err)
	}
	if p.Version != positionVersion {
		return nil, fmt.Errorf("the stored position in topic %s has version %d, this build reads version %d: upgrade it", topic, p.Version, positionVersion)
	}
	if p.Topic != topic {
		return nil, fmt.Errorf("the source has read topic %s and is to read %s now: give the source of another topic another name", p.Topic, topic)
	}
	if p.Next == nil {
		p.Next = map[int32]int64{}
	}
	return p, nil
}

// after is the position after a piece. That of a topic that was made again begins anew.
func (p *position) after(piece *piece, topic string) *position {
	q := &position{Version: positionVersion, Topic: topic, TopicID: piece.id, Next: map[int32]int64{}}
	if p != nil && p.TopicID == piece.id {
		maps.Copy(q.Next, p.Next)
	}
	maps.Copy(q.Next, piece.next)
	return q
}

func (p *position) encode() []byte {
	b, err := json.Marshal(p)
	if err != nil { // strings and numbers only
		panic(err)
	}
	return b
}
