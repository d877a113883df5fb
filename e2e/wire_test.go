package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// A tap made beforehand for an ordinary user, and the daemon run as that user.
func TestTapOfOrdinaryUser(t *testing.T) {
	const uid = 12345
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			prepareTap(t, host, drv.spec, uid)
			host.Addr(t, "tap0", host4+"/24")
			host.Up(t, "tap0")
			dir := scratch(t)
			if err := os.Chown(dir, uid, uid); err != nil {
				t.Fatal(err)
			}
			// The checkout may be in a folder that the user cannot enter.
			prog := filepath.Join(dir, "ustack")
			copyBinary(t, "ustack", prog)
			sock := filepath.Join(dir, "ustack.sock")
			// udev makes /dev/net/tun with mode 0666; not every machine has udev.
			script := `mount -t tmpfs -o mode=755 tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
				exec setpriv --reuid "$1" --regid "$1" --clear-groups --inh-caps=-all --bounding-set=-all \
				--no-new-privs --pdeathsig KILL -- "$2" up --link "$3" --addr 10.0.0.4/24 --gateway 10.0.0.5 \
				--dns 10.0.0.5 --socket "$4"`
			d := upCmd(t, host, exec.Command("unshare", "--mount", "sh", "-c", script, "sh", fmt.Sprint(uid), prog, drv.spec, sock), sock)

			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.PID()))
			if err != nil {
				t.Fatal(err)
			}
			match(t, "the daemon's credentials", string(status), `^Uid:\s+12345\s+12345.*^CapEff:\s+0+$`)
			kernelPing(t, host, stack4)
			match(t, "our ping", d.ok(t, "ping", "-c", "3", "-i", "0.05", "-w", "10", host4), ` 3 received`)
			d.terminate(t)
			if !host.HasLink("tap0") {
				t.Error("the persistent tap is gone")
			}
			match(t, "addresses of the tap", host.Run(t, "ip", "-o", "addr", "show", "tap0"), host4)
		})
	}
}

// newBridgeLab is a host whose bridge br0 has a cable to another machine, and that
// machine's namespace. The host has no address.
func newBridgeLab(t testing.TB) (host, outside *netlab.NS) {
	t.Helper()
	host, outside = netlab.New(t, "host"), netlab.New(t, "outside")
	netlab.Veth(t, host, "eth0", outside, "eth0")
	// A bridge takes the lowest address of its ports: almost any other is lower.
	host.Run(t, "ip", "link", "set", "eth0", "address", "fc:ff:ff:ff:ff:01")
	host.Bridge(t, "br0", "eth0")
	return host, outside
}

func TestBridge(t *testing.T) {
	t.Parallel()
	host, outside := newBridgeLab(t)
	outside.Addr(t, "eth0", "10.9.0.2/24")
	before := hostState(t, host)
	d := up(t, host, "--link", "tap:tap0", "--bridge", "br0", "--addr", "10.9.0.4/24", "--dns", "10.9.0.2")
	if mac := host.MAC(t, "br0").String(); mac != "fc:ff:ff:ff:ff:01" {
		t.Errorf("the tap changed the hardware address of the bridge, which others know the host by, to %s", mac)
	}
	kernelPing(t, outside, "10.9.0.4", "-s", "4000")
	match(t, "ping to outside", d.ok(t, "ping", "-c", "3", "-i", "0.05", "-s", "4000", "10.9.0.2"), ` 3 received`)
	d.terminate(t)
	if after := hostState(t, host); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

func TestDHCP(t *testing.T) {
	t.Parallel()
	host, server := newBridgeLab(t)
	netlab.Peer(t, "dnsmasq")
	server.Addr(t, "eth0", "10.9.0.1/24")
	dir := scratch(t)
	// A lease is at least two minutes with dnsmasq; option 58 sets when to renew.
	p := server.Start(t, "dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null",
		"--user=root", "--pid-file="+filepath.Join(dir, "pid"), "--dhcp-leasefile="+filepath.Join(dir, "leases"),
		"--no-resolv", "--no-hosts", "--bind-interfaces", "--interface=eth0", "--no-ping",
		"--dhcp-range=10.9.0.100,10.9.0.110,2m", "--dhcp-authoritative", "--log-dhcp",
		"--dhcp-option=option:router,10.9.0.1", "--dhcp-option=option:dns-server,10.9.0.1",
		"--dhcp-option=option:T1,3", "--dhcp-option=option:T2,100",
		"--address=/"+web+"/10.9.0.1")
	p.WaitOutput(t, `DHCP, IP range`, 10*time.Second)
	d := up(t, host, "--link", "tap:tap0", "--bridge", "br0", "--dhcp")

	addrs := show[[]control.Addr](t, d, "addr")
	i := slices.IndexFunc(addrs, func(a control.Addr) bool { return a.Origin == "dhcp" })
	if i < 0 {
		t.Fatalf("no address by DHCP among %+v", addrs)
	}
	lease := addrs[i]
	if !netip.MustParsePrefix("10.9.0.96/28").Contains(lease.Prefix.Addr()) || lease.Prefix.Bits() != 24 || lease.State != "assigned" {
		t.Errorf("address %+v", lease)
	}
	match(t, "ping through the lease", d.ok(t, "ping", "-c", "1", web), ` 1 received`)
	match(t, "routes", d.ok(t, "ustack", "route"), `default.*10\.9\.0\.1`)
	first := lease.ValidUntil
	if first.IsZero() {
		t.Error("the lease has no end")
	}
	netlab.WaitFor(t, 20*time.Second, "the lease to be renewed", func() bool {
		for _, a := range show[[]control.Addr](t, d, "addr") {
			if a.Prefix == lease.Prefix && a.ValidUntil.After(first) {
				return true
			}
		}
		return false
	})
	// It sends before it logs.
	p.WaitOutput(t, `(?s)DHCPACK\(.*DHCPACK\(`, 10*time.Second)
	if n := strings.Count(p.Output(), "DHCPDISCOVER("); n != 1 {
		t.Errorf("the client discovered %d times", n)
	}
	match(t, "ping after the renewal", d.ok(t, "ping", "-c", "1", web), ` 1 received`)
	d.terminate(t)
}

func TestSLAAC(t *testing.T) {
	t.Parallel()
	host, router := newBridgeLab(t)
	netlab.Peer(t, "radvd")
	router.Addr(t, "eth0", "2001:db8:5::1/64")
	router.Addr(t, "lo", webIP6+"/128")
	forward(t, router)
	dir := scratch(t)
	startDNS(t, router, dir, "eth0", webIP4, webIP6, "--log-queries")
	conf := filepath.Join(dir, "radvd.conf")
	if err := os.WriteFile(conf, []byte(`interface eth0 {
	AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;
	prefix 2001:db8:5::/64 { AdvOnLink on; AdvAutonomous on; };
	RDNSS 2001:db8:5::1 { AdvRDNSSLifetime 300; };
};
`), 0o644); err != nil {
		t.Fatal(err)
	}
	router.Start(t, "radvd", "--nodaemon", "--config", conf, "--logmethod", "stderr",
		"--pidfile", filepath.Join(dir, "radvd.pid"), "--username", "root")
	d := up(t, host, "--link", "tap:tap0", "--bridge", "br0", "--slaac")
	var addr control.Addr
	netlab.WaitFor(t, 20*time.Second, "an address by SLAAC", func() bool {
		for _, a := range show[[]control.Addr](t, d, "addr") {
			if a.Origin == "slaac" && a.State == "assigned" {
				addr = a
				return true
			}
		}
		return false
	})
	if !netip.MustParsePrefix("2001:db8:5::/64").Contains(addr.Prefix.Addr()) || addr.Prefix.Bits() != 64 {
		t.Errorf("address %+v", addr)
	}
	netlab.WaitFor(t, 10*time.Second, "name servers of the advertisement", func() bool {
		return slices.Contains(show[control.Status](t, d, "status").DNS, "[2001:db8:5::1]:53")
	})
	// Resolved by the server of the advertisement; 2001:db8::80 is behind the router.
	match(t, "ping through the router", d.ok(t, "ping", "-6", "-c", "2", "-i", "0.1", web), webIP6+`.* 2 received`)
	kernelPing(t, router, addr.Prefix.Addr().String())
	d.terminate(t)
}

// An address that somebody else has is told, on standard error and in the status.
func TestDuplicateAddress(t *testing.T) {
	t.Parallel()
	host, outside := newBridgeLab(t)
	outside.Addr(t, "eth0", "10.9.0.4/24")
	outside.Addr(t, "eth0", "fd00:a::4/64")
	d := up(t, host, "--link", "tap:tap0", "--bridge", "br0", "--addr", "10.9.0.4/24", "--addr", "fd00:a::4/64", "--dns", "10.9.0.2")
	mac := outside.MAC(t, "eth0").String()
	netlab.WaitFor(t, 10*time.Second, "two warnings", func() bool {
		w := strings.Join(show[control.Status](t, d, "status").Warnings, "\n")
		return strings.Contains(w, "10.9.0.4") && strings.Contains(w, "fd00:a::4") && strings.Contains(strings.ToLower(w), mac)
	})
	match(t, "the daemon's log", d.Output(), `10\.9\.0\.4`)
	d.terminate(t)
}
