package pipeline_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"testing"
	"testing/quick"

	"github.com/millstream-io/millstream/pipeline"
)

// ID must be what crypto/hmac says, for keys of any length.
func TestIDIsAnHMAC(t *testing.T) {
	same := func(key []byte, name, value string) bool {
		id := pipeline.NewIdentities(key).ID(pipeline.IdentifierType{Name: name, Code: pipeline.CodeOwn}, value)
		m := hmac.New(sha256.New, key)
		m.Write([]byte(name + "\x00" + value))
		want := append([]byte{pipeline.CodeOwn}, m.Sum(nil)...)[:16]
		want[6], want[8] = want[6]&0x0f|0x80, want[8]&0x3f|0x80
		return bytes.Equal(id[:], want)
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
	for _, n := range []int{0, 63, 64, 65, 500} {
		if !same(bytes.Repeat([]byte("k"), n), "user_id", string(bytes.Repeat([]byte("v"), n))) {
			t.Errorf("a key of %d bytes", n)
		}
	}
}

func TestIDMakesNoGarbage(t *testing.T) {
	ids := pipeline.NewIdentities([]byte("key"))
	value := "user-000001"
	if n := testing.AllocsPerRun(100, func() { ids.ID(pipeline.IdentifierType{Name: "user_id", Code: pipeline.CodeUserID}, value) }); n != 0 {
		t.Errorf("%v allocations for one id", n)
	}
}

func TestUsable(t *testing.T) {
	for value, want := range map[string]string{
		"u1": "u1", " u1 ": "u1", "17850.0": "17850.0", "": "", " ": "", "null": "", "NULL": "", "undefined": "", "0": "", "000": "", "-": "",
		"00000000-0000-0000-0000-000000000000": "", string(bytes.Repeat([]byte("x"), pipeline.MaxIDBytes+1)): "", "0a": "0a",
	} {
		if got := pipeline.Usable(value); got != want {
			t.Errorf("Usable(%.40q) = %q, want %q", value, got, want)
		}
	}
}

// All sources use the same key, so that the events of a device meet.
func TestPartitionKey(t *testing.T) {
	for _, c := range []struct {
		ev   pipeline.Event
		want string
	}{
		{pipeline.Event{MessageID: "m", UserID: "u", AnonymousID: "a"}, "a"},
		{pipeline.Event{MessageID: "m", UserID: "u", AnonymousID: "a", Channel: "server"}, "u"},
		{pipeline.Event{MessageID: "m", AnonymousID: "a", Channel: "server"}, "a"},
		{pipeline.Event{MessageID: "m", UserID: "u", AnonymousID: "null"}, "u"},
		{pipeline.Event{MessageID: "m", UserID: "0"}, "m"},
	} {
		if got := c.ev.PartitionKey(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.ev, got, c.want)
		}
	}
}
