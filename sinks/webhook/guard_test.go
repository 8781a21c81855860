package webhook

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/millstream-io/millstream/pipeline"
)

func TestGuardAddresses(t *testing.T) {
	g := newGuard(nil, false)
	for _, a := range []string{
		"127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
		"169.254.169.254", "100.64.0.1", "100.100.100.200", "192.0.0.192", "168.63.129.16", "198.18.0.1", "224.0.0.1", "239.255.255.250",
		"240.0.0.1", "255.255.255.255", "192.0.2.1", "198.51.100.1", "203.0.113.1",
		"::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
		"64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "2001:db8::1", "3fff::1", "100::1",
	} {
		if g.check(netip.MustParseAddr(a)) == nil {
			t.Errorf("%s passes", a)
		}
	}
	for _, a := range []string{"1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "100.63.255.255", "::ffff:1.1.1.1", "2606:4700:4700::1111"} {
		if err := g.check(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s is refused: %v", a, err)
		}
	}
}

func TestGuardExceptions(t *testing.T) {
	allow := []CIDR{{netip.MustParsePrefix("10.1.0.0/16")}, {netip.MustParsePrefix("fd00::/8")}}
	for _, test := range []struct {
		address   string
		tls, http bool
	}{
		{"10.1.2.3", true, true}, {"::ffff:10.1.2.3", true, true}, {"fd12::1", true, true},
		{"10.2.0.1", false, false}, {"127.0.0.1", false, false}, {"fc00::1", false, false},
		{"1.1.1.1", true, false}, // readable on the way
	} {
		a := netip.MustParseAddr(test.address)
		if got := newGuard(allow, false).check(a) == nil; got != test.tls {
			t.Errorf("https to %s: %t, want %t", a, got, test.tls)
		}
		if got := newGuard(allow, true).check(a) == nil; got != test.http {
			t.Errorf("http to %s: %t, want %t", a, got, test.http)
		}
	}
}

// TestGuardSeesTheResolvedAddress: a name that lint cannot know leads to loopback; the listener must see no connection.
func TestGuardSeesTheResolvedAddress(t *testing.T) {
	connected := make(chan struct{}, 10)
	address := strings.TrimPrefix(listen(t, func(net.Conn) { connected <- struct{}{} }), "http://")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig("https://crm.example.com")
	c.Allow = nil
	s, log := openTest(t, c, &pipeline.Env{})
	s.url = &url.URL{Scheme: "https", Host: net.JoinHostPort("localhost", port)} // as if crm.example.com changed its address
	got := writeAll(t, s, manyProfiles(20))
	if len(connected) > 0 {
		t.Error("the guard let a connection to loopback pass")
	}
	tried := 0 // the others found the gate shut; which ones depends on who came first
	for _, o := range got {
		if o.Kind != pipeline.RetryAt {
			t.Fatalf("outcome is %+v", o)
		}
		if o.Delivery == nil {
			continue
		}
		tried++
		if !strings.Contains(o.Reason, "`allow`") || !strings.Contains(o.Delivery.Error, "`allow`") {
			t.Errorf("the reason is %q, want one that names allow", o.Reason)
		}
	}
	if tried < faultsToClose {
		t.Errorf("%d were tried, want at least %d", tried, faultsToClose)
	}
	if lines := log.lines(); !strings.Contains(lines[0], "allow") {
		t.Errorf("the log is %s", lines)
	}
}

func TestRedirectToLoopback(t *testing.T) {
	target := newReceiver(t, nil)
	rec := newReceiver(t, status(http.StatusTemporaryRedirect, "Location", target.URL))
	s, _ := openTest(t, testConfig(rec.URL), &pipeline.Env{})
	if o := writeOne(t, s); o.Kind != pipeline.RetryAt || len(target.seen()) != 0 {
		t.Errorf("outcome is %+v, the target of the redirect saw %d requests", o, len(target.seen()))
	}
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	s, _ := openTest(t, testConfig("http://127.0.0.1:1"), &pipeline.Env{})
	if s.client.Transport.(*http.Transport).Proxy != nil {
		t.Error("the client asks for a proxy")
	}
}

func TestGuardRefusesOtherNetworks(t *testing.T) {
	d := newGuard(nil, false).dialer(0)
	if err := d.Control("udp4", "1.1.1.1:53", nil); err == nil {
		t.Error("UDP passes")
	}
	if _, err := d.DialContext(context.Background(), "tcp", "[::ffff:127.0.0.1]:80"); !errors.Is(err, errReserved) {
		t.Errorf("a mapped address gave %v", err)
	}
}

func TestCIDR(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.0.0/16": "10.1.0.0/16", "fd00::/8": "fd00::/8", "10.1.2.3": "10.1.2.3/32", "::1": "::1/128", "::ffff:10.0.0.1": "10.0.0.1/32",
		"10.1.2.3/8": "", "": "", "localhost": "", "10.1.0.0/33": "", "fe80::1%eth0": "", "::ffff:10.0.0.0/104": "",
	} {
		var c CIDR
		err := c.UnmarshalText([]byte(text))
		if (err == nil) != (want != "") || err == nil && c.String() != want {
			t.Errorf("%q is %s, %v, want %q", text, c.Prefix, err, want)
		}
	}
}
