package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

func TestConfig(t *testing.T) {
	env := &pipeline.Env{Pipeline: "shop"}
	for _, c := range []struct{ url, password, database, want string }{
		{"embedded", "", "", ""},
		{"http://host", "", "", ""},
		{"http://u:geheim@host:8123/?database=shop", "", "my-shop.2", ""},
		{"https://u@host", "geheim", "", ""},
		{"embedded", "geheim", "", "password: the embedded ClickHouse has a password of its own: leave this out"},
		{"", "", "", "url: this is not the address of a ClickHouse server"},
		{"host:8123", "", "", "url: this is not the address"},
		{"http://u:ge%zzheim@host", "", "", "url: this is not the address"},
		{"ftp://u:geheim@host", "", "", "url: this is neither http:// nor https://"},
		{"clickhouse://u:geheim@host:9000", "", "", "url: clickhouse:// is the native protocol"},
		{"http://u:geheim@host", "geheim2", "", "url: the password stands in the url and under password"},
		{"http://u:geheim@host/shop", "", "", "url: an address has no path"},
		{"http://u:geheim@host/?async_insert=1", "", "", "url: an address has no parameters"},
		{"embedded", "", "System", `database: the database "System" belongs to ClickHouse`},
		{"embedded", "", "a`b", "database: \"a`b\" is not a database name"},
		{"ftp://x", "", strings.Repeat("x", 129), "database: "},
	} {
		config := Kind.Config().(*Config)
		config.URL, config.Password, config.Database = pipeline.NewSecret(c.url), pipeline.NewSecret(c.password), c.database
		open, problems := Kind.Build("analytics", config, env)
		if (open == nil) != (c.want != "") {
			t.Errorf("%s: problems %v", c.url, problems)
		}
		text := ""
		for _, p := range problems {
			text += strings.Join(p.Path, ".") + ": " + p.Message + "\n"
		}
		if !strings.HasPrefix(text, c.want) || strings.Contains(text, "heim") {
			t.Errorf("%s: got %q, want %q", c.url, text, c.want)
		}
	}
	_, problems := Kind.Build("analytics", &Config{URL: pipeline.NewSecret("ftp://x"), Database: "system"}, env)
	if len(problems) != 2 {
		t.Errorf("%d problems, want all 2 of them", len(problems))
	}
	if text := fmt.Sprintf("%v %+v %#v", Kind.Config(), Config{Password: pipeline.NewSecret("geheim")}, Config{URL: pipeline.NewSecret("http://u:geheim@h")}); strings.Contains(text, "geheim") {
		t.Errorf("the configuration prints its secrets: %s", text)
	}
}

func TestAddress(t *testing.T) {
	for url, want := range map[string]string{
		"http://host":                         "http://host:8123/?database=shop",
		"https://u@host":                      "https://u@host:8443/?database=shop",
		"http://u:p%40ss@[::1]:81":            "http://u:PASSWORD@[::1]:81/?database=shop",
		"http://:geheim@host":                 "http://default:PASSWORD@host:8123/?database=shop",
		"https://u:geheim@host:1/?database=x": "https://u:PASSWORD@host:1/?database=shop",
	} {
		a, err := parseAddress(pipeline.NewSecret(url), pipeline.Secret{}, "shop")
		if err != nil || a.String() != want {
			t.Errorf("%s: got %v %v, want %s", url, a, err, want)
		}
	}
	a, err := parseAddress(pipeline.NewSecret("http://u:p%40ss@h"), pipeline.Secret{}, "shop")
	if err != nil || a.password != "p@ss" {
		t.Errorf("password %q %v", a.password, err)
	}
}

func TestOpenEmbedded(t *testing.T) {
	engine := sharedEngine(t)
	name := newName()
	open, problems := Kind.Build("analytics", Kind.Config(), &pipeline.Env{Pipeline: name})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var said []string
	deps := pipeline.Deps{Logger: slog.New(slog.DiscardHandler), Say: func(line string) { said = append(said, line) },
		ClickHouse: func(context.Context) (string, error) { return engine.URL(), nil }}
	s, err := open(t.Context(), deps)
	if err != nil {
		t.Fatal(err)
	}
	sink := s.(pipeline.RangeSink)
	if next, err := sink.Resume(t.Context(), "resolved", pipeline.ID{}, 0); next != -1 || err != nil {
		t.Errorf("resume: %d %v", next, err)
	}
	if err := sink.Close(); err != nil {
		t.Error(err)
	}
	want := "clickhouse http://millstream:PASSWORD@" + engine.Address() + "/?database=" + name + " (embedded)"
	if len(said) != 1 || said[0] != want {
		t.Errorf("said %q, want %q", said, want)
	}
	broken := errors.New("no library")
	deps.ClickHouse = func(context.Context) (string, error) { return "", broken }
	if _, err := open(t.Context(), deps); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestWrongPasswordIsSaidAndNotShown(t *testing.T) {
	engine := sharedEngine(t)
	d := &db{t: t, name: newName(), log: new(logLines)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := d.openAt(ctx, "http://millstream:geheim@"+engine.Address())
		done <- err
	}()
	eventually(t, "the log says that the password is wrong", func() bool { return strings.Contains(d.log.String(), "password is wrong") })
	cancel()
	err := <-done
	if err == nil || strings.Contains(err.Error()+d.log.String(), "geheim") {
		t.Errorf("got %v\n%s", err, d.log)
	}
}

func TestExplainHidesAddresses(t *testing.T) {
	a, err := parseAddress(pipeline.NewSecret("http://u:geheim@127.0.0.1:1"), pipeline.Secret{}, "shop")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := a.open("shop")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := explain(conn.Ping(t.Context()))
	if strings.Contains(f.text, "geheim") || strings.Contains(f.text, "?") || !strings.Contains(f.text, "refused") {
		t.Errorf("got %q", f.text)
	}
}
