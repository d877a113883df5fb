package control

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// detachTime is how long a datagram on its way to the client holds up detach.
const detachTime = 100 * time.Millisecond

// datagramOp finds the UDP socket that a request is about, and closes fd, which it takes none of.
func (s *session) datagramOp(r Request, fd int) (*flow, *udpPacketConn, error) {
	if fd >= 0 {
		closeFD(fd)
		return nil, nil, errNoDescriptor
	}
	f, err := s.flow(r.Flow)
	if err != nil {
		return nil, nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pkt == nil || f.closed {
		return nil, nil, syscall.EBADF
	}
	u, ok := f.pkt.conn.(*udpPacketConn)
	if !ok {
		return nil, nil, syscall.EOPNOTSUPP
	}
	return f, u, nil
}

// connect connects a UDP socket that has no descriptor, or with no address disconnects it.
func (s *session) connect(_ context.Context, r Request, fd int) result {
	f, u, err := s.datagramOp(r, fd)
	if err != nil {
		return result{err: err}
	}
	var remote netip.AddrPort
	if r.Address != "" {
		if remote, err = netip.ParseAddrPort(r.Address); err != nil {
			return result{err: invalid("connect takes the address IP:PORT")}
		}
	}
	p := f.pkt
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ep != nil {
		return result{err: badDescriptor(syscall.EISCONN, "is there: detach it first")}
	}
	if err := u.Connect(remote); err != nil {
		return result{err: err}
	}
	u.connected = remote.IsValid()
	u.raw = u.connected && !r.Framed
	p.raw = u.raw
	f.setAddrs(u.LocalAddr(), u.RemoteAddr())
	return result{reply: f.reply()}
}

// detach ends the data path of a datagram flow in good order and keeps the flow.
func (s *session) detach(_ context.Context, r Request, fd int) result {
	f, _, err := s.datagramOp(r, fd)
	if err != nil {
		return result{err: err}
	}
	return result{err: f.pkt.detach()}
}

// sendOne sends one datagram and tells what became of it.
func (s *session) sendOne(_ context.Context, r Request, fd int) result {
	_, u, err := s.datagramOp(r, fd)
	if err != nil {
		return result{err: err}
	}
	to, err := netip.ParseAddrPort(r.Address)
	if err != nil {
		return result{err: invalid("send takes the address IP:PORT")}
	}
	var from netip.Addr
	if r.Local != "" {
		if from, err = netip.ParseAddr(r.Local); err != nil {
			return result{err: invalid("send takes an IP address as local")}
		}
	}
	return result{err: u.WriteMessage(r.Data, to, from, r.Value)}
}

func (s *session) join(_ context.Context, r Request, fd int) result {
	_, u, err := s.datagramOp(r, fd)
	if err != nil {
		return result{err: err}
	}
	group, err := netip.ParseAddr(r.Address)
	if err != nil {
		return result{err: invalid(r.Op + " takes the address of a group")}
	}
	var local netip.Addr
	if r.Local != "" {
		if local, err = netip.ParseAddr(r.Local); err != nil {
			return result{err: invalid(r.Op + " takes an IP address as local")}
		}
	}
	if r.Op == "leave" {
		return result{err: u.Leave(group, local)}
	}
	return result{err: u.Join(group, local)}
}

// detach ends run, with the socket left open, and returns when no descriptor is left. What
// the program has written goes out before.
func (p *packetPump) detach() error {
	p.mu.Lock()
	ep := p.ep
	if ep == nil || p.detached != nil || p.closing.Load() {
		p.mu.Unlock()
		return syscall.ENOTCONN
	}
	done := make(chan struct{})
	p.detached = done
	p.mu.Unlock()
	p.detaching.Store(true)
	_ = ep.SetWriteDeadline(time.Now().Add(detachTime))
	_ = p.conn.SetReadDeadline(time.Unix(1, 0))
	_ = ep.CloseRead()
	<-done
	if p.closing.Load() {
		return net.ErrClosed
	}
	return nil
}

// endDetached is the end of a data path: it says whether the flow stays.
func (p *packetPump) endDetached() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.detached == nil {
		return false
	}
	p.ep = nil
	if !p.closing.Load() {
		_ = p.conn.SetReadDeadline(time.Time{})
	}
	p.detaching.Store(false)
	close(p.detached)
	p.detached = nil
	return !p.closing.Load()
}

// interrupted says whether err is what detach makes a wait end with.
func (p *packetPump) interrupted(err error) bool {
	return p.detaching.Load() && errors.Is(err, os.ErrDeadlineExceeded)
}
