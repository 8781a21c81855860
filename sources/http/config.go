// Package http is the source `http`: the tracking API that Segment and RudderStack SDKs speak.
//
// A request is split into its events without decoding them, every event becomes one record of the topic `events`, and the
// answer 200 is given after the broker has acknowledged all of them. A client that gets no 200 may send again: the events'
// message ids let the stage dedup recognise what had arrived.
package http

import (
	"context"
	"crypto/sha256"
	"net"
	"sort"
	"strconv"
	"strings"

	"github.com/millstream-io/millstream/pipeline"
)

// Config is what users write under `http`.
type Config struct {
	// Listen is host:port. The default is loopback; any other address needs write keys.
	Listen string `yaml:"listen"`
	// WriteKeys are the keys that clients may use, by a name of the operator's choice. Empty: everybody may send, on a
	// loopback address only.
	WriteKeys map[string]pipeline.Secret `yaml:"write_keys"`
	// MaxBody is the largest request body as sent, compressed or not.
	MaxBody pipeline.Bytes `yaml:"max_body"`
	// MaxDecoded is the largest body after decompression.
	MaxDecoded pipeline.Bytes `yaml:"max_decoded"`
	// MaxInFlight bounds the memory of requests that the broker has not acknowledged; above it clients get 429.
	MaxInFlight pipeline.Bytes `yaml:"max_in_flight"`
}

// Kind describes the source to package config.
var Kind = pipeline.SourceKind{
	Name:    "http",
	Summary: "tracking API for Segment and RudderStack SDKs",
	Config: func() any {
		return &Config{Listen: "127.0.0.1:8080", MaxBody: 1 << 20, MaxDecoded: 8 << 20, MaxInFlight: 64 << 20}
	},
	Build: func(name string, config any, _ *pipeline.Env) (func(context.Context, pipeline.Deps) (pipeline.Source, error), []pipeline.Problem) {
		c := *config.(*Config)
		if problems := c.check(); problems != nil {
			return nil, problems
		}
		return func(_ context.Context, d pipeline.Deps) (pipeline.Source, error) { return New(name, c, d), nil }, nil
	},
}

// check returns everything that is wrong with the configuration.
func (c *Config) check() []pipeline.Problem {
	var ps []pipeline.Problem
	bad := func(key, format string, args ...any) {
		ps = append(ps, pipeline.Problemf([]string{key}, format, args...))
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if n, perr := strconv.Atoi(port); err != nil || perr != nil || n < 0 || n > 65535 {
		bad("listen", "%q is not an address: write host:port, such as 127.0.0.1:8080", c.Listen)
	} else if !loopback(host) && len(c.WriteKeys) == 0 {
		bad("listen", "%q can be reached from other machines: set write_keys, or listen on 127.0.0.1", c.Listen)
	}
	names := make([]string, 0, len(c.WriteKeys))
	for name := range c.WriteKeys {
		names = append(names, name)
	}
	sort.Strings(names)
	owner := map[string]string{}
	for _, name := range names {
		key := c.WriteKeys[name].Reveal()
		path := []string{"write_keys", name}
		switch {
		case strings.TrimSpace(key) == "":
			ps = append(ps, pipeline.Problemf(path, "the write key is empty: give it a value, or delete it"))
		case owner[key] != "":
			ps = append(ps, pipeline.Problemf(path, "the write key is the same as that of %q: give each its own", owner[key]))
		}
		owner[key] = name
	}
	if c.MaxDecoded < c.MaxBody {
		bad("max_decoded", "the limit after decompression is below max_body: raise it to at least that")
	}
	if c.MaxInFlight < 2*(c.MaxBody+c.MaxDecoded) {
		bad("max_in_flight", "a single request may take more than max_body and max_decoded together: raise it to twice their sum")
	}
	return ps
}

// loopback tells whether only this machine reaches the host.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// keyring compares write keys in constant time: digests of equal length, and always all of them.
type keyring [][sha256.Size]byte

func newKeyring(c *Config) keyring {
	var k keyring
	for _, s := range c.WriteKeys {
		k = append(k, sha256.Sum256([]byte(s.Reveal())))
	}
	return k
}
