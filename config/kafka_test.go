package config_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

func TestKafka(t *testing.T) {
	password := pipeline.NewSecret("hunter2hunter2")
	for yaml, want := range map[string]pipeline.Kafka{
		`{brokers: "k:9093"}`:                          {},
		`{brokers: "k:9093", tls: true}`:               {TLS: &pipeline.TLS{}},
		`{brokers: "k:9093", tls: "${NOT_SET:-true}"}`: {TLS: &pipeline.TLS{}},
		`{brokers: "k:9093", tls: {}}`:                 {TLS: &pipeline.TLS{}},
		`{brokers: "k:9093", tls: false}`:              {},
		`{tls: false, replication: 1}`:                 {Replication: 1},
		`{brokers: "k:9093", replication: 3, tls: {ca: a.pem, cert: b.pem, key: c.pem, server_name: kafka.example}}`: {
			Replication: 3, TLS: &pipeline.TLS{CA: "a.pem", Cert: "b.pem", Key: "c.pem", ServerName: "kafka.example"}},
		`{brokers: "k:9093", tls: true, sasl: {mechanism: SCRAM-SHA-512, user: shop, password: "${SECRET}"}}`: {
			TLS: &pipeline.TLS{}, SASL: &pipeline.SASL{Mechanism: "SCRAM-SHA-512", User: "shop", Password: password}},
		`{brokers: ["127.0.0.1:9092", "localhost:9093", "[::1]:9094"], sasl: {mechanism: PLAIN, user: shop, password: "${SECRET}"}}`: {
			SASL: &pipeline.SASL{Mechanism: "PLAIN", User: "shop", Password: password}},
		`{brokers: "k:9092", sasl: {mechanism: SCRAM-SHA-256, user: shop, password: "${SECRET}", insecure: true}}`: {
			SASL: &pipeline.SASL{Mechanism: "SCRAM-SHA-256", User: "shop", Password: password, Insecure: true}},
	} {
		plan, d := load(t, "pipeline: shop\nkafka: "+yaml)
		if plan == nil {
			t.Errorf("%s: %s", yaml, messages(d))
			continue
		}
		if !reflect.DeepEqual(plan.Kafka, want) {
			t.Errorf("%s: %+v, want %+v", yaml, plan.Kafka, want)
		}
		if s := fmt.Sprintf("%+v %#v %v", plan.Kafka.SASL, plan.Kafka.SASL, plan.Kafka); strings.Contains(s, "hunter2") {
			t.Errorf("%s prints its password: %s", yaml, s)
		}
	}
}

func TestKafkaMistakes(t *testing.T) {
	const login = `mechanism: PLAIN, user: shop, password: "${SECRET}"`
	for yaml, want := range map[string]string{
		`{brokers: "k:1", tls: yes}`:                                                       "2:30: tls needs true, or keys: {ca: …, cert: …, key: …, server_name: …}",
		`{brokers: "k:1", tls: [a]}`:                                                       "2:30: tls needs true, or keys: {ca: …, cert: …, key: …, server_name: …}",
		`{brokers: "k:1", tls: {cas: a.pem}}`:                                              `2:31: tls has no key "cas", did you mean "ca"?`,
		`{brokers: "k:1", tls: {cert: a.pem}}`:                                             "2:25: cert and key belong together: name both files, or neither",
		`{brokers: "k:1", tls: {key: a.pem}}`:                                              "2:25: cert and key belong together: name both files, or neither",
		`{brokers: "k:1", replication: 0}`:                                                 "2:38: replication is 0, it must be 1 … 16: on so many brokers each record is kept",
		`{brokers: "k:1", replication: 17}`:                                                "2:38: replication is 17, it must be 1 … 16: on so many brokers each record is kept",
		`{brokers: "k:1", replication: three}`:                                             `2:38: replication needs a whole number, not "three"`,
		`{brokers: "k:1", tls: true, sasl: SCRAM}`:                                         "2:42: sasl needs keys and values, not a single value",
		`{brokers: "k:1", tls: true, sasl: {}}`:                                            "2:36: sasl needs a mechanism: write one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512",
		`{brokers: "k:1", sasl: {` + login + `}}`:                                          "2:25: without TLS the login and all data can be read on the way: set tls: true, or insecure: true here if the network is your own",
		`{brokers: "10.0.0.1:1", sasl: {` + login + `}}`:                                   "2:32: without TLS the login and all data can be read on the way: set tls: true, or insecure: true here if the network is your own",
		`{brokers: "k:1", tls: false, sasl: {` + login + `}}`:                              "2:37: without TLS the login and all data can be read on the way: set tls: true, or insecure: true here if the network is your own",
		`{brokers: "127.0.0.1:1,k:1", sasl: {` + login + `}}`:                              "2:37: without TLS the login and all data can be read on the way: set tls: true, or insecure: true here if the network is your own",
		`{brokers: "k:1", tls: true, sasl: {mechanism: plain, user: a, password: b}}`:      `2:54: there is no mechanism "plain": write one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512`,
		`{brokers: "k:1", tls: true, sasl: {mechanism: PLAIN, password: b}}`:               "2:36: sasl needs a user",
		`{brokers: "k:1", tls: true, sasl: {mechanism: PLAIN, user: a, password: ""}}`:     "2:80: sasl needs a password: take it from a variable or a file, password: ${file:PATH}",
		`{brokers: "k:1", tls: true, sasl: {mechanism: PLAIN, user: a, pasword: hunter2}}`: `2:70: sasl has no key "pasword", did you mean "password"?`,
		`{brokers: embedded, tls: true}`:                                                   "2:33: the embedded broker has no tls: set brokers, or leave it out",
		`{sasl: {` + login + `}}`:                                                          "2:9: the embedded broker has no sasl: set brokers, or leave it out",
		`{replication: 3}`:                                                                 "2:22: the embedded broker has no replication: set brokers, or leave it out",
		`{brokers: k, tls: true}`:                                                          `2:18: "k" is not the address of a broker: write host:port, more than one with commas, or embedded`,
	} {
		_, d := load(t, "pipeline: shop\nkafka: "+yaml)
		if got, _, _ := strings.Cut(messages(d), "\n"); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", yaml, messages(d), want)
		}
		if strings.Contains(fmt.Sprint(d), "hunter2") && !strings.Contains(yaml, "hunter2") {
			t.Errorf("%s: the output holds a secret: %v", yaml, d)
		}
	}
}
