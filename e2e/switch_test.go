package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// Stations on taps, which are the ports of a switch in a namespace of its own:
//
//	 a                 sw                        b
//	┌─────────┐      ┌───────────────┐      ┌─────────┐
//	│tap0  .1 ├──────┤ ustack bridge ├──────┤ tap1  .2│
//	└─────────┘      └───────────────┘      └─────────┘
//	  10.9.0.0/24

// away moves a tap of the switch into a station's namespace.
func away(t testing.TB, from *netlab.NS, ifname string, to *netlab.NS, cidr string) {
	t.Helper()
	f, err := os.Open(to.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := from.Netlink().LinkSetNsFd(from.Link(t, ifname), int(f.Fd())); err != nil {
		t.Fatal(err)
	}
	to.Addr(t, ifname, cidr)
	to.Up(t, ifname)
}

// joined starts `ustack bridge` or `ustack forward` and waits until it is ready.
func joined(t testing.TB, ns *netlab.NS, command string, args ...string) *daemon {
	t.Helper()
	d := &daemon{ns: ns, sock: filepath.Join(scratch(t), "switch.sock"), apps: ns}
	args = append([]string{command, "--socket", d.sock, "--state-dir", stateDir}, args...)
	d.Proc = ns.StartCmd(t, exec.Command(filepath.Join(bin, "ustack"), args...))
	d.ready = d.FirstLine(t, 20*time.Second)
	return d
}

// fileServer serves 50 MB of known content.
func fileServer(t testing.TB, ns *netlab.NS, ip string) (url, hash string) {
	t.Helper()
	dir := scratch(t)
	hash = randomFile(t, filepath.Join(dir, "bulk"), 50<<20)
	p := ns.Start(t, "python3", "-u", "-m", "http.server", "--bind", ip, "--directory", dir, "8000")
	p.WaitOutput(t, "Serving HTTP", 20*time.Second)
	return "http://" + ip + ":8000/bulk", hash
}

// fetch gets the file with a kernel's curl and checks it.
func fetch(t testing.TB, ns *netlab.NS, url, hash string) {
	t.Helper()
	to := filepath.Join(scratch(t), "got")
	ns.Run(t, "curl", "-sS", "-o", to, "--max-time", "60", url)
	same(t, url, to, hash, 50<<20)
}

func TestSwitch(t *testing.T) {
	t.Parallel()
	sw, a, b := netlab.New(t, "sw"), netlab.New(t, "a"), netlab.New(t, "b")
	d := joined(t, sw, "bridge", "--port", "tap:tap0", "--port", "tap:tap1,offload=off")
	match(t, "ready", d.ready, `^ustack: joined tap0, tap1; socket /`)
	away(t, sw, "tap0", a, "10.9.0.1/24")
	away(t, sw, "tap1", b, "10.9.0.2/24")
	kernelPing(t, a, "10.9.0.2")
	kernelPing(t, b, "10.9.0.1", "-s", "1472")
	url, hash := fileServer(t, a, "10.9.0.1")
	fetch(t, b, url, hash)
	url, hash = fileServer(t, b, "10.9.0.2")
	fetch(t, a, url, hash)

	fdb := show[control.FDB](t, d, "fdb")
	if len(fdb.Ports) != 2 || len(fdb.Stations) != 2 {
		t.Fatalf("fdb: %+v", fdb)
	}
	for i, ns := range []*netlab.NS{a, b} {
		name := fmt.Sprintf("tap%d", i)
		found := false
		for _, s := range fdb.Stations {
			found = found || s.HardwareAddr == ns.MAC(t, name).String() && s.Port == name
		}
		if p := fdb.Ports[i]; !found || p.State != "forwarding" || p.RxBytes < 50<<20 || p.TxBytes < 50<<20 {
			t.Errorf("%s: %+v, station found: %v", name, p, found)
		}
	}
	match(t, "ustack fdb", d.ok(t, "ustack", "fdb"), `(?s)1: tap0: FORWARDING mtu 1500 tap \(tun\).*Station +Port +Age\n`)
	// What needs a stack says that there is none.
	r := d.run(t, "ustack", "ping", "-c", "1", "10.9.0.1")
	match(t, "ping", r.stderr, `only switches frames`)
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d:\n%s", code, d.Output())
	}
}

// The stack is one more port beside the taps.
func TestUpWithPorts(t *testing.T) {
	t.Parallel()
	sw, a, b := netlab.New(t, "sw"), netlab.New(t, "a"), netlab.New(t, "b")
	d := up(t, sw, "--port", "tap:tap0", "--port", "tap:tap1", "--addr", "10.9.0.4/24", "--dns", "10.9.0.1")
	away(t, sw, "tap0", a, "10.9.0.1/24")
	away(t, sw, "tap1", b, "10.9.0.2/24")
	for _, ns := range []*netlab.NS{a, b} {
		kernelPing(t, ns, "10.9.0.4")
	}
	kernelPing(t, a, "10.9.0.2")
	match(t, "ping", d.ok(t, "ping", "-c", "2", "-i", "0.1", "10.9.0.2"), ` 2 received`)
	url, hash := fileServer(t, a, "10.9.0.1")
	fetch(t, b, url, hash)
	to := filepath.Join(scratch(t), "got")
	d.ok(t, "curl", "-sS", "-o", to, url)
	same(t, url, to, hash, 50<<20)
	if fdb := show[control.FDB](t, d, "fdb"); len(fdb.Ports) != 3 || len(fdb.Stations) != 3 || fdb.Ports[2].Name != "stack" {
		t.Errorf("fdb: %+v", fdb)
	}
	// A port that is gone takes nothing with it.
	b.Run(t, "ip", "link", "del", "tap1")
	netlab.WaitFor(t, 5*time.Second, "the port is gone", func() bool {
		return show[control.FDB](t, d, "fdb").Ports[1].State == "gone"
	})
	kernelPing(t, a, "10.9.0.4")
	match(t, "status", d.ok(t, "ustack", "status"), `port tap1 is gone`)
	d.terminate(t)
}

// A loop is found and shut, and the rest goes on.
func TestSwitchLoop(t *testing.T) {
	t.Parallel()
	sw, a, loop := netlab.New(t, "sw"), netlab.New(t, "a"), netlab.New(t, "loop")
	d := joined(t, sw, "bridge", "--port", "tap:tap0", "--port", "tap:tap1", "--port", "tap:tap2", "--port", "tap:tap3")
	away(t, sw, "tap0", a, "10.9.0.1/24")
	away(t, sw, "tap1", sw, "10.9.0.2/24")
	// The other two meet in a bridge that knows nothing of spanning trees.
	for _, tap := range []string{"tap2", "tap3"} {
		f, err := os.Open(loop.Path())
		if err != nil {
			t.Fatal(err)
		}
		if err := sw.Netlink().LinkSetNsFd(sw.Link(t, tap), int(f.Fd())); err != nil {
			t.Fatal(err)
		}
		f.Close()
		loop.Up(t, tap)
	}
	loop.Bridge(t, "br0", "tap2", "tap3")
	go func() { // ARP asks everybody, and everybody hears it for ever.
		_ = a.Command("ping", "-c", "20", "-i", "0.2", "10.9.0.9").Run()
	}()
	netlab.WaitFor(t, 10*time.Second, "the looping port is shut", func() bool {
		return show[control.FDB](t, d, "fdb").Ports[3].State == "looping"
	})
	kernelPing(t, a, "10.9.0.2")
	match(t, "log", d.Output(), `port loops and is shut" port=tap3 because="what (port tap2 sends comes in here|it sends comes in at port tap2)`)
	for i, p := range show[control.FDB](t, d, "fdb").Ports[:3] {
		if p.State != "forwarding" {
			t.Errorf("port %d: %s", i, p.State)
		}
	}
}

// Two wires are one: the reserved addresses pass, nothing is learned, and a tap that is taken down
// and up meanwhile goes on.
func TestForward(t *testing.T) {
	t.Parallel()
	sw, a, b := netlab.New(t, "sw"), netlab.New(t, "a"), netlab.New(t, "b")
	d := joined(t, sw, "forward", "tap:tap0", "tap:tap1,delay=1ms")
	away(t, sw, "tap0", a, "10.9.0.1/24")
	away(t, sw, "tap1", b, "10.9.0.2/24")
	kernelPing(t, a, "10.9.0.2", "-s", "1472")
	b.Down(t, "tap1")
	a.Command("ping", "-c", "1", "-W", "0.2", "10.9.0.2").Run()
	b.Up(t, "tap1")
	kernelPing(t, a, "10.9.0.2")
	url, hash := fileServer(t, a, "10.9.0.1")
	fetch(t, b, url, hash)
	if fdb := show[control.FDB](t, d, "fdb"); len(fdb.Stations) != 0 || fdb.Ports[1].Drops["tx_down"] == 0 {
		t.Errorf("fdb: %+v", fdb)
	}
	a.Run(t, "ip", "link", "del", "tap0")
	if code := d.Wait(t, 5*time.Second); code != 1 {
		t.Errorf("exit code %d with an end gone", code)
	}
	match(t, "the end", d.Output(), `the port tap0 ended`)
}
