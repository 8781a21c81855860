package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/IBM/sarama"
)

// Position is what a group has stored for a partition.
type Position struct {
	Offset   int64 // the next record to read; -1: the group has stored nothing
	Metadata string
}

// Ends returns the end of each partition: the last stable offset if committed (below it every transaction is decided: what a
// read_committed reader can reach), else the high water mark. It asks until every leader has answered or ctx ends.
func (c *Cluster) Ends(ctx context.Context, topic string, parts []int32, committed bool) (map[int32]int64, error) {
	level := sarama.ReadUncommitted
	if committed {
		level = sarama.ReadCommitted
	}
	return c.offsets(ctx, topic, parts, sarama.OffsetNewest, level)
}

// Starts returns the first offset that each partition still holds.
func (c *Cluster) Starts(ctx context.Context, topic string, parts []int32) (map[int32]int64, error) {
	return c.offsets(ctx, topic, parts, sarama.OffsetOldest, sarama.ReadUncommitted)
}

func (c *Cluster) offsets(ctx context.Context, topic string, parts []int32, at int64, level sarama.IsolationLevel) (map[int32]int64, error) {
	got := make(map[int32]int64, len(parts))
	err := c.retry(ctx, "asking for the offsets of topic "+topic, func() error {
		var open []int32
		for _, p := range parts {
			if _, ok := got[p]; !ok {
				open = append(open, p)
			}
		}
		answered, err := c.listOffsets(topic, open, at, level)
		maps.Copy(got, answered)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask for the offsets of topic %s: %w", topic, err)
	}
	return got, nil
}

// listOffsets asks each leader once. The library's own Client.GetOffset ignores the isolation level.
func (c *Cluster) listOffsets(topic string, parts []int32, at int64, level sarama.IsolationLevel) (map[int32]int64, error) {
	byLeader := map[*sarama.Broker][]int32{}
	for _, p := range parts {
		b, err := c.client.Leader(topic, p)
		if err != nil {
			return nil, err
		}
		byLeader[b] = append(byLeader[b], p)
	}
	got := make(map[int32]int64, len(parts))
	var errs []error
	for leader, parts := range byLeader {
		req := sarama.NewOffsetRequest(c.client.Config().Version)
		req.IsolationLevel = level
		for _, p := range parts {
			req.AddBlock(topic, p, at, 1)
		}
		resp, err := leader.GetAvailableOffsets(req)
		if err != nil {
			_ = leader.Close() // the client opens it again
			errs = append(errs, err)
			continue
		}
		for _, p := range parts {
			switch b := resp.GetBlock(topic, p); {
			case b == nil:
				errs = append(errs, sarama.ErrIncompleteResponse)
			case b.Err != sarama.ErrNoError:
				errs = append(errs, b.Err)
			default:
				got[p] = b.Offset
			}
		}
	}
	if len(errs) > 0 {
		_ = c.client.RefreshMetadata(topic) // the next attempt finds out
	}
	return got, errors.Join(errs...)
}

// Committed returns what the group has stored for the partition by decided transactions and plain commits only: while a
// transaction that carries an offset of the partition is open it waits (KIP-447). Open the partition's transactions first:
// that ends a predecessor's.
func (c *Cluster) Committed(ctx context.Context, group, topic string, part int32) (Position, error) {
	got, err := c.committed(ctx, group, topic, []int32{part}, true)
	if err != nil {
		return Position{Offset: -1}, fmt.Errorf("ask group %s for its position in %s partition %d: %w", group, topic, part, err)
	}
	return got[part], nil
}

// CommittedSoFar returns what the group has stored for each of the partitions, in one round trip: offsets of transactions
// that are not decided yet do not count, and are not waited for. It suits those who watch a group, not those who go on in
// its place.
func (c *Cluster) CommittedSoFar(ctx context.Context, group, topic string, parts []int32) (map[int32]Position, error) {
	got, err := c.committed(ctx, group, topic, parts, false)
	if err != nil {
		return nil, fmt.Errorf("ask group %s for its positions in %s: %w", group, topic, err)
	}
	return got, nil
}

// committed asks the group's coordinator until it has answered for all partitions or ctx ends.
func (c *Cluster) committed(ctx context.Context, group, topic string, parts []int32, stable bool) (map[int32]Position, error) {
	got := make(map[int32]Position, len(parts))
	err := c.retry(ctx, fmt.Sprintf("asking group %s for its position in %s %d", group, topic, parts), func() error {
		coordinator, err := c.client.Coordinator(group)
		if err != nil {
			return err
		}
		req := sarama.NewOffsetFetchRequest(c.client.Config().Version, group, map[string][]int32{topic: parts})
		req.RequireStable = stable
		resp, err := coordinator.FetchOffset(req)
		if err != nil {
			_ = coordinator.Close()
			c.refreshCoordinator(group)
			return err
		}
		err = positions(got, resp, topic, parts)
		if err != nil && !errors.Is(err, sarama.ErrUnstableOffsetCommit) {
			c.refreshCoordinator(group)
		}
		return err
	})
	return got, err
}

// positions reads an answer into got.
func positions(got map[int32]Position, resp *sarama.OffsetFetchResponse, topic string, parts []int32) error {
	if resp.Err != sarama.ErrNoError && resp.Err != sarama.ErrGroupIDNotFound {
		return resp.Err
	}
	for _, p := range parts {
		b := resp.GetBlock(topic, p)
		switch {
		case resp.Err == sarama.ErrGroupIDNotFound: // the embedded broker, for a group that has never committed
			got[p] = Position{Offset: -1}
		case b == nil:
			return sarama.ErrIncompleteResponse
		case b.Err != sarama.ErrNoError:
			return b.Err
		default:
			got[p] = Position{b.Offset, b.Metadata}
		}
	}
	return nil
}

// refreshCoordinator drops what the client believes; a failure shows in the next attempt.
func (c *Cluster) refreshCoordinator(group string) { _ = c.client.RefreshCoordinator(group) }

// CommitOffset stores a position outside of any transaction, fenced by the session's member and generation, and checks the
// answer. ErrSessionOver: the member has lost its place. A rebalance under way is waited for.
func (c *Cluster) CommitOffset(ctx context.Context, s *Session, topic string, part int32, p Position) error {
	where := fmt.Sprintf("commit offset %d of %s partition %d for group %s", p.Offset, topic, part, s.group)
	err := c.retry(ctx, where, func() error {
		if err := s.Err(); err != nil {
			return &final{err}
		}
		err := c.commitOffset(s, topic, part, p)
		if err == nil || !memberGone(err) {
			return err
		}
		return &final{fmt.Errorf("%w: %w", ErrSessionOver, err)}
	})
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

func (c *Cluster) commitOffset(s *Session, topic string, part int32, p Position) error {
	coordinator, err := c.client.Coordinator(s.group)
	if err != nil {
		return err
	}
	req := sarama.NewOffsetCommitRequest(c.client.Config(), s.group)
	req.ConsumerGroupGeneration, req.ConsumerID, req.GroupInstanceId = s.Generation(), s.Member(), s.instance
	req.AddBlockWithLeaderEpoch(topic, part, p.Offset, -1, 0, p.Metadata)
	resp, err := coordinator.CommitOffset(req)
	if err != nil {
		_ = coordinator.Close()
		c.refreshCoordinator(s.group)
		return err
	}
	code, ok := resp.Errors[topic][part]
	switch {
	case !ok:
		return sarama.ErrIncompleteResponse
	case code == sarama.ErrNoError:
		return nil
	case slices.Contains([]sarama.KError{sarama.ErrNotCoordinatorForConsumer, sarama.ErrConsumerCoordinatorNotAvailable}, code):
		c.refreshCoordinator(s.group)
	}
	return code
}

// memberGone reports an answer of the group that this member will never recover from. ILLEGAL_GENERATION is not among them:
// every rebalance causes it, and the session knows the next generation soon.
func memberGone(err error) bool {
	return errors.Is(err, sarama.ErrUnknownMemberId) || errors.Is(err, sarama.ErrFencedInstancedId)
}

// final stops a retry loop.
type final struct{ error }

func (f *final) Unwrap() error { return f.error }
