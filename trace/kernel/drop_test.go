package kernel

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

// Each fault is made by a real frame, and named by its reason and place.
func TestDropReasons(t *testing.T) {
	type followed struct {
		ns  *netlab.NS
		tap *os.File
		l   *tail
	}
	begin := func(t *testing.T, via string) followed {
		ns, tap := host(t)
		return followed{ns, tap, follow(t, open(t, ns, Config{Via: via}))}
	}
	// For all cases that leave the host as it is.
	shared := map[string]followed{ViaBPF: begin(t, ViaBPF), ViaTracefs: begin(t, ViaTracefs)}
	for i, test := range []struct {
		name   string
		step   string // Drop unless set
		reason string
		where  string // empty: any
		frame  func(mac net.HardwareAddr) []byte
		before func(t *testing.T, ns *netlab.NS)
		write  error // of the frame
		check  func(e Event) bool
	}{
		{name: "wrong MAC", reason: "OTHERHOST", where: "ip_rcv_core",
			frame: func(net.HardwareAddr) []byte {
				return frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
			},
			check: func(e Event) bool { return e.PktType == ToOther }},
		{name: "bad IP checksum", reason: "IP_CSUM", where: "ip_rcv_core",
			frame: func(mac net.HardwareAddr) []byte {
				b := frame(mac, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
				b[14+10] ^= 0xff
				return b
			}},
		{name: "truncated header", reason: "IP_INHDR", where: "ip_rcv_core",
			frame: func(mac net.HardwareAddr) []byte {
				b := frame(mac, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
				b[14] = 0x44 // 16 bytes
				return b
			}},
		{name: "unknown EtherType", reason: "UNHANDLED_PROTO",
			frame: func(mac net.HardwareAddr) []byte { return frame(mac, guest, 0x88b5, make([]byte, 46)) },
			check: func(e Event) bool { return e.Proto == 0x88b5 }},
		{name: "interface down", reason: "DEV_READY", where: "tun_get_user", write: unix.EIO,
			before: func(t *testing.T, ns *netlab.NS) { ns.Down(t, tap0) },
			frame: func(mac net.HardwareAddr) []byte {
				return frame(mac, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
			}},
		{name: "closed UDP port", reason: "NO_SOCKET",
			frame: func(mac net.HardwareAddr) []byte {
				return frame(mac, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
			}},
		{name: "closed UDP port is answered", step: ICMPSend,
			frame: func(mac net.HardwareAddr) []byte {
				return frame(mac, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
			},
			check: func(e Event) bool { return e.ICMPType == 3 && e.ICMPCode == 3 }},
		{name: "closed TCP port drops", reason: "NO_SOCKET", where: "tcp_v4_rcv",
			frame: func(mac net.HardwareAddr) []byte { return frame(mac, guest, 0x0800, syn()) }},
		{name: "closed TCP port", step: TCPReset, reason: "NO_SOCKET",
			frame: func(mac net.HardwareAddr) []byte { return frame(mac, guest, 0x0800, syn()) }},
		{name: "ARP on a NOARP interface", step: Consume, where: "arp_rcv",
			before: func(t *testing.T, ns *netlab.NS) {
				if err := ns.Netlink().LinkSetARPOff(ns.Link(t, tap0)); err != nil {
					t.Fatal(err)
				}
			},
			frame: func(mac net.HardwareAddr) []byte {
				return frame(all, guest, 0x0806, arp(1, guest, guestIP, make(net.HardwareAddr, 6), hostIP))
			}},
		{name: "ARP that is answered", step: Consume, where: "arp_process",
			frame: func(mac net.HardwareAddr) []byte {
				return frame(all, guest, 0x0806, arp(1, guest, guestIP, make(net.HardwareAddr, 6), hostIP))
			}},
		{name: "echo request that is answered", step: Consume, where: "icmp_rcv",
			frame: func(mac net.HardwareAddr) []byte {
				return frame(mac, guest, 0x0800, ipv4(guestIP, hostIP, 1, []byte{8, 0, 0xf7, 0xfd, 0, 1, 0, 1}))
			}},
		{name: "no header, all payload", reason: "UNHANDLED_PROTO", // the case of a program that forgot it
			frame: func(net.HardwareAddr) []byte {
				return ipv4(guestIP, hostIP, 17, udp(1, 2, "a datagram without its Ethernet header"))
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ways(t, func(t *testing.T, via string) {
				on := shared[via]
				if test.before != nil {
					on = begin(t, via)
					test.before(t, on.ns)
				}
				b := test.frame(on.ns.MAC(t, tap0))
				b[11] = byte(i) // of the source's MAC
				on.l.forget()
				if _, err := on.tap.Write(b); !errors.Is(err, test.write) {
					t.Fatalf("write: %v, want %v", err, test.write)
				}
				step := test.step
				if step == "" {
					step = Drop
				}
				e := last(on.l.until(t, step, func(e Event) bool {
					switch {
					case e.Step != step:
						return false
					case via == ViaBPF:
						return string(e.Head) == string(b)
					case e.Dev == "": // of a buffer that was in no step before
						return e.Where == "tun_get_user" && e.Reason == test.reason
					}
					// There may be more to come of the case before.
					return e.Dev == tap0 && e.Reason == test.reason && (test.where == "" || e.Where == test.where)
				}))
				if e.Reason != test.reason || test.where != "" && e.Where != test.where {
					t.Errorf("reason %q at %q, want %q at %q", e.Reason, e.Where, test.reason, test.where)
				}
				if test.check != nil && via == ViaBPF && !test.check(e) {
					t.Errorf("%+v", e)
				}
				if via == ViaBPF && (e.NetNS != inode(t, on.ns) || e.Dev != tap0 || e.NoEth || e.Len != len(b)) {
					t.Errorf("namespace %d, %q, %d bytes; want %d, %q, %d", e.NetNS, e.Dev, e.Len, inode(t, on.ns), tap0, len(b))
				}
			})
		})
	}
}

// A segment that a socket drops has no device any more; it is told by where it came in.
func TestDropInASocket(t *testing.T) {
	ns, tap := host(t)
	ns.Do(t, func() {
		l, err := net.Listen("tcp4", "10.0.0.1:9")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	})
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	b := frame(ns.MAC(t, tap0), guest, 0x0800, tcp(0x04)) // a reset, which a listener has no use for
	send(t, tap, b)
	e := last(l.until(t, "a drop", func(e Event) bool { return e.Step == Drop && e.Proto == 0x0800 }))
	if e.Reason != "TCP_RESET" || e.Dev != tap0 || e.NetNS != inode(t, ns) || string(e.Head) != string(b) || e.NoEth {
		t.Errorf("%s", list([]Event{e}))
	}
}

// syn is a segment to a port that nobody listens at.
func syn() []byte { return tcp(2) }

// tcp is a segment with some flags to port 9.
func tcp(flags byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, 40000)
	b = binary.BigEndian.AppendUint16(b, 9)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0)
	pseudo := append(append(guestIP.AsSlice(), hostIP.AsSlice()...), 0, 6, 0, byte(len(b)))
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return ipv4(guestIP, hostIP, 6, b)
}

// A tap that nobody reads fills up: the sender's frames are dropped at its device.
func TestFullTap(t *testing.T) {
	ns := netlab.New(t, "host")
	openTap(t, ns, tap0)
	if err := ns.Netlink().LinkSetTxQLen(ns.Link(t, tap0), 2); err != nil {
		t.Fatal(err)
	}
	ns.Addr(t, tap0, "10.0.0.1/24")
	ns.Up(t, tap0)
	if err := ns.Netlink().NeighAdd(&netlink.Neigh{
		LinkIndex: ns.Link(t, tap0).Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: guestIP.AsSlice(), HardwareAddr: guest,
	}); err != nil {
		t.Fatal(err)
	}
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	ns.Do(t, func() {
		c, err := net.Dial("udp4", "10.0.0.2:9")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 10 {
			if _, err := c.Write([]byte("x")); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Fatal(err)
			}
		}
	})
	e := last(l.until(t, "a drop", func(e Event) bool { return e.Step == Drop }))
	if e.Reason != "FULL_RING" || e.Where != "tun_net_xmit" || e.Dev != tap0 {
		t.Errorf("reason %q at %q on %q", e.Reason, e.Where, e.Dev)
	}
	if string(e.Head[:6]) != string(guest) {
		t.Errorf("head %x", e.Head)
	}
}
