package webhook

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/millstream-io/millstream/pipeline"
)

// decode reads YAML strictly, as package config does.
func decode(t *testing.T, text string) (*Config, error) {
	t.Helper()
	c := Kind.Config().(*Config)
	return c, yaml.UnmarshalWithOptions([]byte(text), c, yaml.Strict())
}

func TestConfigFromYAML(t *testing.T) {
	c, err := decode(t, `
url: https://crm.example.com/hook
secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
allow: ["10.1.0.0/16", "::1"]
timeout: 2s
max_age: 7d
max_in_flight: 3
headers: {Authorization: Bearer abc}
map: {email: 'identifiers.email[0]'}
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.Headers["Authorization"].Reveal() != "Bearer abc" || c.Secret.Reveal() != testSecret || len(c.Allow) != 2 ||
		time.Duration(c.MaxAge) != 168*time.Hour || time.Duration(c.Timeout) != 2*time.Second || c.MaxInFlight != 3 {
		t.Errorf("config is %+v", c)
	}
	if _, problems := Kind.Build("crm", c, &pipeline.Env{}); problems != nil {
		t.Errorf("problems: %+v", problems)
	}
	if _, err := decode(t, "url: https://a.example\nalow: []\n"); err == nil {
		t.Error("an unknown key passes")
	}
	if _, err := decode(t, "allow: [10.1.2.3/8]\n"); err == nil || !strings.Contains(err.Error(), "write 10.0.0.0/8") {
		t.Errorf("a bad network gave %v", err)
	}
}

func TestProblems(t *testing.T) {
	loopback := []string{"127.0.0.0/8"}
	for _, test := range []struct {
		change func(c *Config)
		allow  []string
		want   []string // path: part of the message
	}{
		{func(c *Config) {}, nil, nil},
		{func(c *Config) { *c = Config{} }, nil, []string{"url: missing", "secret: missing", "timeout: must be", "max_in_flight: must be", "max_age: must be"}},
		{func(c *Config) { c.URL = "crm.example.com" }, nil, []string{"url: begins with https://"}},
		{func(c *Config) { c.URL = "ftp://crm.example.com" }, nil, []string{"url: begins with https://"}},
		{func(c *Config) { c.URL = "https://" }, nil, []string{"url: begins with https://"}},
		{func(c *Config) { c.URL = "https://:443/" }, nil, []string{"url: begins with https://"}},
		{func(c *Config) { c.URL = "https://a b/" }, nil, []string{"url: begins with https://"}},
		{func(c *Config) { c.URL = "https://a.example:70000/" }, nil, []string{"url: port"}},
		{func(c *Config) { c.URL = "https://a.example/#x" }, nil, []string{"url: after #"}},
		{func(c *Config) { c.URL = "http://a.example/" }, nil, []string{"url: `allow`"}},
		{func(c *Config) { c.URL = "http://a.example/" }, loopback, nil},
		{func(c *Config) { c.URL = "http://8.8.8.8/" }, loopback, []string{"url: `allow`"}},
		{func(c *Config) { c.URL = "https://8.8.8.8/" }, nil, nil},
		{func(c *Config) { c.URL = "https://127.0.0.1:8443/" }, nil, []string{"url: `allow`"}},
		{func(c *Config) { c.URL = "https://127.0.0.1:8443/" }, loopback, nil},
		{func(c *Config) { c.URL = "https://[::1]/" }, loopback, []string{"url: `allow`"}},
		{func(c *Config) { c.URL = "https://[::ffff:169.254.169.254]/" }, nil, []string{"url: `allow`"}},
		{func(c *Config) { c.URL = "https://LocalHost./" }, nil, []string{"url: `allow`"}},
		{func(c *Config) { c.URL = "https://app.localhost/" }, loopback, nil},
		{func(c *Config) { c.Secret = pipeline.NewSecret("any other text") }, nil, nil},
		{func(c *Config) { c.Secret = pipeline.NewSecret("whsec_") }, nil, []string{"secret: base64"}},
		{func(c *Config) { c.Secret = pipeline.NewSecret("whsec_???") }, nil, []string{"secret: base64"}},
		{func(c *Config) { c.Timeout = pipeline.Duration(5 * time.Second) }, nil, []string{"timeout: must be"}},
		{func(c *Config) { c.MaxInFlight = 2000 }, nil, []string{"max_in_flight: must be"}},
		{func(c *Config) {
			c.Headers = map[string]pipeline.Secret{"a b": {}, "webhook-id": pipeline.NewSecret("1"), "host": pipeline.NewSecret("a"), "x-empty": {}, "x-split": pipeline.NewSecret("a\r\nb: c")}
		}, nil, []string{"headers/a b: not the name", "headers/host: itself", "headers/webhook-id: itself", "headers/x-empty: empty", "headers/x-split: line break"}},
		{func(c *Config) { c.Map = map[string]string{} }, nil, []string{"map: 0 fields"}},
		{func(c *Config) { c.Map = map[string]string{"": "type", "a": "typ", "b": "1 +", "c": "type"} }, nil, []string{"map/: name", "map/a: typ", "map/b: "}},
	} {
		c := testConfig("https://token:sesame77@crm.example.com/")
		c.Allow = nil
		for _, a := range test.allow {
			var p CIDR
			if err := p.UnmarshalText([]byte(a)); err != nil {
				t.Fatal(err)
			}
			c.Allow = append(c.Allow, p)
		}
		test.change(c)
		_, problems := Kind.Build("crm", c, &pipeline.Env{})
		ok := len(problems) == len(test.want)
		for i := range min(len(problems), len(test.want)) {
			path, part, _ := strings.Cut(test.want[i], ": ")
			ok = ok && strings.Join(problems[i].Path, "/") == path && strings.Contains(problems[i].Message, part)
		}
		if !ok {
			t.Errorf("%+v:\nproblems are %+v\nwant %q", c, problems, test.want)
		}
		if text := fmt.Sprint(problems); strings.Contains(text, "sesame77") || strings.Contains(text, "???") {
			t.Errorf("a problem tells a secret: %s", text)
		}
	}
}

func TestProblemHasTheColumn(t *testing.T) {
	c := testConfig("https://crm.example.com/")
	c.Map = map[string]string{"email": "lower(emial)"}
	_, problems := Kind.Build("crm", c, &pipeline.Env{})
	if len(problems) != 1 || problems[0].Column != 6 || !slices.Equal(problems[0].Path, []string{"map", "email"}) {
		t.Errorf("problems are %+v", problems)
	}
}
