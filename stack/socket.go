package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A Socket is a TCP socket that is neither connected nor listens yet: what
// programs have between socket() and connect() or listen(). Connect and Listen
// use it up, whether they work or not.
type Socket struct {
	options
	s       *Stack
	wq      *waiter.Queue
	network string // "tcp4" or "tcp6"
	proto   tcpip.NetworkProtocolNumber

	started chan struct{} // closed by Connect

	mu   sync.Mutex
	used bool
}

// Socket makes a TCP socket; network is "tcp4", or "tcp6" which takes IPv4 as
// well unless the option "ipv6.v6only" is set.
func (s *Stack) Socket(network string) (*Socket, error) {
	proto := tcpip.NetworkProtocolNumber(ipv6.ProtocolNumber)
	switch network {
	case "tcp4":
		proto = ipv4.ProtocolNumber
	case "tcp6":
	default:
		return nil, fmt.Errorf("socket: %w", net.UnknownNetworkError(network))
	}
	if isClosed(s.closed) {
		return nil, opErr("socket", network, nil, nil, net.ErrClosed)
	}
	wq := new(waiter.Queue)
	ep, terr := s.ns.NewEndpoint(tcp.ProtocolNumber, proto, wq)
	if terr != nil {
		return nil, opErr("socket", network, nil, nil, sysErr("socket", terr))
	}
	// As package net does it; rebinding a port in TIME-WAIT works then.
	ep.SocketOptions().SetReuseAddress(true)
	return &Socket{options: options{ep: ep}, s: s, wq: wq, network: network, proto: proto, started: make(chan struct{})}, nil
}

// Bind reserves a local address. Port 0 takes a free one.
func (k *Socket) Bind(local netip.AddrPort) error {
	if k.s.listeners.conflict(k.listening(local)) {
		return opErr("bind", "tcp", nil, net.TCPAddrFromAddrPort(local), os.NewSyscallError("bind", syscall.EADDRINUSE))
	}
	if terr := k.ep.Bind(k.full(local)); terr != nil {
		return opErr("bind", "tcp", nil, net.TCPAddrFromAddrPort(local), sysErr("bind", terr))
	}
	return nil
}

// full converts an address to bind to. On a tcp6 socket, 0.0.0.0 means IPv4 only.
func (k *Socket) full(local netip.AddrPort) tcpip.FullAddress {
	f := toFull(local)
	if k.proto == ipv6.ProtocolNumber && local.Addr().Unmap().Is4() && f.Addr == (tcpip.Address{}) {
		f.Addr = tcpip.AddrFrom4([4]byte{})
	}
	return f
}

// listening describes what this socket would listen on.
func (k *Socket) listening(local netip.AddrPort) listening {
	return listening{
		local:     netip.AddrPortFrom(local.Addr().Unmap().WithZone(""), local.Port()),
		v6only:    k.ep.SocketOptions().GetV6Only(),
		reusePort: k.ep.SocketOptions().GetReusePort(),
	}
}

// LocalAddr returns the bound address, or the zero AddrPort.
func (k *Socket) LocalAddr() netip.AddrPort {
	f, terr := k.ep.GetLocalAddress()
	if terr != nil || f.Port == 0 {
		return netip.AddrPort{}
	}
	return fromFull(f, k.proto)
}

// Started returns a channel that is closed when Connect has begun: there is a local address then, unless
// it has failed already.
func (k *Socket) Started() <-chan struct{} { return k.started }

// use marks the socket as used up, and reports whether it was not.
func (k *Socket) use() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	was := k.used
	k.used = true
	return !was
}

// Connect connects to remote. When ctx ends first the attempt is given up; the
// error is then os.ErrDeadlineExceeded or context.Canceled.
func (k *Socket) Connect(ctx context.Context, remote netip.AddrPort) (*TCPConn, error) {
	addr := net.TCPAddrFromAddrPort(remote)
	fail := func(err error) error {
		var source net.Addr
		if local := k.LocalAddr(); local.IsValid() {
			source = net.TCPAddrFromAddrPort(local)
		}
		return opErr("dial", "tcp", source, addr, err)
	}
	if !k.use() {
		return nil, fail(syscall.EINVAL)
	}
	if remote.Addr().Is4() != (k.proto == ipv4.ProtocolNumber) && !remote.Addr().Unmap().Is4() {
		k.ep.Close()
		return nil, fail(syscall.EAFNOSUPPORT)
	}
	if err := ctx.Err(); err != nil {
		k.ep.Close()
		return nil, fail(ctxErr(ctx))
	}
	full := toFull(remote)
	if full.Addr == (tcpip.Address{}) { // connect() to 0.0.0.0 means this host
		full.Addr = toAddress(loopbackOf(remote.Addr()))
	}
	begin := time.Now()
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	k.wq.EventRegister(&entry)
	terr := k.ep.Connect(full)
	close(k.started)
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			terr = k.ep.LastError()
		case <-ctx.Done():
			k.wq.EventUnregister(&entry)
			err := fail(ctxErr(ctx))
			k.s.connects.observe(time.Since(begin), err)
			k.ep.Abort()
			return nil, err
		}
	}
	took := time.Since(begin)
	k.wq.EventUnregister(&entry)
	if terr != nil {
		err := fail(sysErr("connect", terr))
		if isClosed(k.s.closed) {
			err = fail(net.ErrClosed)
		}
		k.s.connects.observe(took, err)
		k.ep.Close()
		return nil, err
	}
	c, err := newTCPConn(k.s, k.ep, k.wq, full, k.fixedRecv())
	k.s.connects.observe(took, err)
	if err != nil {
		err = fail(err)
		k.ep.Close()
		return nil, err
	}
	return c, nil
}

// fixedRecv returns the size of the receive buffer in bytes if the program has chosen
// it, else 0.
func (k *Socket) fixedRecv() int64 {
	if size := k.ep.SocketOptions().GetReceiveBufferSize(); size != int64(receiveBuffers.Default) {
		return size
	}
	return 0
}

func loopbackOf(ip netip.Addr) netip.Addr {
	if ip.Unmap().Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// Listen begins to accept connections. backlog is how many may wait to be
// accepted; 0 means DefaultBacklog.
func (k *Socket) Listen(backlog int) (*TCPListener, error) {
	if !k.use() {
		return nil, opErr("listen", "tcp", nil, nil, syscall.EINVAL)
	}
	if backlog <= 0 {
		backlog = DefaultBacklog
	}
	if !k.LocalAddr().IsValid() { // listen() on an unbound socket takes any port
		if terr := k.ep.Bind(tcpip.FullAddress{}); terr != nil {
			k.ep.Close()
			return nil, opErr("listen", "tcp", nil, nil, sysErr("bind", terr))
		}
	}
	addr := net.TCPAddrFromAddrPort(k.LocalAddr())
	release, ok := k.s.listeners.add(k.listening(k.LocalAddr()))
	if !ok {
		k.ep.Close()
		return nil, opErr("listen", "tcp", nil, addr, os.NewSyscallError("listen", syscall.EADDRINUSE))
	}
	backlog = min(backlog, DefaultBacklog)
	fixed := k.fixedRecv()
	if fixed == 0 {
		k.ep.SocketOptions().SetReceiveBufferSize(k.s.mem.waiting(backlog), false)
	}
	if terr := k.ep.Listen(backlog); terr != nil {
		release()
		k.ep.Close()
		return nil, opErr("listen", "tcp", nil, addr, sysErr("listen", terr))
	}
	l := newTCPListener(k.s, k.ep, k.wq, addr)
	l.unlisten = release
	l.fixedRecv = fixed
	return l, nil
}

// Close gives up a socket that was not used. Otherwise it does nothing.
func (k *Socket) Close() error {
	if k.use() {
		k.ep.Close()
	}
	return nil
}
