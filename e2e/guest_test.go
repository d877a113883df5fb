//go:build amd64

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// bootTime is how long a guest may take: two seconds where nothing else runs.
const bootTime = 2 * time.Minute

// A guest is a virtual machine: QEMU without acceleration, Debian's cloud kernel and busybox. Its
// console runs shell commands one after the other; httpd serves what is in /www.
type guest struct {
	*netlab.Proc
	name    string
	console *os.File
	control string // the path of QEMU's control socket (QMP)
	boots   int
	lines   int // that the console was given
}

// A nic is one network interface of a guest.
type nic struct {
	netdev string // QEMU's back-end, without its id
	cidr   string
}

// guestInit is the guest's first program. Each NIC's address comes by the kernel's command line as
// eth0=10.9.0.1/24, which the kernel hands on; that of IPv6 is fd00:9:0::1/64 then.
const guestInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in MODULES; do insmod /$m.ko; done
ip link set lo up
for i in eth0 eth1 eth2; do
	[ -e /sys/class/net/$i ] || continue
	eval a=\$$i
	ip addr add $a dev $i
	echo 0 >/proc/sys/net/ipv6/conf/$i/accept_dad
	ip link set $i up
	a=${a%/*}
	ip addr add fd00:9:${i#eth}::${a##*.}/64 dev $i
done
echo hello from $NAME >/www/index.html
httpd -h /www
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty -echo -opost
echo "the guest is up"
while read -r n line; do
	echo "[$n"
	(eval "$line")
	echo "$n] $?"
done
`

// initramfs makes the file system of all guests.
func initramfs(t testing.TB) string {
	t.Helper()
	netlab.Peer(t, "qemu-system-x86_64")
	peers := filepath.Join(netlab.Root(t), ".cache", "peers")
	modules, err := os.ReadFile(filepath.Join(peers, "guest", "modules"))
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(modules))
	var a cpio
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp", "www"} {
		a.add(dir, 0o40755, nil)
	}
	file := func(name, from string) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		a.add(name, 0o100755, b)
	}
	file("bin/busybox", filepath.Join(peers, "root", "bin", "busybox"))
	for _, m := range names {
		file(m+".ko", filepath.Join(peers, "guest", m+".ko"))
	}
	a.add("init", 0o100755, []byte(strings.Replace(guestInit, "MODULES", strings.Join(names, " "), 1)))
	a.add("TRAILER!!!", 0, nil)
	path := filepath.Join(scratch(t), "initramfs")
	if err := os.WriteFile(path, a.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// cpio is an archive in the format "newc" (Documentation/driver-api/early-userspace/
// buffer-format.rst of Linux).
type cpio struct {
	bytes.Buffer
	files int
}

func (a *cpio) add(name string, mode int, content []byte) {
	a.files++
	fmt.Fprintf(a, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.files, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0, name)
	pad := func() { a.Write(make([]byte, -a.Len()&3)) }
	pad()
	a.Write(content)
	pad()
}

// boot starts a guest in a namespace, with the rights of a user, and does not wait for it.
func boot(t testing.TB, ns *netlab.NS, uid uint32, initramfs, name string, nics ...nic) *guest {
	t.Helper()
	qemu := netlab.Peer(t, "qemu-system-x86_64")
	g := &guest{name: name, control: filepath.Join(ownScratch(t, uid), "qmp")}
	// On a busy host the emulated timer misses what the kernel's check of it expects.
	line := "console=ttyS0 quiet loglevel=3 no_timer_check NAME=" + name
	args := []string{
		// After cmpxchg16b, which Linux allocates memory with, QEMU 7.2 loses the flags at times: of
		// guests with Linux 6.12 one in ten panicked. Linux does without it.
		"-accel", "tcg", "-cpu", "qemu64,-cx16", "-M", "q35", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-qmp", "unix:" + g.control + ",server=on,wait=off",
		"-kernel", filepath.Join(netlab.Root(t), ".cache", "peers", "guest", "vmlinuz"), "-initrd", initramfs,
	}
	for i, n := range nics {
		at := strings.IndexByte(n.netdev+",", ',')
		args = append(args, "-netdev", fmt.Sprintf("%s,id=net%d%s", n.netdev[:at], i, n.netdev[at:]),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,romfile=,mac=%s", i, guestMAC(name, i)))
		line += fmt.Sprintf(" eth%d=%s", i, n.cidr)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	g.console = w
	t.Cleanup(func() { w.Close() })
	cmd := exec.Command(qemu, append(args, "-append", line)...)
	cmd.Stdin = r
	cmd.SysProcAttr = asUser(uid)
	g.Proc = ns.StartCmd(t, cmd)
	return g
}

func guestMAC(name string, i int) string { return fmt.Sprintf("52:54:00:00:%02x:%02x", name[0], i) }

func asUser(uid uint32) *syscall.SysProcAttr {
	if uid == 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
}

// ownScratch is scratch for files of a user.
func ownScratch(t testing.TB, uid uint32) string {
	t.Helper()
	dir := scratch(t)
	if err := os.Chown(dir, int(uid), int(uid)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// booted waits until the guest has started, once more each time.
func (g *guest) booted(t testing.TB) {
	t.Helper()
	g.boots++
	g.WaitOutput(t, fmt.Sprintf(`(?s)\A(.*?^the guest is up$){%d}`, g.boots), bootTime)
}

// start gives the guest a command line; done waits for its end.
func (g *guest) start(t testing.TB, line string) (done func() (out string, code string)) {
	t.Helper()
	g.lines++
	n := g.lines
	if _, err := fmt.Fprintf(g.console, "%d %s\n", n, line); err != nil {
		t.Fatalf("%s: console: %v", g.name, err)
	}
	return func() (string, string) {
		t.Helper()
		m := g.WaitOutput(t, fmt.Sprintf(`(?s)^\[%d\n(.*)^%[1]d\] (\d+)$`, n), 2*time.Minute)
		return m[1], m[2]
	}
}

// ok runs a command in the guest that has to succeed.
func (g *guest) ok(t testing.TB, line string) string {
	t.Helper()
	return g.wants(t, line, g.start(t, line))
}

// wants is ok for what was started.
func (g *guest) wants(t testing.TB, line string, done func() (string, string)) string {
	t.Helper()
	out, code := done()
	if code != "0" {
		t.Fatalf("%s: %s: exit code %s:\n%s", g.name, line, code, out)
	}
	return out
}

// ping has the guest's ping reach an address.
func (g *guest) ping(t testing.TB, addr string, args ...string) {
	t.Helper()
	g.ok(t, fmt.Sprintf("for i in 1 2 3 4 5 6 7 8 9 10; do ping -q -c 3 -i 0.1 -W 1 %s %s && break; done", strings.Join(args, " "), addr))
}

// six is the IPv6 address that goes with one of IPv4.
func six(ip string) string {
	part := strings.Split(ip, ".")
	return "fd00:9:" + part[2] + "::" + part[3]
}

// qemu has QEMU itself execute a command (its QMP reference).
func (g *guest) qemu(t testing.TB, command string, arguments map[string]any) {
	t.Helper()
	c, err := net.Dial("unix", g.control)
	if err != nil {
		t.Fatalf("%s: QEMU's control socket: %v", g.name, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	for _, m := range []any{
		map[string]any{"execute": "qmp_capabilities"},
		map[string]any{"execute": command, "arguments": arguments},
	} {
		err := out.Encode(m)
		for answered := false; !answered && err == nil; {
			var answer struct{ Return, Error json.RawMessage }
			if err = in.Decode(&answer); answer.Error != nil {
				err = errors.New(string(answer.Error))
			}
			answered = answer.Return != nil
		}
		if err != nil {
			t.Fatalf("%s: QEMU's command %s: %v", g.name, command, err)
		}
	}
}

// reset does what a reset button does, and waits until the guest has started again.
func (g *guest) reset(t testing.TB) {
	t.Helper()
	g.qemu(t, "system_reset", map[string]any{})
	g.booted(t)
}

// carrier unplugs the cable of a NIC, or plugs it in, and waits until the guest has noticed.
func (g *guest) carrier(t testing.TB, i int, up bool) {
	t.Helper()
	g.qemu(t, "set_link", map[string]any{"name": fmt.Sprintf("net%d", i), "up": up})
	state := 0
	if up {
		state = 1
	}
	g.ok(t, fmt.Sprintf("until [ $(cat /sys/class/net/eth%d/carrier) = %d ]; do usleep 10000; done", i, state))
}
