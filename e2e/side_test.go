package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// The map for unmodified programs, which run in apps:
//
//	 apps                      host
//	┌───────────────┐        ┌────────────────────────────────┐
//	│ ustack run -- ├─stack──┤tap0   nginx    10.0.0.5 :80    │
//	│ curl …   .4   │        │.5     dnsmasq           :53    │
//	└───────────────┘        │       echo              :7     │
//	  10.0.0.0/24            └────────────────────────────────┘
//	  fd00:a::/64
//
// On the kernel's side, which shows what is expected of the other, there is no ustack:
// apps has the stack's addresses on a cable to host's tap0.

// A side is where the programs under test run, and what they run against.
type side struct {
	name string
	// apps is the namespace programs are started in, host that of their peers.
	apps, host *netlab.NS
	// prefix goes before the program's name, env to its environment.
	prefix, env []string
	// dir holds www, which host's nginx serves.
	dir string
	d   *daemon // nil on the kernel's side
}

// theSide is the side of tests that run on one: the stack, unless USTACK_E2E_SIDE=kernel
// asks what the kernel makes of the tests themselves.
func theSide(t testing.TB) *side {
	t.Helper()
	name := os.Getenv("USTACK_E2E_SIDE")
	if name == "" {
		name = "ustack"
	}
	return newSide(t, name)
}

func newSide(t testing.TB, name string) *side {
	t.Helper()
	s := &side{name: name, host: netlab.New(t, "host"), dir: scratch(t)}
	// Programs that give up root's rights read and write here.
	if err := os.Chmod(s.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	switch name {
	case "ustack":
		s.d = up(t, s.host, "--link", "tap:tap0", "--addr", stack4+"/24", "--addr", stack6+"/64",
			"--host-addr", host4+"/24", "--host-addr", host6+"/64", "--dns", host4)
		s.apps = s.d.apps
		s.prefix = []string{filepath.Join(bin, "ustack"), "run", "--"}
		s.env = []string{"USTACK_SOCKET=" + s.d.sock}
	case "kernel":
		s.apps = netlab.New(t, "apps")
		netlab.Veth(t, s.apps, "eth0", s.host, "tap0")
		s.apps.Addr(t, "eth0", stack4+"/24")
		s.apps.Addr(t, "eth0", stack6+"/64")
		s.host.Addr(t, "tap0", host4+"/24")
		s.host.Addr(t, "tap0", host6+"/64")
		s.apps.Route(t, "default", host4)
		s.apps.Route(t, "default", host6)
		resolv := filepath.Join(s.dir, "resolv.conf")
		if err := os.WriteFile(resolv, []byte("nameserver "+host4+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s.prefix = []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, resolv}
	default:
		t.Fatalf("USTACK_E2E_SIDE: there is no side %q", name)
	}
	forward(t, s.host)
	startDNS(t, s.host, s.dir, "tap0", host4, host6, "--enable-tftp", "--tftp-root="+filepath.Join(s.dir, "www"), "--tftp-no-fail")
	startWeb(t, s.host, s.dir, host4, host6)
	for _, addr := range []string{host4, host6} {
		echoTCP(t, listenIn(t, s.host, "tcp", net.JoinHostPort(addr, "7")))
		echoUDP(t, s.host, net.JoinHostPort(addr, "7"))
	}
	return s
}

// A program is the path of a peer, or what PATH says.
func program(t testing.TB, name string) string {
	t.Helper()
	if filepath.Base(name) != name {
		return name
	}
	if path, err := exec.LookPath(filepath.Join(netlab.Root(t), ".cache", "peers", "bin", name)); err == nil {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return netlab.Peer(t, name) // says what to do
	}
	return path
}

// command is the command line of a program under test.
func (s *side) command(t testing.TB, name string, args ...string) []string {
	t.Helper()
	return append(append(append([]string{}, s.prefix...), program(t, name)), args...)
}

// run runs a program on the side under test, to its end.
func (s *side) run(t testing.TB, name string, args ...string) result {
	t.Helper()
	line := s.command(t, name, args...)
	return runIn(t, s.apps, s.env, line[0], line[1:]...)
}

// ok is run for what has to succeed; it returns standard output.
func (s *side) ok(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := s.run(t, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), r)
	}
	return r.stdout
}

// sh runs a shell script with the side's programs under the side's prefix: all of
// them in one `ustack run`.
func (s *side) sh(t testing.TB, script string) result {
	t.Helper()
	return s.run(t, "bash", "-c", withPeers(t, script))
}

func (s *side) okSh(t testing.TB, script string) string {
	t.Helper()
	r := s.sh(t, script)
	if r.code != 0 {
		t.Fatalf("%s: %v", script, r)
	}
	return r.stdout
}

// hostSh runs a shell script on the host, and fails the test unless it ends well.
func (s *side) hostSh(t testing.TB, script string) string {
	t.Helper()
	r := runIn(t, s.host, nil, "bash", "-c", withPeers(t, script))
	if r.code != 0 {
		t.Fatalf("on the host: %s: %v", script, r)
	}
	return r.stdout
}

// withPeers puts the peers before PATH.
func withPeers(t testing.TB, script string) string {
	return "PATH=" + filepath.Join(netlab.Root(t), ".cache", "peers", "bin") + ":$PATH\n" + script
}

// start starts a program on the side under test in the background.
func (s *side) start(t testing.TB, name string, args ...string) *netlab.Proc {
	t.Helper()
	line := s.command(t, name, args...)
	cmd := exec.Command(line[0], line[1:]...)
	return s.startCmd(t, cmd)
}

// startCmd starts a prepared command under the side's environment; what it starts in
// its turn ends with it.
func (s *side) startCmd(t testing.TB, cmd *exec.Cmd) *netlab.Proc {
	t.Helper()
	cmd.Env = append(os.Environ(), s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := s.apps.StartCmd(t, cmd)
	t.Cleanup(func() { syscall.Kill(-p.PID(), syscall.SIGKILL) })
	return p
}

// startSh is start for a shell script.
func (s *side) startSh(t testing.TB, script string) *netlab.Proc {
	t.Helper()
	return s.start(t, "bash", "-c", withPeers(t, script))
}

// reachable waits until a program listens on the stack's port, as the host sees it.
func (s *side) reachable(t testing.TB, p *netlab.Proc, address string) {
	t.Helper()
	listens(t, s.host, p, address)
}

// listens waits until a program listens, as ns sees it.
func listens(t testing.TB, ns *netlab.NS, p *netlab.Proc, address string) {
	t.Helper()
	netlab.WaitFor(t, 20*time.Second, address+" to accept", func() bool {
		if p.Exited() {
			t.Fatalf("it ended before it listened on %s:\n%s", address, p.Output())
		}
		c, err := dialIn(t, ns, "tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// file makes a file of the given size below www and returns its path and hash.
func (s *side) file(t testing.TB, name string, size int64) (path, hash string) {
	t.Helper()
	path = filepath.Join(s.dir, "www", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	return path, randomFile(t, path, size)
}

// same fails the test unless a file has the given hash and size.
func same(t testing.TB, what, path, hash string, size int64) {
	t.Helper()
	if got, n := hashFile(t, path); got != hash || n != size {
		t.Errorf("%s: %d bytes with hash %s, want %d with %s", what, n, got, size, hash)
	}
}

// echoTCP answers every connection of l with what it sends, and its end with an end.
func echoTCP(t testing.TB, l net.Listener) {
	serve(t, l, func(c net.Conn) {
		defer c.Close()
		io.Copy(c, c)
	})
}

// serve gives every connection of l to f, in a goroutine, until the end of the test.
func serve(t testing.TB, l net.Listener, f func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				f(c)
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// echoUDP answers every datagram with itself.
func echoUDP(t testing.TB, ns *netlab.NS, address string) {
	t.Helper()
	var pc net.PacketConn
	var err error
	ns.Do(t, func() { pc, err = net.ListenPacket("udp", address) })
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n], from)
		}
	})
	t.Cleanup(func() { pc.Close(); wg.Wait() })
}

// goProgram builds a program of this module, static, once in a test process.
var goPrograms sync.Map

func goProgram(t testing.TB, pkg string) string {
	t.Helper()
	build, _ := goPrograms.LoadOrStore(pkg, sync.OnceValues(func() (string, error) {
		path := filepath.Join(stateDir, filepath.Base(pkg))
		cmd := exec.Command("go", "build", "-trimpath", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
		return path, nil
	}))
	path, err := build.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// decode decodes a program's JSON.
func decode(t testing.TB, what, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%s: %v\n%s", what, err, text)
	}
}
