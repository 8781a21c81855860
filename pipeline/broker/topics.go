package broker

import (
	"context"
	"errors"
	"fmt"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/pipeline"
)

// Topic is a topic that must exist.
type Topic struct {
	Name       string
	Partitions int32
	// Config holds the topic's settings by Kafka's names (retention.ms, cleanup.policy, …). They are given when the topic is
	// made; a topic that exists keeps what it has. Replication is Config.Replication.
	Config map[string]string
}

// EnsureTopics creates what is missing and waits until every partition answers, so that the next request does not meet a
// leader that is not there yet. A topic with another number of partitions is a *PartitionCountError; all of them are
// reported at once. It may be called by many starting processes at the same time, and again.
func (c *Cluster) EnsureTopics(ctx context.Context, topics []Topic) error {
	have, err := c.partitionCounts(ctx)
	if err != nil {
		return fmt.Errorf("list topics: %w", err)
	}
	var errs []error
	for _, t := range topics {
		if n, ok := have[t.Name]; ok && n != t.Partitions {
			errs = append(errs, &PartitionCountError{t.Name, n, t.Partitions})
		}
	}
	if len(errs) > 0 { // before anything is created
		return errors.Join(errs...)
	}
	for _, t := range topics {
		if _, ok := have[t.Name]; !ok {
			if err := c.createTopic(ctx, t); err != nil {
				return fmt.Errorf("create topic %s: %w", t.Name, err)
			}
		}
		if err := c.awaitTopic(ctx, t); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// HasTopic tells whether a topic exists.
func (c *Cluster) HasTopic(ctx context.Context, topic string) (bool, error) {
	have, err := c.partitionCounts(ctx)
	return have[topic] > 0, err
}

func (c *Cluster) partitionCounts(ctx context.Context) (map[string]int32, error) {
	have := map[string]int32{}
	err := c.retry(ctx, "listing topics", func() error {
		clear(have)
		if err := c.client.RefreshMetadata(); err != nil {
			return err
		}
		names, err := c.client.Topics()
		if err != nil {
			return err
		}
		for _, name := range names {
			parts, err := c.client.Partitions(name)
			if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
				continue // deleted in between
			}
			if err != nil {
				return err
			}
			have[name] = int32(len(parts))
		}
		return nil
	})
	return have, err
}

// Partitions returns how many partitions a topic has, 0 if there is no such topic. It asks until a broker answers or ctx ends.
func (c *Cluster) Partitions(ctx context.Context, topic string) (int32, error) {
	var n int32
	err := c.retry(ctx, "asking for topic "+topic, func() error {
		n = 0
		err := c.client.RefreshMetadata(topic)
		if err == nil {
			var parts []int32
			parts, err = c.client.Partitions(topic)
			n = int32(len(parts))
		}
		if errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ask for topic %s: %w", topic, err)
	}
	return n, nil
}

func (c *Cluster) createTopic(ctx context.Context, t Topic) error {
	config := map[string]*string{}
	for k, v := range t.Config {
		config[k] = &v
	}
	detail := &sarama.TopicDetail{NumPartitions: t.Partitions, ReplicationFactor: c.conf.replication(), ConfigEntries: config}
	return c.retry(ctx, "creating topic "+t.Name, func() error {
		admin, err := sarama.NewClusterAdminFromClient(c.client)
		if err != nil {
			return err
		}
		err = admin.CreateTopic(t.Name, detail, false)
		if errors.Is(err, sarama.ErrTopicAlreadyExists) { // by another starter, or by our own request whose answer was lost
			return nil
		}
		return err
	})
}

// awaitTopic checks the number of partitions and waits until each leader answers.
func (c *Cluster) awaitTopic(ctx context.Context, t Topic) error {
	err := c.retry(ctx, "waiting for topic "+t.Name, func() error {
		if err := c.client.RefreshMetadata(t.Name); err != nil {
			return err
		}
		parts, err := c.client.Partitions(t.Name)
		if err != nil {
			return err
		}
		if len(parts) == 0 {
			return sarama.ErrUnknownTopicOrPartition
		}
		if n := int32(len(parts)); n != t.Partitions {
			return &PartitionCountError{t.Name, n, t.Partitions}
		}
		_, err = c.listOffsets(t.Name, parts, sarama.OffsetOldest, sarama.ReadUncommitted)
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for topic %s: %w", t.Name, err)
	}
	return nil
}

// TopicID returns the id that Kafka gave the topic when it was made (KIP-516): one that is deleted and made again under the
// same name has another. It asks the leader of the partition, which learns of a new topic before it serves records of it: if
// the id is the same before a read and after it, what was read is of that topic. It waits while there is no such topic, until
// ctx ends.
func (c *Cluster) TopicID(ctx context.Context, topic string, part int32) (pipeline.ID, error) {
	var id pipeline.ID
	err := c.retry(ctx, "asking for the id of topic "+topic, func() error {
		leader, err := c.client.Leader(topic, part)
		if err != nil {
			return err
		}
		resp, err := leader.GetMetadata(sarama.NewMetadataRequest(c.client.Config().Version, []string{topic}))
		if err != nil {
			_ = leader.Close() // the client opens it again
			_ = c.client.RefreshMetadata(topic)
			return err
		}
		if len(resp.Topics) != 1 {
			return sarama.ErrIncompleteResponse
		}
		if err := resp.Topics[0].Err; err != sarama.ErrNoError {
			return err
		}
		id = pipeline.ID(resp.Topics[0].Uuid)
		return nil
	})
	if err != nil {
		return pipeline.ID{}, fmt.Errorf("ask for the id of topic %s: %w", topic, err)
	}
	return id, nil
}
