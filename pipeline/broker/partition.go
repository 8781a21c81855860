package broker

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millstream-io/millstream/pipeline"
)

// ErrTooLarge says that a record is larger than Config.MaxRecordBytes.
var ErrTooLarge = errors.New("record is too large")

// KeyMetadata is the message metadata that becomes the record's key, in the Watermill face of a producer.
const KeyMetadata = "key"

// partitioner takes the record's own partition if it names one, else the hash of the key as every Kafka client with the
// reference partitioner of sarama does: writers of other programs that use it meet ours.
type partitioner struct{ hash sarama.Partitioner }

func newPartitioner(topic string) sarama.Partitioner {
	return partitioner{sarama.NewReferenceHashPartitioner(topic)}
}

func (p partitioner) Partition(m *sarama.ProducerMessage, n int32) (int32, error) {
	if m.Partition < 0 {
		return p.hash.Partition(m, n)
	}
	if m.Partition >= n {
		return 0, fmt.Errorf("partition %d of topic %s, which has %d", m.Partition, m.Topic, n)
	}
	return m.Partition, nil
}

func (partitioner) RequiresConsistency() bool { return true }

// PartitionOf is the partition of a topic with n partitions that a record with that key goes to.
func PartitionOf(key []byte, n int32) (int32, error) {
	return sarama.NewReferenceHashPartitioner("").Partition(&sarama.ProducerMessage{Key: sarama.ByteEncoder(key)}, n)
}

// outgoing makes the library's message. tag comes back with the acknowledgement.
func outgoing(r *pipeline.Record, tag any) *sarama.ProducerMessage {
	o := &struct { // one piece of memory
		message    sarama.ProducerMessage
		key, value sarama.ByteEncoder
	}{sarama.ProducerMessage{Topic: r.Topic, Partition: r.Partition, Metadata: tag}, r.Key, r.Value}
	m := &o.message
	if r.Key != nil {
		m.Key = &o.key
	}
	if r.Value != nil { // nil is a tombstone, not an empty value
		m.Value = &o.value
	}
	if len(r.Headers) > 0 {
		m.Headers = make([]sarama.RecordHeader, len(r.Headers))
		for i, h := range r.Headers {
			m.Headers[i] = sarama.RecordHeader{Key: []byte(h.Key), Value: h.Value}
		}
	}
	return m
}

// size is what a message counts against the limits: its encoded size at most.
func size(m *sarama.ProducerMessage) int { return m.ByteSize(2) }

// records turns messages into records: a batch message into its records, an ordinary one into one record with the payload
// as value and the metadata, except KeyMetadata, as headers.
func records(topic string, msgs []*message.Message) []pipeline.Record {
	var out []pipeline.Record
	for _, m := range msgs {
		if b, ok := pipeline.BatchOf(m); ok {
			for _, r := range b.Records {
				if r.Topic == "" {
					r.Topic = topic
				}
				out = append(out, r)
			}
			continue
		}
		r := pipeline.Record{Topic: topic, Partition: -1, Value: m.Payload}
		if r.Value == nil {
			r.Value = []byte{}
		}
		for k, v := range m.Metadata {
			if k == KeyMetadata {
				r.Key = []byte(v)
				continue
			}
			r.Headers = append(r.Headers, pipeline.Header{Key: k, Value: []byte(v)})
		}
		out = append(out, r)
	}
	return out
}
