package ping

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ustack/ustack/control"
)

var (
	us4   = netip.MustParseAddr("10.0.0.4")
	them4 = netip.MustParseAddr("10.0.0.5")
	us6   = netip.MustParseAddr("fd00::4")
	them6 = netip.MustParseAddr("fd00::5")
)

// A fakeNet answers every request by its script.
type fakeNet struct {
	names map[string][]netip.Addr
	// lookup replaces names.
	lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	listen error
	// noOption is the error of every SetOption, if set.
	noOption error
	// send says what a request leads to: an error of WriteICMP or messages. n counts
	// requests from 1.
	send func(c *fakeConn, n int, req []byte, to netip.Addr) error

	conns []*fakeConn
}

func (f *fakeNet) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if f.lookup != nil {
		return f.lookup(ctx, host)
	}
	var out []netip.Addr
	for _, ip := range f.names[host] {
		if network == "ip" || network == "ip4" && ip.Is4() || network == "ip6" && ip.Is6() {
			out = append(out, ip)
		}
	}
	if out == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return out, nil
}

func (f *fakeNet) ListenICMP(ctx context.Context, network string) (control.ICMPConn, error) {
	if f.listen != nil {
		return nil, f.listen
	}
	c := &fakeConn{
		net: f, v6: network == "ip6", opts: map[string]int{},
		in: make(chan arrival, 1000), closed: make(chan struct{}),
	}
	f.conns = append(f.conns, c)
	return c, nil
}

type fakeConn struct {
	net    *fakeNet
	v6     bool
	opts   map[string]int
	sent   int
	in     chan arrival
	once   sync.Once
	closed chan struct{}
}

func (c *fakeConn) SetOption(name string, v int) error { c.opts[name] = v; return c.net.noOption }
func (c *fakeConn) Option(name string) (int, error)    { return c.opts[name], nil }
func (c *fakeConn) SetReadDeadline(time.Time) error    { return os.ErrNoDeadline }

func (c *fakeConn) ReadICMP() (control.ICMPMessage, error) {
	select {
	case a := <-c.in:
		return a.msg, a.err
	case <-c.closed:
		return control.ICMPMessage{}, net.ErrClosed
	}
}

func (c *fakeConn) WriteICMP(b []byte, to netip.Addr) error {
	c.sent++
	return c.net.send(c, c.sent, bytes.Clone(b), to)
}

func (c *fakeConn) Close() error { c.once.Do(func() { close(c.closed) }); return nil }

// after delivers a message from an address after a while, stamped with its arrival.
func (c *fakeConn) after(d time.Duration, from netip.Addr, data []byte) {
	time.AfterFunc(d, func() {
		c.in <- arrival{msg: control.ICMPMessage{Data: data, From: from, TTL: 64, At: time.Now()}}
	})
}

func reply(req []byte) []byte {
	b := bytes.Clone(req)
	switch b[0] {
	case typeEcho:
		b[0] = typeEchoReply
	case type6Echo:
		b[0] = type6EchoReply
	}
	return b
}

// icmpError quotes a request in an ICMP error.
func icmpError(typ, code uint8, info uint32, req []byte, from, to netip.Addr) []byte {
	b := []byte{typ, code, 0, 0}
	b = binary.BigEndian.AppendUint32(b, info)
	if to.Is4() {
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, protoICMP
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(req)))
		copy(h[12:], from.AsSlice())
		copy(h[16:], to.AsSlice())
		b = append(b, h...)
	} else {
		h := make([]byte, 40)
		h[0], h[6], h[7] = 0x60, protoICMPv6, 64
		binary.BigEndian.PutUint16(h[4:], uint16(len(req)))
		copy(h[8:], from.AsSlice())
		copy(h[24:], to.AsSlice())
		b = append(b, h...)
	}
	return append(b, req...)
}

// echo answers every request after a millisecond a request.
func echo(c *fakeConn, n int, req []byte, to netip.Addr) error {
	c.after(time.Duration(n)*time.Millisecond, to, reply(req))
	return nil
}

type result struct {
	code        int
	out, errOut string
	took        time.Duration
}

// run pings in a bubble of its own clock. during, if set, runs beside it.
func run(t *testing.T, f *fakeNet, during func(signals chan<- os.Signal, cancel func()), args ...string) (r result) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var out, errOut bytes.Buffer
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		signals := make(chan os.Signal, 1)
		if during != nil {
			go during(signals, cancel)
		}
		start := time.Now()
		r.code = Main(ctx, args, Env{Stdout: &out, Stderr: &errOut, Network: f, Signals: signals})
		r.took = time.Since(start)
		r.out, r.errOut = out.String(), errOut.String()
		for _, c := range f.conns {
			select {
			case <-c.closed:
			default:
				t.Error("the socket is still open")
			}
		}
	})
	return r
}

func want(t *testing.T, r result, code int, out, errOut string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	if r.out != out {
		t.Errorf("output:\n%s\nwant:\n%s", r.out, out)
	}
	if r.errOut != errOut {
		t.Errorf("standard error:\n%s\nwant:\n%s", r.errOut, errOut)
	}
}

var unreach = &net.OpError{Op: "write", Net: "ip4:icmp", Err: os.NewSyscallError("sendmsg", syscall.ENETUNREACH)}

var noDaemon = &control.DaemonError{Path: "/run/none.sock", Err: syscall.ENOENT}
