package stagetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/millstream-io/millstream/pipeline"
)

// Script runs the scripts of a folder: files of commands with their input, a line of four dashes, and the expected output.
// `go test -rewrite` writes the output of today into them, to be reviewed by eye.
//
//	build                       the YAML list of stages; prints what is wrong with it, or ok
//	rebuild                     the same, on the state that is there: an edit of the configuration
//	events [received=T] [source=S] [every=D]
//	                            an event a line, of which the first arrives at T and each other D later (1s unless set);
//	                            prints what becomes of it. A line may begin with <id> for the id that the source gives;
//	                            without it the id is the event's own messageId, else S/<number of the line>
//	advance T                   lets time pass until T; prints what the timers due until then do
//	profile                     a user id a line (or type:value); prints the profile as receivers see it
func Script(t *testing.T, folder string, kinds []pipeline.StageKind) {
	datadriven.Walk(t, folder, func(t *testing.T, path string) {
		s := script{kinds: kinds, received: Start}
		datadriven.RunTest(t, path, s.run)
	})
}

type script struct {
	kinds    []pipeline.StageKind
	runner   *Runner
	received time.Time
	count    int
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "build", "rebuild":
		return s.build(t, d)
	case "events":
		return s.events(t, d)
	case "advance":
		return s.advance(t, d)
	case "profile":
		return s.profile(t, d)
	}
	d.Fatalf(t, "there is no command %s", d.Cmd)
	return ""
}

func (s *script) build(t *testing.T, d *datadriven.TestData) string {
	plan, problems, err := Build(s.kinds, d.Input)
	if err != nil {
		return err.Error() + "\n"
	}
	if len(problems) > 0 {
		return strings.Join(problems, "\n") + "\n"
	}
	if d.Cmd == "rebuild" {
		s.runner.Replan(plan)
	} else {
		s.runner = New(t, s.kinds, d.Input)
	}
	var b strings.Builder
	for _, a := range plan.Env.Attributes {
		fmt.Fprintf(&b, "%d %s\n", a.Index, a.Name)
	}
	return b.String() + "ok\n"
}

func (s *script) events(t *testing.T, d *datadriven.TestData) string {
	source, every := "web", time.Second
	for _, arg := range d.CmdArgs {
		var err error
		switch arg.Key {
		case "received":
			s.received, err = time.Parse(time.RFC3339, arg.Vals[0])
		case "every":
			every, err = time.ParseDuration(arg.Vals[0])
		case "source":
			source = arg.Vals[0]
		default:
			err = fmt.Errorf("there is no argument %s", arg.Key)
		}
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
	}
	before := len(s.runner.lines)
	for _, line := range strings.Split(d.Input, "\n") {
		s.count++
		s.runner.Feed(s.record(t, d, source, line))
		s.received = s.received.Add(every)
	}
	s.runner.Commit()
	return strings.Join(s.runner.lines[before:], "\n") + "\n"
}

func (s *script) advance(t *testing.T, d *datadriven.TestData) string {
	until, err := time.Parse(time.RFC3339Nano, d.CmdArgs[0].Key)
	if err != nil {
		d.Fatalf(t, "%v", err)
	}
	before := len(s.runner.lines)
	s.runner.Advance(until)
	s.runner.Commit()
	s.received = until
	return strings.Join(s.runner.lines[before:], "\n") + "\n"
}

// record is the record that a source makes of a line. \xNN in a line is that byte.
func (s *script) record(t *testing.T, d *datadriven.TestData, source, line string) pipeline.Record {
	id := ""
	if rest, ok := strings.CutPrefix(line, "<"); ok {
		id, line, ok = strings.Cut(rest, "> ")
		if !ok {
			d.Fatalf(t, "the id of %q is not closed", line)
		}
	}
	raw := []byte(line)
	for i := bytes.Index(raw, []byte(`\x`)); i >= 0; i = bytes.Index(raw, []byte(`\x`)) {
		var b byte
		if _, err := fmt.Sscanf(string(raw[i+2:i+4]), "%02x", &b); err != nil {
			d.Fatalf(t, "%q: %v", line, err)
		}
		raw = append(append(raw[:i:i], b), raw[i+4:]...)
	}
	var own struct{ MessageID string }
	if id == "" && json.Unmarshal(raw, &own) == nil {
		id = own.MessageID
	}
	if id == "" {
		id = fmt.Sprintf("%s/%d", source, s.count)
	}
	return Record(source, id, s.received, string(raw))
}

func (s *script) profile(t *testing.T, d *datadriven.TestData) string {
	var b strings.Builder
	for _, line := range strings.Split(d.Input, "\n") {
		id := s.identifier(line)
		p := s.runner.Profile(id)
		if p == nil {
			fmt.Fprintf(&b, "%s: none\n", line)
			continue
		}
		var doc bytes.Buffer
		if err := json.Indent(&doc, p.AppendJSON(nil), "", "  "); err != nil {
			d.Fatalf(t, "the profile is not JSON: %v", err)
		}
		fmt.Fprintf(&b, "%s: version %d\n%s\n", line, p.Version, doc.Bytes())
	}
	return b.String()
}

// identifier is the id of type:value; of a value alone, that of a user id.
func (s *script) identifier(text string) pipeline.ID {
	ev := pipeline.Event{UserID: text}
	if anonymous, ok := strings.CutPrefix(text, "anonymous_id:"); ok {
		ev = pipeline.Event{AnonymousID: anonymous}
	}
	s.runner.plan.Env.Identities.Identify(&ev)
	return ev.Primary
}
