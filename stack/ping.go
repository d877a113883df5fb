package stack

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Ping sends one ICMP echo request with 56 bytes of data and returns the time
// until its reply arrives. The error wraps EHOSTUNREACH or ENETUNREACH where an
// ICMP error came back, and os.ErrDeadlineExceeded when ctx ended first.
func (s *Stack) Ping(ctx context.Context, ip netip.Addr) (time.Duration, error) {
	fail := func(err error) (time.Duration, error) {
		return 0, fmt.Errorf("ping %v: %w", ip, err)
	}
	ip = ip.Unmap()
	network := "ip6"
	if ip.Is4() {
		network = "ip4"
	}
	c, err := s.ICMP(network)
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()

	request := make([]byte, header.ICMPv4MinimumSize+56)
	request[0] = byte(header.ICMPv4Echo)
	if ip.Is6() {
		request[0] = byte(header.ICMPv6EchoRequest)
	}
	rand.Read(request[4:]) // identifier, sequence and data mark this one request
	start := time.Now()
	if err := c.WriteICMP(request, ip); err != nil {
		return fail(err)
	}
	for {
		m, err := c.ReadICMP()
		if err != nil {
			if ctx.Err() != nil {
				err = ctxErr(ctx)
			}
			return fail(err)
		}
		switch {
		case isEchoReply(m.Data) && string(m.Data[4:]) == string(request[4:]):
			return m.At.Sub(start), nil
		case isErrorFor(m.Data, request):
			return fail(fmt.Errorf("%v says: %w", m.From, icmpErrno(m.Data, ip.Is6())))
		}
	}
}

func isEchoReply(b []byte) bool {
	return len(b) >= 8 && (b[0] == byte(header.ICMPv4EchoReply) || b[0] == byte(header.ICMPv6EchoReply))
}

// isErrorFor reports whether an ICMP error quotes the echo request: its
// identifier and sequence (RFC 792: at least 8 bytes behind the IP header).
func isErrorFor(b, request []byte) bool {
	if len(b) < 8+header.IPv4MinimumSize+8 {
		return false
	}
	inner := b[8:]
	at := header.IPv6MinimumSize
	if inner[0]>>4 == 4 {
		at = int(inner[0]&0xf) * 4
	}
	return len(inner) >= at+8 && inner[at] == request[0] && string(inner[at+4:at+8]) == string(request[4:8])
}

// icmpErrno returns the errno that Linux reports for an ICMP error.
func icmpErrno(b []byte, v6 bool) error {
	if v6 {
		if b[0] == byte(header.ICMPv6DstUnreachable) && b[1] == byte(header.ICMPv6NetworkUnreachable) {
			return syscall.ENETUNREACH
		}
		return syscall.EHOSTUNREACH
	}
	if b[0] == byte(header.ICMPv4DstUnreachable) {
		switch header.ICMPv4Code(binary.BigEndian.Uint16([]byte{0, b[1]})) {
		case header.ICMPv4NetUnreachable:
			return syscall.ENETUNREACH
		case header.ICMPv4PortUnreachable:
			return syscall.ECONNREFUSED
		}
	}
	return syscall.EHOSTUNREACH
}
