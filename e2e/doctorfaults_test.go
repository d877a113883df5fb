package e2e

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/doctor"
	"github.com/ustack/ustack/internal/netlab"
)

// Each of these makes one fault for real and wants doctor to name it and no other.

func TestDoctorDeviceRemoved(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Run(t, "ip", "link", "del", "tap0")
	d.Wait(t, 10*time.Second)
	f := onlyCause(t, doctor.CauseRemoved, host, d)
	if text := fmt.Sprint(f); !strings.Contains(text, fmt.Sprintf("pid %d", d.PID())) || !strings.Contains(text, "deleted") {
		t.Errorf("who lost it is not named: %v", text)
	}
	// The next daemon makes it again, and nobody remembers.
	d2 := upAt(t, host, d.sock, "--link", "tap:tap0", "--dns", host4)
	healthy(t, host, d2)
	d2.terminate(t)
	onlyCause(t, doctor.CauseMissing, host, d2, "--link", "tap:tap0")
}

func TestDoctorDeviceRemovedUnderProgram(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	p := startBadtap(t, host, "good")
	host.Run(t, "ip", "link", "del", "tap0")
	if f := onlyCause(t, doctor.CauseRemoved, host, nil); !strings.Contains(fmt.Sprint(f), fmt.Sprintf("pid %d (badtap)", p.PID())) {
		t.Errorf("who lost it is not named: %v", f)
	}
}

func TestDoctorCarrierOff(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Run(t, "ip", "link", "set", "dev", "tap0", "carrier", "off")
	onlyCause(t, doctor.CauseCarrier, host, d)
	fixed(t, host, d, "ip link set dev tap0 carrier on")
	d.terminate(t)
}

func TestDoctorNoARP(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Run(t, "ip", "link", "set", "dev", "tap0", "arp", "off")
	onlyCause(t, doctor.CauseNoARP, host, d)
	fixed(t, host, d, "ip link set dev tap0 arp on")
	d.terminate(t)
}

func TestDoctorNoARPWithoutDaemon(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	host.Tap(t, "tap0", -1)
	host.Up(t, "tap0")
	host.Addr(t, "tap0", host4+"/24")
	host.Run(t, "ip", "link", "set", "dev", "tap0", "arp", "off")
	onlyCause(t, doctor.CauseNoARP, host, nil)
}

func TestDoctorSpeedDuplex(t *testing.T) {
	for _, c := range []struct {
		name   string
		speed  uint16
		duplex byte
	}{{"half duplex", 100, 0}, {"unknown speed", 0xffff, 1}, {"unknown duplex", 1000, 0xff}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			d := patient(t, host, "tap:tap0")
			setLinkMode(t, host, "tap0", c.speed, c.duplex)
			onlyCause(t, doctor.CauseSpeed, host, d)
			fixed(t, host, d, "ethtool -s tap0 speed 10000 duplex full autoneg off")
			d.terminate(t)
		})
	}
}

// setLinkMode does what `ethtool -s IF speed N duplex D` does, by struct ethtool_cmd of
// include/uapi/linux/ethtool.h.
func setLinkMode(t testing.TB, ns *netlab.NS, name string, speed uint16, duplex byte) {
	t.Helper()
	var cmd struct {
		cmd, supported, advertising            uint32
		speed                                  uint16
		duplex, port, phy, trans, autoneg, dio byte
		rest                                   [22]byte
	}
	ioctl := func(what uint32) {
		cmd.cmd = what
		var ifr struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(ifr.name[:], name)
		ifr.data = unsafe.Pointer(&cmd)
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 {
			t.Fatalf("SIOCETHTOOL %d of %s: %v", what, name, errno)
		}
	}
	ns.Do(t, func() {
		ioctl(unix.ETHTOOL_GSET)
		cmd.speed, cmd.duplex, cmd.autoneg = speed, duplex, 0
		if speed == 0xffff {
			copy(cmd.rest[8:], []byte{0xff, 0xff}) // the upper half
		}
		ioctl(unix.ETHTOOL_SSET)
	})
}

func TestDoctorMTU(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Run(t, "ip", "link", "set", "dev", "tap0", "mtu", "1400")
	onlyCause(t, doctor.CauseMTU, host, d)
	fixed(t, host, d, "ip link set dev tap0 mtu 1500")
	d.terminate(t)
}

// A bridge whose other port takes less than the tap.
func TestDoctorBridgePortMTU(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	d := bridged(t, host, far)
	healthy(t, host, d)
	host.Run(t, "ip", "link", "set", "dev", "port0", "mtu", "1400")
	host.Run(t, "ip", "link", "set", "dev", "br0", "mtu", "1500")
	onlyCause(t, doctor.CauseMTU, host, d)
	d.terminate(t)
}

// All ports take what the tap does, and somebody beyond them does not.
func TestDoctorPathMTU(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	d := bridged(t, host, far, "--gateway", "10.0.0.6")
	healthy(t, host, d)
	far.Run(t, "ip", "link", "set", "dev", "eth0", "mtu", "1400")
	f := onlyCause(t, doctor.CauseMTU, host, d)
	if !strings.Contains(fmt.Sprint(f), "10.0.0.6") {
		t.Errorf("how far it gets is not told: %v", f)
	}
	d.terminate(t)
}

func TestDoctorNoAddress(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Run(t, "ip", "addr", "flush", "dev", "tap0")
	onlyCause(t, doctor.CauseNoCommon, host, d)
	d.ok(t, "ustack", "addr", "del", stack4+"/24")
	d.ok(t, "ustack", "addr", "del", stack6+"/64")
	onlyCause(t, doctor.CauseNoAddress, host, d)
	d.terminate(t)
}

// bridged starts a daemon on a tap in a bridge: br0 has host4, and far is behind
// another port.
//
//	 ustack         host            far
//	┌──────┐   ┌────────────┐   ┌──────────┐
//	│ .4   ├───┤tap0    port0───┤eth0 .6   │
//	└──────┘   │  br0 .5    │   └──────────┘
//	           └────────────┘
func bridged(t testing.TB, host, far *netlab.NS, more ...string) *daemon {
	t.Helper()
	netlab.Veth(t, host, "port0", far, "eth0")
	far.Addr(t, "eth0", "10.0.0.6/24")
	host.Bridge(t, "br0", "port0")
	host.Addr(t, "br0", host4+"/24")
	answerDNS(t, host, host4+":53")
	return up(t, host, append([]string{"--link", "tap:tap0", "--bridge", "br0", "--addr", stack4 + "/24", "--dns", host4}, more...)...)
}

func TestDoctorWrongMAC(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Run(t, "ip", "neigh", "replace", stack4, "lladdr", "02:00:00:00:00:99", "dev", "tap0", "nud", "permanent")
	f := onlyCause(t, doctor.CauseWrongMAC, host, d)
	if !strings.Contains(fmt.Sprint(f), "rx_otherhost") {
		t.Errorf("what the stack skipped is not told: %v", f)
	}
	fixed(t, host, d, "ip neigh del 10.0.0.4 dev tap0")
	d.terminate(t)
}

func TestDoctorWrongMACInTheStack(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	d.ok(t, "ustack", "neigh", "add", host4, "lladdr", "02:00:00:00:00:99")
	onlyCause(t, doctor.CauseWrongMAC, host, d)
	d.ok(t, "ustack", "neigh", "del", host4)
	healthy(t, host, d)
	d.terminate(t)
}

func TestDoctorWrongMACWithoutDaemon(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	host.Tap(t, "tap0", -1)
	host.Up(t, "tap0")
	host.Addr(t, "tap0", host4+"/24")
	host.Run(t, "ip", "neigh", "replace", stack4, "lladdr", "02:00:00:00:00:99", "dev", "tap0", "nud", "permanent")
	onlyCause(t, doctor.CauseWrongMAC, host, nil)
}

func TestDoctorDuplicateMAC(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	d := bridged(t, host, far)
	mac := stackMAC(t, show[[]control.Link](t, d, "link"))
	far.Down(t, "eth0")
	far.Run(t, "ip", "link", "set", "dev", "eth0", "address", mac)
	far.Up(t, "eth0")
	f := onlyCause(t, doctor.CauseDuplicateMAC, host, d)
	if !strings.Contains(fmt.Sprint(f), "port0") {
		t.Errorf("where the other one is is not told: %v", f)
	}
	d.terminate(t)
}

func TestDoctorDuplicateIP(t *testing.T) {
	t.Parallel()
	host, far := netlab.New(t, "host"), netlab.New(t, "far")
	d := bridged(t, host, far)
	far.Addr(t, "eth0", stack4+"/24")
	onlyCause(t, doctor.CauseDuplicateIP, host, d)
	far.Run(t, "ip", "addr", "del", stack4+"/24", "dev", "eth0")
	// And another station has the host's.
	far.Addr(t, "eth0", host4+"/24")
	onlyCause(t, doctor.CauseDuplicateIP, host, d)
	d.terminate(t)
}

func TestDoctorDuplicateIPOfTheHost(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Addr(t, "lo", stack4+"/32")
	onlyCause(t, doctor.CauseDuplicateIP, host, d)
	d.terminate(t)
}

// The host's own address answers no ARP request.
func TestDoctorARPUnanswered(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Sysctl(t, "net.ipv4.conf.all.arp_ignore", "8")
	onlyCause(t, doctor.CauseUnanswered, host, d)
	d.terminate(t)
}

// Nobody has the address of the gateway.
func TestDoctorGatewaySilent(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, "--link", "tap:tap0", "--addr", stack4+"/24", "--host-addr", host4+"/24", "--gateway", "10.0.0.99", "--dns", host4)
	answerDNS(t, host, host4+":53")
	f := onlyCause(t, doctor.CauseUnanswered, host, d)
	if !strings.Contains(fmt.Sprint(f), "10.0.0.99") {
		t.Errorf("the gateway is not named: %v", f)
	}
	d.terminate(t)
}

// The daemon itself is stopped, as by a debugger.
func TestDoctorDaemonStopped(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	d.Signal(t, syscall.SIGSTOP)
	f := onlyCause(t, doctor.CauseReaderStopped, host, d)
	if text := fmt.Sprint(f); !strings.Contains(text, fmt.Sprintf("kill -CONT %d", d.PID())) {
		t.Errorf("what to do is not told: %v", text)
	}
	d.Signal(t, syscall.SIGCONT)
	healthy(t, host, d)
	d.terminate(t)
}

// fixed has doctor do what it says, and wants a healthy path afterwards.
func fixed(t testing.TB, ns *netlab.NS, d *daemon, step string) {
	t.Helper()
	r := runDoctor(t, ns, d, "--fix")
	if r.code != 0 || !strings.Contains(r.stdout, "\nfix    "+step+": done\n") || !strings.HasSuffix(r.stdout, "healthy: no findings\n") {
		t.Errorf("doctor --fix does not fix it by %q: %v", step, r)
	}
}

// badtap is the program that holds a tap and gets one thing wrong.
const badtap = "../internal/badtap"

// startBadtap makes tap0, up and with the host's address, and starts the program on it.
func startBadtap(t testing.TB, host *netlab.NS, mode string) *netlab.Proc {
	t.Helper()
	host.Tap(t, "tap0", -1)
	// What it takes for a virtio header where it is not one begins with this.
	if err := host.Netlink().LinkSetHardwareAddr(host.Link(t, "tap0"), net.HardwareAddr{0x0a, 0xff, 0xff, 0xff, 0, 5}); err != nil {
		t.Fatal(err)
	}
	host.Up(t, "tap0")
	host.Addr(t, "tap0", host4+"/24")
	p := host.Start(t, goProgram(t, badtap), "-tap", "tap0", "-mode", mode, "-ip", stack4, "-host", host4)
	p.FirstLine(t, 10*time.Second)
	return p
}

func TestDoctorPrograms(t *testing.T) {
	for _, c := range []struct {
		mode, cause string
		// flood is traffic of the host's while doctor looks.
		flood bool
		args  []string
	}{
		{mode: "good", cause: doctor.CauseHeld},
		{mode: "stopped", cause: doctor.CauseReaderStopped},
		{mode: "stopped", cause: doctor.CauseReaderStopped, flood: true},
		{mode: "silent", cause: doctor.CauseUnanswered, args: []string{"--addr", stack4 + "/24"}},
		{mode: "slow", cause: doctor.CauseOverrun, flood: true},
		{mode: "echo", cause: doctor.CauseEchoed},
		{mode: "bare", cause: doctor.CauseNoHeader},
		{mode: "shift10", cause: doctor.CauseShifted},
		{mode: "shift12", cause: doctor.CauseShifted},
		{mode: "vnet2", cause: doctor.CauseShifted},
		{mode: "vnet0", cause: doctor.CauseShifted},
		{mode: "blind", cause: doctor.CauseOffload},
		{mode: "partial", cause: doctor.CauseOffload},
		{mode: "super", cause: doctor.CauseOffload},
		{mode: "long", cause: doctor.CauseMTU},
	} {
		name := c.mode
		if c.flood {
			name += " under load"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			p := startBadtap(t, host, c.mode)
			if c.flood {
				flood(t, host, stack4)
			}
			f := onlyCause(t, c.cause, host, nil, c.args...)
			if c.mode == "stopped" && c.flood && !strings.Contains(fmt.Sprint(f), "ENOBUFS") {
				t.Errorf("what senders get is not told: %v", f)
			}
			if who := fmt.Sprintf("pid %d (badtap)", p.PID()); !strings.Contains(fmt.Sprint(f), who) {
				t.Errorf("%s is not named: %v", who, f)
			}
		})
	}
}

// A program that is meant to hold the tap, and does all right, is healthy.
func TestDoctorGoodProgram(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	startBadtap(t, host, "good")
	healthy(t, host, nil, "--program")
}

// flood has the host send datagrams, at a rate that a reader has to keep up with, until
// the end of the test.
func flood(t testing.TB, host *netlab.NS, to string) {
	t.Helper()
	if err := host.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: host.Link(t, "tap0").Attrs().Index, IP: net.ParseIP(to),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 4}, State: netlink.NUD_PERMANENT,
	}); err != nil {
		t.Fatal(err)
	}
	conn, err := dialIn(t, host, "udp4", to+":9")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		data := make([]byte, 100)
		for {
			for range 20 {
				// ENOBUFS and the like are what is wanted.
				if _, err := conn.Write(data); errors.Is(err, net.ErrClosed) {
					return
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
}

// What is left when no cause is known: the kernel's own reasons are told.
func TestDoctorUnexplained(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	host.Sysctl(t, "net.ipv4.icmp_echo_ignore_all", "1")
	onlyCause(t, doctor.CauseUnexplained, host, d)
	d.terminate(t)
}

// A daemon of another network namespace is examined where it is.
func TestDoctorFromElsewhere(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := patient(t, host, "tap:tap0")
	healthy(t, d.apps, d)
	host.Down(t, "tap0")
	onlyCause(t, doctor.CauseDown, d.apps, d)
	d.terminate(t)
}

// An ordinary user sees less, and is told so; what cannot be looked at is no finding.
func TestDoctorAsUser(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	u := filepath.Join(scratch(t), "ustack")
	copyBinary(t, "ustack", u)
	asUser := func(d *daemon, args ...string) result {
		t.Helper()
		sock := "/nonexistent"
		if d != nil {
			sock = d.sock
		}
		return runIn(t, host, []string{"USTACK_SOCKET=" + sock}, "setpriv",
			append([]string{"--reuid", "65534", "--regid", "65534", "--clear-groups", u, "doctor"}, args...)...)
	}
	host.Tap(t, "tap2", 0)
	host.Up(t, "tap2")
	r := asUser(nil, "--link", "tap:tap2", "--json")
	if r.code != 1 || !strings.Contains(r.stdout, doctor.CauseNotPermitted) || strings.Count(r.stdout, `"cause"`) != 1 {
		t.Errorf("another's tap: %v", r)
	}
	d := patient(t, host, "tap:tap0", "--socket-mode", "0666")
	if r = asUser(d); r.code != 0 || !strings.Contains(r.stdout, "run this as root") {
		t.Errorf("a daemon's tap: %v", r)
	}
	d.terminate(t)
}

// The daemon is a switch, and the tap one of its ports.
func TestDoctorSwitchPort(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	sock := filepath.Join(scratch(t), "ustack.sock")
	d := upCmd(t, host, exec.Command(filepath.Join(bin, "ustack"), "up", "--socket", sock, "--state-dir", stateDir,
		"--port", "tap:tap0", "--addr", stack4+"/24", "--dns", host4), sock)
	host.Addr(t, "tap0", host4+"/24")
	answerDNS(t, host, host4+":53")
	healthy(t, host, d, "--link", "tap:tap0")
	d.terminate(t)
}
