package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/pipeline"
)

// Session is the membership under which one partition was assigned. Generation and member change under it at every
// rebalance, also for partitions that stay, so they are asked for anew for each commit. Safe for concurrent use.
type Session struct {
	ctx      context.Context
	session  sarama.ConsumerGroupSession
	group    string
	instance *string
}

// Generation is the group's generation as of the last rebalance.
func (s *Session) Generation() int32 { return s.session.GenerationID() }

// Member is the id that the group gave this process.
func (s *Session) Member() string { return s.session.MemberID() }

// Err is nil while the partition is assigned; then it is ErrSessionOver with the reason.
func (s *Session) Err() error {
	if s.ctx.Err() == nil {
		return nil
	}
	if cause := context.Cause(s.ctx); !errors.Is(cause, ErrSessionOver) {
		return fmt.Errorf("%w: %w", ErrSessionOver, cause)
	}
	return context.Cause(s.ctx)
}

func (s *Session) metadata() *sarama.ConsumerGroupMetadata {
	return sarama.NewConsumerGroupMetadataFromSession(s.session, s.group, s.instance)
}

// Assignment is one partition that the group gave to this process.
type Assignment struct {
	Topic     string
	Partition int32
	Session   *Session
}

// Join makes this process a member of the group and calls own, in a goroutine of its own, for each partition that it gets.
// It blocks until ctx ends (then it returns nil) or something fails for good, and waits for every own before it returns.
//
// The context of own ends when the partition is revoked, the session is over, or ctx ends; own must then return within
// RebalanceTimeout, or the group gives its partitions away. Partitions that stay across a rebalance are not disturbed.
//
// What own returns: nil, and the partition stays assigned but idle; ErrSessionOver, and the process joins anew; any other
// error while the partition is still assigned, and Join ends with it. ErrFenced: another process has our instance id.
//
// With an instance id the process keeps its place in the group for the session timeout after Join returned; without, the
// others take over at once.
func (c *Cluster) Join(ctx context.Context, group string, topics []string, own func(context.Context, Assignment) error) error {
	var cl sarama.Client
	err := c.retry(ctx, "joining group "+group, func() (err error) {
		cl, err = c.dialClient(ctx, c.conf.membership())
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("join group %s: %w", group, err)
	}
	defer func() { _ = cl.Close() }() // after its group, which says what went wrong
	members, err := sarama.NewConsumerGroupFromClient(group, cl)
	if err != nil {
		return fmt.Errorf("join group %s: %w", group, err)
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		say := complaint{log: c.conf.Logger.Warn, what: "group " + group}
		for err := range members.Errors() {
			say.about(err)
		}
	}()
	h := &claims{c: c, group: group, members: members, own: own, failed: make(chan error, 1)}
	err = c.consume(ctx, members, topics, h)
	if e := members.Close(); e != nil && err == nil && ctx.Err() == nil {
		err = fmt.Errorf("leave group %s: %w", group, e)
	}
	<-logged
	return err
}

// consume joins again and again: sessions end by errors, restarts of the coordinator, and claims that return.
func (c *Cluster) consume(ctx context.Context, members sarama.ConsumerGroup, topics []string, h *claims) error {
	wait := retryFirst
	say := complaint{log: c.conf.Logger.Warn, what: "joining group " + h.group}
	for ctx.Err() == nil {
		begun := time.Now()
		err := members.Consume(ctx, topics, h)
		select {
		case failed := <-h.failed:
			return failed
		default:
		}
		switch {
		case errors.Is(err, sarama.ErrFencedInstancedId):
			return fmt.Errorf("group %s, instance %s: %w", h.group, c.conf.InstanceID, ErrFenced)
		case err != nil && ctx.Err() == nil && (permanent(err) || c.over(ctx) != nil):
			return fmt.Errorf("join group %s: %w", h.group, err)
		case err == nil || time.Since(begun) > complainGap:
			wait, say = retryFirst, complaint{log: say.log, what: say.what}
		}
		if err != nil {
			say.about(err)
		}
		if pipeline.Sleep(ctx, wait) != nil {
			return nil
		}
		wait = min(2*wait, retryMost)
	}
	return nil
}

// claims turns the library's claims into calls of own.
type claims struct {
	c       *Cluster
	group   string
	members sarama.ConsumerGroup
	own     func(context.Context, Assignment) error
	failed  chan error // the first error that ends Join
}

func (*claims) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*claims) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (h *claims) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	h.members.Pause(map[string][]int32{claim.Topic(): {claim.Partition()}})
	ctx, cancel := context.WithCancelCause(s.Context())
	defer cancel(nil)
	revoked := make(chan struct{})
	go func() { // records that came before the pause are dropped; the end of the channel is the revocation
		defer close(revoked)
		for range claim.Messages() {
		}
		cause := context.Cause(s.Context())
		if cause == nil {
			cause = errors.New("the group gave it to another member")
		}
		cancel(fmt.Errorf("%w: %w", ErrSessionOver, cause))
	}()
	session := &Session{ctx: ctx, session: s, group: h.group}
	if id := h.c.conf.InstanceID; id != "" {
		session.instance = &id
	}
	err := h.own(ctx, Assignment{Topic: claim.Topic(), Partition: claim.Partition(), Session: session})
	switch {
	case ctx.Err() != nil: // it was to return
		if err != nil && !errors.Is(err, ErrSessionOver) && !errors.Is(err, context.Canceled) {
			h.c.conf.Logger.Warn("partition given up with an error", "group", h.group, "topic", claim.Topic(), "partition", claim.Partition(), "error", err)
		}
	case err == nil:
		<-revoked // idle: returning would end the session of every partition
	case errors.Is(err, ErrSessionOver):
		return err // ends the session: join anew
	default:
		select {
		case h.failed <- err:
		default:
		}
		return err
	}
	return nil
}

// expelled asks the coordinator whether the member is still one. A fenced producer asks it before it is opened again: the
// heartbeat may not have noticed yet that the group went on without us, and to reopen then would fence the new owner.
func (c *Cluster) expelled(ctx context.Context, s *Session) bool {
	gone := false
	err := c.retry(ctx, "asking group "+s.group+" for the membership", func() error {
		if s.Err() != nil {
			gone = true
			return nil
		}
		coordinator, err := c.client.Coordinator(s.group)
		if err != nil {
			return err
		}
		resp, err := coordinator.Heartbeat(&sarama.HeartbeatRequest{
			Version: 4, GroupId: s.group, GenerationId: s.Generation(), MemberId: s.Member(), GroupInstanceId: s.instance,
		})
		if err != nil {
			_ = coordinator.Close()
			c.refreshCoordinator(s.group)
			return err
		}
		switch resp.Err {
		case sarama.ErrNotCoordinatorForConsumer, sarama.ErrConsumerCoordinatorNotAvailable, sarama.ErrOffsetsLoadInProgress:
			c.refreshCoordinator(s.group)
			return resp.Err
		}
		gone = memberGone(resp.Err)
		return nil
	})
	return gone || err != nil
}
