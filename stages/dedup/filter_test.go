package dedup

import (
	"crypto/sha256"
	"strconv"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

func id(i int) (key [keyBytes]byte) {
	sum := sha256.Sum256(strconv.AppendInt(nil, int64(i), 10))
	copy(key[:], sum[:])
	return key
}

func TestFilter(t *testing.T) {
	const n = 50_000
	f := newFilter(0, n)
	for i := range n {
		f.add(id(i))
	}
	if !f.full() {
		t.Error("the filter is not full")
	}
	wrong := 0
	for i := range n {
		if !f.mayHave(id(i)) {
			t.Fatalf("id %d is lost", i)
		}
		if f.mayHave(id(n + i)) {
			wrong++
		}
	}
	if share := float64(wrong) / n; share > 0.003 {
		t.Errorf("%.2f %% of the answers are wrong, want about 0.1 %%", 100*share)
	}
}

// TestFingerprint: what counts as the same content.
func TestFingerprint(t *testing.T) {
	of := func(properties string) [fingerprintBytes]byte {
		return fingerprint(&pipeline.Event{Type: "track", Name: "x", Properties: []byte(properties)})
	}
	reference := of(`{"a":1,"b":{"c":[1,"x",null,true]},"d":0}`)
	for _, same := range []string{`{"d":-0,"b":{ "c" : [1.0,"\u0078",null,true]},"a":1e0}`, `{"a":1,"b":{"c":[1,"x",null,true],"e":null},"d":0}`} {
		if of(same) != reference {
			t.Errorf("%s counts as other content", same)
		}
	}
	for _, other := range []string{
		`{"a":2,"b":{"c":[1,"x",null,true]},"d":0}`, `{"a":"1","b":{"c":[1,"x",null,true]},"d":0}`, `{"a":1,"b":{"c":["x",1,null,true]},"d":0}`,
		`{"a":1,"b":{"c":[1,"x",true]},"d":0}`, `{"a":1,"b":{"c":[1,"x",null,false]},"d":0}`, `{"a":1,"b":{},"c":[1,"x",null,true],"d":0}`,
		`{"a":1,"b":{"c":{"1":1,"2":"x","4":true}},"d":0}`, `{"b":1,"a":{"c":[1,"x",null,true]},"d":0}`, `{}`,
	} {
		if of(other) == reference {
			t.Errorf("%s counts as the same content", other)
		}
	}
	if of(`{}`) != fingerprint(&pipeline.Event{Type: "track", Name: "x"}) {
		t.Error("no properties and empty properties differ")
	}
}
