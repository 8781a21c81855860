package testenv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"
)

// Authority signs certificates that are good for an hour.
type Authority struct {
	PEM string // its own certificate

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority that nobody else trusts.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{}
	der, key, err := a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature})
	if err == nil {
		a.key = key
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal("make a certificate:", err)
	}
	a.PEM = toPEM("CERTIFICATE", der)
	return a
}

// Leaf makes a certificate for 127.0.0.1 and its key in PKCS #8, both PEM, for servers and clients.
func (a *Authority) Leaf(t testing.TB) (cert, key string) {
	t.Helper()
	der, k, err := a.sign(&x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	var private []byte
	if err == nil {
		private, err = x509.MarshalPKCS8PrivateKey(k)
	}
	if err != nil {
		t.Fatal("make a certificate:", err)
	}
	return toPEM("CERTIFICATE", der), toPEM("PRIVATE KEY", private)
}

// sign makes a key and its certificate, signed by itself as long as the authority has none.
func (a *Authority) sign(c *x509.Certificate) ([]byte, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if c.SerialNumber, err = rand.Int(rand.Reader, big.NewInt(1<<62)); err != nil {
		return nil, nil, err
	}
	c.Subject = pkix.Name{CommonName: "millstream test " + c.SerialNumber.String()}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	return der, key, err
}

func toPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}
