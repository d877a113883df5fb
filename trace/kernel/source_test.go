package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

// What Open takes Close gives back: descriptors, goroutines (goleak), the instance.
func TestCloseReleasesAll(t *testing.T) {
	ways(t, func(t *testing.T, via string) {
		ns := netlab.New(t, "host")
		open(t, ns, Config{Via: via}).Close() // what the runtime opens once is open
		before := descriptors(t)
		for range 3 {
			s := open(t, ns, Config{Via: via})
			if s.Via() != via {
				t.Errorf("via %s, want %s", s.Via(), via)
			}
			if n := len(instances(t)); via == ViaTracefs && n != 1 {
				t.Errorf("%d instances while open, want 1", n)
			}
			ended := make(chan error)
			go func() {
				for {
					if _, err := s.Read(); err != nil {
						ended <- err
						return
					}
				}
			}()
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if err := <-ended; !errors.Is(err, ErrClosed) {
				t.Errorf("read ended with %v, want ErrClosed", err)
			}
			if _, err := s.Read(); !errors.Is(err, ErrClosed) {
				t.Errorf("read after close: %v, want ErrClosed", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("second close: %v", err)
			}
			s.Lost() // may be asked still
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, %d before", after, before)
		}
		if left := instances(t); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// What a killed process left in tracefs the next one removes.
func TestLeftoversAreRemoved(t *testing.T) {
	ns := netlab.New(t, "host")
	dead := ns.Start(t, "true")
	dead.Wait(t, 10*time.Second)
	root, err := findTracefs()
	if err != nil {
		netlab.Lack(t, err.Error())
	}
	dir := filepath.Join(root, "instances", fmt.Sprintf("%s%d-x", instancePrefix, dead.PID()))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	open(t, ns, Config{Via: ViaTracefs})
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", dir, err)
		unix.Rmdir(dir)
	}
}

// A reader that does not read loses events, which are counted, and nothing else happens.
func TestLostIsCounted(t *testing.T) {
	ways(t, func(t *testing.T, via string) {
		ns, tap := host(t)
		s := open(t, ns, Config{Via: via, Buffer: 1})
		b := frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
		for range 2000 {
			send(t, tap, b)
		}
		l := follow(t, s)
		if via == ViaTracefs { // told within the text, once it is read
			l.until(t, "an event", func(e Event) bool { return e.Step == Drop && e.Dev == tap0 })
			send(t, tap, b)
		}
		netlab.WaitFor(t, 10*time.Second, "lost events", func() bool { return s.Lost() > 0 })
		lost := s.Lost()
		s.Close()
		if s.Lost() < lost {
			t.Errorf("%d lost after close, %d before", s.Lost(), lost)
		}
	})
}

// A burst of 10,000 frames, four times as many steps, is lost by nobody.
func TestABurstIsNotLost(t *testing.T) {
	ns, tap := host(t)
	s := open(t, ns, Config{Via: ViaBPF})
	const frames = 10000
	b := frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x")))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range frames {
			if _, err := tap.Write(b); err != nil {
				t.Errorf("write: %v", err)
				return
			}
		}
	}()
	received, dropped := 0, 0
	var before time.Duration
	for dropped < frames {
		e, err := s.Read()
		if err != nil {
			t.Fatal(err)
		}
		if e.Mono < before {
			t.Fatalf("%v after %v", e.Mono, before)
		}
		before = e.Mono
		switch {
		case e.Dev == tap0 && e.Step == Receive:
			received++
		case e.Dev == tap0 && e.Step == Drop && e.Reason == "OTHERHOST":
			dropped++
		}
	}
	<-done
	if received != frames || s.Lost() != 0 {
		t.Errorf("%d of %d received, %d lost", received, frames, s.Lost())
	}
}

// Without privileges the error is one line that says what is missing.
func TestWithoutPrivileges(t *testing.T) {
	netlab.Require(t)
	errs := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its capabilities gone
		// Root owns the files of tracefs, without any capability.
		if _, _, e := unix.RawSyscall(unix.SYS_SETFSUID, 65534, 0, 0); e != 0 {
			errs <- e
			return
		}
		var none [2]unix.CapUserData
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
			errs <- err
			return
		}
		_, err := Open(Config{})
		errs <- err
	}()
	err := <-errs
	if !errors.Is(err, ErrUnsupported) {
		t.Fatalf("%v, want ErrUnsupported", err)
	}
	for _, want := range []string{"CAP_BPF", "CAP_PERFMON", "tracefs"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "\n") || len(err.Error()) > 160 {
		t.Errorf("not one clear line: %q", err)
	}
}

// Where BPF is refused, tracefs is taken by itself.
func TestFallsBackToTracefs(t *testing.T) {
	netlab.Require(t)
	type result struct {
		s   *Source
		err error
	}
	results := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked, as above; root still owns tracefs
		var none [2]unix.CapUserData
		err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
		if err != nil {
			results <- result{err: err}
			return
		}
		s, err := Open(Config{})
		results <- result{s, err}
	}()
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	if r.s.Via() != ViaTracefs {
		t.Errorf("via %s, want %s", r.s.Via(), ViaTracefs)
	}
	if err := r.s.Close(); err != nil {
		t.Error(err)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{
		{Snap: -1}, {Snap: maxSnap + 1}, {Buffer: -1}, {Buffer: maxBuffer + 1}, {Via: "telepathy"},
		{NetNS: make([]uint64, maxNetNS+1)},
	} {
		if s, err := Open(c); err == nil {
			s.Close()
			t.Errorf("%+v: no error", c)
		}
	}
}

// A namespace that no process is in cannot be followed by tracefs, which knows
// devices by name only.
func TestUnknownNamespace(t *testing.T) {
	netlab.Require(t)
	s, err := Open(Config{Via: ViaTracefs, NetNS: []uint64{1}})
	if err == nil {
		s.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "namespace 1") {
		t.Errorf("%v", err)
	}
}

// A tag that the kernel keeps beside the frame is told, as is the frame without it.
func TestTagBesideTheFrame(t *testing.T) {
	ns, tap := host(t)
	serve(t, tap)
	ping(t, ns, guestIP) // ARP is done
	tag, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type:    ebpf.SchedCLS,
		License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R2, int32(binary.NativeEndian.Uint16([]byte{0x81, 0x00}))), // in network order
			asm.Mov.Imm(asm.R3, 42),
			asm.FnSkbVlanPush.Call(),
			asm.Mov.Imm(asm.R0, -1), // TCX_NEXT
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer tag.Close()
	ns.Do(t, func() {
		index := ns.Link(t, tap0).Attrs().Index
		tcx, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: tag, Attach: ebpf.AttachTCXEgress})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { tcx.Close() })
	})
	l := follow(t, open(t, ns, Config{Via: ViaBPF}))
	ns.Do(t, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: guestIP.As4(), Port: 9}); err != nil {
			t.Fatal(err)
		}
	})
	e := last(l.until(t, "the frame sent", func(e Event) bool { return e.Step == StartXmit }))
	if e.VLANProto != 0x8100 || e.VLAN != 42 || e.Len != 14+20+8+1 || string(e.Head[:6]) != string(guest) {
		t.Errorf("tag %#x %d, want 0x8100 42: %s", e.VLANProto, e.VLAN, list([]Event{e}))
	}
}
