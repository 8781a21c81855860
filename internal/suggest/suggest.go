// Package suggest finds the name that a user probably meant.
package suggest

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxWord bounds the words that are compared, in characters: the distance costs their product.
const maxWord = 64

// DidYouMean returns `, did you mean "x"?` with the known name nearest to word, or "" if none is near: more than a third
// of the longer word would have to change. Upper and lower case count as the same; of equally near names the first wins.
func DidYouMean(word string, known []string) string {
	if n := Nearest(word, known); n != "" {
		return fmt.Sprintf(", did you mean %q?", n)
	}
	return ""
}

// Nearest returns the known name nearest to word, or "" if none is near.
func Nearest(word string, known []string) string {
	best, bestDistance := "", maxWord
	n := utf8.RuneCountInString(word)
	if n > maxWord {
		return ""
	}
	for _, k := range known {
		m := utf8.RuneCountInString(k)
		if m > maxWord {
			continue
		}
		limit := max(1, max(n, m)/3)
		if d := distance([]rune(strings.ToLower(word)), []rune(strings.ToLower(k))); d <= limit && d < bestDistance && d < max(n, m) {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance is the number of single-character edits (insert, delete, replace, swap of neighbours) between a and b: the
// optimal string alignment distance.
func distance(a, b []rune) int {
	before, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
