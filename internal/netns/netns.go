// Package netns makes network namespaces, with cables between them, addresses, kernel
// parameters, and processes that cannot outlive them. Package netlab builds on it for
// tests.
//
// A namespace has no name in the file system. This process holds it, so that it goes
// away with the process however that ends, and with it all interfaces in it.
package netns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// An NS is a network namespace. Its methods may be called concurrently until Close.
type NS struct {
	name string
	f    *os.File
	nl   *netlink.Handle
	// home runs functions on a thread that lives in the namespace until Close.
	// Processes are started there: the kernel sends a child its parent-death signal
	// when the *thread* that made it ends.
	home chan func()
	done sync.WaitGroup
}

// New makes a namespace with the loopback interface up; name is for messages only.
// It needs CAP_SYS_ADMIN.
func New(name string) (*NS, error) {
	ns := &NS{name: name, home: make(chan func())}
	ready := make(chan error)
	ns.done.Go(func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns.f, err = os.Open("/proc/thread-self/ns/net")
		}
		ready <- err
		if err != nil {
			return
		}
		for f := range ns.home {
			f()
		}
	})
	if err := <-ready; err != nil {
		ns.done.Wait()
		return nil, fmt.Errorf("netns: make network namespace %s: %w", name, err)
	}
	nl, err := netlink.NewHandleAt(vnetns.NsHandle(ns.f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("netns: %s: open rtnetlink: %w", name, err)
	}
	ns.nl = nl
	if err := ns.Up("lo"); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// Close ends the namespace. Processes that were started in it and still run are
// killed by the kernel.
func (ns *NS) Close() {
	close(ns.home)
	ns.done.Wait()
	if ns.nl != nil {
		ns.nl.Close()
	}
	ns.f.Close()
}

// File is the open namespace, for setns(2) in this process or, passed on, in a child.
// It is closed with the namespace.
func (ns *NS) File() *os.File { return ns.f }

// Netlink returns an rtnetlink handle of the namespace, closed with it.
func (ns *NS) Netlink() *netlink.Handle { return ns.nl }

// Do runs f on a thread that is in the namespace. Goroutines that f starts are not in
// it; sockets and files that f opens stay in it.
func (ns *NS) Do(f func() error) error {
	result := make(chan error, 1)
	ns.home <- func() { result <- f() }
	return <-result
}

// Start starts a command in the namespace, on the processors of cpus only if there
// are any. The kernel kills it when the namespace is closed or this process ends; the
// caller waits for it.
func (ns *NS) Start(cmd *exec.Cmd, cpus ...int) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return ns.Do(func() (err error) {
		if len(cpus) > 0 {
			var old, set unix.CPUSet
			if err := unix.SchedGetaffinity(0, &old); err != nil {
				return fmt.Errorf("netns: read the processors of this thread: %w", err)
			}
			for _, c := range cpus {
				set.Set(c)
			}
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return fmt.Errorf("netns: pin to processors %v: %w", cpus, err)
			}
			defer func() { err = errors.Join(err, unix.SchedSetaffinity(0, &old)) }()
		}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("netns: %s: start %s: %w", ns.name, cmd.Path, err)
		}
		return nil
	})
}

// Sysctl sets a kernel parameter of the namespace, such as "net.ipv4.ip_forward".
func (ns *NS) Sysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	if err := ns.Do(func() error { return os.WriteFile(path, []byte(value), 0) }); err != nil {
		return fmt.Errorf("netns: %s: set %s to %q: %w", ns.name, key, value, err)
	}
	return nil
}

// Veth makes a cable: aName in a, bName in b, both up.
func Veth(a *NS, aName string, b *NS, bName string) error {
	la := netlink.NewLinkAttrs()
	la.Name = aName
	v := &netlink.Veth{LinkAttrs: la, PeerName: bName, PeerNamespace: netlink.NsFd(int(b.f.Fd()))}
	if err := a.nl.LinkAdd(v); err != nil {
		return fmt.Errorf("netns: make veth %s:%s – %s:%s: %w", a.name, aName, b.name, bName, err)
	}
	return errors.Join(a.Up(aName), b.Up(bName))
}

// Up brings an interface up.
func (ns *NS) Up(ifname string) error {
	l, err := ns.link(ifname)
	if err != nil {
		return err
	}
	if err := ns.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("netns: %s: set %s up: %w", ns.name, ifname, err)
	}
	return nil
}

// Has reports whether the namespace has the interface, and that is up.
func (ns *NS) Has(ifname string) bool {
	l, err := ns.nl.LinkByName(ifname)
	return err == nil && l.Attrs().Flags&net.FlagUp != 0
}

// Addr gives an interface an address with prefix length.
func (ns *NS) Addr(ifname, cidr string) error {
	l, err := ns.link(ifname)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(cidr)
	if err == nil {
		err = ns.nl.AddrAdd(l, a)
	}
	if err != nil {
		return fmt.Errorf("netns: %s: add %s to %s: %w", ns.name, cidr, ifname, err)
	}
	return nil
}

// DefaultRoute adds the IPv4 default route through a gateway.
func (ns *NS) DefaultRoute(via string) error {
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	if err := ns.nl.RouteAdd(&netlink.Route{Dst: all, Gw: net.ParseIP(via)}); err != nil {
		return fmt.Errorf("netns: %s: add default route via %s: %w", ns.name, via, err)
	}
	return nil
}

func (ns *NS) link(ifname string) (netlink.Link, error) {
	l, err := ns.nl.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("netns: %s: find %s: %w", ns.name, ifname, err)
	}
	return l, nil
}
