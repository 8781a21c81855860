package config

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millstream-io/millstream/pipeline"
)

// kafka is the section of that name.
type kafka struct {
	Brokers        brokers           `yaml:"brokers"`
	Partitions     int               `yaml:"partitions"`
	CommitInterval pipeline.Duration `yaml:"commit_interval"`
	Replication    *int              `yaml:"replication"`
	TLS            kafkaTLS          `yaml:"tls"`
	SASL           *kafkaSASL        `yaml:"sasl"`
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

// brokers is "embedded", a list, or a text with commas.
type brokers []string

// UnmarshalYAML reads any of the forms.
func (b *brokers) UnmarshalYAML(decode func(any) error) error {
	var one string
	if err := decode(&one); err == nil {
		*b = strings.Split(one, ",")
		return nil
	}
	var many []string
	err := decode(&many)
	*b = many
	return err
}

// kafkaTLS is true, false, or keys.
type kafkaTLS struct {
	on   bool
	keys tlsKeys
}

type tlsKeys struct {
	CA         string `yaml:"ca"`
	Cert       string `yaml:"cert"`
	Key        string `yaml:"key"`
	ServerName string `yaml:"server_name"`
}

// UnmarshalYAML reads either form.
func (t *kafkaTLS) UnmarshalYAML(decode func(any) error) error {
	var form any
	if err := decode(&form); err != nil {
		return err
	}
	if _, ok := form.(map[string]any); ok {
		t.on = true
		return decode(&t.keys)
	}
	if decode(&t.on) != nil {
		return errors.New("tls needs true, or keys: {ca: …, cert: …, key: …, server_name: …}")
	}
	return nil
}

type kafkaSASL struct {
	Mechanism string          `yaml:"mechanism"`
	User      string          `yaml:"user"`
	Password  pipeline.Secret `yaml:"password"`
	Insecure  bool            `yaml:"insecure"`
}

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
	b.plan.Brokers = b.brokers(k.Brokers)
	if r := k.Replication; r != nil {
		if *r < 1 || *r > maxReplication {
			b.at([]string{"kafka", "replication"}, "replication is %d, it must be 1 … %d: on so many brokers each record is kept", *r, maxReplication)
		}
		b.plan.Kafka.Replication = int16(min(*r, maxReplication))
	}
	b.kafkaTLS(k)
	b.kafkaSASL(k)
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
	for key, set := range map[string]bool{"tls": k.TLS.on, "sasl": k.SASL != nil, "replication": k.Replication != nil && *k.Replication > 1} {
		if set {
			b.at([]string{"kafka", key}, "the embedded broker has no %s: set brokers, or leave it out", key)
		}
	}
}

func (b *builder) kafkaTLS(k *kafka) {
	if !k.TLS.on {
		return
	}
	t := k.TLS.keys
	if !b.flawed("kafka", "tls") && (t.Cert == "") != (t.Key == "") {
		b.at([]string{"kafka", "tls"}, "cert and key belong together: name both files, or neither")
	}
	b.plan.Kafka.TLS = &pipeline.TLS{CA: t.CA, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName}
}

func (b *builder) kafkaSASL(k *kafka) {
	s := k.SASL
	if s == nil || b.flawed("kafka", "sasl") {
		return
	}
	at := func(key string) []string { return []string{"kafka", "sasl", key} }
	mechanisms := []string{pipeline.Plain, pipeline.ScramSHA256, pipeline.ScramSHA512}
	switch {
	case s.Mechanism == "":
		b.at(at("mechanism"), "sasl needs a mechanism: write one of %s", strings.Join(mechanisms, ", "))
	case !slices.Contains(mechanisms, s.Mechanism):
		b.at(at("mechanism"), "there is no mechanism %q: write one of %s", s.Mechanism, strings.Join(mechanisms, ", "))
	}
	if s.User == "" {
		b.at(at("user"), "sasl needs a user")
	}
	if s.Password.IsZero() {
		b.at(at("password"), "sasl needs a password: take it from a variable or a file, password: ${file:PATH}")
	}
	if !k.TLS.on && !s.Insecure && slices.ContainsFunc(b.plan.Brokers, func(address string) bool { return !loopback(address) }) {
		b.at([]string{"kafka", "sasl"}, "without TLS the login and all data can be read on the way: set tls: true, or insecure: true here if the network is your own")
	}
	b.plan.Kafka.SASL = &pipeline.SASL{Mechanism: s.Mechanism, User: s.User, Password: s.Password, Insecure: s.Insecure}
}

// loopback tells whether a host:port is on this machine, as far as that is known without a name server.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

func (b *builder) brokers(list brokers) []string {
	path := []string{"kafka", "brokers"}
	var out []string
	for _, address := range list {
		address = strings.TrimSpace(address)
		if address == embedded && len(list) == 1 {
			return nil
		}
		host, port, err := net.SplitHostPort(address)
		if n, perr := strconv.Atoi(port); err != nil || perr != nil || host == "" || n < 1 || n > 65535 {
			b.at(path, "%q is not the address of a broker: write host:port, more than one with commas, or embedded", address)
			continue
		}
		if slices.Contains(out, address) {
			b.at(path, "the broker %q stands twice", address)
		}
		out = append(out, address)
	}
	return out
}
