package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

// A cable is a veth pair whose ends are in namespaces of their own.
type cable struct {
	near, far *netlab.NS
	name      string // of both ends
}

func newCable(t testing.TB, mtu int) cable {
	t.Helper()
	netlab.Require(t)
	c := cable{netlab.New(t, "near"), netlab.New(t, "far"), "v0"}
	for _, ns := range []*netlab.NS{c.near, c.far} {
		ns.Sysctl(t, "net.ipv6.conf.default.disable_ipv6", "1")
	}
	c.plug(t, mtu)
	return c
}

func (c cable) plug(t testing.TB, mtu int) {
	t.Helper()
	netlab.Veth(t, c.near, c.name, c.far, c.name)
	for _, ns := range []*netlab.NS{c.near, c.far} {
		if err := ns.Netlink().LinkSetMTU(ns.Link(t, c.name), mtu); err != nil {
			t.Fatal(err)
		}
		ns.Up(t, c.name)
	}
}

func (c cable) open(t testing.TB, ns *netlab.NS, cfg Config) link.Device {
	t.Helper()
	cfg.Interface = c.name
	var dev link.Device
	var err error
	ns.Do(t, func() { dev, err = Open(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func open(t testing.TB, ns *netlab.NS, cfg Config) link.Device {
	t.Helper()
	return cable{name: "v0"}.open(t, ns, cfg)
}

// A wire is another packet socket at the far end of a cable.
type wire struct {
	linktest.Wire
	c cable
	t testing.TB
}

func (w wire) Remove() error {
	return w.c.near.Netlink().LinkDel(w.c.near.Link(w.t, w.c.name))
}

func TestDevice(t *testing.T) {
	for name, c := range map[string]struct {
		mtu int
		cfg Config
	}{
		"offloads": {1500, Config{}},
		"plain":    {1500, Config{Plain: true}},
		"jumbo":    {9000, Config{Plain: true}},
		// With room for the tag that an inner frame may have beside its MTU.
		"802.1ah": {1522, Config{MTU: 1500, Envelope: &Envelope{ISID: 0x1234}}},
		"private": {1528, Config{MTU: 1500, Envelope: &Envelope{EtherType: 0x88b5, Header: 10}}},
	} {
		t.Run(name, func(t *testing.T) {
			cable, n := newCable(t, 1500), 0
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				n++
				cable.name = fmt.Sprint("w", n)
				cable.plug(t, c.mtu)
				far := linktest.FarEnd(cable.open(t, cable.far, c.cfg))
				return cable.open(t, cable.near, c.cfg), wire{far, cable, t}
			})
		})
	}
}

// An interface that goes down and up is no end.
func TestDownAndUp(t *testing.T) {
	c := newCable(t, 1500)
	near, far := open(t, c.near, Config{}), open(t, c.far, Config{})
	defer near.Close()
	defer far.Close()
	frame := make([]byte, 60)
	copy(frame[12:], []byte{0x88, 0xb5})
	c.near.Down(t, "v0")
	if n, err := near.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); n != 0 || err != nil || near.Stats().Drops["tx_down"] != 1 {
		t.Errorf("Write while down: %d, %v, %v", n, err, near.Stats().Drops)
	}
	c.near.Up(t, "v0")
	netlab.WaitFor(t, 5*time.Second, "frames pass again", func() bool {
		n, err := far.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}})
		if err != nil {
			t.Fatal(err)
		}
		return n == 1
	})
	in := []link.Frame{{Buf: make([]byte, 2000)}}
	if n, err := near.Queues()[0].Read(in); n != 1 || err != nil || in[0].N != 60 {
		t.Errorf("Read after it was up again: %d, %v", n, err)
	}
}

// The kernel takes VLAN tags out of frames; they are put back.
func TestTag(t *testing.T) {
	c := newCable(t, 1500)
	near, far := open(t, c.near, Config{}), open(t, c.far, Config{})
	defer near.Close()
	defer far.Close()
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x81, 0x00, 0x20, 0x07, 0x88, 0xb5}, bytes.Repeat([]byte{7}, 60)...)
	if n, err := far.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	in := []link.Frame{{Buf: make([]byte, 2000)}}
	if _, err := near.Queues()[0].Read(in); err != nil || !bytes.Equal(in[0].Buf[:in[0].N], frame) {
		t.Errorf("%x, %v", in[0].Buf[:in[0].N], err)
	}
}

// Frames of another service instance are counted and nothing else.
func TestForeign(t *testing.T) {
	c := newCable(t, 1600)
	near := open(t, c.near, Config{Envelope: &Envelope{ISID: 7}})
	defer near.Close()
	other := open(t, c.far, Config{Envelope: &Envelope{ISID: 8}})
	defer other.Close()
	raw := c.far.Injector(t, "v0")
	frame := make([]byte, 60)
	if n, err := other.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	outer := func(isid uint32, n int) []byte {
		b := append(bytes.Repeat([]byte{255}, 6), 2, 0, 0, 0, 0, 2, 0x88, 0xe7)
		return append(binary.BigEndian.AppendUint32(b, isid), make([]byte, n)...)
	}
	for _, f := range [][]byte{
		outer(7, 13),                // an inner frame without a header
		outer(7, 0),                 // without anything
		outer(7, 0)[:16],            // cut within the tag
		outer(7|0xe0<<24, 61),       // with a priority
		append(outer(6, 70), 1),     // foreign
		outer(1<<16|7, 9),           // foreign and short
		append(outer(7, 1500+4), 1), // longer than the MTU allows, and passed on all the same: the outer frame was whole
	} {
		if err := raw(f); err != nil {
			t.Fatal(err)
		}
	}
	in := []link.Frame{{Buf: make([]byte, 1490)}}
	if _, err := near.Queues()[0].Read(in); err != nil || in[0].N != 61 {
		t.Errorf("a frame of %d bytes, %v", in[0].N, err)
	}
	// One more, so that what came before it has been dealt with.
	if err := raw(outer(7, 62)); err != nil {
		t.Fatal(err)
	}
	if _, err := near.Queues()[0].Read(in); err != nil || in[0].N != 62 {
		t.Errorf("a frame of %d bytes, %v", in[0].N, err)
	}
	drops := near.Stats().Drops
	// The kernel pads none of these; those within the first 18 bytes are short.
	if drops["rx_foreign"]+drops["rx_short"] != 6 || drops["rx_foreign"] < 2 || drops["rx_oversize"] != 1 {
		t.Errorf("drops: %v", drops)
	}
}

// The stack's own station and the host share the interface: the host answers nothing that is for
// the other, and what it sends itself does not come back.
func TestBesideTheHost(t *testing.T) {
	c := newCable(t, 1500)
	c.near.Addr(t, "v0", "10.8.0.1/24")
	c.far.Addr(t, "v0", "10.8.0.2/24")
	near := open(t, c.near, Config{})
	defer near.Close()
	see := c.far.Capture(t, "v0")
	// A SYN to the host's own address, but another station.
	syn := append([]byte{2, 0, 0, 0, 0, 0x77}, c.far.MAC(t, "v0")...)
	syn = append(syn, 0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 8, 0, 2, 10, 8, 0, 1)
	binary.BigEndian.PutUint16(syn[24:], checksum(syn[14:34]))
	syn = append(syn, 0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	if err := c.far.Injector(t, "v0")(syn); err != nil {
		t.Fatal(err)
	}
	in := []link.Frame{{Buf: make([]byte, 2000)}}
	for {
		if _, err := near.Queues()[0].Read(in); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(in[0].Buf[:6], syn[:6]) {
			break
		}
	}
	c.near.Run(t, "ping", "-c", "1", "-W", "5", "10.8.0.2")
	for _, f := range see.Frames() {
		if net.HardwareAddr(f.Data[6:12]).String() == c.near.MAC(t, "v0").String() && len(f.Data) > 23 && f.Data[12] == 8 && f.Data[23] == 6 {
			t.Error("the host answered a frame for another station")
		}
	}
	// What the host sent itself was not read: the echo request is not among the frames.
	marker := make([]byte, 60)
	copy(marker, c.near.MAC(t, "v0"))
	copy(marker[12:], []byte{0x88, 0xb5})
	if err := c.far.Injector(t, "v0")(marker); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := near.Queues()[0].Read(in); err != nil {
			t.Fatal(err)
		}
		f := in[0].Buf[:in[0].N]
		if bytes.Equal(f, marker) {
			return
		}
		if bytes.Equal(f[6:12], c.near.MAC(t, "v0")) {
			t.Errorf("the host's own frame came back: %x", f)
		}
	}
}

func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestOpenErrors(t *testing.T) {
	c := newCable(t, 1500)
	for what, cfg := range map[string]Config{
		"no such network interface":     {Interface: "none0"},
		"not an Ethernet interface":     {Interface: "lo"},
		"MTU 1501 is more than":         {Interface: "v0", MTU: 1501},
		"ip link set v0 mtu 1518":       {Interface: "v0", MTU: 1500, Envelope: &Envelope{ISID: 1}},
		"is a length":                   {Interface: "v0", Envelope: &Envelope{EtherType: 100}},
		"I-SID 16777216 is more than":   {Interface: "v0", Envelope: &Envelope{ISID: 1 << 24}},
		"header of 257 bytes":           {Interface: "v0", Envelope: &Envelope{EtherType: 0x88b5, Header: 257}},
		"an EtherType of its own":       {Interface: "v0", Envelope: &Envelope{Header: 4}},
		"is not a hardware address of6": {Interface: "v0", Envelope: &Envelope{Remote: net.HardwareAddr{1, 2}}},
	} {
		c.near.Do(t, func() {
			dev, err := Open(cfg)
			if err == nil {
				dev.Close()
			}
			if want := bytes.ReplaceAll([]byte(what), []byte("of6"), []byte("of 6")); err == nil || !bytes.Contains([]byte(err.Error()), want) {
				t.Errorf("%+v: %v, want %q", cfg, err, want)
			}
		})
	}
}

// FuzzAccept finishes frames that the kernel would not make.
func FuzzAccept(f *testing.F) {
	aux := unix.TpacketAuxdata{Status: unix.TP_STATUS_VLAN_VALID, Vlan_tci: 7}
	ctl := make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(aux))))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl[0]))
	h.Level, h.Type = unix.SOL_PACKET, unix.PACKET_AUXDATA
	h.SetLen(unix.CmsgLen(int(unsafe.Sizeof(aux))))
	*(*unix.TpacketAuxdata)(unsafe.Pointer(&ctl[unix.CmsgLen(0)])) = aux
	f.Add(byte(0), make([]byte, 60), make([]byte, 10), ctl)
	f.Add(byte(1), make([]byte, 78), make([]byte, 18), ctl[:20])
	f.Add(byte(0), make([]byte, 10), []byte{1, 1, 0, 0, 0, 0, 255, 255, 255, 255}, []byte{255, 255})
	f.Fuzz(func(t *testing.T, kind byte, frame, head, ctl []byte) {
		d := &device{vnet: kind%2 == 0}
		if !d.vnet {
			d.env = &Envelope{ISID: 7}
			if err := d.env.prepare(make(net.HardwareAddr, 6)); err != nil {
				t.Fatal(err)
			}
		}
		r := &receiver{}
		r.init(d)
		copy(r.in[0].hdr[:r.head], head)
		r.msgs[0].SetControllen(copy(r.in[0].ctl[:], ctl))
		out := link.Frame{Buf: make([]byte, 100)}
		copy(out.Buf, frame)
		if _, ok := r.accept(0, &out, r.head+len(frame)); ok {
			if out.N < link.HeaderLen || out.N > len(out.Buf) || out.Offload.Validate(out.N) != nil {
				t.Fatalf("%d bytes, %+v", out.N, out.Offload)
			}
		}
		r.accept(0, &out, len(frame)%30)
	})
}

// Close unblocks whoever waits, and errors.Is tells it.
func TestErrors(t *testing.T) {
	c := newCable(t, 1500)
	dev := open(t, c.near, Config{})
	done := make(chan error, 1)
	go func() {
		_, err := dev.Queues()[0].Read([]link.Frame{{Buf: make([]byte, 2000)}})
		done <- err
	}()
	dev.Close()
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
