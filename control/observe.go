package control

import (
	"net"
	"net/netip"

	"github.com/ustack/ustack/link"
)

// An observed tells observers what passes between a program and its socket. The zero value
// tells nobody.
type observed struct {
	by  *link.Observers
	who string // "pid 1234 (curl)"
}

// stream tells of n bytes of a connection.
func (o *observed) stream(step link.Step, conn net.Conn, n int) {
	w := o.by.Watching()
	if w == nil || n <= 0 {
		return
	}
	w.Observe(&link.Event{
		Step: step, Network: "tcp", Owner: o.who, Bytes: n,
		Local: addrPortOf(conn.LocalAddr()), Remote: addrPortOf(conn.RemoteAddr()),
	})
}

// datagram tells of a frame of a datagram flow, which passed in full.
func (o *observed) datagram(step link.Step, conn packetConn, frame []byte) {
	w := o.by.Watching()
	if w == nil {
		return
	}
	ev := link.Event{Step: step, Owner: o.who}
	if conn.describe(&ev, frame) {
		w.Observe(&ev)
	}
}

func (u *udpPacketConn) describe(ev *link.Event, frame []byte) bool {
	ev.Network, ev.Local = "udp", addrPortOf(u.LocalAddr())
	ev.Remote, ev.Bytes = addrPortOf(u.RemoteAddr()), len(frame)
	if u.raw {
		return true
	}
	f, payload, err := parseUDPFrame(frame)
	if err != nil || f.kind != frameData {
		return false
	}
	if ev.Bytes = len(payload); u.info && ev.Step == link.StepClientIn {
		ev.Bytes -= udpInfoLen - udpHeaderLen
	}
	if f.addr.IsValid() {
		ev.Remote = f.addr
	}
	return true
}

func (c icmpPacketConn) describe(ev *link.Event, frame []byte) bool {
	f, data, err := parseICMPFrame(frame)
	if err != nil || f.kind != frameData {
		return false
	}
	ev.Network, ev.Bytes = "icmp", len(data)
	local, remote := f.to, f.from
	if ev.Step == link.StepClientOut {
		local, remote = f.from, f.to
	}
	ev.Local, ev.Remote = netip.AddrPortFrom(local, 0), netip.AddrPortFrom(remote, 0)
	return true
}

// addrPortOf converts an address; what is none becomes the zero AddrPort.
func addrPortOf(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		if a != nil {
			ap = a.AddrPort()
		}
	case *net.UDPAddr:
		if a != nil {
			ap = a.AddrPort()
		}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
