package netns_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/internal/netns"
)

func two(t *testing.T) (a, b *netns.NS) {
	t.Helper()
	netlab.Require(t)
	var err error
	if a, err = netns.New("a"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	if b, err = netns.New("b"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	if err := netns.Veth(a, "eth0", b, "eth1"); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestCable(t *testing.T) {
	a, b := two(t)
	for _, err := range []error{
		a.Addr("eth0", "192.0.2.1/24"), b.Addr("eth1", "192.0.2.2/24"), a.DefaultRoute("192.0.2.2"),
		a.NoOffloads("eth0"), b.NoOffloads("eth1"), b.Sysctl("net.ipv4.tcp_congestion_control", "reno"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if !a.Has("eth0") || a.Has("eth1") || a.Has("nothing") {
		t.Error("interfaces of a")
	}
	var l net.Listener
	err := b.Do(func() (err error) { l, err = net.Listen("tcp4", "192.0.2.2:0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = a.Do(func() error {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"an address on nothing":  a.Addr("nothing", "192.0.2.9/24"),
		"no address":             a.Addr("eth0", "192.0.2.9"),
		"nothing up":             a.Up("nothing"),
		"offloads of nothing":    a.NoOffloads("nothing"),
		"a parameter of nothing": a.Sysctl("net.no.such", "1"),
	} {
		if err == nil {
			t.Errorf("%s works", what)
		}
	}
	if err := a.NoOffloads("nothing"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("offloads of nothing: %v", err)
	}
}

// Processes run in the namespace, on their processor, and end with it.
func TestProcessEndsWithNamespace(t *testing.T) {
	netlab.Require(t)
	ns, err := netns.New("a")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "readlink /proc/$$/ns/net; grep Cpus_allowed_list /proc/$$/status; exec sleep 60 >&-")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = ns.Start(cmd, 0)
	}
	if err != nil {
		ns.Close()
		t.Fatal(err)
	}
	said, err := io.ReadAll(out)
	want, lerr := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", ns.File().Fd()))
	if err != nil || lerr != nil || string(said) != want+"\nCpus_allowed_list:\t0\n" {
		t.Errorf("it said %q, the namespace is %s (%v, %v)", said, want, err, lerr)
	}
	ns.Close()
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", err)
	}
	if here, _ := os.Readlink("/proc/thread-self/ns/net"); strings.TrimSpace(here) == want {
		t.Error("this thread is in the namespace")
	}
}

func TestStartOfNothing(t *testing.T) {
	a, _ := two(t)
	if err := a.Start(exec.Command("/nonexistent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := a.Start(exec.Command("true"), 1000); err == nil {
		t.Error("pinned to a processor that is not there")
	}
}
