package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"

	"github.com/IBM/sarama"

	"github.com/millstream-io/millstream/pipeline"
)

// Limits that Config's zero values stand for.
const (
	DefaultSessionTimeout     = 10 * time.Second
	DefaultTransactionTimeout = 10 * time.Second
	DefaultOutage             = 30 * time.Second
	DefaultMaxRecordBytes     = 1 << 20
	DefaultInFlightBytes      = 32 << 20
)

const (
	dialTimeout      = 5 * time.Second
	retryPause       = 100 * time.Millisecond // between the library's own retries
	transactionPause = 10 * time.Millisecond
)

// Config says how to reach Kafka. Zero values stand for the defaults named at each field.
type Config struct {
	// Brokers are host:port addresses of the cluster; one that answers is enough.
	Brokers []string
	// ClientID appears in the broker's logs and quotas. Default "millstream".
	ClientID string
	// InstanceID is the static membership id of this process in its groups (KIP-345): letters, digits, '.', '_' and '-', at
	// most 249. It must outlive restarts and be unique among live processes. Empty: dynamic membership.
	InstanceID string
	// Logger gets few lines: waiting for the broker, trouble that lasts, errors of the membership. Default slog.Default().
	Logger *slog.Logger
	// SessionTimeout is how long the group waits for a silent member before it gives its partitions away. Default 10 s.
	SessionTimeout time.Duration
	// TransactionTimeout is how long a dead worker's open transaction may hold back readers if nobody takes its partition
	// over; the broker adds up to 10 s. Default 10 s, at most 15 min.
	TransactionTimeout time.Duration
	// Outage is how long Produce keeps a record while no broker takes it. Default 30 s.
	Outage time.Duration
	// MaxRecordBytes is the largest record that is sent; the topic's max.message.bytes must allow it. Default 1 MiB.
	MaxRecordBytes int
	// InFlightBytes bounds what one producer holds that the broker has not acknowledged; Send and Produce wait above it.
	// One record is always let through. Default 32 MiB.
	InFlightBytes int
	// Compression of produced batches: "" or "none", "snappy", "lz4", "zstd", "gzip".
	Compression string
	// TLS encrypts the connections if it is set; see LoadTLS.
	TLS *tls.Config
	// SASL logs in if it is set. Without TLS that is refused for addresses that are not loopback, unless SASL.Insecure.
	SASL *pipeline.SASL
	// Replication is the replication factor of new topics. 0: the broker's default.
	Replication int16

	wire *wire // of the cluster
}

func (c Config) withDefaults() Config {
	if c.ClientID == "" {
		c.ClientID = "millstream"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	setDuration(&c.SessionTimeout, DefaultSessionTimeout)
	setDuration(&c.TransactionTimeout, DefaultTransactionTimeout)
	setDuration(&c.Outage, DefaultOutage)
	if c.MaxRecordBytes <= 0 {
		c.MaxRecordBytes = DefaultMaxRecordBytes
	}
	if c.InFlightBytes <= 0 {
		c.InFlightBytes = DefaultInFlightBytes
	}
	return c
}

func setDuration(d *time.Duration, def time.Duration) {
	if *d <= 0 {
		*d = def
	}
}

var instanceID = regexp.MustCompile(`^[0-9A-Za-z._-]{1,249}$`)

var codecs = map[string]sarama.CompressionCodec{
	"": sarama.CompressionNone, "none": sarama.CompressionNone, "snappy": sarama.CompressionSnappy,
	"lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD, "gzip": sarama.CompressionGZIP,
}

func (c Config) validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("no broker address"))
	}
	if c.InstanceID != "" && !instanceID.MatchString(c.InstanceID) {
		errs = append(errs, fmt.Errorf("instance id %q: want 1 to 249 of letters, digits, '.', '_', '-'", c.InstanceID))
	}
	if c.TransactionTimeout > 15*time.Minute {
		errs = append(errs, fmt.Errorf("transaction timeout %v: brokers refuse more than 15m", c.TransactionTimeout))
	}
	if _, ok := codecs[c.Compression]; !ok {
		errs = append(errs, fmt.Errorf("compression %q: want none, snappy, lz4, zstd or gzip", c.Compression))
	}
	if err := validSASL(c.SASL); err != nil {
		errs = append(errs, fmt.Errorf("sasl: %w", err))
	}
	return errors.Join(errs...)
}

// replication is the factor in the words of the protocol.
func (c Config) replication() int16 {
	if c.Replication == 0 {
		return -1
	}
	return c.Replication
}

// client is the base of every connection. Version 2.8 is the oldest that carries all that is used: stable offset fetches,
// member fencing of transactional commits (KIP-447), static membership.
func (c Config) client() *sarama.Config {
	s := sarama.NewConfig()
	s.Version = sarama.V2_8_0_0
	s.ClientID = c.ClientID
	s.Metadata.Retry.Max, s.Metadata.Retry.Backoff, s.Metadata.Retry.BackoffFunc = 10, retryPause, c.wire.backoff(retryPause)
	s.Metadata.AllowAutoTopicCreation = false
	s.Net.ReadTimeout, s.Net.WriteTimeout = 10*time.Second, 10*time.Second
	s.Net.Proxy.Enable, s.Net.Proxy.Dialer = true, c.wire // the library's one way in for a dialer
	s.Consumer.IsolationLevel = sarama.ReadCommitted
	c.secure(s)
	return s
}

// admin is used for short requests with retries of our own around them, so the library should not wait long by itself.
func (c Config) admin() *sarama.Config {
	s := c.client()
	s.Metadata.Retry.Max = 1
	return s
}

func (c Config) membership() *sarama.Config {
	s := c.client()
	s.ChannelBufferSize = 1                                // records are thrown away
	s.Consumer.IsolationLevel = sarama.ReadUncommitted     // else the library's own offset fetch waits for open transactions
	s.Consumer.Offsets.Initial = sarama.OffsetOldest       // unused, but the newest would race with deletions
	s.Consumer.Offsets.AutoCommit.Enable = false           // commits are ours
	s.Consumer.Return.Errors = true                        // to the log
	s.Consumer.Fetch.Default = 1 << 10                     // what arrives before the claim is paused
	s.Consumer.Group.InstanceId = c.InstanceID             //
	s.Consumer.Group.Session.Timeout = c.SessionTimeout    //
	s.Consumer.Group.Heartbeat.Interval = heartbeat        // a partition that moves stands still for about one interval
	s.Consumer.Group.Rebalance.Timeout = RebalanceTimeout  //
	s.Net.ReadTimeout = RebalanceTimeout + 10*time.Second  // the broker holds JoinGroup for up to the rebalance timeout
	s.Consumer.Group.Rebalance.Retry.Max = 10              //
	s.Consumer.Group.Rebalance.Retry.Backoff = time.Second // with the ten above: longer than an election
	s.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{sarama.NewBalanceStrategyCooperativeSticky()}
	return s
}

func (c Config) producer() *sarama.Config {
	s := c.client()
	s.ChannelBufferSize = 1024
	s.Producer.RequiredAcks = sarama.WaitForAll
	s.Producer.Return.Successes, s.Producer.Return.Errors = true, true
	s.Producer.Idempotent, s.Net.MaxOpenRequests = true, 1 // the library numbers records in order only with one open request
	s.Producer.Partitioner = newPartitioner
	s.Producer.MaxMessageBytes = c.MaxRecordBytes
	s.Producer.Compression = codecs[c.Compression]
	// Without a limit the library looks at all partitions for every record while a request is under way.
	s.Producer.Flush.Frequency, s.Producer.Flush.Bytes = time.Millisecond, 512<<10
	s.Producer.Retry.Max, s.Producer.Retry.Backoff, s.Producer.Retry.BackoffFunc = 10, retryPause, c.wire.backoff(retryPause)
	return s
}

func (c Config) transactions(id string) *sarama.Config {
	s := c.producer()
	s.Producer.Transaction.ID = id
	s.Producer.Transaction.Timeout = c.TransactionTimeout
	// The coordinator answers "concurrent transactions" for some milliseconds after each commit: ask again soon.
	retry := &s.Producer.Transaction.Retry
	retry.Max, retry.Backoff, retry.BackoffFunc = 500, transactionPause, c.wire.backoff(transactionPause)
	return s
}

// source rides out an outage: what ends the library's retries is the number of metadata retries, not of produce retries.
func (c Config) source() *sarama.Config {
	s := c.producer()
	s.Metadata.Retry.Max = int(c.Outage / retryPause)
	s.Producer.Retry.Max = s.Metadata.Retry.Max
	return s
}

func (c Config) fetch() *sarama.Config {
	s := c.client()
	s.Net.MaxOpenRequests = 1
	return s
}
