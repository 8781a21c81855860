package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/millstream-io/millstream/pipeline"
)

// What the tests of people have in common: who somebody is by file sink, ClickHouse and receiver.

// naming turns identifiers into ids as a pipeline with this key does, so that tests can name a profile.
type naming struct{ *pipeline.Identities }

func (n naming) id(kind, value string) pipeline.ID {
	codes := map[string]byte{"user_id": pipeline.CodeUserID, "email": pipeline.CodeEmail, "anonymous_id": pipeline.CodeAnonymousID}
	return n.ID(pipeline.IdentifierType{Name: kind, Code: codes[kind]}, value)
}

func (n naming) user(value string) string      { return n.id("user_id", value).String() }
func (n naming) anonymous(value string) string { return n.id("anonymous_id", value).String() }

// person is a profile as receivers see it.
type person struct {
	ID          string              `json:"profile_id"`
	PreviousIDs []string            `json:"previous_ids"`
	Identifiers map[string][]string `json:"identifiers"`
	Traits      map[string]string   `json:"traits"`
	Aggregates  map[string]float64  `json:"aggregates"`
	Segments    []string            `json:"segments"`
	Scores      map[string]float64  `json:"scores"` // not in String: they change with time
}

// String is what must be equal in all places; what is zero may be absent.
func (p person) String() string {
	for name, n := range p.Aggregates {
		if n == 0 {
			delete(p.Aggregates, name)
		}
	}
	for _, values := range p.Identifiers {
		slices.Sort(values)
	}
	slices.Sort(p.Segments)
	return fmt.Sprintf("%v %v %v %v", p.Identifiers, p.Traits, p.Aggregates, p.Segments)
}

// notice is one message of `changes` as a file has it.
type notice struct {
	ID, Type string
	Data     struct {
		ProfileID string `json:"profile_id"` // of merged and split
		Into      string
		From      string
		Segment   string
		Score     string
		Value     float64
		Cause     string
		// EffectiveAt is since when a transition is so.
		EffectiveAt string `json:"effective_at"`
		Profile     person
	}
}

// profile is the profile that the message is about.
func (c *notice) profile() string {
	if c.Data.ProfileID != "" {
		return c.Data.ProfileID
	}
	return c.Data.Profile.ID
}

// notices are the messages in the files of a file sink: those of one profile in their order.
func notices(dir string) (all []notice, err error) {
	lines, err := fileLines(dir)
	if err != nil {
		return nil, err
	}
	for _, l := range lines {
		var c notice
		if err := json.Unmarshal([]byte(l), &c); err != nil {
			return nil, fmt.Errorf("line %q: %w", l, err)
		}
		all = append(all, c)
	}
	return all, nil
}

// alive are the profiles that a file sink was told of and that are not part of another one, by id.
func alive(dir string) (map[string]person, error) {
	all, err := notices(dir)
	if err != nil {
		return nil, err
	}
	people := map[string]person{}
	for i := range all {
		switch c := &all[i]; c.Type {
		case "profile.merged":
			delete(people, c.profile())
		case "profile.split": // followed by the profile
		default:
			people[c.profile()] = c.Data.Profile
		}
	}
	return people, nil
}

// inClickHouse is alive, by the view people.
func (p *process) inClickHouse(data string) (map[string]person, error) {
	answer, err := p.clickhouse(data, "SELECT person_id AS profile_id, identifiers, traits, aggregates, segments FROM people FORMAT JSONEachRow")
	if err != nil {
		return nil, err
	}
	people := map[string]person{}
	for line := range strings.Lines(answer) {
		var x person
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			return nil, err
		}
		people[x.ID] = x
	}
	return people, nil
}

// samePeople tells the first difference.
func samePeople(a, b map[string]person) error {
	for id, x := range a {
		if y, ok := b[id]; !ok {
			return fmt.Errorf("%s, %v, is in one of the two alone", id, x)
		} else if x.String() != y.String() {
			return fmt.Errorf("%s is %v and %v", id, x, y)
		}
	}
	for id, y := range b {
		if _, ok := a[id]; !ok {
			return fmt.Errorf("%s, %v, is in the other of the two alone", id, y)
		}
	}
	return nil
}

// inbox is a receiver that takes everything.
type inbox struct {
	server *httptest.Server

	mu     sync.Mutex
	bodies map[string]string // by webhook-id
	order  []notice          // each message once, in the order of arrival
	wrong  []string
}

func newInbox(t *testing.T) *inbox {
	t.Helper()
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	b := &inbox{bodies: map[string]string{}}
	b.server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		c := notice{ID: r.Header.Get("webhook-id")}
		b.mu.Lock()
		defer b.mu.Unlock()
		if err := wh.Verify(body, r.Header); err != nil {
			b.wrong = append(b.wrong, "signature: "+err.Error())
		}
		before, again := b.bodies[c.ID]
		switch {
		case again && before != string(body):
			b.wrong = append(b.wrong, "another body under webhook-id "+c.ID)
		case !again:
			b.bodies[c.ID] = string(body)
			if err := json.Unmarshal(body, &c); err != nil {
				b.wrong = append(b.wrong, err.Error())
			}
			b.order = append(b.order, c)
		}
	}))
	t.Cleanup(b.server.Close)
	return b
}

// told is what has arrived about a profile and a segment: "entered live", "exited split", "merged".
func (b *inbox) told(profile, segment string) (said []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.order {
		c := &b.order[i]
		if c.profile() == profile && (c.Data.Segment == segment || c.Data.Segment == "") {
			_, verb, _ := strings.Cut(c.Type, ".")
			said = append(said, strings.TrimSpace(verb+" "+c.Data.Cause))
		}
	}
	return said
}

func (b *inbox) check(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wrong) > 0 {
		t.Errorf("%d wrong webhooks, the first: %s", len(b.wrong), b.wrong[0])
	}
}

// identity runs a command of `millstream identity` and returns what it says and its exit status.
func identity(t *testing.T, env []string, args ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, program, append([]string{"identity"}, args...)...)
	c.Env = append(os.Environ(), env...)
	var out, errs strings.Builder
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}
