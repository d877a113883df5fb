package tap

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
)

// wantError wants an error that wraps errno and has all the words, on one line.
func wantError(t *testing.T, err error, errno unix.Errno, words ...string) {
	t.Helper()
	if err == nil || errno != 0 && !errors.Is(err, errno) {
		t.Fatalf("error %v, want one that wraps %v", err, errno)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q is not one line", err)
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		says string // "" for no error
	}{
		{Config{Name: "tap0"}, ""},
		{Config{Name: "tap%d", Queues: MaxQueues, SndBuf: 1, MTU: MaxMTU, Offload: OffloadAuto, Driver: DriverNative}, ""},
		{Config{Name: "a.b-c_d", Driver: DriverWater, MTU: link.MinMTU, Offload: OffloadOff, Queues: 1}, ""},
		{Config{}, "no interface name"},
		{Config{Name: "fifteen-letters"}, ""},
		{Config{Name: "sixteen--letters"}, "at most 15"},
		{Config{Name: "."}, "not an interface name"},
		{Config{Name: ".."}, "not an interface name"},
		{Config{Name: "a/b"}, "'/'"},
		{Config{Name: "a b"}, "' '"},
		{Config{Name: "a:b"}, "':'"},
		{Config{Name: "a,b"}, "','"},
		{Config{Name: "a\x00b"}, `\x00`},
		{Config{Name: "täp"}, "holds"},
		{Config{Name: "tap%s"}, "%d"},
		{Config{Name: "%d%d"}, "%d"},
		{Config{Name: "tap0", Driver: "wator"}, "use tun or water"},
		{Config{Name: "tap0", Offload: "on"}, "use auto or off"},
		{Config{Name: "tap0", Queues: -1}, "1 to 256"},
		{Config{Name: "tap0", Queues: 257}, "1 to 256"},
		{Config{Name: "tap0", SndBuf: -1}, "send buffer"},
		{Config{Name: "tap0", MTU: 67}, "68 to 65521"},
		{Config{Name: "tap0", MTU: 65522}, "68 to 65521"},
		{Config{Name: "tap0", Driver: DriverWater, Queues: 2}, "driver=tun"},
		{Config{Name: "tap0", Driver: DriverWater, SndBuf: 1}, "driver=tun"},
		{Config{Name: "tap0", Driver: DriverWater, Offload: OffloadAuto}, "driver=tun"},
	} {
		err := c.cfg.Check()
		if c.says == "" && err == nil {
			continue
		}
		if c.says == "" || err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Check of %+v: %v, want %q", c.cfg, err, c.says)
		}
		if err != nil {
			if _, err := Open(c.cfg); err == nil {
				t.Errorf("Open of %+v: no error", c.cfg)
			}
		}
	}
}

func TestInfoIsTheKernels(t *testing.T) {
	ns := quietNS(t)
	for _, cfg := range []Config{{}, {Offload: OffloadOff}, {Queues: 3}, {Driver: DriverWater}} {
		cfg.Name, cfg.MTU = "lab%d", 1400
		dev := openIn(t, ns, cfg)
		i := dev.Info()
		attrs := ns.Link(t, "lab0").Attrs()
		if i.Name != "lab0" || i.Kind != "tap" || i.MTU != 1400 || attrs.MTU != 1400 || i.HardwareAddr.String() != attrs.HardwareAddr.String() {
			t.Errorf("%+v: Info %+v; the kernel has MTU %d, address %v", cfg, i, attrs.MTU, attrs.HardwareAddr)
		}
		all := link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN
		want, driver := all, DriverNative
		if cfg.Offload == OffloadOff {
			want = 0
		}
		if cfg.Driver == DriverWater {
			want, driver = 0, DriverWater
		}
		if i.RX != want || i.TX != want || i.Driver != driver {
			t.Errorf("%+v: Info %+v, want driver %s, offloads %v", cfg, i, driver, want)
		}
		if n := len(dev.Queues()); n != max(cfg.Queues, 1) {
			t.Errorf("%+v: %d queues", cfg, n)
		}
		if attrs.TxQLen != queueLength {
			t.Errorf("%+v: the kernel queues %d frames, want %d", cfg, attrs.TxQLen, queueLength)
		}
		// Opening leaves it down: bringing it up is for others.
		if attrs.RawFlags&unix.IFF_UP != 0 {
			t.Errorf("%+v: the interface is up", cfg)
		}
		dev.Close()
		if ns.HasLink("lab0") {
			t.Errorf("%+v: the interface is still there after Close", cfg)
		}
	}
}

func TestPersist(t *testing.T) {
	ns := quietNS(t)
	for _, driver := range []string{DriverNative, DriverWater} {
		openIn(t, ns, Config{Name: "tap0", Driver: driver, Persist: true}).Close()
		if !ns.HasLink("tap0") {
			t.Fatalf("%s: gone after Close, want it to persist", driver)
		}
		// One that is persistent stays so, without being asked for it.
		for _, again := range []string{DriverNative, DriverWater} {
			openIn(t, ns, Config{Name: "tap0", Driver: again}).Close()
			if !ns.HasLink("tap0") {
				t.Fatalf("%s took a persistent tap away", again)
			}
		}
		ns.Run(t, "ip", "link", "del", "tap0")
	}
}

// An existing tap is taken whichever way it was made.
func TestExisting(t *testing.T) {
	ns := quietNS(t)
	ns.Run(t, "ip", "tuntap", "add", "dev", "single", "mode", "tap")
	ns.Run(t, "ip", "tuntap", "add", "dev", "multi", "mode", "tap", "multi_queue")
	ns.Run(t, "ip", "tuntap", "add", "dev", "layer3", "mode", "tun")
	for _, name := range []string{"single", "multi"} {
		for _, driver := range []string{DriverNative, DriverWater} {
			was := ns.Link(t, name).Attrs().TxQLen
			dev := openIn(t, ns, Config{Name: name, Driver: driver})
			if is := ns.Link(t, name).Attrs().TxQLen; is != was {
				t.Errorf("%s by %s: queue of %d frames made %d", name, driver, was, is)
			}
			w := newWire(t, ns, name)
			passes(t, dev, w)
			w.Close()
			dev.Close()
		}
	}
	dev := openIn(t, ns, Config{Name: "multi", Queues: 2})
	if err := openErr(t, ns, Config{Name: "multi"}); err != nil {
		wantError(t, err, unix.EBUSY, "multi", "this process")
	}
	dev.Close()

	wantError(t, openErr(t, ns, Config{Name: "single", Queues: 2}), unix.EINVAL, "single", "multi_queue", "queues=2")
	for _, driver := range []string{DriverNative, DriverWater} {
		for _, name := range []string{"lo", "layer3"} {
			wantError(t, openErr(t, ns, Config{Name: name, Driver: driver}), unix.EINVAL, name, "not a tap")
		}
	}
}

// passes wants one frame to pass each way.
func passes(t *testing.T, dev link.Device, w *packetWire) {
	t.Helper()
	out := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5 out of the stack")
	if n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{out}}}); n != 1 || err != nil {
		t.Fatalf("Write = %d, %v; %+v", n, err, dev.Stats())
	}
	if got, _, err := w.Recv(10e9); err != nil || string(got) != string(out) {
		t.Fatalf("the kernel got %q, %v", got, err)
	}
	in := []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x02\x88\xb5 into the stack")
	if err := w.Send(in, link.Offload{}); err != nil {
		t.Fatal(err)
	}
	f := []link.Frame{{Buf: make([]byte, 2000)}}
	if n, err := dev.Queues()[0].Read(f); n != 1 || err != nil || string(f[0].Buf[:f[0].N]) != string(in) {
		t.Fatalf("Read = %d, %v: %q", n, err, f[0].Buf[:f[0].N])
	}
}

func TestBusy(t *testing.T) {
	ns := quietNS(t)
	ns.Run(t, "ip", "tuntap", "add", "dev", "multi", "mode", "tap", "multi_queue")
	for _, name := range []string{"single", "multi"} {
		pid, release := hold(t, ns, name)
		for _, cfg := range []Config{{}, {Queues: 2}, {Driver: DriverWater}} {
			if cfg.Name = name; name == "single" && cfg.Queues == 2 {
				continue // cannot have two in any case
			}
			wantError(t, openErr(t, ns, cfg), unix.EBUSY, name, fmt.Sprintf("pid %d (tap.test)", pid))
		}
		release()
		openIn(t, ns, Config{Name: name}).Close() // at once
	}
}

func TestNoTun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tun")
	_, err := open(Config{Name: "tap0"}, path)
	wantError(t, err, unix.ENOENT, "tap0", path, "modprobe tun")
	_, err = open(Config{Name: "tap0", Driver: DriverWater}, path)
	wantError(t, err, unix.ENOENT, "tap0", path, "modprobe tun")
}

// asUser runs f in a namespace on a thread of an ordinary user, without any
// capability. The thread ends with it.
func asUser(t *testing.T, ns *netlab.NS, uid int, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			fd, err := unix.Open(ns.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			// The system calls themselves act on this thread only.
			for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
				if _, _, errno := unix.RawSyscall(call, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
					return errno
				}
			}
			f()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatalf("become uid %d: %v", uid, err)
	}
}

func TestOrdinaryUser(t *testing.T) {
	const uid, other = 12345, 54321
	ns := quietNS(t)
	// Where /dev/net/tun is for root only, a node of the same device is not.
	clone := filepath.Join(worldDir(t), "tun")
	if err := unix.Mknod(clone, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(clone, 0o666); err != nil {
		t.Fatal(err)
	}
	ns.Tap(t, "mine", uid)
	ns.Tap(t, "anybodys", -1)
	ns.Tap(t, "theirs", other)
	ns.Run(t, "ip", "tuntap", "add", "dev", "multi", "mode", "tap", "multi_queue", "user", fmt.Sprint(uid))
	for _, cfg := range []Config{
		{Name: "mine"}, {Name: "mine", Offload: OffloadOff}, {Name: "anybodys"},
		{Name: "multi"}, {Name: "multi", Queues: 2},
	} {
		var dev link.Device
		var err error
		asUser(t, ns, uid, func() { dev, err = open(cfg, clone) })
		if err != nil {
			t.Fatalf("%+v: %v", cfg, err)
		}
		w := newWire(t, ns, cfg.Name)
		if cfg.Queues < 2 { // else the kernel picks the queue
			passes(t, dev, w)
		}
		w.Close()
		dev.Close()
		if !ns.HasLink(cfg.Name) {
			t.Errorf("%+v: the tap is gone after Close", cfg)
		}
	}
	refused := func(cfg Config, clone string) (err error) {
		asUser(t, ns, uid, func() { _, err = open(cfg, clone) })
		return err
	}
	wantError(t, refused(Config{Name: "theirs"}, clone), unix.EPERM, "theirs", "uid 54321", "CAP_NET_ADMIN", "ip tuntap add")
	wantError(t, refused(Config{Name: "new0"}, clone), unix.EPERM, "new0", "CAP_NET_ADMIN", "ip tuntap add dev new0 mode tap user $USER")
	wantError(t, refused(Config{Name: "new0", Queues: 2}, clone), unix.EPERM, "multi_queue")
	wantError(t, refused(Config{Name: "new0", Driver: DriverWater}, clone), unix.EPERM, "new0", "CAP_NET_ADMIN")
	wantError(t, refused(Config{Name: "mine", MTU: 9000}, clone), unix.EPERM, "mine", "MTU 9000", "CAP_NET_ADMIN")
	if err := os.Chmod(clone, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, refused(Config{Name: "mine"}, clone), unix.EACCES, "mine", clone, "CAP_NET_ADMIN")
}

// worldDir is a temporary folder that every user may pass.
func worldDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestDescriptorsAreNotInherited(t *testing.T) {
	ns := quietNS(t)
	for _, driver := range []string{DriverNative, DriverWater} {
		dev := openIn(t, ns, Config{Name: "tap0", Driver: driver})
		conn, err := dev.(*device).files[0].SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("%s: descriptor flags %#x, %v: a child process would hold the tap", driver, flags, err)
			}
			if flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("%s: file flags %#x, %v: it would block a thread", driver, flags, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
		dev.Close()
	}
}
