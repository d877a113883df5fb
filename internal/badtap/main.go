// Badtap is a program for the end-to-end tests of doctor: a static one that holds a tap
// and gets one thing wrong. It answers ARP and pings for one address, spoiled by what
// its mode says, and prints a line once it holds the tap.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const headerLen = 14 // of Ethernet

// A mode is one way to be wrong.
type mode struct {
	name, about string
	// flags are those of TUNSETIFF beside IFF_TAP and IFF_NO_PI, hdrSize is given to
	// TUNSETVNETHDRSZ, offload to TUNSETOFFLOAD.
	flags   uint16
	hdrSize int
	offload int
	// skip is how many bytes stand before each frame read.
	skip int
	// read is false for one that never reads; pause is how long it takes for a frame.
	silent, stopped, echo bool
	pause                 time.Duration
	// spoil makes of a frame what is written; nil writes it as it is.
	spoil func(frame []byte) []byte
	// speak is written now and then without being asked; nil says nothing.
	speak func(r *responder) []byte
}

func modes() []mode {
	prepend := func(n int) func([]byte) []byte {
		return func(b []byte) []byte { return append(make([]byte, n), b...) }
	}
	return []mode{
		{name: "good", about: "does everything right"},
		{name: "stopped", about: "never reads", stopped: true},
		{name: "silent", about: "reads and never answers", silent: true},
		{name: "slow", about: "takes 50 ms for a frame", pause: 50 * time.Millisecond},
		{name: "echo", about: "writes every frame back as it came", echo: true},
		{name: "bare", about: "writes packets without an Ethernet header", spoil: func(b []byte) []byte { return b[headerLen:] }},
		{name: "shift10", about: "writes 10 bytes before each frame", spoil: prepend(10)},
		{name: "shift12", about: "writes 12 bytes before each frame", spoil: prepend(12)},
		{name: "vnet2", about: "writes 12 bytes of virtio header where the tap expects 10", flags: unix.IFF_VNET_HDR, skip: 10, spoil: prepend(12)},
		{name: "vnet0", about: "writes no virtio header where the tap expects one", flags: unix.IFF_VNET_HDR, skip: 10},
		{name: "blind", about: "takes offloads without a header that tells of them", offload: unix.TUN_F_CSUM | unix.TUN_F_TSO4},
		{name: "partial", about: "sends datagrams with the pseudo-header's sum alone", speak: (*responder).partial},
		{name: "super", about: "sends TCP segments of 8 kB", speak: (*responder).superFrame},
		{name: "long", about: "sends datagrams of 4 kB", speak: (*responder).long},
	}
}

func main() {
	name := flag.String("tap", "tap0", "interface")
	which := flag.String("mode", "good", "what to get wrong")
	ip := flag.String("ip", "10.0.0.4", "address to answer for")
	host := flag.String("host", "10.0.0.5", "address to send to unasked")
	flag.Parse()
	for _, m := range modes() {
		if m.name == *which {
			if err := run(&m, *name, *ip, *host); err != nil {
				fmt.Fprintln(os.Stderr, "badtap:", err)
				os.Exit(1)
			}
			return
		}
	}
	fmt.Fprintf(os.Stderr, "badtap: no mode %q; there are:\n", *which)
	for _, m := range modes() {
		fmt.Fprintf(os.Stderr, "  %-8s %s\n", m.name, m.about)
	}
	os.Exit(2)
}

func run(m *mode, name, ip, host string) error {
	fd, err := open(m, name)
	if err != nil {
		return err
	}
	r := &responder{mac: net.HardwareAddr{2, 0, 0, 0, 0, 4}}
	if r.ip, err = netip.ParseAddr(ip); err != nil {
		return err
	}
	if r.host, err = netip.ParseAddr(host); err != nil {
		return err
	}
	if iface, err := net.InterfaceByName(name); err == nil {
		r.hostMAC = iface.HardwareAddr
	}
	fmt.Println("holds", name)
	if m.stopped {
		idle()
	}
	if m.speak != nil {
		go func() {
			for range time.Tick(100 * time.Millisecond) {
				unix.Write(fd, m.speak(r))
			}
		}()
	}
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EBADFD, err == unix.EFAULT:
			idle() // the interface was removed, and this program does not look at errors
		case err != nil:
			return fmt.Errorf("read: %w", err)
		}
		time.Sleep(m.pause)
		frame := buf[m.skip:max(n, m.skip)]
		if m.echo {
			unix.Write(fd, frame)
			continue
		}
		reply := r.answer(frame)
		if reply == nil || m.silent {
			continue
		}
		if m.spoil != nil {
			reply = m.spoil(reply)
		}
		unix.Write(fd, reply)
	}
}

// idle holds the tap until a signal ends the program.
func idle() {
	for {
		time.Sleep(time.Hour)
	}
}

// open attaches to the tap.
func open(m *mode, name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return -1, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | m.flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return -1, fmt.Errorf("TUNSETIFF: %w", err)
	}
	if m.hdrSize != 0 {
		if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, m.hdrSize); err != nil {
			return -1, fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
		}
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, m.offload); err != nil {
		return -1, fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return fd, nil
}

// A responder knows just enough of ARP, IPv4 and ICMP to be pinged.
type responder struct {
	ip, host     netip.Addr
	mac, hostMAC net.HardwareAddr
}

// answer returns the frame that answers another, nil where there is nothing to say.
func (r *responder) answer(b []byte) []byte {
	if len(b) < headerLen+28 {
		return nil
	}
	ip := r.ip.As4()
	p := b[headerLen:]
	switch binary.BigEndian.Uint16(b[12:]) {
	case unix.ETH_P_ARP:
		if p[7] != 1 || [4]byte(p[24:]) != ip {
			return nil
		}
		out := r.header(b[6:12], unix.ETH_P_ARP)
		out = append(out, 0, 1, 8, 0, 6, 4, 0, 2)
		out = append(append(out, r.mac...), ip[:]...)
		return append(out, p[8:18]...)
	case unix.ETH_P_IP:
		ihl := int(p[0]&0xf) * 4
		total := int(binary.BigEndian.Uint16(p[2:]))
		if ihl < 20 || total < ihl+8 || total > len(p) || p[9] != unix.IPPROTO_ICMP || [4]byte(p[16:]) != ip || p[ihl] != 8 {
			return nil
		}
		data := append([]byte{0, 0, 0, 0}, p[ihl+4:total]...)
		binary.BigEndian.PutUint16(data[2:], ^fold(sum(0, data)))
		out := r.header(b[6:12], unix.ETH_P_IP)
		return append(out, ipHeader(unix.IPPROTO_ICMP, ip, [4]byte(p[12:]), data)...)
	}
	return nil
}

func (r *responder) header(dst []byte, etherType uint16) []byte {
	b := append(append(make([]byte, 0, 128), dst...), r.mac...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

// partial is a datagram as a stack leaves it to a device that does checksums.
func (r *responder) partial() []byte {
	udp := append([]byte{0xc0, 0, 0, 9, 0, 0, 0, 0}, "partial"...)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], fold(r.pseudo(unix.IPPROTO_UDP, len(udp))))
	return r.packet(unix.IPPROTO_UDP, udp)
}

// superFrame is a TCP segment as a stack leaves it to a device that cuts them.
func (r *responder) superFrame() []byte {
	tcp := make([]byte, 20+8000)
	binary.BigEndian.PutUint16(tcp, 1000)
	binary.BigEndian.PutUint16(tcp[2:], 9)
	tcp[12], tcp[13] = 5<<4, 0x10 // length of the header; ACK
	binary.BigEndian.PutUint16(tcp[16:], ^fold(sum(r.pseudo(unix.IPPROTO_TCP, len(tcp)), tcp)))
	return r.packet(unix.IPPROTO_TCP, tcp)
}

// long is a whole datagram that is longer than the MTU.
func (r *responder) long() []byte {
	udp := make([]byte, 4000)
	binary.BigEndian.PutUint16(udp[2:], 9)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	return r.packet(unix.IPPROTO_UDP, udp)
}

func (r *responder) pseudo(proto, length int) uint32 {
	return sum(sum(uint32(proto+length), r.ip.AsSlice()), r.host.AsSlice())
}

func (r *responder) packet(proto byte, payload []byte) []byte {
	return append(r.header(r.hostMAC, unix.ETH_P_IP), ipHeader(proto, r.ip.As4(), r.host.As4(), payload)...)
}

func ipHeader(proto byte, src, dst [4]byte, payload []byte) []byte {
	b := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	b = append(append(b, src[:]...), dst[:]...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(payload)))
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b)))
	return append(b, payload...)
}

// sum and fold are the Internet checksum (RFC 1071) before it is inverted.
func sum(s uint32, b []byte) uint32 {
	for len(b) >= 2 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
