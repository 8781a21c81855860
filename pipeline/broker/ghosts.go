package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// ghosts removes the members of groups that died while they waited for the others: the embedded broker starts a member's
// session timeout when it answers its JoinGroup or SyncGroup, and does not if the connection is gone by then. The group would
// give partitions to such a member, for ever. Apache Kafka starts the timeout anyway.
type ghosts struct {
	cluster *kfake.Cluster
	addr    string
	log     *slog.Logger

	mu    sync.Mutex // never held while the cluster is asked: it calls from its own loop
	rolls map[string]*roll
}

// roll is what is known of one group.
type roll struct {
	timeout time.Duration        // the longest session timeout of those who joined
	seen    map[string]time.Time // by member id
}

const (
	ghostCheck  = time.Second     // between two looks
	ghostMargin = 2 * time.Second // what a member may be late, beyond its session timeout
)

// watchGhosts watches the groups of the cluster until ctx ends.
func watchGhosts(ctx context.Context, cluster *kfake.Cluster, addr string, log *slog.Logger) {
	g := &ghosts{cluster: cluster, addr: addr, log: log, rolls: map[string]*roll{}}
	for _, key := range []kmsg.Key{kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat} {
		cluster.ControlKey(key.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			g.heard(r)
			return nil, nil, false
		})
	}
	tick := time.NewTicker(ghostCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.look(time.Now())
		}
	}
}

// heard notes a sign of life.
func (g *ghosts) heard(request kmsg.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch r := request.(type) {
	case *kmsg.JoinGroupRequest:
		group := g.rolls[r.Group]
		if group == nil {
			group = &roll{seen: map[string]time.Time{}}
			g.rolls[r.Group] = group
		}
		group.timeout = max(group.timeout, time.Duration(r.SessionTimeoutMillis)*time.Millisecond)
	case *kmsg.SyncGroupRequest:
		g.sign(r.Group, r.MemberID)
	case *kmsg.HeartbeatRequest:
		g.sign(r.Group, r.MemberID)
	}
}

func (g *ghosts) sign(group, member string) {
	if known := g.rolls[group]; known != nil {
		known.seen[member] = time.Now()
	}
}

// look removes those who have been silent for too long in a group that is complete. While a group gathers, its members wait
// in silence.
func (g *ghosts) look(now time.Time) {
	g.mu.Lock()
	names := make([]string, 0, len(g.rolls))
	for name := range g.rolls {
		names = append(names, name)
	}
	g.mu.Unlock()
	for _, name := range names {
		for _, m := range g.silent(g.cluster.GroupInfo(name), name, now) {
			g.log.Debug("embedded broker: removing a member that is gone", "group", name, "member", m.MemberID)
			if err := g.remove(name, m); err != nil {
				g.log.Warn("embedded broker: removing a member that is gone", "group", name, "error", err)
			}
		}
	}
}

func (g *ghosts) silent(info *kfake.GroupInfo, name string, now time.Time) (silent []kfake.GroupMember) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if info == nil || len(info.Members) == 0 {
		delete(g.rolls, name)
		return nil
	}
	group := g.rolls[name]
	seen := make(map[string]time.Time, len(info.Members))
	for _, m := range info.Members {
		last, known := group.seen[m.MemberID]
		if !known || info.State != "Stable" {
			last = now
		}
		seen[m.MemberID] = last
		if now.Sub(last) > group.timeout+ghostMargin {
			silent = append(silent, m)
		}
	}
	group.seen = seen
	return silent
}

// remove lets the member leave, as it would have done itself.
func (g *ghosts) remove(group string, m kfake.GroupMember) error {
	conf := sarama.NewConfig()
	conf.Version = sarama.V2_8_0_0
	b := sarama.NewBroker(g.addr)
	if err := b.Open(conf); err != nil {
		return err
	}
	defer func() { _ = b.Close() }() // it was for one request
	response, err := b.LeaveGroup(&sarama.LeaveGroupRequest{Version: 3, GroupId: group,
		Members: []sarama.MemberIdentity{{MemberId: m.MemberID, GroupInstanceId: m.InstanceID}}})
	if err == nil && response.Err != sarama.ErrNoError {
		err = response.Err
	}
	return err
}
