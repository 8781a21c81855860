package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
)

const lookupPipeline = `
pipeline: shop
sources: {web: {http: {listen: "127.0.0.1:0", write_keys: {site: key}}}}
stages: [clean, dedup, profile: {orders: {count: events}}SEGMENT]
sinks: {out: SINK}
`

// TestLookupsRefuse runs profile, segment and why on pipelines and with arguments that they cannot use: each says why, under its
// status, and repeats no value.
func TestLookupsRefuse(t *testing.T) {
	pipeline := func(segment, sink string) string {
		return write(t, strings.NewReplacer("SEGMENT", segment, "SINK", sink).Replace(lookupPipeline))
	}
	const away = `{clickhouse: {url: "http://someone:hunter2@127.0.0.1:1"}}`
	embedded := pipeline(", segment: {buyer: orders > 1}", "{clickhouse: {}}")
	none := pipeline("", "{clickhouse: {}}")
	for name, c := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"no sink":          {[]string{"profile", "get", pipeline("", "{file: {path: out}}"), "user_id:secret1"}, exitCheckFailed, "no clickhouse sink"},
		"has not run":      {[]string{"why", embedded, "secret1", "--data", t.TempDir()}, exitCheckFailed, "has not run in"},
		"away":             {[]string{"segment", pipeline("", away), "buyer", "--wait", "1s"}, exitUnreachable, "ClickHouse does not answer"},
		"negative limit":   {[]string{"profile", "history", embedded, "user_id:secret1", "--limit", "-1"}, exitUsage, "--limit is -1"},
		"too large limit":  {[]string{"segment", embedded, "buyer", "--limit", "10001"}, exitUsage, "0 to 10000"},
		"no such file":     {[]string{"why", "absent.yaml", "secret1"}, exitCheckFailed, ""},
		"too few":          {[]string{"segment", none}, exitUsage, "accepts between 2 and 3"},
		"too many":         {[]string{"why", none, "secret1", "x"}, exitUsage, "accepts 2"},
		"unknown duration": {[]string{"why", none, "secret1", "--wait", "soon"}, exitUsage, "invalid"},
	} {
		err := command(t.Context(), c.args)
		var exit *exitError
		status := exitUsage
		if errors.As(err, &exit) {
			status = exit.status
		}
		if err == nil || status != c.status || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: status %d, %v", name, status, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret1") || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: the error repeats a value: %v", name, err)
		}
	}
}

func command(ctx context.Context, args []string) error {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(new(bytes.Buffer))
	root.SetErr(new(bytes.Buffer))
	return root.ExecuteContext(ctx)
}

// TestParseID reads what names a person on the command line.
func TestParseID(t *testing.T) {
	plan, err := load(write(t, strings.NewReplacer("SEGMENT", "", "SINK", "{clickhouse: {}}").Replace(lookupPipeline)), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	const profile = "0195069a-34b2-861e-845a-1c9868f87754"
	if id, err := parseID(plan, profile); err != nil || id.String() != profile {
		t.Errorf("a profile id is %s, %v", id, err)
	}
	want, err := plan.Identities.Parse("user_id:u1")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := parseID(plan, "user_id:u1"); err != nil || id != want.ID {
		t.Errorf("an identifier is %s, %v", id, err)
	}
	for text, says := range map[string]string{
		"hunter2":         "neither type:value nor a profile id",
		"hunter2:x":       "user_id, anonymous_id",
		"":                "neither",
		"user_id:":        "that user_id identifies nobody",
		"user_id:unknown": "that user_id identifies nobody",
	} {
		if _, err := parseID(plan, text); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
