package expression

import (
	"os"
	"strings"
	"testing"
)

// TestEveryFunctionIsInTheReference: who does not find a function there cannot know that it exists.
func TestEveryFunctionIsInTheReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/reference/pipeline.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range functions() {
		if !strings.Contains(string(page), "`"+name+"(") {
			t.Errorf("docs/reference/pipeline.md does not describe the function %s", name)
		}
	}
}
