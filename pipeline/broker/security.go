package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/millstream-io/millstream/pipeline"
)

// LoadTLS reads the files of the configuration; nil for nil. Its errors name the file.
func LoadTLS(t *pipeline.TLS) (*tls.Config, error) {
	if t == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("read the certificates that Kafka's are checked with: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the certificates that Kafka's are checked with: %s holds no certificate in PEM", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate %s and its key %s for Kafka: %w", t.Cert, t.Key, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// errReadable says that a login was not sent because anybody on the way could read it.
var errReadable = errors.New("no login is sent over a connection without TLS to another machine: set tls, or insecure under sasl")

// secure sets up encryption and login.
func (c Config) secure(s *sarama.Config) {
	if c.TLS != nil {
		s.Net.TLS.Enable, s.Net.TLS.Config = true, c.TLS
	}
	if c.SASL == nil {
		return
	}
	auth := scram.Auth{User: c.SASL.User, Pass: c.SASL.Password.Reveal()}
	s.Net.SASL.Enable, s.Net.SASL.Mechanism = true, sarama.SASLMechanism(c.SASL.Mechanism)
	s.Net.SASL.User, s.Net.SASL.Password = auth.User, auth.Pass
	switch c.SASL.Mechanism {
	case pipeline.ScramSHA256:
		s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{mechanism: auth.AsSha256Mechanism()} }
	case pipeline.ScramSHA512:
		s.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{mechanism: auth.AsSha512Mechanism()} }
	}
}

func validSASL(s *pipeline.SASL) error {
	if s == nil {
		return nil
	}
	switch s.Mechanism {
	case pipeline.Plain, pipeline.ScramSHA256, pipeline.ScramSHA512:
	default:
		return fmt.Errorf("mechanism %q: want %s, %s or %s", s.Mechanism, pipeline.Plain, pipeline.ScramSHA256, pipeline.ScramSHA512)
	}
	if s.User == "" || s.Password.IsZero() {
		return errors.New("a login needs user and password")
	}
	return nil
}

// scramClient is one conversation of SCRAM as the Kafka client wants it; the other client's library holds it.
type scramClient struct {
	mechanism sasl.Mechanism
	session   sasl.Session // nil: not begun
	done      bool
}

// Begin does nothing: the mechanism has user and password.
func (s *scramClient) Begin(_, _, _ string) error { return nil }

// Step answers the server; the first challenge is empty.
func (s *scramClient) Step(challenge string) (string, error) {
	var answer []byte
	var err error
	if s.session == nil {
		s.session, answer, err = s.mechanism.Authenticate(context.Background(), "")
	} else {
		s.done, answer, err = s.session.Challenge([]byte(challenge))
	}
	return string(answer), err
}

// Done tells whether the server has proved that it knows the password too.
func (s *scramClient) Done() bool { return s.done }
