package testenv

import (
	"errors"
	"fmt"
	"testing"
)

// verdict keeps what a test would say of itself.
type verdict struct {
	testing.TB
	said string
}

func (v *verdict) Helper()                      {}
func (v *verdict) Skipf(f string, args ...any)  { v.said += "skip: " + fmt.Sprintf(f, args...) }
func (v *verdict) Fatalf(f string, args ...any) { v.said += "fail: " + fmt.Sprintf(f, args...) }

// TestNeed wants a machine without Java to skip, and a broker that does not start to fail. Errors come joined with those of
// tidying up.
func TestNeed(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{missing{"no java on the PATH"}, "skip: needs Apache Kafka: no java on the PATH"},
		{errors.Join(missing{"no java on the PATH"}, nil), "skip: needs Apache Kafka: no java on the PATH"},
		{errors.New("port in use"), "fail: start Apache Kafka: port in use"},
	} {
		v := &verdict{TB: t}
		if need(v, "Apache Kafka", c.err); v.said != c.want {
			t.Errorf("%v: %q, want %q", c.err, v.said, c.want)
		}
	}
}
