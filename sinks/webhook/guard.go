package webhook

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// CIDR is a network in the YAML: 10.1.0.0/16, fd00::/8, or a single address.
type CIDR struct{ netip.Prefix }

// UnmarshalText reads a network; bits beyond the prefix must be zero, so that a slip such as 10.1.2.3/8 is seen.
func (c *CIDR) UnmarshalText(b []byte) error {
	text := string(b)
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		a = a.Unmap()
		c.Prefix = netip.PrefixFrom(a, a.BitLen())
		return nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return fmt.Errorf("%q is not a network: write an address and a length, such as 10.1.0.0/16 or fd00::/8", text)
	}
	if p.Masked() != p {
		return fmt.Errorf("%q has bits beyond its length: write %s, or %s for the one address", text, p.Masked(), p.Addr())
	}
	c.Prefix = p
	return nil
}

// MarshalText writes the network as it is read.
func (c CIDR) MarshalText() ([]byte, error) { return c.Prefix.MarshalText() }

// guard refuses connections into the own network (server-side request forgery): loopback, private, link-local, shared
// (CGNAT), multicast, reserved and documentation networks, what embeds an IPv4 address into IPv6, and metadata services.
// It looks at the address that is about to be dialled, after name resolution, so a name that changes its address gains
// nothing.
type guard struct {
	allow  []netip.Prefix
	public *ssrf.Guardian // nil: only allow, because the request would be readable on the way
}

var (
	errNotAllowed = errors.New("the address is not in `allow`, and http without TLS goes nowhere else")
	errReserved   = errors.New("the address is in a private or reserved network that `allow` does not list")
)

func newGuard(allow []CIDR, plaintext bool) *guard {
	g := &guard{}
	for _, c := range allow {
		g.allow = append(g.allow, c.Prefix)
	}
	if !plaintext {
		g.public = ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(
			netip.MustParsePrefix("168.63.129.16/32"), // Azure's metadata and agent service, a public address by form
		))
	}
	return g
}

// check tells whether the address may be dialled.
func (g *guard) check(a netip.Addr) error {
	a = a.Unmap().WithZone("")
	for _, p := range g.allow {
		if p.Contains(a) {
			return nil
		}
	}
	if g.public == nil {
		return errNotAllowed
	}
	if g.public.SafeAddr(a) != nil {
		return errReserved
	}
	return nil
}

func (g *guard) dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{
		Timeout:   timeout,
		KeepAlive: 30 * time.Second,
		Control: func(network, address string, _ syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return fmt.Errorf("network %s is not TCP", network)
			}
			a, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("read the address to dial: %w", err)
			}
			return g.check(a.Addr())
		},
	}
}

func tlsConfig() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }
