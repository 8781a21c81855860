package pipeline

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Kafka says how to reach and use the cluster of Plan.Brokers.
type Kafka struct {
	TLS  *TLS  // nil: connections are not encrypted
	SASL *SASL // nil: no login
	// Replication is the replication factor of topics that the pipeline makes; 0: the broker's default.
	Replication int16
}

// TLS says how connections are encrypted. Files are PEM, and read when the pipeline starts.
type TLS struct {
	CA         string // file of the certificates that are trusted; "": those of the system
	Cert, Key  string // files of the own certificate and its key, for brokers that ask for one; "" both: none
	ServerName string // what the brokers' certificates are made out to; "": the host that is dialled
}

// SASL is a login.
type SASL struct {
	Mechanism string // Plain, ScramSHA256 or ScramSHA512
	User      string
	Password  Secret
	// Insecure lets the login go over connections without TLS to other machines.
	Insecure bool
}

// Mechanisms of SASL.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// KafkaAddress says where a cluster is and how to connect to it.
type KafkaAddress struct {
	Brokers []string // host:port; at least one
	Kafka
}

// KafkaClient is a connection to a cluster, as sources and sinks see it; package broker makes it. It waits for brokers that
// are away, and says so in the log, until ctx ends. It is safe for concurrent use.
type KafkaClient interface {
	// Partitions returns how many partitions a topic has, 0 if there is no such topic.
	Partitions(ctx context.Context, topic string) (int32, error)
	// TopicID returns the id that Kafka gave the topic when it was made, asking the leader of the partition: if it is the same
	// before a read and after it, what was read is of that topic. It waits while there is no such topic.
	TopicID(ctx context.Context, topic string, partition int32) (ID, error)
	// Bounds returns the first offset that the partition holds, and the one up to which every transaction is decided.
	Bounds(ctx context.Context, topic string, partition int32) (first, end int64, err error)
	// Reader reads a partition from an offset on, committed records alone. At most maxRecords make a batch.
	Reader(topic string, partition int32, offset int64, maxRecords int) KafkaReader
	// CreateTopic makes a topic with the broker's defaults; one that exists is left as it is.
	CreateTopic(ctx context.Context, topic string, partitions int32) error
	// Produce writes the records and returns when all replicas in sync have them all; after an error some may be written. The
	// error is ErrRecordTooLarge if one of them can never be.
	Produce(ctx context.Context, records []Record) error
	Close() error
}

// KafkaReader is a Watermill subscriber of one partition, whose messages carry a Batch each, the next after the ack of the one
// before. The channel closes when reading cannot go on; then Err tells why.
type KafkaReader interface {
	message.Subscriber
	Err() error
}

// ErrOutOfRange is the error of a reader whose offset the topic does not hold: deleted by retention, or not written yet
// because the broker has lost records.
var ErrOutOfRange = errors.New("the topic does not hold the offset")

// ErrRecordTooLarge says that a topic never takes a record of that size.
var ErrRecordTooLarge = errors.New("the record is larger than the topic takes")
