package ping

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReplies(t *testing.T) {
	r := run(t, &fakeNet{send: echo}, nil, "-c", "3", "10.0.0.5")
	want(t, r, 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.
64 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=1.00 ms
64 bytes from 10.0.0.5: icmp_seq=2 ttl=64 time=2.00 ms
64 bytes from 10.0.0.5: icmp_seq=3 ttl=64 time=3.00 ms

--- 10.0.0.5 ping statistics ---
3 packets transmitted, 3 received, 0% packet loss, time 2000ms
rtt min/avg/max/mdev = 1.000/2.000/3.000/0.816 ms
`, "")
	if r.took != 2*time.Second+3*time.Millisecond {
		t.Errorf("took %v: it must end with the last reply", r.took)
	}
}

func TestName(t *testing.T) {
	f := &fakeNet{send: echo, names: map[string][]netip.Addr{"www.x": {them6, them4}}}
	want(t, run(t, f, nil, "-4c1", "www.x"), 0, `PING www.x (10.0.0.5) 56(84) bytes of data.
64 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=1.00 ms

--- www.x ping statistics ---
1 packets transmitted, 1 received, 0% packet loss, time 0ms
rtt min/avg/max/mdev = 1.000/1.000/1.000/0.000 ms
`, "")
	want(t, run(t, &fakeNet{send: echo, names: f.names}, nil, "-c1", "www.x"), 0, `PING www.x (fd00::5) 56 data bytes
64 bytes from fd00::5: icmp_seq=1 ttl=64 time=1.00 ms

--- www.x ping statistics ---
1 packets transmitted, 1 received, 0% packet loss, time 0ms
rtt min/avg/max/mdev = 1.000/1.000/1.000/0.000 ms
`, "")
}

// The next address is tried when the first has no route.
func TestNameSecondAddress(t *testing.T) {
	f := &fakeNet{names: map[string][]netip.Addr{"www.x": {them6, them4}}}
	f.send = func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		if c.v6 {
			return unreach
		}
		return echo(c, n, req, to)
	}
	want(t, run(t, f, nil, "-qc1", "www.x"), 0, `PING www.x (10.0.0.5) 56(84) bytes of data.

--- www.x ping statistics ---
1 packets transmitted, 1 received, 0% packet loss, time 0ms
rtt min/avg/max/mdev = 1.000/1.000/1.000/0.000 ms
`, "")
}

func TestLoss(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		if n == 2 {
			return echo(c, n, req, to)
		}
		return nil
	}}
	r := run(t, f, nil, "-c3", "-O", "10.0.0.5")
	want(t, r, 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.
no answer yet for icmp_seq=1
64 bytes from 10.0.0.5: icmp_seq=2 ttl=64 time=2.00 ms

--- 10.0.0.5 ping statistics ---
3 packets transmitted, 1 received, 66.6667% packet loss, time 2000ms
rtt min/avg/max/mdev = 2.000/2.000/2.000/0.000 ms
`, "")
	// One reply came, so the last is given an interval, being more than two round trips.
	if r.took != 3*time.Second {
		t.Errorf("took %v, want 3s", r.took)
	}
}

func TestNoReply(t *testing.T) {
	silent := func(*fakeConn, int, []byte, netip.Addr) error { return nil }
	for _, tt := range []struct {
		args string
		took time.Duration
	}{
		{"-c2 -i0.2", 10200 * time.Millisecond},
		{"-c2 -i0.2 -W 1.5", 1700 * time.Millisecond},
		{"-w 1 -i0.5", time.Second},
	} {
		r := run(t, &fakeNet{send: silent}, nil, append(strings.Fields(tt.args), "10.0.0.5")...)
		if r.code != 1 || r.took != tt.took || !strings.Contains(r.out, "2 packets transmitted, 0 received, 100% packet loss") ||
			strings.Contains(r.out, "rtt") {
			t.Errorf("%s: code %d after %v, want 1 after %v:\n%s", tt.args, r.code, r.took, tt.took, r.out)
		}
	}
}

// With -w, -c counts replies: requests go on until they are there.
func TestDeadline(t *testing.T) {
	odd := func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		if n%2 == 1 {
			c.after(time.Millisecond, to, reply(req))
		}
		return nil
	}
	r := run(t, &fakeNet{send: odd}, nil, "-q", "-c2", "-w10", "10.0.0.5")
	if r.code != 0 || !strings.Contains(r.out, "3 packets transmitted, 2 received, 33.3333% packet loss") {
		t.Errorf("code %d:\n%s", r.code, r.out)
	}
	r = run(t, &fakeNet{send: odd}, nil, "-q", "-c20", "-w3.5", "10.0.0.5")
	if r.code != 1 || r.took != 3500*time.Millisecond || !strings.Contains(r.out, "4 packets transmitted, 2 received, 50% packet loss, time 3000ms") {
		t.Errorf("code %d after %v:\n%s", r.code, r.took, r.out)
	}
}

func TestDuplicateLateForeign(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		switch n {
		case 1:
			c.after(time.Millisecond, to, reply(req))
			c.after(2*time.Millisecond, to, reply(req))
			other := reply(req) // somebody else's ping
			other[4] ^= 0xff
			c.after(3*time.Millisecond, to, other)
			never := reply(req) // a number that was never sent
			never[6] = 0x77
			c.after(4*time.Millisecond, to, never)
			c.after(5*time.Millisecond, to, []byte{0, 0, 0})
		case 2:
			c.after(1500*time.Millisecond, to, reply(req))
		case 3:
			c.after(100*time.Millisecond, us4, reply(req))
		}
		return nil
	}}
	want(t, run(t, f, nil, "-c3", "10.0.0.5"), 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.
64 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=1.00 ms
64 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=2.00 ms (DUP!)
64 bytes from 10.0.0.4: icmp_seq=3 ttl=64 time=100 ms (DIFFERENT ADDRESS!)
64 bytes from 10.0.0.5: icmp_seq=2 ttl=64 time=1500 ms

--- 10.0.0.5 ping statistics ---
3 packets transmitted, 3 received, +1 duplicates, 0% packet loss, time 2000ms
rtt min/avg/max/mdev = 1.000/400.750/1500.000/635.925 ms, pipe 2
`, "")
}

func TestWrongDataAndTruncated(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		b := reply(req)
		if n == 1 {
			b[8+17] = 0xee
		} else {
			b = b[:20]
		}
		c.after(time.Millisecond, to, b)
		return nil
	}}
	want(t, run(t, f, nil, "-c2", "-s20", "-i1", "-p", "aB0", "10.0.0.5"), 0, "PATTERN: 0xab00\n"+
		"PING 10.0.0.5 (10.0.0.5) 20(48) bytes of data.\n"+
		"28 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=1.00 ms\n"+
		"wrong data byte #17 should be 0x0 but was 0xee\n"+
		"#16\tab ee ab 0 \n"+
		"20 bytes from 10.0.0.5: icmp_seq=2 ttl=64 (truncated)\n"+
		"\n--- 10.0.0.5 ping statistics ---\n"+
		"2 packets transmitted, 2 received, 0% packet loss, time 1000ms\n"+
		"rtt min/avg/max/mdev = 1.000/1.000/1.000/0.000 ms\n", "")
}

// Without room for a time there is none.
func TestSmall(t *testing.T) {
	want(t, run(t, &fakeNet{send: echo}, nil, "-c1", "-s0", "10.0.0.5"), 0, `PING 10.0.0.5 (10.0.0.5) 0(28) bytes of data.
8 bytes from 10.0.0.5: icmp_seq=1 ttl=64

--- 10.0.0.5 ping statistics ---
1 packets transmitted, 1 received, 0% packet loss, time 0ms

`, "")
}

func TestLargest(t *testing.T) {
	f := &fakeNet{send: echo}
	r := run(t, f, nil, "-c1", "-s65507", "10.0.0.5")
	if r.code != 0 || !strings.Contains(r.out, "65515 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=1.00 ms\n") {
		t.Errorf("code %d:\n%s", r.code, r.out)
	}
}

func TestErrors4(t *testing.T) {
	router := netip.MustParseAddr("192.0.2.1")
	for _, tt := range []struct {
		typ, code uint8
		info      uint32
		text      string
	}{
		{3, 0, 0, "Destination Net Unreachable"},
		{3, 1, 0, "Destination Host Unreachable"},
		{3, 3, 0, "Destination Port Unreachable"},
		{3, 4, 1400, "Frag needed and DF set (mtu = 1400)"},
		{3, 13, 0, "Packet filtered"},
		{3, 99, 0, "Dest Unreachable, Bad Code: 99"},
		{11, 0, 0, "Time to live exceeded"},
		{11, 1, 0, "Frag reassembly time exceeded"},
		{12, 0, 0x14000000, "Parameter problem: pointer = 20"},
	} {
		f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
			// An error about another destination is not ours.
			c.after(time.Millisecond, router, icmpError(tt.typ, tt.code, tt.info, req, us4, us4))
			c.after(time.Millisecond, router, icmpError(tt.typ, tt.code, tt.info, req, us4, to))
			return nil
		}}
		want(t, run(t, f, nil, "-c1", "10.0.0.5"), 1, "PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.\n"+
			"From 192.0.2.1 icmp_seq=1 "+tt.text+"\n"+
			"\n--- 10.0.0.5 ping statistics ---\n"+
			"1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n\n", "")
	}
}

func TestErrors6(t *testing.T) {
	for _, tt := range []struct {
		typ, code uint8
		info      uint32
		text      string
	}{
		{1, 0, 0, "Destination unreachable: No route"},
		{1, 1, 0, "Destination unreachable: Administratively prohibited"},
		{1, 3, 0, "Destination unreachable: Address unreachable"},
		{1, 4, 0, "Destination unreachable: Port unreachable"},
		{1, 77, 0, "Destination unreachable: Unknown code 77"},
		{2, 0, 1280, "Packet too big: mtu=1280"},
		{3, 0, 0, "Time exceeded: Hop limit"},
		{4, 1, 6, "Parameter problem: Unknown header at 6"},
	} {
		f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
			c.after(time.Millisecond, us6, icmpError(tt.typ, tt.code, tt.info, req, us6, to))
			return nil
		}}
		want(t, run(t, f, nil, "-c1", "fd00::5"), 1, "PING fd00::5 (fd00::5) 56 data bytes\n"+
			"From fd00::4 icmp_seq=1 "+tt.text+"\n"+
			"\n--- fd00::5 ping statistics ---\n"+
			"1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n\n", "")
	}
}

// A redirect is advice, not an error: the reply still comes. With -v strangers show.
func TestRedirectAndVerbose(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		c.after(time.Millisecond, us4, icmpError(5, 1, 0x0a000001, req, us4, to))
		c.after(2*time.Millisecond, us4, []byte{14, 0, 0, 0, 0, 0, 0, 0})
		c.after(3*time.Millisecond, us4, []byte{14})
		c.after(4*time.Millisecond, to, reply(req))
		return nil
	}}
	want(t, run(t, f, nil, "-vc1", "10.0.0.5"), 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.
From 10.0.0.4: icmp_seq=1 Redirect Host(New nexthop: 10.0.0.1)
From 10.0.0.4: Timestamp Reply
64 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=4.00 ms

--- 10.0.0.5 ping statistics ---
1 packets transmitted, 1 received, 0% packet loss, time 0ms
rtt min/avg/max/mdev = 4.000/4.000/4.000/0.000 ms
`, "ping: packet too short (1 bytes) from 10.0.0.4\n")
}

func TestFlood(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		switch n {
		case 3:
			return nil
		case 5:
			c.after(time.Millisecond, us4, icmpError(3, 1, 0, req, us4, to))
			return nil
		}
		c.after(time.Millisecond, to, reply(req))
		return nil
	}}
	r := run(t, f, nil, "-f", "-c4", "10.0.0.5")
	// 1, 2, 4 answered; 3 lost (10 ms); 5 is an error, which ends the run: 3 + 1 = 4.
	// But -c4 allows four requests only.
	want(t, r, 0, "PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.\n"+
		".\b \b.\b \b..\b \b"+
		"\n--- 10.0.0.5 ping statistics ---\n"+
		"4 packets transmitted, 3 received, 25% packet loss, time 12ms\n"+
		"rtt min/avg/max/mdev = 1.000/1.000/1.000/0.000 ms, ipg/ewma 4.000/1.000 ms\n", "")

	f.conns = nil
	r = run(t, f, nil, "-f", "-c5", "10.0.0.5")
	want(t, r, 0, "PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.\n"+
		".\b \b.\b \b..\b \b.\bE"+
		"\n--- 10.0.0.5 ping statistics ---\n"+
		"5 packets transmitted, 3 received, +1 errors, 40% packet loss, time 13ms\n"+
		"rtt min/avg/max/mdev = 1.000/1.000/1.000/0.000 ms, ipg/ewma 3.250/1.000 ms\n", "")
}

// 65,536 requests later a sequence number is used again, and is no duplicate.
func TestSequenceWraps(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		c.after(time.Microsecond, to, reply(req))
		return nil
	}}
	r := run(t, f, nil, "-q", "-i0", "-c66000", "10.0.0.5")
	if r.code != 0 || !strings.Contains(r.out, "66000 packets transmitted, 66000 received, 0% packet loss") {
		t.Errorf("code %d:\n%s", r.code, r.out)
	}
}

func TestPreload(t *testing.T) {
	want(t, run(t, &fakeNet{send: echo}, nil, "-ql3", "-c4", "10.0.0.5"), 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.

--- 10.0.0.5 ping statistics ---
4 packets transmitted, 4 received, 0% packet loss, time 1000ms
rtt min/avg/max/mdev = 1.000/2.500/4.000/1.118 ms, pipe 3
`, "")
}

func TestAdaptive(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		c.after(19900*time.Microsecond, to, reply(req))
		return nil
	}}
	want(t, run(t, f, nil, "-qA", "-c5", "10.0.0.5"), 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.

--- 10.0.0.5 ping statistics ---
5 packets transmitted, 5 received, 0% packet loss, time 80ms
rtt min/avg/max/mdev = 19.900/19.900/19.900/0.000 ms, ipg/ewma 20.000/19.900 ms
`, "")
}

func TestSignals(t *testing.T) {
	r := run(t, &fakeNet{send: echo}, func(s chan<- os.Signal, _ func()) {
		time.Sleep(1500 * time.Millisecond)
		s <- syscall.SIGQUIT
		time.Sleep(100 * time.Millisecond)
		s <- syscall.SIGINT
	}, "10.0.0.5")
	want(t, r, 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.
64 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=1.00 ms
64 bytes from 10.0.0.5: icmp_seq=2 ttl=64 time=2.00 ms

--- 10.0.0.5 ping statistics ---
2 packets transmitted, 2 received, 0% packet loss, time 1000ms
rtt min/avg/max/mdev = 1.000/1.500/2.000/0.500 ms
`, "\r2/2 packets, 0% loss, min/avg/ewma/max = 1.000/1.500/1.125/2.000 ms\n")

	r = run(t, &fakeNet{send: func(*fakeConn, int, []byte, netip.Addr) error { return nil }}, func(_ chan<- os.Signal, cancel func()) {
		time.Sleep(time.Millisecond)
		cancel()
	}, "10.0.0.5")
	if r.code != 1 || r.took != time.Millisecond {
		t.Errorf("code %d after %v, want 1 after 1ms", r.code, r.took)
	}

	// A daemon that hangs in the middle of a request does not hold it either.
	stuck := &fakeNet{send: func(c *fakeConn, n int, _ []byte, _ netip.Addr) error {
		<-c.closed
		return net.ErrClosed
	}}
	r = run(t, stuck, func(s chan<- os.Signal, _ func()) {
		time.Sleep(time.Millisecond)
		s <- syscall.SIGINT
	}, "10.0.0.5")
	want(t, r, 1, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.

--- 10.0.0.5 ping statistics ---
1 packets transmitted, 0 received, 100% packet loss, time 0ms

`, "")

	slow := &fakeNet{lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	r = run(t, slow, func(s chan<- os.Signal, _ func()) { s <- syscall.SIGINT }, "www.x")
	want(t, r, 2, "", "ping: www.x: interrupted while resolving the name\n")
}

func TestSendErrors(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		switch n {
		case 1:
			return syscall.EMSGSIZE
		case 2:
			return unreach // the route went away
		}
		return echo(c, n, req, to)
	}}
	want(t, run(t, f, nil, "-c3", "10.0.0.5"), 0, `PING 10.0.0.5 (10.0.0.5) 56(84) bytes of data.
64 bytes from 10.0.0.5: icmp_seq=3 ttl=64 time=3.00 ms

--- 10.0.0.5 ping statistics ---
3 packets transmitted, 1 received, +1 errors, 66.6667% packet loss, time 2000ms
rtt min/avg/max/mdev = 3.000/3.000/3.000/0.000 ms
`, "ping: local error: message too long\nping: sendmsg: Network is unreachable\n")
}

func TestDaemonEnds(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{syscall.ECONNRESET, "ping: receive: Connection reset by peer (has the daemon ended?)\n"},
		{&net.OpError{Op: "read", Net: "ip4:icmp", Err: noDaemon}, "ping: " + noDaemon.Error() + "\n"},
	} {
		f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
			if n == 2 {
				c.in <- arrival{err: tt.err}
				return nil
			}
			return echo(c, n, req, to)
		}}
		r := run(t, f, nil, "-q", "10.0.0.5")
		if r.code != 2 || r.errOut != tt.want || !strings.Contains(r.out, "2 packets transmitted, 1 received") {
			t.Errorf("code %d: %q, want %q\n%s", r.code, r.errOut, tt.want, r.out)
		}
	}
}

func TestRefusedStart(t *testing.T) {
	fail := func(err error) *fakeNet {
		return &fakeNet{send: func(*fakeConn, int, []byte, netip.Addr) error { return err }}
	}
	lookup := func(err error) *fakeNet {
		return &fakeNet{lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, err }}
	}
	for _, tt := range []struct {
		f    *fakeNet
		args string
		want string
	}{
		{fail(unreach), "10.9.9.9", "connect: Network is unreachable"},
		{fail(syscall.EACCES), "10.0.0.255", errBroadcast.Error()},
		{fail(nil), "255.255.255.255", errBroadcast.Error()},
		{&fakeNet{}, "www.x", "www.x: Name or service not known"},
		{&fakeNet{}, "-6 10.0.0.5", "10.0.0.5: Address family for hostname not supported"},
		{lookup(&net.DNSError{Err: "i/o timeout", Server: "10.0.0.1:53", IsTimeout: true}), "www.x",
			"www.x: Temporary failure in name resolution (10.0.0.1:53: i/o timeout)"},
		{lookup(&net.OpError{Op: "dial", Net: "unix", Err: noDaemon}), "www.x", noDaemon.Error()},
		{&fakeNet{listen: &net.OpError{Op: "listen", Net: "ip4:icmp", Err: noDaemon}}, "10.0.0.5", noDaemon.Error()},
		{&fakeNet{listen: errors.New("too many flows")}, "10.0.0.5", "too many flows"},
	} {
		r := run(t, tt.f, nil, strings.Fields(tt.args)...)
		want(t, r, 2, "", "ping: "+tt.want+"\n")
	}
}

func TestOptionsReachTheSocket(t *testing.T) {
	for host, want := range map[string]string{
		"10.0.0.5": "map[ip.mtu_discover:2 ip.tos:16 ip.ttl:3]",
		"fd00::5":  "map[ip.mtu_discover:2 ipv6.tclass:16 ipv6.unicast_hops:3]",
	} {
		f := &fakeNet{send: echo}
		r := run(t, f, nil, "-qc1", "-t", "3", "-Q0x10", "-M", "do", host)
		if got := fmt.Sprint(f.conns[0].opts); r.code != 0 || got != want {
			t.Errorf("code %d, options %s, want %s", r.code, got, want)
		}
	}
	f := &fakeNet{send: echo, noOption: syscall.EOPNOTSUPP}
	want(t, run(t, f, nil, "-Mdo", "10.0.0.5"), 2, "", "ping: option -M: set ip.mtu_discover to 2: Operation not supported\n")
}

func TestTimestamps(t *testing.T) {
	r := run(t, &fakeNet{send: echo}, nil, "-Dac1", "10.0.0.5")
	if !regexp.MustCompile(`(?m)^\[\d+\.\d{6}\] 64 bytes from 10\.0\.0\.5: icmp_seq=1 ttl=64 time=1\.00 ms\x07$`).MatchString(r.out) {
		t.Errorf("output %q", r.out)
	}
}

// Everybody may answer a broadcast, and that is neither a duplicate nor a surprise.
func TestBroadcast(t *testing.T) {
	f := &fakeNet{send: func(c *fakeConn, n int, req []byte, to netip.Addr) error {
		if c.opts["so.broadcast"] == 0 {
			return syscall.EACCES
		}
		c.after(time.Millisecond, them4, reply(req))
		c.after(2*time.Millisecond, us4, reply(req))
		return nil
	}}
	r := run(t, f, nil, "-bc2", "10.0.0.255")
	want(t, r, 0, `PING 10.0.0.255 (10.0.0.255) 56(84) bytes of data.
64 bytes from 10.0.0.5: icmp_seq=1 ttl=64 time=1.00 ms
64 bytes from 10.0.0.4: icmp_seq=1 ttl=64 time=2.00 ms
64 bytes from 10.0.0.5: icmp_seq=2 ttl=64 time=1.00 ms

--- 10.0.0.255 ping statistics ---
2 packets transmitted, 2 received, +1 duplicates, 0% packet loss, time 1000ms
rtt min/avg/max/mdev = 1.000/1.333/2.000/0.471 ms
`, "WARNING: pinging broadcast address\n")
}
