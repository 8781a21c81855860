package webhook

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/millstream-io/millstream/pipeline"
)

// TestEchoingEndpoint: what the endpoint answers holds everything secret, in several forms.
func TestEchoingEndpoint(t *testing.T) {
	rec := newReceiver(t, func(w http.ResponseWriter, r *http.Request, _ int) {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s %s %s\r\n\x00\x1b[31m%v", r.URL, r.Header.Get("Authorization"), strings.ReplaceAll(r.Header.Get("X-Key"), "/", `\/`), testSecret)
	})
	c := testConfig(strings.Replace(rec.URL, "http://", "http://user77:pass+word@", 1) + "/T0123456789ABCDEFGH/x?token=querytoken")
	c.Headers = map[string]pipeline.Secret{"Authorization": pipeline.NewSecret("Bearer verysecret"), "X-Key": pipeline.NewSecret("key/with/slashes")}
	s, log := openTest(t, c, &pipeline.Env{})
	var all strings.Builder
	for _, o := range writeAll(t, s, manyProfiles(20)) {
		fmt.Fprintf(&all, "%+v %+v\n", o, o.Delivery)
	}
	fmt.Fprint(&all, log.lines())
	fmt.Fprintf(&all, "%v %+v", c.Secret, c.Headers)
	for _, secret := range []string{"verysecret", "with", "slashes", "querytoken", "pass+word", "user77", "T0123456789ABCDEFGH", testSecret, testSecret[6:], "\x00", "\x1b", "\r"} {
		if strings.Contains(all.String(), secret) {
			t.Errorf("%q is in outcomes or log:\n%s", secret, all.String())
		}
	}
	if !strings.Contains(all.String(), "[redacted]") || !strings.Contains(all.String(), "answered 500") {
		t.Errorf("the answer is not kept:\n%s", all.String())
	}
}

func TestClean(t *testing.T) {
	r := newRedactor("topsecret", "topsecret-longer", "x")
	for in, want := range map[string]string{
		"": "", "plain": "plain", " a\tb\r\nc\u202e ": "a b  c", "a topsecret b": "a [redacted] b",
		"topsecret-longertopsecret": "[redacted][redacted]", "x stays": "x stays", "\xff\xfe": "\uFFFD", "ünï": "ünï",
	} {
		if got := r.clean(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	for offset := range 40 { // a secret around the end of what is kept
		text := strings.Repeat("é", (answerKept-20)/2) + strings.Repeat("a", offset) + "topsecret-longer" + strings.Repeat("b", 100)
		got := r.clean(text[:min(len(text), int(r.readLimit()))])
		if strings.Contains(got, "tops") || len(got) > answerKept || !utf8.ValidString(got) {
			t.Fatalf("offset %d: %d bytes, ending in %q", offset, len(got), got[len(got)-40:])
		}
		text = strings.Repeat("a", offset) + strings.Repeat("topsecret-longer", 300) // what is kept becomes shorter than what was read
		if got := r.clean(text[:r.readLimit()]); strings.Contains(got, "tops") {
			t.Fatalf("offset %d: ending in %q", offset, got[len(got)-40:])
		}
	}
}
