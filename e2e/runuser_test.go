package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/internal/netlab"
)

// Without root: a tap that was made for a user, whose daemon it is, and another user who may use it by
// a group. Nobody else may.
func TestRunSharedByGroup(t *testing.T) {
	t.Parallel()
	const owner, member, stranger, group = "65534", "54321", "54322", "54300"
	host := netlab.New(t, "host")
	host.Tap(t, "tap7", 65534)
	host.Addr(t, "tap7", host4+"/24")
	host.Up(t, "tap7")
	echoTCP(t, listenIn(t, host, "tcp", host4+":7"))
	echoUDP(t, host, host4+":7")
	dir := scratch(t)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	u, sock := filepath.Join(dir, "ustack"), filepath.Join(dir, "sock")
	copyBinary(t, "ustack", u)
	// Where /dev/net/tun is for everybody, as on most machines.
	as := func(uid, groups string) []string {
		return []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs -o mode=755 tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec "$@"`, "sh",
			"setpriv", "--reuid", uid, "--regid", uid, "--groups", groups, "--inh-caps=-all", "--bounding-set=-all"}
	}
	line := append(as(owner, group), u, "up", "--socket", sock, "--socket-group", group, "--state-dir", filepath.Join(dir, "state"),
		"--link", "tap:tap7", "--addr", stack4+"/24", "--gateway", host4)
	d := upCmd(t, host, exec.Command(line[0], line[1:]...), sock)
	client := `import socket
c = socket.create_connection(("` + host4 + `", 7)); c.sendall(b"tcp"); print(c.recv(9).decode())
c = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); c.sendto(b"udp", ("` + host4 + `", 7)); print(c.recv(9).decode())`
	env := []string{"USTACK_SOCKET=" + sock}
	run := func(ns *netlab.NS, uid, groups string, args ...string) result {
		t.Helper()
		line := append(append(as(uid, groups), u, "run"), args...)
		return runIn(t, ns, env, line[0], line[1:]...)
	}
	for _, share := range []string{"--verbose=false", "--share-net"} {
		for _, who := range [][2]string{{owner, owner}, {member, group}} {
			if r := run(d.apps, who[0], who[1], share, "python3", "-c", client); r.code != 0 || r.stdout != "tcp\nudp\n" {
				t.Errorf("user %s with group %s, %s: %v", who[0], who[1], share, r)
			}
		}
	}
	r := run(d.apps, stranger, stranger, "true")
	if r.code != 1 {
		t.Errorf("a stranger: %v", r)
	}
	match(t, "a stranger", r.stderr, `no permission .*--socket-group`)

	line = append(as(member, group), u, "run", "python3", "-u", "-m", "http.server", "80")
	cmd := d.apps.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := d.apps.StartCmd(t, cmd)
	t.Cleanup(func() { syscall.Kill(-p.PID(), syscall.SIGKILL) })
	listens(t, host, p, net.JoinHostPort(stack4, "80"))
	p.Signal(t, syscall.SIGTERM)
	p.Wait(t, 10*time.Second)

	line = append(as(owner, owner), u, "up", "--socket", sock+"2", "--socket-group", group, "--link", "pipe:", "--addr", stack4+"/24")
	r = runIn(t, host, nil, line[0], line[1:]...)
	if r.code != 1 {
		t.Errorf("a group of others: %v", r)
	}
	match(t, "a group of others", r.stderr, `name a group that you are in`)
	d.terminate(t)
}
