package config

import (
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// kafka is the section of that name.
type kafka struct {
	Brokers        pipeline.KafkaBrokers `yaml:"brokers"`
	Partitions     int                   `yaml:"partitions"`
	CommitInterval pipeline.Duration     `yaml:"commit_interval"`
	Replication    *int                  `yaml:"replication"`
	TLS            pipeline.KafkaTLS     `yaml:"tls"`
	SASL           *pipeline.KafkaSASL   `yaml:"sasl"`
}

// Bounds and defaults of the section.
const (
	defaultPartitions = 8
	maxPartitions     = 1024
	maxReplication    = 16
	defaultCommit     = 50 * time.Millisecond
	minCommit         = 5 * time.Millisecond
	maxCommit         = 10 * time.Second
	embedded          = "embedded"
)

// kafka checks the section.
func (b *builder) kafka(k *kafka) {
	if k.Partitions < 1 || k.Partitions > maxPartitions {
		b.at([]string{"kafka", "partitions"}, "partitions is %d, it must be 1 … %d", k.Partitions, maxPartitions)
	}
	if c := time.Duration(k.CommitInterval); c < minCommit || c > maxCommit {
		b.at([]string{"kafka", "commit_interval"}, "commit_interval is %s, it must be %s … %s", k.CommitInterval, minCommit, maxCommit)
	}
	b.plan.Partitions = int32(k.Partitions)
	b.plan.Commit = time.Duration(k.CommitInterval)
	b.access(k)
	if r := k.Replication; r != nil {
		if *r < 1 || *r > maxReplication {
			b.at([]string{"kafka", "replication"}, "replication is %d, it must be 1 … %d: on so many brokers each record is kept", *r, maxReplication)
		}
		b.plan.Kafka.Replication = int16(min(*r, maxReplication))
	}
	if len(b.plan.Brokers) == 0 && !b.flawed("kafka", "brokers") {
		b.alone(k)
	}
}

// flawed tells whether there is a mistake at a path already, from which others would follow.
func (b *builder) flawed(path ...string) bool {
	value, at, _ := b.root.find(b.root, path)
	return at.wrong || value.flawed()
}

// alone refuses what the embedded broker does not have.
func (b *builder) alone(k *kafka) {
	for key, set := range map[string]bool{"tls": k.TLS.On, "sasl": k.SASL != nil, "replication": k.Replication != nil && *k.Replication > 1} {
		if set {
			b.at([]string{"kafka", key}, "the embedded broker has no %s: set brokers, or leave it out", key)
		}
	}
}

// access checks how the cluster is reached.
func (b *builder) access(k *kafka) {
	a := pipeline.KafkaAccess{Brokers: k.Brokers, TLS: k.TLS, SASL: k.SASL}
	if len(a.Brokers) == 1 && strings.TrimSpace(a.Brokers[0]) == embedded {
		a.Brokers = nil
	}
	for _, section := range []string{"tls", "sasl"} { // from a mistake in it others would follow
		switch {
		case !b.flawed("kafka", section):
		case section == "tls":
			a.TLS = pipeline.KafkaTLS{On: a.TLS.On}
		default:
			a.SASL = nil
		}
	}
	brokers, connect, problems := a.Check(", or embedded")
	for _, p := range problems {
		b.at(append([]string{"kafka"}, p.Path...), "%s", p.Message)
	}
	b.plan.Brokers, b.plan.Kafka.TLS, b.plan.Kafka.SASL = brokers, connect.TLS, connect.SASL
}
