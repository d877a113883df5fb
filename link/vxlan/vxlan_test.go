package vxlan

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

// ports returns free UDP ports of the loopback.
func ports(t testing.TB, n int) (all []uint16) {
	t.Helper()
	for range n {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, uint16(c.LocalAddr().(*net.UDPAddr).Port))
	}
	return all
}

func open(t testing.TB, cfg Config) link.Device {
	t.Helper()
	dev, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

var lo4, lo6 = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")

// A wire stays: no datagram tells that its sender will not come back.
type wire struct{ linktest.Wire }

func (wire) Remove() error { return errors.ErrUnsupported }

// Send leaves a checksum unfinished, as a kernel's endpoint does.
func (w wire) Send(frame []byte, _ link.Offload) error { return w.Wire.Send(frame, link.Offload{}) }

func TestDevice(t *testing.T) {
	for name, lo := range map[string]netip.Addr{"IPv4": lo4, "IPv6": lo6} {
		t.Run(name, func(t *testing.T) {
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				p := ports(t, 2)
				cfg := Config{Remotes: []netip.Addr{lo}, Local: lo, VNI: 42, Port: p[0], RemotePort: p[1], MTU: 1450}
				near, err := Open(cfg)
				if err != nil {
					t.Fatal(err)
				}
				cfg.Port, cfg.RemotePort = p[1], p[0]
				far, err := Open(cfg)
				if err != nil {
					t.Fatal(err)
				}
				return near, wire{linktest.FarEnd(far)}
			})
		})
	}
}

func TestMTU(t *testing.T) {
	p := ports(t, 1)
	// The loopback's MTU is more than a datagram holds.
	if mtu := open(t, Config{Remotes: []netip.Addr{lo4}, Local: lo4, Port: p[0]}).Info().MTU; mtu != 65507-8-14-4 {
		t.Errorf("MTU %d", mtu)
	}
}

// What is of another network, or of a stranger, is counted and nothing else.
func TestForeign(t *testing.T) {
	p := ports(t, 2)
	dev := open(t, Config{Remotes: []netip.Addr{lo4}, Local: lo4, VNI: 0x010203, Port: p[0], RemotePort: p[1], MTU: 1450})
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(lo4, p[0]))
	friend, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, to) // from any port
	if err != nil {
		t.Fatal(err)
	}
	defer friend.Close()
	stranger, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2)}, to)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	datagram := func(flags byte, vni string, n int) []byte {
		return append([]byte{flags, 0, 0, 0, vni[0], vni[1], vni[2], 0}, make([]byte, n)...)
	}
	send := func(c net.Conn, b []byte) {
		t.Helper()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	send(stranger, datagram(8, "\x01\x02\x03", 60)) // foreign
	send(friend, datagram(0, "\x01\x02\x03", 60))   // without a VNI: foreign
	send(friend, datagram(8, "\x01\x02\x04", 60))   // foreign
	send(friend, datagram(8, "\x01\x02\x03", 13))   // short
	send(friend, datagram(8, "\x01\x02\x03", 0)[:5])
	send(friend, nil)
	send(friend, datagram(8, "\x01\x02\x03", 1501)) // longer than the buffer
	reserved := datagram(0xff, "\x01\x02\x03", 61)
	reserved[1], reserved[7] = 0xff, 0xff
	send(friend, reserved)
	in := []link.Frame{{Buf: make([]byte, 1500)}}
	if _, err := dev.Queues()[0].Read(in); err != nil || in[0].N != 61 {
		t.Errorf("%d bytes, %v", in[0].N, err)
	}
	d := dev.Stats().Drops
	if d["rx_foreign"] != 3 || d["rx_short"] != 3 || d["rx_oversize"] != 1 {
		t.Errorf("drops: %v", d)
	}
}

// Frames for everybody go to all, those for a known station only there.
func TestHeadEndReplication(t *testing.T) {
	p := ports(t, 1)
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.0.0.12"), netip.MustParseAddr("127.0.0.13")}
	var devs []link.Device
	for i, a := range addrs {
		var others []netip.Addr
		for j, b := range addrs {
			if j != i {
				others = append(others, b)
			}
		}
		devs = append(devs, open(t, Config{Remotes: others, Local: a, VNI: 7, Port: p[0], MTU: 1450}))
	}
	mac := func(n byte) []byte { return []byte{2, 0, 0, 0, 0, n} }
	send := func(from int, dst, src []byte, n int) {
		t.Helper()
		f := append(append(bytes.Clone(dst), src...), make([]byte, n-12)...)
		if n, err := devs[from].Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{f[:4], f[4:]}}}); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	want := func(at, n int) {
		t.Helper()
		in, done := []link.Frame{{Buf: make([]byte, 1500)}}, make(chan struct{})
		go func() {
			defer close(done)
			devs[at].Queues()[0].Read(in)
		}()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatalf("%d: no frame of %d bytes", at, n)
		}
		if in[0].N != n {
			t.Fatalf("%d: %d bytes, want %d", at, in[0].N, n)
		}
	}
	send(0, bytes.Repeat([]byte{255}, 6), mac(0), 60)
	want(1, 60)
	want(2, 60)
	send(1, mac(0), mac(1), 61) // known: to 0 alone
	want(0, 61)
	send(0, mac(1), mac(0), 62)
	want(1, 62)
	send(2, bytes.Repeat([]byte{255}, 6), mac(1), 63) // the station has moved to 2
	want(0, 63)
	want(1, 63)
	send(0, mac(1), mac(0), 64)
	want(2, 64) // and neither 61 nor 62 before it
	send(0, mac(9), mac(0), 65)
	want(1, 65)
	want(2, 65)
}

// One remote cannot take another's room.
func TestFDBIsBounded(t *testing.T) {
	var f fdb
	f.init(2)
	f.learn([6]byte{2, 9}, 1)
	for i := range 3 * maxStations {
		f.learn([6]byte{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}, 0)
	}
	if f.count[0] != maxStations || len(f.at) != maxStations+1 {
		t.Errorf("%d stations of %d", f.count[0], len(f.at))
	}
	if at, ok := f.lookup([6]byte{2, 9}); !ok || at != 1 {
		t.Error("another remote's station is forgotten")
	}
}

func FuzzAccept(f *testing.F) {
	f.Add([]byte{8, 0, 0, 0, 0, 0, 42, 0}, make([]byte, 60), true)
	f.Add([]byte{0xff}, make([]byte, 13), true)
	f.Add([]byte{}, []byte{}, false)
	f.Fuzz(func(t *testing.T, head, frame []byte, known bool) {
		d := &device{byAddr: map[netip.Addr]int{lo4: 1}, header: [headerLen]byte{flagI, 6: 42}}
		d.fdb.init(2)
		r := &receiver{}
		r.init(d)
		copy(r.hdr[:], head)
		out := link.Frame{Buf: make([]byte, 100)}
		copy(out.Buf, frame)
		from := lo6
		if known {
			from = lo4
		}
		if _, ok := r.accept(&out, len(head)+len(frame), from); ok && (out.N < link.HeaderLen || out.N > len(out.Buf) || !known) {
			t.Fatalf("%d bytes, known %v", out.N, known)
		}
	})
}
