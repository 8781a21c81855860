package pipeline

// Kafka says how to reach and use the cluster of Plan.Brokers.
type Kafka struct {
	TLS  *TLS  // nil: connections are not encrypted
	SASL *SASL // nil: no login
	// Replication is the replication factor of topics that the pipeline makes; 0: the broker's default.
	Replication int16
}

// TLS says how connections are encrypted. Files are PEM, and read when the pipeline starts.
type TLS struct {
	CA         string // file of the certificates that are trusted; "": those of the system
	Cert, Key  string // files of the own certificate and its key, for brokers that ask for one; "" both: none
	ServerName string // what the brokers' certificates are made out to; "": the host that is dialled
}

// SASL is a login.
type SASL struct {
	Mechanism string // Plain, ScramSHA256 or ScramSHA512
	User      string
	Password  Secret
	// Insecure lets the login go over connections without TLS to other machines.
	Insecure bool
}

// Mechanisms of SASL.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)
