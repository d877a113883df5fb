package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/ustack/ustack/link"
)

// serveDNS answers www.example.test, A and AAAA, on UDP and, since big.example.test
// does not fit a datagram, on TCP.
func serveDNS(t *testing.T, s *Stack, addr string) netip.AddrPort {
	t.Helper()
	mux := dns.NewServeMux()
	mux.HandleFunc(".", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		name, kind := q.Question[0].Name, q.Question[0].Qtype
		rr := func(text string) {
			r, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, r)
		}
		switch {
		case name == "www.example.test." && kind == dns.TypeA:
			rr(name + " 60 IN A 10.0.0.2")
		case name == "www.example.test." && kind == dns.TypeAAAA:
			rr(name + " 60 IN AAAA fd00::2")
		case name == "big.example.test." && kind == dns.TypeA:
			if _, udp := w.LocalAddr().(*net.UDPAddr); udp {
				m.Truncated = true
			} else {
				for i := range 200 {
					rr(name + " 60 IN A " + netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}).String())
				}
			}
		case strings.HasSuffix(name, "example.test.") && !strings.HasPrefix(name, "nx"):
		default:
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})
	p, err := s.ListenPacket("udp", net.JoinHostPort(addr, "53"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Listen("tcp", net.JoinHostPort(addr, "53"))
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: p, Handler: mux}, {Listener: l, Handler: mux}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go server.ActivateAndServe()
		<-started
		t.Cleanup(func() { server.Shutdown() })
	}
	return netip.MustParseAddrPort(net.JoinHostPort(addr, "53"))
}

func TestResolve(t *testing.T) {
	dead := netip.MustParseAddrPort("10.0.0.3:53")   // no such station
	closed := netip.MustParseAddrPort("10.0.0.2:54") // port unreachable
	a, b := pair(t, link.PipeConfig{}, func(a, _ *Config) {
		a.DNS = []netip.AddrPort{closed, dead, netip.MustParseAddrPort("10.0.0.2:53")}
		a.Search = []string{"example.test"}
	})
	serveDNS(t, b, "10.0.0.2")
	ctx := testContext(t)

	ips, err := a.LookupNetIP(ctx, "ip", "www.example.test")
	if err != nil || len(ips) != 2 || ips[0] != netip.MustParseAddr("fd00::2") || ips[1] != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("lookup: %v, %v; want fd00::2 and 10.0.0.2", ips, err)
	}
	if ips, err = a.LookupNetIP(ctx, "ip4", "www"); err != nil || len(ips) != 1 {
		t.Errorf("lookup in the search domain: %v, %v", ips, err)
	}
	if ips, err = a.LookupNetIP(ctx, "ip4", "big.example.test"); err != nil || len(ips) != 200 {
		t.Errorf("lookup of what only TCP can carry: %d addresses, %v", len(ips), err)
	}
	if names, err := a.Resolver().LookupHost(ctx, "www.example.test."); err != nil || len(names) != 2 {
		t.Errorf("Resolver: %v, %v", names, err)
	}
	var dnsErr *net.DNSError
	if _, err = a.LookupNetIP(ctx, "ip", "nx.example.test"); !errors.As(err, &dnsErr) || !dnsErr.IsNotFound || dnsErr.Name != "nx.example.test" {
		t.Errorf("lookup of a name that does not exist: %v", err)
	}

	l, err := b.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello "+r.RemoteAddr)
	})}
	go server.Serve(l)
	defer server.Close()
	client := http.Client{Transport: &http.Transport{DialContext: a.DialContext}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://www.example.test/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.HasPrefix(string(body), "hello [fd00::1]:") {
		t.Errorf("HTTP by name: %q, %v", body, err)
	}
}

func TestDeadNameServer(t *testing.T) {
	a, _ := pair(t, link.PipeConfig{}, func(a, _ *Config) {
		a.DNS = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53")} // nobody listens
	})
	ctx, cancel := context.WithTimeout(testContext(t), 5*time.Second)
	defer cancel()
	var dnsErr *net.DNSError
	_, err := a.LookupNetIP(ctx, "ip4", "www.example.test")
	if !errors.As(err, &dnsErr) || dnsErr.Server != "10.0.0.2:53" || dnsErr.IsNotFound {
		t.Errorf("dead name server: %v, want an error that names it", err)
	}
	b, _ := pair(t, link.PipeConfig{})
	if ips, err := b.LookupNetIP(ctx, "ip4", "LocalHost"); err != nil || len(ips) != 1 || !ips[0].IsLoopback() {
		t.Errorf("localhost without a name server: %v, %v", ips, err)
	}
	if _, err := b.LookupNetIP(ctx, "ip", "www.example.test"); err == nil || !strings.Contains(err.Error(), "no name server") {
		t.Errorf("no name server: %v", err)
	}
}

func TestCandidates(t *testing.T) {
	for host, want := range map[string]string{
		"www":       "www.a.test. www.b.test. www.",
		"www.x":     "www.x. www.x.a.test. www.x.b.test.",
		"www.x.y.":  "www.x.y.",
		"localhost": "localhost.a.test. localhost.b.test. localhost.",
	} {
		if got := strings.Join(candidates(host, []string{"a.test", ".b.test.", ""}), " "); got != want {
			t.Errorf("candidates(%q) = %q, want %q", host, got, want)
		}
	}
}
