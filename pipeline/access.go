package pipeline

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
)

// KafkaAccess is how the YAML says how a cluster of Kafka is reached, for the pipeline itself and for the sources and sinks
// that use another cluster. Whoever has these keys names them brokers, tls and sasl.
type KafkaAccess struct {
	Brokers KafkaBrokers
	TLS     KafkaTLS
	SASL    *KafkaSASL
}

// KafkaBrokers are host:port addresses in the YAML: a list, or a text with commas.
type KafkaBrokers []string

// UnmarshalYAML reads either form.
func (b *KafkaBrokers) UnmarshalYAML(decode func(any) error) error {
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

// KafkaTLS is true, false, or keys.
type KafkaTLS struct {
	On   bool
	keys tlsKeys
}

type tlsKeys struct {
	CA         string `yaml:"ca"`
	Cert       string `yaml:"cert"`
	Key        string `yaml:"key"`
	ServerName string `yaml:"server_name"`
}

// UnmarshalYAML reads either form.
func (t *KafkaTLS) UnmarshalYAML(decode func(any) error) error {
	var form any
	if err := decode(&form); err != nil {
		return err
	}
	if _, ok := form.(map[string]any); ok {
		t.On = true
		return decode(&t.keys)
	}
	if decode(&t.On) != nil {
		return errors.New("tls needs true, or keys: {ca: …, cert: …, key: …, server_name: …}")
	}
	return nil
}

// KafkaSASL is a login in the YAML.
type KafkaSASL struct {
	Mechanism string `yaml:"mechanism"`
	User      string `yaml:"user"`
	Password  Secret `yaml:"password"`
	Insecure  bool   `yaml:"insecure"`
}

// Check returns the addresses and how to connect to them, or every problem, with paths that begin with brokers, tls or sasl.
// or is what may stand instead of addresses, for the message: ", or embedded".
func (a KafkaAccess) Check(or string) (brokers []string, k Kafka, problems []Problem) {
	brokers, problems = a.brokers(or)
	if a.TLS.On {
		t := a.TLS.keys
		if (t.Cert == "") != (t.Key == "") {
			problems = append(problems, Problemf([]string{"tls"}, "cert and key belong together: name both files, or neither"))
		}
		k.TLS = &TLS{CA: t.CA, Cert: t.Cert, Key: t.Key, ServerName: t.ServerName}
	}
	if s := a.SASL; s != nil {
		problems = append(problems, s.check()...)
		if !a.TLS.On && !s.Insecure && slices.ContainsFunc(brokers, func(address string) bool { return !loopback(address) }) {
			problems = append(problems, Problemf([]string{"sasl"}, "without TLS the login and all data can be read on the way: set tls: true, or insecure: true here if the network is your own"))
		}
		k.SASL = &SASL{Mechanism: s.Mechanism, User: s.User, Password: s.Password, Insecure: s.Insecure}
	}
	return brokers, k, problems
}

func (a KafkaAccess) brokers(or string) (out []string, problems []Problem) {
	bad := func(format string, args ...any) {
		problems = append(problems, Problemf([]string{"brokers"}, format, args...))
	}
	for _, address := range a.Brokers {
		address = strings.TrimSpace(address)
		host, port, err := net.SplitHostPort(address)
		if n, perr := strconv.Atoi(port); err != nil || perr != nil || host == "" || n < 1 || n > 65535 {
			bad("%q is not the address of a broker: write host:port, more than one with commas%s", address, or)
			continue
		}
		if slices.Contains(out, address) {
			bad("the broker %q stands twice", address)
		}
		out = append(out, address)
	}
	return out, problems
}

func (s *KafkaSASL) check() (problems []Problem) {
	bad := func(key, format string, args ...any) {
		problems = append(problems, Problemf([]string{"sasl", key}, format, args...))
	}
	mechanisms := []string{Plain, ScramSHA256, ScramSHA512}
	switch {
	case s.Mechanism == "":
		bad("mechanism", "sasl needs a mechanism: write one of %s", strings.Join(mechanisms, ", "))
	case !slices.Contains(mechanisms, s.Mechanism):
		bad("mechanism", "there is no mechanism %q: write one of %s", s.Mechanism, strings.Join(mechanisms, ", "))
	}
	if s.User == "" {
		bad("user", "sasl needs a user")
	}
	if s.Password.IsZero() {
		bad("password", "sasl needs a password: take it from a variable or a file, password: ${file:PATH}")
	}
	return problems
}

// loopback tells whether a host:port is on this machine, as far as that is known without a name server.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// CheckOther is Check for a source or sink: without brokers it uses the pipeline's own cluster, for which the result is nil.
func (a KafkaAccess) CheckOther() (*KafkaAddress, []Problem) {
	brokers, k, problems := a.Check("; without brokers it is the pipeline's own cluster")
	if len(a.Brokers) == 0 {
		for key, set := range map[string]bool{"tls": a.TLS.On, "sasl": a.SASL != nil} {
			if set {
				problems = append(problems, Problemf([]string{key}, "%s belongs to brokers of its own; the pipeline's cluster is described under kafka", key))
			}
		}
	}
	if len(problems) > 0 || len(brokers) == 0 {
		return nil, problems
	}
	return &KafkaAddress{Brokers: brokers, Kafka: k}, nil
}

// CheckKafkaTopic checks the name of a topic that a source reads or a sink writes: Kafka's rules, and, on the pipeline's own
// cluster, that it is none of the pipeline's own topics, which would make a circle.
func CheckKafkaTopic(name, pipelineName string, own bool) error {
	valid := name != "" && name != "." && name != ".." && len(name) <= 249
	for _, c := range []byte(name) {
		valid = valid && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-')
	}
	if name == "" {
		return errors.New("topic is missing: write the name of a topic")
	}
	if !valid {
		return errors.New(strconv.Quote(name) + " is not the name of a topic: use letters, digits, '.', '_' and '-', at most 249")
	}
	short, prefixed := strings.CutPrefix(name, pipelineName+".")
	if own && prefixed && (slices.Contains(ownTopics, short) || strings.HasPrefix(short, "state.")) {
		return errors.New(strconv.Quote(name) + " is one of the pipeline's own topics, which would make a circle: choose another")
	}
	return nil
}

// ownTopics are the topics of a pipeline, besides those that begin with state.
var ownTopics = []string{"events", "links", "resolved", "changes", "deliveries", "dead_letters"}
