package netlab

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestNamespacesWiredTogether(t *testing.T) {
	a, b := New(t, "a"), New(t, "b")
	Veth(t, a, "eth0", b, "eth0")
	a.Addr(t, "eth0", "192.0.2.1/24")
	b.Addr(t, "eth0", "192.0.2.2/24")
	a.Addr(t, "eth0", "2001:db8::1/64")
	b.Route(t, "default", "192.0.2.1")
	frames := a.Capture(t, "eth0")

	var fd int
	a.Do(t, func() {
		var err error
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
	})
	defer unix.Close(fd)
	to := &unix.SockaddrInet4{Port: 9, Addr: [4]byte{192, 0, 2, 2}}
	if err := unix.Sendto(fd, []byte("hello"), 0, to); err != nil {
		t.Fatal(err)
	}
	f := frames.Wait(t, 5*time.Second, "the datagram", func(f Frame) bool {
		return f.Out && f.EtherType() == unix.ETH_P_IP && strings.HasSuffix(string(f.Data), "hello")
	})
	if got, want := f.Dst().String(), b.MAC(t, "eth0").String(); got != want {
		t.Errorf("sent to %s, want %s", got, want)
	}
	if got := f.Src().String(); got != a.MAC(t, "eth0").String() {
		t.Errorf("sent from %s", got)
	}
	if n := frames.Lost(t); n != 0 {
		t.Errorf("%d frames lost", n)
	}
	frames.Wait(t, 5*time.Second, "an answer", func(f Frame) bool { return !f.Out && f.EtherType() == unix.ETH_P_ARP })
	frames.Stop()
	frames.Stop()
}

func TestSysctlIsTheNamespaces(t *testing.T) {
	before, err := os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl")
	if err != nil {
		t.Fatal(err)
	}
	ns := New(t, "a")
	ns.Sysctl(t, "net.ipv4.ip_default_ttl", "7")
	if got := ns.SysctlValue(t, "net.ipv4.ip_default_ttl"); got != "7" {
		t.Errorf("inside: %s", got)
	}
	if after, _ := os.ReadFile("/proc/sys/net/ipv4/ip_default_ttl"); string(after) != string(before) {
		t.Errorf("outside: %s became %s", before, after)
	}
	if got := ns.Run(t, "cat", "/proc/sys/net/ipv4/ip_default_ttl"); got != "7\n" {
		t.Errorf("a command sees %q", got)
	}
}

func TestProcess(t *testing.T) {
	ns := New(t, "a")
	p := ns.Start(t, "sh", "-c", `echo hint >&2; echo "on $(readlink /proc/self/ns/net)"; read x; exit 3`)
	m := p.WaitOutput(t, `on (net:\[\d+\])`, 5*time.Second)
	if line := p.FirstLine(t, 5*time.Second); line != m[0] {
		t.Errorf("first line %q", line)
	}
	want, err := os.Readlink(ns.Path())
	if err != nil || m[1] != want {
		t.Errorf("runs in %s, want %s (%v)", m[1], want, err)
	}
	if code := p.Wait(t, 5*time.Second); code != 3 { // standard input is empty
		t.Errorf("exit code %d", code)
	}

	p = ns.Start(t, "sleep", "60")
	p.Signal(t, syscall.SIGTERM)
	if code := p.Wait(t, 5*time.Second); code != 128+15 {
		t.Errorf("exit code %d", code)
	}
	p = ns.StartCmd(t, exec.Command("sleep", "60"))
	p.Kill(t)
	if !p.Exited() {
		t.Error("runs after Kill")
	}
}

func TestTapOfOrdinaryUser(t *testing.T) {
	ns := New(t, "a")
	ns.Tap(t, "tap7", 12345)
	ns.Bridge(t, "br0", "tap7")
	tap, ok := ns.Link(t, "tap7").(*netlink.Tuntap)
	if !ok || tap.Owner != 12345 || tap.Mode != netlink.TUNTAP_MODE_TAP || tap.NonPersist {
		t.Errorf("tap is %+v", tap)
	}
	if tap.Attrs().MasterIndex != ns.Link(t, "br0").Attrs().Index {
		t.Error("not in the bridge")
	}
	ns.Down(t, "tap7")
	ns.Up(t, "tap7")
}

// A namespace and its processes end with the test.
func TestNothingIsLeft(t *testing.T) {
	Require(t)
	var pid int
	var path string
	t.Run("inner", func(t *testing.T) {
		ns := New(t, "a")
		path, _ = os.Readlink(ns.Path())
		pid = ns.Start(t, "sleep", "60").PID()
	})
	if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
		t.Errorf("process %d: %v", pid, err)
	}
	if mine, _ := os.Readlink("/proc/thread-self/ns/net"); mine == path {
		t.Errorf("this thread is still in %s", path)
	}
}

func TestPeersRun(t *testing.T) {
	ns := New(t, "a")
	for _, args := range [][]string{
		{"ping", "-c", "1", "-w", "5", "127.0.0.1"},
		{"ip", "link"},
		{"nft", "add", "table", "ip", "x"},
		{"nginx", "-v"},
		{"dnsmasq", "-v"},
		{"curl", "-V"},
	} {
		Peer(t, args[0])
		ns.Run(t, args[0], args[1:]...)
	}
}

// A tap made for several queues takes several descriptors.
func TestMultiQueueTap(t *testing.T) {
	ns := New(t, "a")
	ns.Tap(t, "tap7", -1)
	ns.MultiQueueTap(t, "tap8", 12345)
	for name, multi := range map[string]bool{"tap7": false, "tap8": true} {
		tap, ok := ns.Link(t, name).(*netlink.Tuntap)
		if !ok || (tap.Flags&netlink.TUNTAP_MULTI_QUEUE != 0) != multi {
			t.Errorf("%s is %+v", name, tap)
		}
	}
}
