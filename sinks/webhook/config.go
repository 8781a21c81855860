package webhook

import (
	"errors"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"golang.org/x/net/http/httpguts"

	"github.com/millstream-io/millstream/pipeline"
	"github.com/millstream-io/millstream/sinks/mapping"
)

// timeoutMax leaves room in writeTime for one whole request.
const timeoutMax = 4500 * time.Millisecond

// compile checks the Config and returns every problem.
func (c *Config) compile(env *pipeline.Env) (*settings, []pipeline.Problem) {
	s := &settings{timeout: time.Duration(c.Timeout), maxInFlight: c.MaxInFlight, maxAge: time.Duration(c.MaxAge)}
	problems := slices.Concat(s.compileURL(c), s.compileSecret(c), s.compileHeaders(c))
	if s.timeout < 100*time.Millisecond || s.timeout > timeoutMax {
		problems = append(problems, pipeline.Problemf([]string{"timeout"}, "timeout is %s, it must be 100ms … %s", c.Timeout, pipeline.Duration(timeoutMax)))
	}
	if s.maxInFlight < 1 || s.maxInFlight > 1024 {
		problems = append(problems, pipeline.Problemf([]string{"max_in_flight"}, "max_in_flight is %d, it must be 1 … 1024", s.maxInFlight))
	}
	if s.maxAge < time.Minute || s.maxAge > 30*24*time.Hour {
		problems = append(problems, pipeline.Problemf([]string{"max_age"}, "max_age is %s, it must be 1m … 30d", c.MaxAge))
	}
	if c.Map != nil {
		m, more := mapping.Compile(c.Map, env)
		s.mapping, problems = m, append(problems, more...)
	}
	if problems != nil {
		return nil, problems
	}
	s.redactor = newRedactor(s.secrets(c)...)
	return s, nil
}

// compileURL refuses what the guard would refuse at every request, as far as it can be seen without a name server. No
// message repeats the URL: many endpoints carry a token in it.
func (s *settings) compileURL(c *Config) []pipeline.Problem {
	problem := func(format string, args ...any) []pipeline.Problem {
		return []pipeline.Problem{pipeline.Problemf([]string{"url"}, format, args...)}
	}
	if c.URL == "" {
		return problem("url is missing: write the address of the endpoint, https://…")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return problem("url is not an address that begins with https:// and a host")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return problem("the port in url must be 1 … 65535")
		}
	}
	if u.Fragment != "" {
		return problem("url has a part after #, which is never sent: leave it out")
	}
	if u.Scheme == "http" && len(c.Allow) == 0 {
		return problem("http sends customer data readable: use https, or list the endpoint's network under `allow` if it is in your own network")
	}
	s.url, s.guard = u, newGuard(c.Allow, u.Scheme == "http")
	if err := s.guard.checkHost(u.Hostname()); err != nil {
		return problem("the guard will refuse %s: %v", u.Hostname(), err)
	}
	return nil
}

// checkHost checks a host as far as it is known without a name server: literal addresses and localhost.
func (g *guard) checkHost(host string) error {
	if host = strings.TrimSuffix(strings.ToLower(host), "."); host == "localhost" || strings.HasSuffix(host, ".localhost") {
		if err := g.check(netip.IPv6Loopback()); err == nil {
			return nil
		}
		return g.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return g.check(a)
	}
	return nil
}

func (s *settings) compileSecret(c *Config) []pipeline.Problem {
	text := c.Secret.Reveal()
	if text == "" {
		return []pipeline.Problem{pipeline.Problemf([]string{"secret"}, "secret is missing: receivers need it to know that a request is yours; `openssl rand -base64 24` with whsec_ in front makes one")}
	}
	var err error
	if encoded, standard := strings.CutPrefix(text, "whsec_"); !standard {
		s.signer, err = standardwebhooks.NewWebhookRaw([]byte(text))
	} else if encoded == "" {
		err = errors.New("empty")
	} else {
		s.signer, err = standardwebhooks.NewWebhook(encoded)
	}
	if err != nil {
		return []pipeline.Problem{pipeline.Problemf([]string{"secret"}, "what follows whsec_ in secret is not base64")}
	}
	return nil
}

// ownHeaders are set by the sink or by HTTP itself.
var ownHeaders = []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Host", "Content-Length", "Content-Type",
	"Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade", "Te", "Trailer", "Expect", "Proxy-Connection"}

func (s *settings) compileHeaders(c *Config) (problems []pipeline.Problem) {
	s.headers = http.Header{"Content-Type": {"application/json"}, "User-Agent": {"Millstream"}}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		canonical, value := http.CanonicalHeaderKey(name), c.Headers[name].Reveal()
		path := []string{"headers", name}
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			problems = append(problems, pipeline.Problemf(path, "%q is not the name of an HTTP header", name))
		case slices.Contains(ownHeaders, canonical):
			problems = append(problems, pipeline.Problemf(path, "%s is set by the sink itself", canonical))
		case value == "":
			problems = append(problems, pipeline.Problemf(path, "the value of %s is empty", canonical))
		case !httpguts.ValidHeaderFieldValue(value):
			problems = append(problems, pipeline.Problemf(path, "the value of %s has a line break or a control character", canonical))
		default:
			s.headers[canonical] = []string{value}
		}
	}
	return problems
}

// secrets lists what must not appear in the delivery log.
func (s *settings) secrets(c *Config) []string {
	values := []string{c.Secret.Reveal(), strings.TrimPrefix(c.Secret.Reveal(), "whsec_"), s.url.RawQuery}
	for _, word := range strings.Split(s.url.Path, "/") {
		if len(word) >= 16 { // a token, as in the addresses that chat programs and no-code tools hand out
			values = append(values, word)
		}
	}
	for _, h := range c.Headers {
		values = append(values, h.Reveal())
	}
	for _, q := range s.url.Query() {
		values = append(values, q...)
	}
	if password, ok := s.url.User.Password(); ok {
		values = append(values, password)
	}
	return append(values, s.url.User.Username())
}
