package suggest

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"clean", "dedup", "identity", "profile", "segment", "score", "a"}
	for word, want := range map[string]string{
		"segmnet":                 "segment", // neighbours swapped
		"Dedupe":                  "dedup",   // case and one more letter
		"profil":                  "profile",
		"identiy":                 "identity",
		"webhook":                 "",
		"":                        "",
		"b":                       "", // nothing of a one-letter word would be left
		"sco":                     "",
		strings.Repeat("x", 1000): "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
	if got := DidYouMean("scor", known); got != `, did you mean "score"?` {
		t.Errorf("got %q", got)
	}
	if got := DidYouMean("webhook", known); got != "" {
		t.Errorf("got %q", got)
	}
}
