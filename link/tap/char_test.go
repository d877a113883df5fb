package tap

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

// macvtap makes a macvtap on a cable, which passes on all frames, and returns its /dev/tapN.
func macvtap(t testing.TB, ns, far *netlab.NS, name string) (path string) {
	t.Helper()
	netlab.Veth(t, ns, "v"+name, far, "v"+name)
	far.Up(t, "v"+name)
	ns.Run(t, "ip", "link", "add", name, "link", "v"+name, "type", "macvtap", "mode", "passthru")
	ns.Up(t, "v"+name)
	ns.Up(t, name)
	return charPath(t, ns, name)
}

// charPath makes a node of a macvtap. That of the same name in /dev may be another namespace's: the
// name has the interface's number alone.
func charPath(t testing.TB, ns *netlab.NS, name string) string {
	t.Helper()
	node := "tap" + strconv.Itoa(ns.Link(t, name).Attrs().Index)
	out := ns.Run(t, "unshare", "--mount", "sh", "-c", "mount -t sysfs none /sys && cat /sys/class/net/"+name+"/"+node+"/dev")
	major, minor, _ := strings.Cut(strings.TrimSpace(out), ":")
	var dev [2]int
	for i, s := range []string{major, minor} {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("the device number of %s: %q", name, out)
		}
		dev[i] = n
	}
	path := filepath.Join(t.TempDir(), node)
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(dev[0]), uint32(dev[1])))); err != nil {
		t.Fatal(err)
	}
	return path
}

func openCharIn(t testing.TB, ns *netlab.NS, cfg CharConfig) link.Device {
	t.Helper()
	var dev link.Device
	var err error
	ns.Do(t, func() { dev, err = OpenChar(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// A charWire is the far end of the cable under a macvtap, which goes with the macvtap.
type charWire struct {
	*packetWire
	ns   *netlab.NS
	name string
}

func (w charWire) Remove() error {
	return w.ns.Netlink().LinkDel(w.ns.Link(w.t, w.name))
}

func TestChar(t *testing.T) {
	for name, cfg := range map[string]CharConfig{"virtio headers": {Once: true}, "plain": {Once: true, Offload: OffloadOff}} {
		t.Run(name, func(t *testing.T) {
			netlab.Require(t)
			ns, far, n := quietNS(t), quietNS(t), 0
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				n++
				name := fmt.Sprint("m", n)
				cfg.Path = macvtap(t, ns, far, name)
				return openCharIn(t, ns, cfg), charWire{newWire(t, far, "v"+name), ns, name}
			})
		})
	}
}

func TestCharStates(t *testing.T) {
	ns, far := quietNS(t), quietNS(t)
	path := macvtap(t, ns, far, "m0")
	dev := openCharIn(t, ns, CharConfig{Path: path, Interface: "m0", MTU: 1400})
	defer dev.Close()
	info := dev.Info()
	if info.Name != "m0" || info.Kind != "chardev" || info.MTU != 1400 || info.HardwareAddr != nil || info.Station.String() != ns.MAC(t, "m0").String() {
		t.Errorf("%+v", info)
	}
	if !info.RX.Has(link.OffloadCsum | link.OffloadTSO4) {
		t.Errorf("offloads %v", info.RX)
	}
	for what, cfg := range map[string]CharConfig{
		"is not a character device":     {Path: "/etc/hostname"},
		"its driver is not loaded":      {Path: "/dev/no-such-device"},
		"the interface behind it is m0": {Path: path, Interface: "lo"},
		"not attached to an interface":  {Path: "/dev/net/tun"},
		"cannot be waited for":          {Path: "/dev/null"},
	} {
		ns.Do(t, func() {
			dev, err := OpenChar(cfg)
			if err == nil {
				dev.Close()
			}
			if err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%+v: %v, want %q", cfg, err, what)
			}
		})
	}
}

// A device that vanishes is no end: frames are dropped until it returns.
func TestCharVanishes(t *testing.T) {
	ns, far := quietNS(t), quietNS(t)
	path := macvtap(t, ns, far, "m0")
	dev := openCharIn(t, ns, CharConfig{Path: path, Interface: "m0"})
	defer dev.Close()
	wire := newWire(t, far, "vm0")
	got := make(chan int, 64)
	go func() {
		in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		for {
			if _, err := dev.Queues()[0].Read(in); err != nil {
				return
			}
			got <- in[0].N
		}
	}()
	frame := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 50)...)
	netlab.WaitFor(t, 10*time.Second, "a frame comes in", func() bool {
		if err := wire.Send(frame, link.Offload{}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-got:
			return true
		case <-time.After(20 * time.Millisecond):
			return false
		}
	})
	if err := ns.Netlink().LinkDel(ns.Link(t, "m0")); err != nil {
		t.Fatal(err)
	}
	netlab.WaitFor(t, 5*time.Second, "frames are dropped as of a wire that is down", func() bool {
		if _, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}}); err != nil {
			t.Fatal(err)
		}
		return dev.Stats().Drops["tx_down"] > 0
	})
}

// A tap that was opened by another, as container runtimes do.
func TestFromFD(t *testing.T) {
	ns := quietNS(t)
	open := func(flags uint16) (fd int) {
		ns.Do(t, func() {
			var err error
			if fd, err = unix.Open(cloneDevice, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
			r := newIfreq("tap0")
			r.setFlags(flags)
			if err := ioctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
				t.Fatal(err)
			}
		})
		return fd
	}
	for _, flags := range []uint16{unix.IFF_TAP | unix.IFF_NO_PI, unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR} {
		fd := open(flags)
		var dev link.Device
		var err error
		ns.Do(t, func() { dev, err = FromFD(fd, CharConfig{Path: "fd7"}) })
		if err != nil {
			t.Fatal(err)
		}
		wire := newWire(t, ns, "tap0")
		frame := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 50)...)
		if err := wire.Send(frame, link.Offload{}); err != nil {
			t.Fatal(err)
		}
		in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		if _, err := dev.Queues()[0].Read(in); err != nil || in[0].N != 64 {
			t.Errorf("%d bytes, %v", in[0].N, err)
		}
		if info := dev.Info(); info.Kind != "fd" || info.Name != "tap0" || info.HardwareAddr == nil {
			t.Errorf("%+v", info)
		}
		wire.Close()
		dev.Close()
	}
	for flags, want := range map[uint16]string{
		unix.IFF_TAP:                  "IFF_NO_PI",
		unix.IFF_TUN | unix.IFF_NO_PI: "IFF_TUN",
	} {
		fd := open(flags)
		ns.Do(t, func() {
			dev, err := FromFD(fd, CharConfig{Path: "fd7"})
			if err == nil {
				dev.Close()
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("flags %#x: %v, want %q", flags, err, want)
			}
		})
	}
}

func TestOwnerAndSpeed(t *testing.T) {
	ns := quietNS(t)
	id := 4711
	dev := openIn(t, ns, Config{Name: "tap0", Persist: true, Owner: &id, Group: &id, Speed: 40000, Duplex: "full"})
	dev.Close()
	defer ns.Run(t, "ip", "link", "del", "tap0")
	out := ns.Run(t, "ip", "-d", "link", "show", "tap0")
	for _, want := range []string{"persist on", "user 4711", "group 4711"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	again := openIn(t, ns, Config{Name: "tap0"})
	defer again.Close()
	ns.Up(t, "tap0") // of one that is down the kernel does not tell
	out = ns.Run(t, "unshare", "--mount", "sh", "-c", "mount -t sysfs none /sys && cat /sys/class/net/tap0/speed /sys/class/net/tap0/duplex")
	if out != "40000\nfull\n" {
		t.Errorf("speed and duplex: %q", out)
	}
}
