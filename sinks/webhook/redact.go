package webhook

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode"
)

const (
	answerKept = 4 << 10 // bytes of an answer that the delivery log keeps
	redacted   = "[redacted]"
	// shortest text that is taken for a secret: replacing shorter ones would tear answers to pieces and hide nothing
	secretMin = 6
)

// redactor removes our secrets from what an endpoint answers: some echo the request, headers included.
type redactor struct{ secrets []string } // longest first

// newRedactor takes the secret values. Of a value with several words (`Bearer abc…`) each word counts too, and every
// value also in the forms in which JSON, PHP and URLs write it.
func newRedactor(values ...string) redactor {
	var r redactor
	add := func(s string) {
		if len(s) >= secretMin && !slices.Contains(r.secrets, s) {
			r.secrets = append(r.secrets, s)
		}
	}
	for _, v := range values {
		for _, w := range append(strings.Fields(v), v) {
			add(w)
			add(url.QueryEscape(w))
			add(strings.ReplaceAll(w, "/", `\/`))
			if quoted, err := json.Marshal(w); err == nil {
				add(string(quoted[1 : len(quoted)-1]))
			}
		}
	}
	slices.SortFunc(r.secrets, func(a, b string) int { return len(b) - len(a) })
	return r
}

// readLimit is how many bytes of an answer must be read so that a secret at the end of what is kept is seen as a whole.
func (r redactor) readLimit() int64 {
	if len(r.secrets) == 0 {
		return answerKept
	}
	return int64(answerKept + len(r.secrets[0]))
}

// clean returns at most answerKept bytes of text, without secrets, on one line, without control characters.
func (r redactor) clean(text string) string {
	var b strings.Builder
	for i := 0; i < min(len(text), answerKept); {
		if n := r.secretAt(text[i:]); n > 0 {
			b.WriteString(redacted)
			i += n
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	out := strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, strings.ToValidUTF8(b.String(), "\uFFFD"))
	if len(out) > answerKept {
		out = strings.ToValidUTF8(out[:answerKept], "")
	}
	return strings.TrimSpace(out)
}

func (r redactor) secretAt(text string) int {
	for _, s := range r.secrets {
		if strings.HasPrefix(text, s) {
			return len(s)
		}
	}
	return 0
}
