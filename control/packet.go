package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

const (
	// datagramBufferLen holds any frame, and a byte more to notice one that is too long.
	datagramBufferLen = icmpHeaderLen + maxDatagram + 1
	// maxSoftErrors is how many errors without a datagram between them end a flow.
	maxSoftErrors = 64
)

var datagramBuffers = sync.Pool{New: func() any { b := make([]byte, datagramBufferLen); return &b }}

// packetConn is the stack's side of a datagram flow.
type packetConn interface {
	Options
	Close() error
	// frameUp sends one frame of the program; answer goes back to it when not empty.
	frameUp(frame, scratch []byte) (answer []byte, err error)
	// frameDown waits for a datagram and returns it as a frame in buf.
	frameDown(buf []byte) ([]byte, error)
	// errorFrame is err as a frame, or nothing where there are no frames.
	errorFrame(err error, scratch []byte) []byte
	// describe says of which datagram a frame is, unless it is of none.
	describe(ev *link.Event, frame []byte) bool
	SetReadDeadline(t time.Time) error
}

// A packetPump moves datagrams between the stack and a program.
type packetPump struct {
	conn packetConn
	// raw: the flow has no headers, which only a SOCK_DGRAM can carry.
	raw  bool
	told observed
	// softError tells of an error that does not end the flow, of a raw one.
	softError func(error)

	mu      sync.Mutex
	ep      *endpoint // nil until attached
	closing atomic.Bool
	moved   atomic.Int64
	err     error // what ended it, set by downstream

	detaching atomic.Bool
	detached  chan struct{} // of a detach that waits, guarded by mu; closed when run has ended
}

func (p *packetPump) attached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ep != nil
}

func (p *packetPump) lastMoved() time.Time { return time.Unix(0, p.moved.Load()) }

// finish sends what the program has written, then closes.
func (p *packetPump) finish() {
	p.closing.Store(true)
	p.mu.Lock()
	ep := p.ep
	p.mu.Unlock()
	if ep == nil {
		p.conn.Close()
		return
	}
	ep.CloseRead()
}

func (p *packetPump) kill(bool) {
	p.closing.Store(true)
	p.conn.Close()
	p.mu.Lock()
	ep := p.ep
	p.mu.Unlock()
	if ep != nil {
		ep.Close()
	}
}

func (p *packetPump) run() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.upstream()
		if p.detaching.Load() {
			return
		}
		p.closing.Store(true)
		p.conn.Close()
		p.ep.Close()
	}()
	p.err = p.downstream()
	if !p.detaching.Load() || p.closing.Load() || p.err != nil {
		p.closing.Store(true)
		p.conn.Close()
		p.ep.Close()
	}
	<-done
	p.ep.Close()
}

// upstream sends what the program writes until it closes.
func (p *packetPump) upstream() {
	var scratch [icmpHeaderLen]byte
	ep := p.ep
	for {
		var buf *[]byte
		n, err := ep.recv(func(fd int) (int, error) {
			if buf == nil {
				buf = datagramBuffers.Get().(*[]byte)
			}
			n, err := recvNow(fd, *buf)
			if err == syscall.EAGAIN {
				datagramBuffers.Put(buf)
				buf = nil
				if p.closing.Load() || p.detaching.Load() { // a SOCK_DGRAM that was shut down never reports an end
					err = io.EOF
				}
			}
			return n, err
		})
		if err == syscall.ECONNRESET && p.raw { // it connected its socket anew; what was queued is lost
			datagramBuffers.Put(buf)
			continue
		}
		if err != nil || n == 0 && !p.raw {
			if buf != nil {
				datagramBuffers.Put(buf)
			}
			return
		}
		p.moved.Store(time.Now().UnixNano())
		p.told.datagram(link.StepClientOut, p.conn, (*buf)[:n])
		answer, err := p.conn.frameUp((*buf)[:n], scratch[:0])
		datagramBuffers.Put(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if len(answer) == 0 {
				p.softError(err)
			}
		}
		if len(answer) > 0 {
			if err := ep.Send(answer); programGone(err) {
				return
			}
		}
	}
}

// downstream hands on what arrives. Its error is what ended the flow from the stack's side.
func (p *packetPump) downstream() error {
	buf := datagramBuffers.Get().(*[]byte)
	defer datagramBuffers.Put(buf)
	soft := 0
	for {
		frame, err := p.conn.frameDown(*buf)
		if err != nil && (p.closing.Load() || p.interrupted(err)) {
			return nil
		}
		if err != nil {
			// ICMP errors end up here (RFC 1122 section 4.1.3.3): the socket lives on.
			var errno syscall.Errno
			if soft++; !errors.As(err, &errno) || errno == syscall.EBADF || soft > maxSoftErrors {
				return err
			}
			if frame = p.conn.errorFrame(err, (*buf)[:0]); frame == nil {
				p.softError(err)
				continue
			}
		} else {
			soft = 0
		}
		p.moved.Store(time.Now().UnixNano())
		err = p.ep.Send(frame)
		if err == nil {
			p.told.datagram(link.StepClientIn, p.conn, frame)
		}
		if programGone(err) && !p.interrupted(err) && !(p.raw && notNow(err)) {
			return nil
		}
	}
}

// notNow says whether a send failed because the program is about to connect its socket anew.
func notNow(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ECONNRESET)
}

// programGone says whether a send failed for good. EMSGSIZE and ENOBUFS lose one datagram.
func programGone(err error) bool {
	return err != nil && !errors.Is(err, syscall.EMSGSIZE) && !errors.Is(err, syscall.ENOBUFS)
}

// A udpPacketConn puts a UDP socket behind packetConn.
type udpPacketConn struct {
	PacketConn
	raw       bool
	connected bool
	// info: frames to the program say more of a datagram.
	info bool
}

func (u *udpPacketConn) frameUp(frame, scratch []byte) ([]byte, error) {
	if u.raw {
		_, err := u.PacketConn.Write(frame)
		return nil, err
	}
	f, payload, err := parseUDPFrame(frame)
	if err != nil || f.kind != frameData {
		return u.errorFrame(syscall.EINVAL, scratch), syscall.EINVAL
	}
	switch {
	case f.addr.IsValid():
		_, err = u.PacketConn.WriteTo(payload, net.UDPAddrFromAddrPort(f.addr))
	case u.connected:
		_, err = u.PacketConn.Write(payload)
	default:
		err = syscall.EDESTADDRREQ
	}
	if err != nil {
		b := udpFrame{kind: frameError, errno: errnoOf(err), addr: f.addr}.append(scratch)
		if u.info {
			b = appendInfo(b, DatagramInfo{})
		}
		return b, err
	}
	return nil, nil
}

func (u *udpPacketConn) frameDown(buf []byte) ([]byte, error) {
	if u.raw {
		n, err := u.PacketConn.Read(buf)
		return buf[:n], err
	}
	if u.info {
		m, err := u.PacketConn.ReadMessage(buf[udpInfoLen : udpInfoLen+maxDatagram])
		if err != nil {
			return nil, err
		}
		from := netip.AddrPortFrom(m.From.Addr().Unmap(), m.From.Port())
		b := udpFrame{kind: frameData, addr: from}.append(buf[:0])
		appendInfo(b, m)
		return buf[:udpInfoLen+m.N], nil
	}
	n, from, err := u.PacketConn.ReadFrom(buf[udpHeaderLen : udpHeaderLen+maxDatagram])
	if err != nil {
		return nil, err
	}
	udpFrame{kind: frameData, addr: udpAddrPort(from)}.append(buf[:0])
	return buf[:udpHeaderLen+n], nil
}

func (u *udpPacketConn) errorFrame(err error, scratch []byte) []byte {
	if u.raw {
		return nil
	}
	b := udpFrame{kind: frameError, errno: errnoOf(err)}.append(scratch)
	if u.info {
		b = appendInfo(b, DatagramInfo{})
	}
	return b
}

// udpAddrPort converts an address of a datagram.
func udpAddrPort(a net.Addr) netip.AddrPort {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// An icmpPacketConn puts an ICMP socket behind packetConn.
type icmpPacketConn struct{ ICMPConn }

func (c icmpPacketConn) frameUp(frame, scratch []byte) ([]byte, error) {
	f, data, err := parseICMPFrame(frame)
	switch {
	case err != nil || f.kind != frameData || len(data) == 0:
		err = syscall.EINVAL
	case !f.to.IsValid():
		err = syscall.EDESTADDRREQ
	default:
		err = c.WriteICMP(data, f.to)
	}
	if err != nil && errors.Is(err, net.ErrClosed) {
		return nil, err
	}
	return icmpFrame{kind: frameError, errno: errnoOf(err), seq: f.seq, to: f.to}.append(scratch), err
}

func (c icmpPacketConn) frameDown(buf []byte) ([]byte, error) {
	m, err := c.ReadICMP()
	if err != nil {
		return nil, err
	}
	if len(m.Data) > maxDatagram {
		return nil, syscall.EMSGSIZE
	}
	b := icmpFrame{kind: frameData, ttl: byte(m.TTL), at: m.At, from: m.From, to: m.To}.append(buf[:0])
	return append(b, m.Data...), nil
}

func (c icmpPacketConn) errorFrame(err error, scratch []byte) []byte {
	return icmpFrame{kind: frameError, errno: errnoOf(err)}.append(scratch)
}

func (s *session) udp(ctx context.Context, r Request, fd int) result {
	pc, err := openUDP(ctx, s.srv.cfg.Backend, r)
	if err != nil {
		closeFD(fd)
		return result{err: err}
	}
	connected := pc.RemoteAddr() != nil
	raw := connected && !r.Framed
	if r.Info {
		pc.ReceiveInfo()
	}
	f := &flow{network: "udp", pkt: &packetPump{
		conn: &udpPacketConn{pc, raw, connected, r.Info}, raw: raw,
	}}
	return s.startPacket(ctx, f, pc.LocalAddr(), pc.RemoteAddr(), fd)
}

func (s *session) icmp(ctx context.Context, r Request, fd int) result {
	if r.Network != "ip4" && r.Network != "ip6" {
		closeFD(fd)
		return result{err: invalid("icmp takes network ip4 or ip6")}
	}
	c, err := s.srv.cfg.Backend.ICMP(r.Network)
	if err == nil {
		if err = setOptions(c, r.Options); err != nil {
			c.Close()
		}
	}
	if err != nil {
		closeFD(fd)
		return result{err: err}
	}
	f := &flow{network: "icmp", pkt: &packetPump{conn: icmpPacketConn{c}}}
	any := netip.IPv4Unspecified()
	if r.Network == "ip6" {
		any = netip.IPv6Unspecified()
	}
	return s.startPacket(ctx, f, &net.IPAddr{IP: any.AsSlice()}, nil, fd)
}

// startPacket enters the flow, and attaches fd when there is one.
func (s *session) startPacket(ctx context.Context, f *flow, local, remote net.Addr, fd int) result {
	p := f.pkt
	p.told = s.cc.observed()
	p.softError = func(err error) {
		s.send(Reply{Event: "error", Flow: f.id, wireError: toWire(err)})
	}
	if err := s.addFlow(f); err != nil {
		closeFD(fd)
		p.conn.Close()
		return result{err: err}
	}
	f.setAddrs(local, remote)
	if err := s.ready(ctx, f); err != nil {
		closeFD(fd)
		return result{err: err}
	}
	if fd < 0 {
		return result{reply: f.reply()}
	}
	res := f.attachPacket(p, fd)
	if res.err != nil {
		f.clientGone()
	}
	return res
}

// attachPacket takes over fd as the data path.
func (f *flow) attachPacket(p *packetPump, fd int) result {
	types := []int{unix.SOCK_DGRAM, unix.SOCK_SEQPACKET}
	p.mu.Lock()
	raw := p.raw
	p.mu.Unlock()
	if raw {
		types = types[:1] // an empty datagram would be the end of a SOCK_SEQPACKET
	}
	ep, err := endpointFromFD(fd, types...)
	if err != nil {
		return result{err: err}
	}
	p.moved.Store(time.Now().UnixNano())
	f.mu.Lock()
	p.mu.Lock()
	defer p.mu.Unlock()
	defer f.mu.Unlock()
	if f.closed || p.ep != nil {
		ep.Close()
		return result{err: syscall.EBADF}
	}
	p.ep = ep
	return result{
		reply: Reply{Flow: f.id, Local: addrString(f.local), Remote: addrString(f.remote)},
		then: func() {
			f.s.paths.Add(1)
			f.s.srv.startPath(p, p.run, func() {
				defer f.s.paths.Done()
				if p.endDetached() {
					return
				}
				f.s.forget(f)
				rep := Reply{Event: "ended", Flow: f.id}
				if p.err != nil && !errors.Is(p.err, io.EOF) {
					rep.wireError = toWire(p.err)
				}
				f.s.send(rep)
			})
		},
	}
}
