package broker

import (
	"errors"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/pipeline"
)

// What a caller must tell apart. They are wrapped with coordinates and cause: compare with errors.Is.
var (
	// ErrSessionOver: the member has lost the partition. Close the transactions and never reopen them: that would fence the
	// new owner.
	ErrSessionOver = errors.New("the partition is no longer assigned to this member")
	// ErrAborted: the transaction was aborted, nothing of it is visible, and the next may begin: replay from memory.
	ErrAborted = errors.New("transaction aborted")
	// ErrUndecided: nobody knows whether the transaction was committed, or the producer is unusable. Call Reopen, which ends
	// the transaction one way or the other, then Committed, and compare.
	ErrUndecided = errors.New("outcome of the transaction is unknown")
	// ErrFenced: another live process joined the group with the same instance id. This process must stop.
	ErrFenced = errors.New("another process uses the same instance id")
	// ErrUnavailable: no broker took the records in time. Those not acknowledged may still have been written.
	ErrUnavailable = errors.New("no Kafka broker is available")
	// ErrClosed: the part was closed before.
	ErrClosed = errors.New("closed")
)

// PartitionCountError says that a topic exists with another number of partitions than the pipeline needs. Keys would move
// between partitions and lose their state, so it is never repaired silently.
type PartitionCountError struct {
	Topic      string
	Have, Want int32
}

func (e *PartitionCountError) Error() string {
	return fmt.Sprintf("topic %s has %d partitions, the pipeline wants %d: set partitions to %d, or use another pipeline name",
		e.Topic, e.Have, e.Want, e.Have)
}

// OutOfRangeError says that records were asked for that the topic does not hold: deleted by retention (Offset < Start), or
// never written (Offset > End: the broker lost data or the topic was made again).
type OutOfRangeError struct {
	Topic              string
	Partition          int32
	Offset, Start, End int64
}

func (e *OutOfRangeError) Error() string {
	return fmt.Sprintf("offset %d of %s partition %d is outside of the topic, which holds %d to %d",
		e.Offset, e.Topic, e.Partition, e.Start, e.End)
}

// Is lets packages that do not know this one compare.
func (e *OutOfRangeError) Is(target error) bool { return target == pipeline.ErrOutOfRange }

// permanent reports whether asking again cannot help: the broker refuses us or does not understand us. Everything else
// (elections, restarts, timeouts, broken connections, topics that are not there yet) is retried until the context ends.
func permanent(err error) bool {
	var stop *final
	if errors.As(err, &stop) || errors.Is(err, sarama.ErrSASLAuthenticationFailed) || errors.Is(err, sarama.ErrUnsupportedSASLMechanism) {
		return true // the last two come with a text of the broker, in another type
	}
	var k sarama.KError
	if errors.As(err, &k) {
		switch k {
		case sarama.ErrTopicAuthorizationFailed, sarama.ErrGroupAuthorizationFailed, sarama.ErrClusterAuthorizationFailed,
			sarama.ErrTransactionalIDAuthorizationFailed,
			sarama.ErrInvalidTopic, sarama.ErrInvalidGroupId, sarama.ErrUnsupportedVersion, sarama.ErrInvalidPartitions,
			sarama.ErrInvalidConfig, sarama.ErrInvalidRequest, sarama.ErrPolicyViolation, sarama.ErrInvalidTransactionTimeout,
			sarama.ErrInvalidReplicationFactor, sarama.ErrUnsupportedForMessageFormat, sarama.ErrInvalidSessionTimeout,
			sarama.ErrOffsetMetadataTooLarge:
			return true
		}
		return false
	}
	var conf sarama.ConfigurationError
	var count *PartitionCountError
	return errors.As(err, &conf) || errors.As(err, &count) || errors.Is(err, sarama.ErrClosedClient)
}
