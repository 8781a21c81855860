package sinks

import (
	"reflect"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

// TestKinds checks what config and the reference rely on.
func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds {
		if k.Name == "" || seen[k.Name] || k.Summary == "" || len(k.Topics) == 0 {
			t.Errorf("kind %q has no name of its own, no summary or no topics", k.Name)
		}
		seen[k.Name] = true
		a, b := k.Config(), k.Config()
		if v := reflect.TypeOf(a); v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
			t.Errorf("kind %s: Config returns %s, want a pointer to a struct", k.Name, v)
		}
		if a == b || !reflect.DeepEqual(a, b) {
			t.Errorf("kind %s: Config returns one struct twice, or different defaults", k.Name)
		}
		zero := reflect.New(reflect.TypeOf(a).Elem()).Interface()
		if open, problems := k.Build("x", zero, &pipeline.Env{Pipeline: "shop"}); (open == nil) == (problems == nil) {
			t.Errorf("kind %s: an empty configuration gives both or neither of a sink and problems: %+v", k.Name, problems)
		}
	}
}
