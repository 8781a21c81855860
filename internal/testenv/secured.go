package testenv

import (
	"fmt"
	"strings"
)

// Secured describes listeners of Apache Kafka beside the plain one. All texts are PEM.
type Secured struct {
	Cert, Key string // of the broker, for 127.0.0.1; the key in PKCS #8
	CA        string // whose certificates clients must have on the listener Mutual
	User      string // may log in by PLAIN and SCRAM
	Password  string
}

// Listeners of Secured.
const (
	Login    = "LOGIN"    // without TLS, with a login
	LoginTLS = "LOGINTLS" // TLS and a login
	Mutual   = "MUTUAL"   // TLS, with a certificate of the client
)

// Secured is the address of one of the listeners; the broker must have been started with Options.Secured.
func (b *Broker) Secured(listener string) string { return b.secured[listener] }

// listeners adds to the properties of a broker.
func (s *Secured) listeners(base map[string]string) (addresses, properties map[string]string, err error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, nil, err
	}
	listeners, advertised := []string{base["listeners"]}, []string{base["advertised.listeners"]}
	protocols := []string{"PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"}
	addresses = map[string]string{}
	for i, l := range []struct{ name, protocol string }{{Login, "SASL_PLAINTEXT"}, {LoginTLS, "SASL_SSL"}, {Mutual, "SSL"}} {
		addresses[l.name] = fmt.Sprintf("127.0.0.1:%d", ports[i])
		at := l.name + "://" + addresses[l.name]
		listeners, advertised = append(listeners, at), append(advertised, at)
		protocols = append(protocols, l.name+":"+l.protocol)
	}
	p := map[string]string{
		"listeners": strings.Join(listeners, ","), "advertised.listeners": strings.Join(advertised, ","),
		"listener.security.protocol.map": strings.Join(protocols, ","),
	}
	// In a file of properties the two characters \n are a line break.
	line := strings.NewReplacer("\n", `\n`)
	for _, l := range []string{LoginTLS, Mutual} {
		prefix := "listener.name." + strings.ToLower(l) + ".ssl."
		p[prefix+"keystore.type"], p[prefix+"keystore.certificate.chain"], p[prefix+"keystore.key"] = "PEM", line.Replace(s.Cert), line.Replace(s.Key)
		p[prefix+"truststore.type"], p[prefix+"truststore.certificates"] = "PEM", line.Replace(s.CA)
	}
	p["listener.name.mutual.ssl.client.auth"] = "required"
	for _, l := range []string{Login, LoginTLS} {
		prefix := "listener.name." + strings.ToLower(l) + "."
		p[prefix+"sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
		p[prefix+"plain.sasl.jaas.config"] = fmt.Sprintf(`org.apache.kafka.common.security.plain.PlainLoginModule required user_%s="%s";`, s.User, s.Password)
		for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
			p[prefix+m+".sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		}
	}
	return addresses, p, nil
}

// scram are the arguments that give the user to the storage tool.
func (s *Secured) scram() []string {
	var args []string
	for _, m := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", m, s.User, s.Password))
	}
	return args
}
