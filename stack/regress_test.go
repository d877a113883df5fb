package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/ustack/ustack/link"
)

// answerDNS serves one handler on a UDP port of a stack.
func answerDNS(t *testing.T, s *Stack, addr string, handler dns.HandlerFunc) netip.AddrPort {
	t.Helper()
	p, err := s.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: p, Handler: handler}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go server.ActivateAndServe()
	<-started
	t.Cleanup(func() { server.Shutdown() })
	return netip.MustParseAddrPort(addr)
}

// TestServersThatRefuse has a first server that answers with an error: the next
// one is asked, and remembered as the better one.
func TestServersThatRefuse(t *testing.T) {
	for _, rcode := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNotImplemented} {
		var refused atomic.Int32
		good := netip.MustParseAddrPort("10.0.0.2:54")
		a, b := pair(t, link.PipeConfig{}, func(a, _ *Config) {
			a.DNS = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53"), good}
		})
		answerDNS(t, b, "10.0.0.2:53", func(w dns.ResponseWriter, q *dns.Msg) {
			refused.Add(1)
			w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
		})
		answerDNS(t, b, good.String(), func(w dns.ResponseWriter, q *dns.Msg) {
			m := new(dns.Msg).SetReply(q)
			r, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 10.0.0.2")
			m.Answer = append(m.Answer, r)
			w.WriteMsg(m)
		})
		for range 3 {
			if ips, err := a.LookupNetIP(testContext(t), "ip4", "www.example.test"); err != nil || len(ips) != 1 {
				t.Errorf("%s: %v, %v", dns.RcodeToString[rcode], ips, err)
			}
		}
		if n := refused.Load(); n != 1 {
			t.Errorf("%s: the server that refuses was asked %d times, want once", dns.RcodeToString[rcode], n)
		}
	}
}

// TestDialEndsWithItsContext dials a name with dead addresses of both families.
func TestDialEndsWithItsContext(t *testing.T) {
	a, b := pair(t, link.PipeConfig{}, func(a, _ *Config) {
		a.DNS = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53")}
	})
	answerDNS(t, b, "10.0.0.2:53", func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		text := " 60 IN A 10.0.0.77"
		if q.Question[0].Qtype == dns.TypeAAAA {
			text = " 60 IN AAAA fd00::77"
		}
		r, _ := dns.NewRR(q.Question[0].Name + text)
		m.Answer = append(m.Answer, r)
		w.WriteMsg(m)
	})
	for i := range 5 { // less than the 3 s after which there is no route to them
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(100+50*i)*time.Millisecond)
		_, err := a.DialContext(ctx, "tcp", "dead.example.test:80")
		cancel()
		var timeout net.Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatalf("dial %d: %v, want a timeout", i, err)
		}
	}
}

// TestCancelledLookup must leave nothing behind: TestMain looks for goroutines.
func TestCancelledLookup(t *testing.T) {
	var asked atomic.Int32
	a, b := pair(t, link.PipeConfig{}, func(a, _ *Config) {
		a.DNS = []netip.AddrPort{netip.MustParseAddrPort("10.0.0.2:53")}
	})
	answerDNS(t, b, "10.0.0.2:53", func(dns.ResponseWriter, *dns.Msg) { asked.Add(1) }) // never answers
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.LookupNetIP(ctx, "ip4", "www.example.test"); err == nil {
		t.Error("a lookup that nobody answers worked")
	}
	for _, k := range a.Sockets() {
		if k.Network == "udp" {
			// Package net's resolver ends its exchange by itself: give it the time.
			deadline := time.Now().Add(2 * time.Second)
			for len(a.Sockets()) > 0 && time.Now().Before(deadline) {
				time.Sleep(5 * time.Millisecond)
			}
			if n := len(a.Sockets()); n > 0 {
				t.Errorf("%d sockets of a cancelled lookup are still open", n)
			}
			break
		}
	}
}

// TestCloseUnblocks has a reader of each kind wait while the stack is closed.
func TestCloseUnblocks(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer s.Close()
	l, err := a.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	u, err := a.ListenPacket("udp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	waits := map[string]func() error{
		"tcp":    func() error { _, err := c.Read(make([]byte, 1)); return err },
		"accept": func() error { _, err := l.Accept(); return err },
		"udp":    func() error { _, _, err := u.ReadFrom(make([]byte, 1)); return err },
		"dial":   func() error { _, err := a.Dial("tcp", "10.0.0.77:1"); return err },
	}
	for _, network := range []string{"ip4", "ip6"} {
		k, err := a.ICMP(network)
		if err != nil {
			t.Fatal(err)
		}
		waits[network] = func() error {
			for {
				if _, err := k.ReadICMP(); err != nil {
					return err
				}
			}
		}
	}
	type result struct {
		name string
		err  error
	}
	results := make(chan result)
	for name, wait := range waits {
		go func() { results <- result{name, wait()} }()
	}
	for len(a.Sockets()) < 4 { // until the dial is under way
		time.Sleep(time.Millisecond)
	}
	a.Close()
	for range waits {
		select {
		case r := <-results:
			if !errors.Is(r.err, net.ErrClosed) {
				t.Errorf("%s: %v, want net.ErrClosed", r.name, r.err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Close left somebody waiting")
		}
	}
}

func TestOptionRanges(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	c, s := connect(t, a, b, "10.0.0.2")
	defer c.Close()
	defer s.Close()
	for name, values := range map[string][]int{
		"tcp.keepcnt": {-1, 0, 128, 1000}, "ip.ttl": {0, 256, 300, -2}, "ip.tos": {-1, 256, 300}, "tcp.keepidle": {0, 32768},
	} {
		for _, v := range values {
			if err := c.SetOption(name, v); !errors.Is(err, syscall.EINVAL) {
				t.Errorf("%s = %d: %v, want EINVAL", name, v, err)
			}
		}
	}
	for _, name := range []string{"so.sndbuf", "so.rcvbuf"} {
		for set, want := range map[int]int{0: 4 << 10, -5: 4 << 10, 1 << 30: 8 << 20, 1 << 40: 8 << 20} {
			if err := c.SetOption(name, set); err != nil {
				t.Errorf("%s = %d: %v", name, set, err)
			}
			if got, err := c.Option(name); got != want || err != nil {
				t.Errorf("%s = %d gives %d, %v; want %d", name, set, got, err, want)
			}
		}
	}
}

// TestNewThatFailed must leave the Device to its owner, unread.
func TestNewThatFailed(t *testing.T) {
	wireA, wireB := link.Pipe(link.PipeConfig{})
	newStack(t, Config{Device: wireB, Addrs: prefixes("10.0.0.2/24")})
	bad := Config{Device: wireA, Addrs: prefixes("10.0.0.1/24", "10.0.0.1/16")}
	if _, err := New(bad); !errors.Is(err, syscall.EEXIST) {
		t.Fatalf("New with an address twice: %v", err)
	}
	a := newStack(t, Config{Device: wireA, Addrs: prefixes("10.0.0.1/24")})
	for i := range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		if _, err := a.Ping(ctx, netip.MustParseAddr("10.0.0.2")); err != nil {
			t.Fatalf("ping %d: %v", i, err)
		}
		cancel()
	}
}

func TestBroadcast(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	server, err := b.ListenPacket("udp4", ":9")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := a.ListenPacket("udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(10, 0, 0, 255), Port: 9}); err != nil {
		t.Fatal(err)
	}
	server.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, _, err := server.ReadFrom(make([]byte, 9)); n != 1 || err != nil {
		t.Errorf("broadcast: %d bytes, %v", n, err)
	}
}

// TestAcceptAfterReset accepts connections whose peers have reset them before: the listener's owner
// learns of each of them, and reads what came before the reset.
func TestAcceptAfterReset(t *testing.T) {
	a, b := pair(t, link.PipeConfig{})
	l, err := b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, words := range []string{"", "last words"} {
		c, err := a.DialContext(testContext(t), "tcp", "10.0.0.2:80")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, words); err != nil {
			t.Fatal(err)
		}
		// until waits for what the other stack's sockets are then.
		until := func(ok func([]SocketInfo) bool) {
			for deadline := time.Now().Add(5 * time.Second); !ok(b.Sockets()) && time.Now().Before(deadline); {
				time.Sleep(time.Millisecond)
			}
		}
		until(func(all []SocketInfo) bool {
			return slices.ContainsFunc(all, func(k SocketInfo) bool { return k.State == "ESTAB" && k.RecvQ == len(words) })
		})
		c.(*TCPConn).Abort()
		until(func(all []SocketInfo) bool { return len(all) == 1 })
		got, err := l.Accept()
		if err != nil {
			t.Fatalf("accept: %v", err)
		}
		if got.RemoteAddr().String() != c.LocalAddr().String() || got.LocalAddr().String() != "10.0.0.2:80" {
			t.Errorf("addresses %v, %v, want 10.0.0.2:80, %v", got.LocalAddr(), got.RemoteAddr(), c.LocalAddr())
		}
		all, err := io.ReadAll(got)
		if string(all) != words || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %q, %v, want %q and ECONNRESET", all, err, words)
		}
		got.Close()
	}
}
