package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// A driver's own character device, as /dev/xtun is: a macvtap's, under a name of its own.
//
//	 host                              lan
//	┌───────────────────────────┐    ┌──────────────────────┐
//	│ustack ── /dev/xtun        │    │nginx    10.9.0.2 :80 │
//	│10.9.0.4   macvtap xtun ─ v0├────┤dnsmasq           :53 │
//	└───────────────────────────┘    └──────────────────────┘

// xtun makes the macvtap and the node that leads to it.
func xtun(t testing.TB, ns *netlab.NS, node string) {
	t.Helper()
	ns.Run(t, "ip", "link", "add", "xtun", "link", "v0", "type", "macvtap", "mode", "bridge")
	index := strconv.Itoa(ns.Link(t, "xtun").Attrs().Index)
	out := ns.Run(t, "unshare", "--mount", "sh", "-c", "mount -t sysfs none /sys && cat /sys/class/net/xtun/tap"+index+"/dev")
	major, minor, _ := strings.Cut(strings.TrimSpace(out), ":")
	a, err := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	os.Remove(node)
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(uint32(a), uint32(b)))); err != nil {
		t.Fatal(err)
	}
}

func TestCharDevice(t *testing.T) {
	t.Parallel()
	for _, offload := range []string{"auto", "off"} {
		t.Run(offload, func(t *testing.T) {
			host, lan, dir := netlab.New(t, "host"), netlab.New(t, "lan"), scratch(t)
			netlab.Veth(t, host, "v0", lan, "eth0")
			host.Up(t, "v0")
			lan.Addr(t, "eth0", "10.9.0.2/24")
			lan.Addr(t, "eth0", "fd00:9::2/64")
			startDNS(t, lan, dir, "eth0", "10.9.0.2", "fd00:9::2")
			startWeb(t, lan, dir, "10.9.0.2", "fd00:9::2")
			node := filepath.Join(dir, "xtun")
			xtun(t, host, node)
			d := up(t, host, "--link", "chardev:"+node+",dev=xtun,offload="+offload, "--addr", "10.9.0.4/24", "--addr", "fd00:9::4/64", "--dns", "10.9.0.2")
			l := show[[]control.Link](t, d, "link")[0]
			if l.Name != "xtun" || l.Kind != "chardev" || l.HardwareAddr != host.MAC(t, "xtun").String() || (l.OffloadsRX == "none") != (offload == "off") {
				t.Errorf("link: %+v", l)
			}
			kernelPing(t, lan, "10.9.0.4")
			kernelPing(t, lan, "fd00:9::4", "-s", "1400")
			match(t, "ping", d.ok(t, "ping", "-c", "2", "-i", "0.1", "10.9.0.2"), ` 2 received`)
			match(t, "curl", d.ok(t, "curl", "-sS", "www.baidu.com", "80"), regexp.QuoteMeta(pageText))
			url, hash := fileServer(t, lan, "10.9.0.2")
			to := filepath.Join(scratch(t), "got")
			d.ok(t, "curl", "-sS", "-o", to, url)
			same(t, url, to, hash, 50<<20)

			// The driver is unloaded, and comes again.
			host.Run(t, "ip", "link", "del", "xtun")
			d.Proc.WaitOutput(t, `the wire is gone; it is attached again when it returns" link=xtun`, 10e9)
			xtun(t, host, node)
			host.Run(t, "ip", "link", "set", "xtun", "address", l.HardwareAddr)
			d.Proc.WaitOutput(t, `the wire is back" link=xtun`, 10e9)
			match(t, "curl", d.ok(t, "curl", "-sS", "--retry", "3", "http://www.baidu.com/"), regexp.QuoteMeta(pageText))
			kernelPing(t, lan, "10.9.0.4")
			d.terminate(t)
		})
	}
}

// A tap that whoever starts ustack has opened, as container runtimes do.
func TestInheritedTap(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	script := `
import fcntl, os, struct, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", b"tap0", 0x0002 | 0x1000 | 0x4000))  # TUNSETIFF: TAP, NO_PI, VNET_HDR
os.dup2(fd, 9, inheritable=True)
os.execv(sys.argv[1], sys.argv[1:])
`
	sock := filepath.Join(scratch(t), "ustack.sock")
	cmd := exec.Command("python3", "-c", script, filepath.Join(bin, "ustack"), "up", "--socket", sock, "--state-dir", stateDir,
		"--link", "fd:9", "--addr", "10.9.0.4/24", "--dns", "10.9.0.5")
	d := upCmd(t, host, cmd, sock)
	host.Addr(t, "tap0", "10.9.0.5/24")
	host.Up(t, "tap0")
	kernelPing(t, host, "10.9.0.4")
	if l := show[[]control.Link](t, d, "link")[0]; l.Kind != "fd" || l.Name != "tap0" || l.OffloadsRX == "none" {
		t.Errorf("link: %+v", l)
	}
	d.terminate(t)
	// A number that nobody handed over is refused.
	r := runIn(t, host, nil, filepath.Join(bin, "ustack"), "up", "--socket", sock, "--link", "fd:9", "--addr", "10.9.0.4/24")
	if r.code != 1 || !strings.Contains(r.stderr, "no descriptor 9 was inherited") {
		t.Errorf("%v", r)
	}
}
