package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	gstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// naive is netstack on a TAP as one gets it in an afternoon: gVisor's own fdbased
// endpoint and its gonet sockets, every setting at its default.
type naive struct {
	fd int
	s  *gstack.Stack
}

func newNaive(name string) (network, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tap %q: %w", name, err)
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make tap %s: %w", name, err)
	}
	n := &naive{fd: fd}
	ep, err := fdbased.New(&fdbased.Options{
		FDs:            []int{fd},
		MTU:            1500,
		EthernetHeader: true,
		Address:        "\x02\x00\x00\x00\x00\x04",
	})
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("naive endpoint: %w", err)
	}
	n.s = gstack.New(gstack.Options{
		NetworkProtocols:   []gstack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []gstack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	const nic = 1
	steps := []func() tcpip.Error{
		func() tcpip.Error { return n.s.CreateNIC(nic, ep) },
		func() tcpip.Error {
			return n.s.AddProtocolAddress(nic, tcpip.ProtocolAddress{
				Protocol: ipv4.ProtocolNumber,
				AddressWithPrefix: tcpip.AddressWithPrefix{
					Address: tcpip.AddrFrom4(stackPrefix.Addr().As4()), PrefixLen: stackPrefix.Bits(),
				},
			}, gstack.AddressProperties{})
		},
	}
	for _, step := range steps {
		if terr := step(); terr != nil {
			n.Close()
			return nil, errors.New("naive stack: " + terr.String())
		}
	}
	all, err := tcpip.NewSubnet(tcpip.AddrFrom4([4]byte{}), tcpip.MaskFromBytes(make([]byte, 4)))
	if err != nil {
		n.Close()
		return nil, fmt.Errorf("naive stack: %w", err)
	}
	n.s.SetRouteTable([]tcpip.Route{{Destination: all, NIC: nic}})
	return n, nil
}

func (n *naive) ListenTCP(port int) (net.Listener, error) {
	return gonet.ListenTCP(n.s, tcpip.FullAddress{Port: uint16(port)}, ipv4.ProtocolNumber)
}

func (n *naive) ListenUDP(port int) (datagrams, error) {
	c, err := gonet.DialUDP(n.s, &tcpip.FullAddress{Port: uint16(port)}, nil, ipv4.ProtocolNumber)
	if err != nil {
		return nil, err
	}
	return naiveUDP{c}, nil
}

// Close ends the stack; the process is about to end.
func (n *naive) Close() error {
	n.s.Destroy()
	return unix.Close(n.fd)
}

type naiveUDP struct{ *gonet.UDPConn }

func (c naiveUDP) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.ReadFrom(b)
	if from == nil {
		return n, netip.AddrPort{}, err
	}
	return n, from.(*net.UDPAddr).AddrPort(), err
}

func (c naiveUDP) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return c.WriteTo(b, net.UDPAddrFromAddrPort(to))
}
