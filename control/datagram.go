package control

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"
	"time"
)

// Lengths of the headers before the datagrams of framed UDP flows and of ICMP flows,
// in bytes. protocol.md draws them.
const (
	udpHeaderLen  = 24
	udpInfoLen    = 48
	icmpHeaderLen = 56

	// maxDatagram is the largest payload: 65,535 bytes of IPv6 payload, less nothing,
	// so that every UDP datagram (65,507 bytes over IPv4) and ICMP message fits.
	maxDatagram = 65535
)

// Kinds of a frame.
const (
	frameData  = 1
	frameError = 2 // to the client only: what became of a frame it sent
)

var errBadFrame = errors.New("malformed datagram header")

// A udpFrame is the header of one datagram of a framed UDP flow.
type udpFrame struct {
	kind byte
	// errno is why sending to addr did not work, in a frameError.
	errno syscall.Errno
	// addr is the sender or the destination; not valid where the flow is connected.
	addr netip.AddrPort
}

func (f udpFrame) append(dst []byte) []byte {
	var h [udpHeaderLen]byte
	h[0] = f.kind
	h[1] = putAddr(h[8:24], f.addr.Addr())
	if h[1] != 0 {
		binary.BigEndian.PutUint16(h[2:], f.addr.Port())
	}
	binary.BigEndian.PutUint32(h[4:], uint32(f.errno))
	return append(dst, h[:]...)
}

// appendInfo appends the 24 bytes that follow the header where the client asked for them.
func appendInfo(dst []byte, m DatagramInfo) []byte {
	var h [udpInfoLen - udpHeaderLen]byte
	h[0] = putAddr(h[8:24], m.To)
	h[1], h[2] = byte(m.TTL), byte(m.TOS)
	return append(dst, h[:]...)
}

// parseUDPFrame takes the header off b. The payload aliases b.
func parseUDPFrame(b []byte) (f udpFrame, payload []byte, err error) {
	if len(b) < udpHeaderLen || len(b) > udpHeaderLen+maxDatagram {
		return f, nil, errBadFrame
	}
	f.kind = b[0]
	addr, ok := getAddr(b[1], b[8:24])
	errno := binary.BigEndian.Uint32(b[4:])
	if !ok || (f.kind != frameData && f.kind != frameError) || errno > maxErrno {
		return f, nil, errBadFrame
	}
	f.errno = syscall.Errno(errno)
	if addr.IsValid() {
		f.addr = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(b[2:]))
	}
	return f, b[udpHeaderLen:], nil
}

// An icmpFrame is the header of one message of an ICMP flow.
type icmpFrame struct {
	kind byte
	ttl  byte
	// errno and seq are of frameError: what became of the frame sent with that seq;
	// errno 0 says that it was sent.
	errno syscall.Errno
	seq   uint64
	at    time.Time
	from  netip.Addr
	to    netip.Addr
}

func (f icmpFrame) append(dst []byte) []byte {
	var h [icmpHeaderLen]byte
	h[0] = f.kind
	fromFamily := putAddr(h[24:40], f.from)
	toFamily := putAddr(h[40:56], f.to)
	h[1] = fromFamily<<4 | toFamily
	h[2] = f.ttl
	binary.BigEndian.PutUint32(h[4:], uint32(f.errno))
	binary.BigEndian.PutUint64(h[8:], f.seq)
	if !f.at.IsZero() {
		binary.BigEndian.PutUint64(h[16:], uint64(f.at.UnixNano()))
	}
	return append(dst, h[:]...)
}

// parseICMPFrame takes the header off b. The message aliases b.
func parseICMPFrame(b []byte) (f icmpFrame, data []byte, err error) {
	if len(b) < icmpHeaderLen || len(b) > icmpHeaderLen+maxDatagram {
		return f, nil, errBadFrame
	}
	f.kind, f.ttl = b[0], b[2]
	from, ok1 := getAddr(b[1]>>4, b[24:40])
	to, ok2 := getAddr(b[1]&0xf, b[40:56])
	errno := binary.BigEndian.Uint32(b[4:])
	if !ok1 || !ok2 || (f.kind != frameData && f.kind != frameError) || errno > maxErrno {
		return f, nil, errBadFrame
	}
	f.errno, f.from, f.to = syscall.Errno(errno), from, to
	f.seq = binary.BigEndian.Uint64(b[8:])
	if ns := int64(binary.BigEndian.Uint64(b[16:])); ns != 0 {
		f.at = time.Unix(0, ns)
	}
	return f, b[icmpHeaderLen:], nil
}

// putAddr writes an address into 16 bytes and returns its family: 4, 6, or 0 for
// none. An IPv4-mapped address is written as IPv4.
func putAddr(dst []byte, a netip.Addr) (family byte) {
	switch a = a.Unmap(); {
	case a.Is4():
		b := a.As4()
		copy(dst, b[:])
		return 4
	case a.Is6():
		b := a.As16()
		copy(dst, b[:])
		return 6
	}
	return 0
}

// getAddr is the reverse of putAddr.
func getAddr(family byte, src []byte) (a netip.Addr, ok bool) {
	switch family {
	case 0:
		return a, true
	case 4:
		return netip.AddrFrom4([4]byte(src[:4])), true
	case 6:
		a = netip.AddrFrom16([16]byte(src[:16]))
		return a, !a.Is4In6()
	}
	return a, false
}
