package kafka

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

func TestConfigIsChecked(t *testing.T) {
	set := map[string]any{"type": "track", "event": "A"}
	for name, test := range map[string]struct {
		config Config
		want   []string
	}{
		"fine":          {Config{Topic: "erp.orders", From: newest, Set: set, Key: "message_id"}, nil},
		"other cluster": {Config{Topic: "shop.events", From: oldest, Brokers: []string{"kafka:9092"}}, nil},
		"nothing":       {Config{}, []string{"[topic] topic is missing: write the name of a topic", `[from] from is "": write oldest, or newest to leave out what is in the topic at the first start`}},
		"bad topic":     {Config{Topic: "a b", From: oldest}, []string{`[topic] "a b" is not the name of a topic: use letters, digits, '.', '_' and '-', at most 249`}},
		"own topic":     {Config{Topic: "shop.resolved", From: oldest}, []string{`[topic] "shop.resolved" is one of the pipeline's own topics, which would make a circle: choose another`}},
		"own state":     {Config{Topic: "shop.state.profile", From: oldest}, []string{`[topic] "shop.state.profile" is one of the pipeline's own topics, which would make a circle: choose another`}},
		"tls alone":     {Config{Topic: "a", From: oldest, TLS: pipeline.KafkaTLS{On: true}}, []string{"[tls] tls belongs to brokers of its own; the pipeline's cluster is described under kafka"}},
		"embedded":      {Config{Topic: "a", From: oldest, Brokers: []string{"embedded"}}, []string{`[brokers] "embedded" is not the address of a broker: write host:port, more than one with commas; without brokers it is the pipeline's own cluster`}},
		"no mapping": {Config{Topic: "a", From: oldest, Key: "user_id", TimeFormat: "unix"}, []string{
			"[key] the records are events already, nothing is mapped: delete key, or say with set and map how a record becomes an event",
			"[time_format] the records are events already, nothing is mapped: delete time_format, or say with set and map how a record becomes an event"}},
		"key twice": {Config{Topic: "a", From: oldest, Set: set, Map: map[string]string{"user_id": "x"}, Key: "user_id"}, []string{"[key] user_id is also under map: keep one of them"}},
		"key is no field": {Config{Topic: "a", From: oldest, Set: set, Key: "customer"}, []string{
			`[key] "customer" is no field of an event: write anonymous_id, channel, event, group_id, message_id, name, previous_id, timestamp, type, user_id, or properties.x, traits.x, context.x`}},
		"key inside of a value": {Config{Topic: "a", From: oldest, Set: map[string]any{"type": "track", "event": "A", "properties.a": 1}, Key: "properties.a.b"},
			[]string{"[key] properties.a is a value already, so it can have no parts"}},
		"no type": {Config{Topic: "a", From: oldest, Map: map[string]string{"user_id": "x"}}, []string{
			"[set] the rows have no type: add set: {type: track} or another of track, identify, page, screen, group, alias"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := Kind.Build("orders", &test.config, &pipeline.Env{Pipeline: "shop"})
			var got []string
			for _, p := range problems {
				got = append(got, fmt.Sprint(p.Path, " ", p.Message))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("problems are\n%q, want\n%q", got, test.want)
			}
		})
	}
}
