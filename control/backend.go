package control

import (
	"context"
	"io"
	"net"
	"net/netip"
	"time"
)

// A Backend is the stack that a Server offers. Its errors carry what a kernel
// socket would answer: errors.As finds a syscall.Errno in an error of a socket
// and a *net.DNSError in one of a name.
//
// Networks are those of package net: "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6".
type Backend interface {
	// DialContext connects to "host:port"; host may be a name, which is resolved
	// through the stack's own DNS servers. A TCP connection implements Conn.
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// LookupNetIP resolves a name through the stack's DNS servers; network is
	// "ip", "ip4" or "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)

	// Socket makes an unbound TCP socket; network is "tcp4" or "tcp6".
	Socket(network string) (Socket, error)
	// UDP makes a UDP socket bound to local (port 0: any free one; the
	// zero AddrPort: any address) and, when remote is valid, connected to it.
	// network is "udp4" or "udp6". A "udp6" socket bound to [::] receives IPv4
	// datagrams too unless the option "ipv6.v6only" is set. The options are set before
	// the socket is bound.
	UDP(network string, local, remote netip.AddrPort, options map[string]int) (PacketConn, error)
	// ICMP makes an ICMP socket; network is "ip4" or "ip6".
	ICMP(network string) (ICMPConn, error)

	// State, all of it a snapshot.
	Status() Status
	Links() []Link
	Addrs() []Addr
	Routes() []Route
	Neighbours() []Neighbour
	Sockets() []SocketInfo
	Stats() Stats

	// Change. Errors wrap syscall.EEXIST, EADDRNOTAVAIL, ENETUNREACH, ESRCH,
	// EINVAL … as the rtnetlink request of the same meaning would answer.
	AddAddr(ctx context.Context, a netip.Prefix) error
	DelAddr(ctx context.Context, a netip.Prefix) error
	AddRoute(ctx context.Context, r Route) error
	DelRoute(ctx context.Context, r Route) error
	AddNeighbour(ctx context.Context, n Neighbour) error
	DelNeighbour(ctx context.Context, ip netip.Addr) error
}

// Options are socket options by name. Values are integers as setsockopt takes
// them; booleans are 0 or 1. An unknown name is ENOPROTOOPT. The names are listed
// in protocol.md.
type Options interface {
	SetOption(name string, value int) error
	Option(name string) (int, error)
}

// A Socket is a TCP socket before it is connected or listens. Connect and Listen
// use it up: Close afterwards does nothing.
type Socket interface {
	Options
	// Bind reserves a local address; port 0 takes a free one.
	Bind(local netip.AddrPort) error
	// LocalAddr returns the bound address, or the zero AddrPort.
	LocalAddr() netip.AddrPort
	Connect(ctx context.Context, remote netip.AddrPort) (Conn, error)
	Listen(backlog int) (Listener, error)
	Close() error
}

// A Starter is a Socket that can tell when Connect has chosen the local address.
type Starter interface {
	// Started returns a channel that is closed then.
	Started() <-chan struct{}
}

// A Conn is an established TCP connection.
type Conn interface {
	net.Conn
	Options
	// WriteTo passes all that arrives to w, in large steps where much arrives, until
	// the peer closes its side. It should hold no memory while nothing does. The w of
	// this package has also
	//
	//	TryWrite(pieces [][]byte) (int, error)
	//	WaitWrite() error
	//
	// for Conns that can pass bytes on where they lie: TryWrite writes as much of the
	// pieces as there is room for, without waiting and without using the Conn;
	// WaitWrite waits for room.
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	// Abort resets the connection (RFC 9293 section 3.10.5).
	Abort()
}

// A Resettable is a Conn that can tell of a reset after the end of what the peer sent, when nobody
// reads any more.
type Resettable interface {
	// AwaitReset waits for the error that ends the connection; nil once it is closed in good order.
	AwaitReset() error
}

// A Listener accepts TCP connections.
type Listener interface {
	Options
	Accept() (Conn, error)
	Addr() net.Addr
	Close() error
}

// A TryListener is a Listener that can tell at once.
type TryListener interface {
	// TryAccept is Accept that does not wait: nil and nil where nothing is there.
	TryAccept() (Conn, error)
}

// A DatagramInfo tells of one datagram besides its bytes.
type DatagramInfo struct {
	// N is how many bytes were read.
	N    int
	From netip.AddrPort
	// To is the address it was sent to, not valid if that is not known.
	To netip.Addr
	// TTL is the TTL or hop limit it arrived with, TOS its type of service or traffic class.
	TTL, TOS int
}

// A PacketConn is a UDP socket.
type PacketConn interface {
	net.PacketConn
	Options
	// RemoteAddr is nil unless the socket is connected.
	RemoteAddr() net.Addr
	// Read and Write serve connected sockets.
	Read(b []byte) (int, error)
	Write(b []byte) (int, error)
	// Connect connects the socket anew, or to nobody if remote is not valid. What has
	// arrived before stays.
	Connect(remote netip.AddrPort) error
	// ReadMessage is ReadFrom that tells more, once ReceiveInfo was called.
	ReadMessage(b []byte) (DatagramInfo, error)
	ReceiveInfo()
	// WriteMessage sends to an address, connected or not; from an address of the stack's unless
	// from is not valid, with a TTL unless that is 0.
	WriteMessage(b []byte, to netip.AddrPort, from netip.Addr, ttl int) error
	// Join and Leave make the socket a member of a multicast group, by the interface with address
	// local unless that is not valid.
	Join(group, local netip.Addr) error
	Leave(group, local netip.Addr) error
}

// An ICMPMessage is one ICMP message as it arrived.
type ICMPMessage struct {
	// Data begins with the ICMP type. Its checksum has been verified.
	Data []byte
	From netip.Addr
	// To is the address it was sent to.
	To netip.Addr
	// TTL is the TTL or hop limit it arrived with.
	TTL int
	// At is when it arrived.
	At time.Time
}

// An ICMPConn sends any ICMP message and receives every one that arrives: replies
// and errors alike. Whoever reads picks what is theirs by the identifier.
// A destination whose link address cannot be found comes back as an ICMP
// "destination unreachable" from the stack's own address, as Linux does it.
type ICMPConn interface {
	Options // "ip.ttl", "ip.tos", "ip.mtu_discover", "so.broadcast"
	// ReadICMP blocks for the next message. Data is valid until the next call.
	ReadICMP() (ICMPMessage, error)
	// WriteICMP sends a message, which begins with the ICMP type; the checksum is
	// filled in. Errors carry errnos: ENETUNREACH, EMSGSIZE ….
	WriteICMP(data []byte, to netip.Addr) error
	SetReadDeadline(t time.Time) error
	Close() error
}
