//go:build amd64

package e2e

import (
	"crypto/md5"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// Two guests, and a stack that meets them on one wire after the other:
//
//	 a                                                   b
//	┌────────┐ stream  a.sock      dgram  b.sock ┌────────┐
//	│eth0  .1├───────────────┐     ┌─────────────┤eth0  .2│    10.9.0.0/24
//	│        │               ustack              │        │
//	│eth1  .1├───────────────┘  .4 └─────────────┤eth1  .2│    10.9.1.0/24
//	│        │ TCP  7001         UDP  7002, 7003 │        │
//	│eth2  .1├───────────────┐     ┌─────────────┤eth2  .2│    10.9.2.0/24
//	└────────┘ tap  vma     Linux bridge     vmb └────────┘

// A bulk is a file of 50 MB, and its hashes: busybox takes three times as long for the second.
type bulk struct {
	path, md5, sha256 string
}

const guestBulk = 50 << 20

func newBulk(t testing.TB) bulk {
	t.Helper()
	b := bulk{path: filepath.Join(scratch(t), "bulk")}
	b.sha256 = randomFile(t, b.path, guestBulk)
	content, err := os.ReadFile(b.path)
	if err != nil {
		t.Fatal(err)
	}
	b.md5 = fmt.Sprintf("%x", md5.Sum(content))
	return b
}

// serve runs a server on the stack that has the file as http://IP:8000/bulk.
func (b bulk) serve(t testing.TB, d *daemon, ip string) *netlab.Proc {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "ustack"), "run", "--", netlab.Peer(t, "python3"),
		"-u", "-m", "http.server", "--bind", ip, "--directory", filepath.Dir(b.path), "8000")
	cmd.Env = append(os.Environ(), "USTACK_SOCKET="+d.sock)
	p := d.apps.StartCmd(t, cmd)
	p.WaitOutput(t, "Serving HTTP", 30*time.Second)
	return p
}

// get begins to fetch the file in a guest, and returns what checks it.
func (b bulk) get(t testing.TB, g *guest, from string) (check func()) {
	t.Helper()
	line := "wget -q -O /www/bulk http://" + from + "/bulk && md5sum /www/bulk"
	done := g.start(t, line)
	return func() {
		t.Helper()
		if out := g.wants(t, line, done); !strings.HasPrefix(out, b.md5) {
			t.Errorf("%s from %s: %s, want %s", g.name, from, out, b.md5)
		}
	}
}

// getHere fetches the file from a guest with curl through the stack.
func (b bulk) getHere(t testing.TB, d *daemon, from string, meanwhile func(to string)) {
	t.Helper()
	to := filepath.Join(scratch(t), "got")
	var r result
	var curl sync.WaitGroup
	curl.Go(func() { r = d.run(t, "curl", "-sS", "-o", to, "http://"+from+"/bulk") })
	func() {
		defer curl.Wait()
		if meanwhile != nil {
			meanwhile(to)
		}
	}()
	if r.code != 0 {
		t.Fatalf("curl: %v", r)
	}
	same(t, "from "+from, to, b.sha256, guestBulk)
}

// talk is all that a guest and a stack, which serves the file, do: pings and 50 MB each way, the
// guest's cable unplugged while they move, and the guest reset.
func talk(t *testing.T, d *daemon, g *guest, i int, guestIP, stackIP string, b bulk) {
	t.Helper()
	match(t, "ping", d.ok(t, "ping", "-c", "3", "-i", "0.1", guestIP), ` [1-3] received`)
	match(t, "ping", d.ok(t, "ping", "-c", "3", "-i", "0.1", six(guestIP)), ` [1-3] received`)
	g.ping(t, stackIP, "-s 4000") // in fragments
	g.ping(t, six(stackIP))
	match(t, "the page", d.ok(t, "curl", "-sS", "http://["+six(guestIP)+"]/"), `\Ahello from `+g.name+`\n\z`)
	b.get(t, g, stackIP+":8000")()
	b.getHere(t, d, guestIP, func(to string) {
		netlab.WaitFor(t, time.Minute, "the file to grow", func() bool {
			fi, err := os.Stat(to)
			return err == nil && fi.Size() > 1<<20
		})
		g.carrier(t, i, false)
		g.carrier(t, i, true)
	})
	g.reset(t)
	match(t, "the page after a reset", d.ok(t, "curl", "-sS", "http://"+guestIP+"/"), `\Ahello from `+g.name+`\n\z`)
	g.ping(t, stackIP)
}

// trio has two guests and a stack talk to each other: the file goes from the stack, which serves it,
// to a, to b and back. Meanwhile one of them stops once, which is to stop nobody else.
func trio(t *testing.T, d *daemon, a, b *guest, prefix string, file bulk, server *netlab.Proc, stops *guest) {
	t.Helper()
	ipA, ipB, stack := prefix+".1", prefix+".2", prefix+".4"
	a.ping(t, ipB)
	b.ping(t, stack)
	for _, ip := range []string{ipA, ipB} {
		match(t, "ping", d.ok(t, "ping", "-c", "3", "-i", "0.1", ip), ` [1-3] received`)
	}
	file.get(t, a, stack+":8000")()
	file.get(t, b, ipA)()
	file.getHere(t, d, ipB, nil)

	if stops == nil {
		return
	}
	goes, ip := a, ipB
	if stops == a {
		goes, ip = b, ipA
	}
	asked := strings.Count(server.Output(), "GET /bulk")
	check := file.get(t, stops, stack+":8000")
	server.WaitOutput(t, fmt.Sprintf(`(?s)(GET /bulk.*){%d}`, asked+1), time.Minute)
	stops.Signal(t, syscall.SIGSTOP)
	// 17 MB: more than its port and the kernel hold.
	flood := fmt.Sprintf("import socket; s = socket.socket(2, 2); [s.sendto(bytes(1400), (%q, 9)) for _ in range(12000)]", ip)
	d.ok(t, "ustack", "run", "--", netlab.Peer(t, "python3"), "-c", flood)
	file.get(t, goes, stack+":8000")()
	stops.Signal(t, syscall.SIGCONT)
	check()
}

// dropped returns how many frames a port of a switch did not take because it was full.
func dropped(t testing.TB, d *daemon, port int) uint64 {
	t.Helper()
	return show[control.FDB](t, d, "fdb").Ports[port].Drops["tx_full"]
}

func TestGuests(t *testing.T) {
	t.Parallel()
	ns, dir, file, fs := netlab.New(t, "vm"), scratch(t), newBulk(t), initramfs(t)
	for _, tap := range []string{"vma", "vmb"} {
		ns.Tap(t, tap, -1)
	}
	ns.Bridge(t, "br0", "vma", "vmb")
	bootA := func() *guest {
		return boot(t, ns, 0, fs, "a",
			nic{"stream,server=on,addr.type=unix,addr.path=" + dir + "/a.sock", "10.9.0.1/24"},
			nic{"stream,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=7001", "10.9.1.1/24"},
			nic{"tap,script=no,downscript=no,ifname=vma", "10.9.2.1/24"})
	}
	bootB := func() *guest {
		return boot(t, ns, 0, fs, "b",
			nic{"dgram,local.type=unix,local.path=" + dir + "/b.sock,remote.type=unix,remote.path=" + dir + "/b.peer", "10.9.0.2/24"},
			nic{"dgram,local.type=inet,local.host=127.0.0.1,local.port=7002,remote.type=inet,remote.host=127.0.0.1,remote.port=7003", "10.9.1.2/24"},
			nic{"tap,script=no,downscript=no,ifname=vmb", "10.9.2.2/24"})
	}
	a, b := bootA(), bootB()
	a.booted(t)
	b.booted(t)
	stream, dgram := "stream:"+dir+"/a.sock", "dgram:local="+dir+"/b.peer,remote="+dir+"/b.sock"

	t.Run("stream", func(t *testing.T) {
		d := up(t, ns, "--link", stream, "--addr", "10.9.0.4/24", "--addr", "fd00:9:0::4/64")
		file.serve(t, d, "10.9.0.4")
		talk(t, d, a, 0, "10.9.0.1", "10.9.0.4", file)
		d.terminate(t)
	})
	t.Run("dgram", func(t *testing.T) {
		d := up(t, ns, "--link", dgram, "--addr", "10.9.0.4/24", "--addr", "fd00:9:0::4/64")
		file.serve(t, d, "10.9.0.4")
		talk(t, d, b, 0, "10.9.0.2", "10.9.0.4", file)
		b.Kill(t)
		netlab.WaitFor(t, 10*time.Second, "the guest to be missed", func() bool { return show[[]control.Link](t, d, "link")[0].State == "waiting" })
		b = bootB()
		b.booted(t)
		b.ping(t, "10.9.0.4") // it is heard before anything is sent to it
		if l := show[[]control.Link](t, d, "link")[0]; l.State != "up" {
			t.Errorf("the link is %s: %s", l.State, l.Why)
		}
		d.terminate(t)
	})
	t.Run("Linux bridge", func(t *testing.T) {
		d := up(t, ns, "--link", "tap:tap0", "--bridge", "br0", "--addr", "10.9.2.4/24", "--addr", "fd00:9:2::4/64")
		server := file.serve(t, d, "10.9.2.4")
		talk(t, d, a, 2, "10.9.2.1", "10.9.2.4", file)
		trio(t, d, a, b, "10.9.2", file, server, nil)
		d.terminate(t)
	})
	t.Run("ustack bridge", func(t *testing.T) {
		sw := joined(t, ns, "bridge", "--port", stream, "--port", dgram, "--port", "stream:"+dir+"/stack.sock,listen")
		d := up(t, ns, "--link", "stream:"+dir+"/stack.sock", "--addr", "10.9.0.4/24")
		sw.apps = d.apps
		trio(t, d, a, b, "10.9.0", file, file.serve(t, d, "10.9.0.4"), b)
		if dropped(t, sw, 1) == 0 {
			t.Error("all that was sent to a guest that stands still was taken")
		}
		fdb := show[control.FDB](t, sw, "fdb")
		for i, mac := range []string{guestMAC("a", 0), guestMAC("b", 0)} {
			if !slices.ContainsFunc(fdb.Stations, func(s control.Station) bool { return s.HardwareAddr == mac && s.Port == fdb.Ports[i].Name }) {
				t.Errorf("no %s at port %d: %+v", mac, i, fdb)
			}
		}
		d.terminate(t)
		sw.terminate(t)
	})
	t.Run("ports of ustack up", func(t *testing.T) {
		d := up(t, ns, "--port", "stream:127.0.0.1:7001", "--port", "dgram:local=127.0.0.1:7003,remote=127.0.0.1:7002", "--addr", "10.9.1.4/24")
		trio(t, d, a, b, "10.9.1", file, file.serve(t, d, "10.9.1.4"), a)
		if dropped(t, d, 0) == 0 {
			t.Error("all that was sent to a guest that stands still was taken")
		}
		d.terminate(t)
	})
}

// Nobody needs a privilege for a stack and a guest on a socket. The stack waits for QEMU, which may
// come again.
func TestGuestOfAnOrdinaryUser(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	ns, dir, file, fs := netlab.New(t, "vm"), ownScratch(t, nobody), newBulk(t), initramfs(t)
	sock := filepath.Join(dir, "ustack.sock")
	u := filepath.Join(dir, "ustack")
	copyBinary(t, "ustack", u)
	cmd := exec.Command(u, "up", "--socket", sock, "--state-dir", dir, "--link", "stream:"+dir+"/a.sock,listen",
		"--addr", "10.9.0.4/24", "--addr", "fd00:9:0::4/64")
	cmd.SysProcAttr = asUser(nobody)
	d := upCmd(t, ns, cmd, sock)
	start := func() *guest {
		g := boot(t, ns, nobody, fs, "a", nic{"stream,addr.type=unix,addr.path=" + dir + "/a.sock", "10.9.0.1/24"})
		g.booted(t)
		return g
	}
	g := start()
	file.serve(t, d, "10.9.0.4")
	talk(t, d, g, 0, "10.9.0.1", "10.9.0.4", file)
	g.Kill(t)
	why := "nobody is connected to " + dir + "/a.sock"
	netlab.WaitFor(t, 10*time.Second, "the guest to be missed", func() bool {
		l := show[[]control.Link](t, d, "link")[0]
		return l.State == "waiting" && l.Why == why
	})
	match(t, "status", d.ok(t, "ustack", "status"), `a\.sock WAITING,.*^warning +\S+a\.sock: nothing gets through: `+why)
	g = start()
	g.ping(t, "10.9.0.4")
	match(t, "the page of the guest that came again", d.ok(t, "curl", "-sS", "http://10.9.0.1/"), `\Ahello from a\n\z`)
	d.terminate(t)
}
