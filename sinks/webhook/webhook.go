// Package webhook is the sink that posts messages to a CRM or any other HTTP endpoint, signed as Standard Webhooks
// (https://www.standardwebhooks.com) says.
//
// Delivery is at least once: the header webhook-id is the message's id and stays the same over retries, crashes and
// replays, so that a receiver can tell a repetition. Messages of one profile arrive in order. Nothing is dropped: what the
// endpoint does not take is tried again with growing pauses for max_age (3 days), then becomes a dead letter.
//
// Redirects are not followed, and the proxies of the environment (HTTP_PROXY, …) are not used: both would carry customer
// data to an address that guard has not seen.
package webhook

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/mapping"
)

// Config is what stands under `webhook` in the YAML.
type Config struct {
	// URL of the endpoint: https, or http to an address in Allow.
	URL string `yaml:"url"`
	// Secret signs every request: whsec_ and base64, as receivers' libraries expect it, or any other text as it is.
	Secret pipeline.Secret `yaml:"secret"`
	// Map makes the body: field name to expression over the message. Without it the whole message is sent.
	Map map[string]string `yaml:"map"`
	// Allow lists networks that the guard would refuse, such as 10.1.0.0/16 for a CRM in the own network.
	Allow []CIDR `yaml:"allow"`
	// Timeout is how long one request may take, 100 ms … 4500 ms; 4 s unless set.
	Timeout pipeline.Duration `yaml:"timeout"`
	// Headers are sent with every request, such as Authorization.
	Headers map[string]pipeline.Secret `yaml:"headers"`
	// MaxInFlight is how many requests run at once, 1 … 1024; 64 unless set.
	MaxInFlight int `yaml:"max_in_flight"`
	// MaxAge is how long a message is tried before it becomes a dead letter; 3 d unless set.
	MaxAge pipeline.Duration `yaml:"max_age"`
}

// Kind is the sink kind `webhook`.
var Kind = pipeline.SinkKind{
	Name:    "webhook",
	Summary: "posts messages to an HTTP endpoint, signed as Standard Webhooks says, at least once and in order per profile",
	Topics:  []string{"changes"},
	Config: func() any {
		return &Config{
			Timeout:     pipeline.Duration(4 * time.Second),
			MaxInFlight: 64,
			MaxAge:      pipeline.Duration(72 * time.Hour),
		}
	},
	Build: build,
}

func build(name string, config any, env *pipeline.Env) (func(context.Context, pipeline.Deps) (any, error), []pipeline.Problem) {
	c := config.(*Config)
	s, problems := c.compile(env)
	if problems != nil {
		return nil, problems
	}
	return func(_ context.Context, d pipeline.Deps) (any, error) {
		return open(name, s, d.Logger), nil
	}, nil
}

// settings are the Config, checked and compiled.
type settings struct {
	url         *url.URL
	signer      *standardwebhooks.Webhook
	headers     http.Header
	mapping     *mapping.Mapping // nil: the message as it is
	guard       *guard
	redactor    redactor
	timeout     time.Duration
	maxInFlight int
	maxAge      time.Duration
}

// sink is the pipeline.Sink. It is safe for use by several partitions at once.
type sink struct {
	settings
	name   string
	log    *slog.Logger
	client *http.Client
	gate   *gate
	slots  chan struct{} // one per request in flight
	now    func() time.Time
}

func open(name string, s *settings, log *slog.Logger) *sink {
	return &sink{
		settings: *s,
		name:     name,
		log:      log.With("sink", name, "endpoint", s.url.Scheme+"://"+s.url.Host),
		client:   newClient(s),
		gate:     newGate(),
		slots:    make(chan struct{}, s.maxInFlight),
		now:      time.Now,
	}
}

// Close drops the idle connections.
func (s *sink) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

func newClient(s *settings) *http.Client {
	transport := &http.Transport{
		Proxy:                  nil,
		DialContext:            s.guard.dialer(s.timeout).DialContext,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        tlsConfig(),
		TLSHandshakeTimeout:    s.timeout,
		MaxIdleConns:           s.maxInFlight,
		MaxIdleConnsPerHost:    s.maxInFlight,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // the answer is kept as it came, and is never inflated
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
