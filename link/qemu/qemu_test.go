package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

// A streamWire is the far end of a stream.
type streamWire struct{ c net.Conn }

func (w streamWire) Send(frame []byte, _ link.Offload) error {
	_, err := w.c.Write(framed(frame))
	return err
}

func framed(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

func (w streamWire) Recv(d time.Duration) ([]byte, link.Offload, error) {
	w.c.SetReadDeadline(time.Now().Add(d))
	var head [lengthLen]byte
	if _, err := io.ReadFull(w.c, head[:]); err != nil {
		return nil, link.Offload{}, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(head[:]))
	w.c.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, err := io.ReadFull(w.c, frame)
	return frame, link.Offload{}, err
}

func (w streamWire) Remove() error { return w.c.Close() }
func (w streamWire) Close() error  { w.c.Close(); return nil }

func sockets(t testing.TB, kind int) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
}

func connOf(t testing.TB, f *os.File) net.Conn {
	t.Helper()
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStream(t *testing.T) {
	linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
		near, far := sockets(t, unix.SOCK_STREAM)
		dev, err := OpenStream(StreamConfig{Conn: connOf(t, near), Name: "pair"})
		if err != nil {
			t.Fatal(err)
		}
		return dev, streamWire{connOf(t, far)}
	})
}

func TestStreamTCP(t *testing.T) {
	linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dev, err := OpenStream(StreamConfig{Address: l.Addr().String(), Once: true})
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return dev, streamWire{c}
	})
}

func TestStreamListens(t *testing.T) {
	linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
		path := filepath.Join(t.TempDir(), "s")
		dev, err := OpenStream(StreamConfig{Address: path, Listen: true, Once: true})
		if err != nil {
			t.Fatal(err)
		}
		c := peer(t, path)
		waitPeer(t, dev, true)
		return dev, streamWire{c}
	})
}

func peer(t testing.TB, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// waitPeer waits until the Device has a peer, or none.
func waitPeer(t testing.TB, dev link.Device, want bool) {
	t.Helper()
	d := dev.(*stream)
	d.mu.Lock()
	for (d.now != nil) != want {
		d.come.Wait()
	}
	d.mu.Unlock()
	if why := dev.Stats().Waiting; (why == "") != want {
		t.Errorf("with a peer: %v, waiting: %q", want, why)
	}
}

// A packetWire is the far end of a socket of packets.
type packetWire struct {
	f     *os.File
	stays bool
	// out is what the kernel has no room for until the Device reads; nil: it has.
	out chan []byte
}

func (w packetWire) Send(frame []byte, _ link.Offload) error {
	if w.out != nil {
		w.out <- bytes.Clone(frame)
		return nil
	}
	_, err := w.f.Write(frame)
	return err
}

// later lets Send return before the Device has room.
func (w packetWire) later() packetWire {
	w.out = make(chan []byte, 1024)
	go func() {
		for frame := range w.out {
			if _, err := w.f.Write(frame); err != nil {
				return
			}
		}
	}()
	return w
}

func (w packetWire) Recv(d time.Duration) ([]byte, link.Offload, error) {
	w.f.SetReadDeadline(time.Now().Add(d))
	b := make([]byte, link.MaxFrame+1)
	n, err := w.f.Read(b)
	return b[:n], link.Offload{}, err
}

func (w packetWire) Remove() error {
	if w.stays {
		return errors.ErrUnsupported
	}
	return w.f.Close()
}

func (w packetWire) Close() error {
	w.f.Close()
	if w.out != nil {
		close(w.out)
	}
	return nil
}

func TestPackets(t *testing.T) {
	for name, kind := range map[string]int{"seqpacket": unix.SOCK_SEQPACKET, "dgram": unix.SOCK_DGRAM} {
		t.Run(name, func(t *testing.T) {
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				near, far := sockets(t, kind)
				fd, err := unix.FcntlInt(near.Fd(), unix.F_DUPFD_CLOEXEC, 0)
				near.Close()
				if err != nil {
					t.Fatal(err)
				}
				dev, err := OpenPackets(PacketsConfig{FD: fd, Name: "fd"})
				if err != nil {
					t.Fatal(err)
				}
				return dev, packetWire{f: far, stays: kind == unix.SOCK_DGRAM}
			})
		})
	}
}

// The end of an inherited socket's peer shows only when something is sent. A Read learns of it, too.
func TestPacketsPeerGone(t *testing.T) {
	near, far := sockets(t, unix.SOCK_DGRAM)
	fd, err := unix.FcntlInt(near.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	near.Close()
	if err != nil {
		t.Fatal(err)
	}
	dev, err := OpenPackets(PacketsConfig{FD: fd, Name: "pair"})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	read := make(chan error, 1)
	go func() {
		_, err := dev.Queues()[0].Read([]link.Frame{{Buf: make([]byte, 2000)}})
		read <- err
	}()
	far.Close()
	if _, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{make([]byte, 60)}}}); !errors.Is(err, link.ErrGone) {
		t.Errorf("Write: %v", err)
	}
	select {
	case err := <-read:
		if !errors.Is(err, link.ErrGone) {
			t.Errorf("Read: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Read still waits")
	}
}

func TestDgram(t *testing.T) {
	linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
		dir := t.TempDir()
		local, remote := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		dev, err := OpenDgram(DgramConfig{Local: local, Remote: remote})
		if err != nil {
			t.Fatal(err)
		}
		return dev, packetWire{f: dgramPeer(t, unix.AF_UNIX, &unix.SockaddrUnix{Name: remote}, &unix.SockaddrUnix{Name: local}), stays: true}.later()
	})
}

func dgramPeer(t testing.TB, family int, local, remote unix.Sockaddr) *os.File {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err == nil {
		err = unix.Bind(fd, local)
	}
	if err == nil {
		err = unix.Connect(fd, remote)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	}
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "peer")
}

// freeUDP returns a free port of the loopback.
func freeUDP(t testing.TB) *net.UDPAddr {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr)
}

// Frames over UDP and what linktest sends: the largest do not fit a datagram.
func TestDgramUDP(t *testing.T) {
	a, b := freeUDP(t), freeUDP(t)
	dev, err := OpenDgram(DgramConfig{Local: a.String(), Remote: b.String()})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	sa := func(u *net.UDPAddr) unix.Sockaddr {
		return &unix.SockaddrInet4{Port: u.Port, Addr: [4]byte(u.IP.To4())}
	}
	write := func(frame []byte) (int, error) {
		return dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame[:3], frame[3:]}}})
	}
	frame := make([]byte, 60)
	for range 3 { // nobody is there yet
		if _, err := write(frame); err != nil {
			t.Fatal(err)
		}
	}
	far := packetWire{f: dgramPeer(t, unix.AF_INET, sa(b), sa(a))}
	defer far.Close()
	if n, err := write(frame); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if got, _, err := far.Recv(5 * time.Second); err != nil || len(got) != 60 {
		t.Fatal(len(got), err)
	}
	stranger := dgramPeer(t, unix.AF_INET, sa(freeUDP(t)), sa(a))
	defer stranger.Close()
	if _, err := stranger.Write(make([]byte, 61)); err != nil {
		t.Fatal(err)
	}
	if err := far.Send(make([]byte, 62), link.Offload{}); err != nil {
		t.Fatal(err)
	}
	if n := readOne(t, dev); n != 62 {
		t.Errorf("a frame of %d bytes, of a stranger", n)
	}
}

// A peer that comes again is heard although nothing is sent to it: the kernel lets nobody send to a
// socket that is connected to somebody else, alive or not.
func TestDgramPeerComesAgain(t *testing.T) {
	dir := t.TempDir()
	local, remote := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	dev, err := OpenDgram(DgramConfig{Local: local, Remote: remote})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	for i := range 3 {
		peer, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: remote, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		end := time.Now().Add(10 * time.Second)
		for _, err = peer.WriteTo(make([]byte, 60+i), &net.UnixAddr{Name: local, Net: "unixgram"}); err != nil; {
			if time.Now().After(end) {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
			_, err = peer.WriteTo(make([]byte, 60+i), &net.UnixAddr{Name: local, Net: "unixgram"})
		}
		if n := readOne(t, dev); n != 60+i {
			t.Errorf("a frame of %d bytes", n)
		}
		if why := dev.Stats().Waiting; why != "" {
			t.Errorf("with a peer: %s", why)
		}
		peer.Close()
		os.Remove(remote) // as QEMU does before it binds
		if i == 0 {
			for dev.Stats().Waiting != "nobody is at "+remote {
				if time.Now().After(end) {
					t.Fatal("a peer that has gone is not missed")
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	}
}

func readOne(t testing.TB, dev link.Device) int {
	t.Helper()
	in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
	if n, err := dev.Queues()[0].Read(in); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	return in[0].N
}

// A peer that is gone is waited for, and another is turned away as long as there is one.
func TestStreamPeers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dev, err := OpenStream(StreamConfig{Address: path, Listen: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{make([]byte, 60)}}}); n != 0 || err != nil {
		t.Errorf("Write without a peer = %d, %v", n, err)
	}
	if n := dev.Stats().Drops["tx_down"]; n != 1 {
		t.Errorf("tx_down = %d", n)
	}
	sizes := sizesOf(dev)
	for i := range 5 {
		c := peer(t, path)
		waitPeer(t, dev, true)
		second := peer(t, path)
		if _, err := second.Read(make([]byte, 1)); err == nil {
			t.Error("a second peer is served")
		}
		if err := (streamWire{c}).Send(make([]byte, 60+i), link.Offload{}); err != nil {
			t.Fatal(err)
		}
		if n := <-sizes; n != 60+i {
			t.Errorf("%d bytes, want %d", n, 60+i)
		}
		c.Close()
		waitPeer(t, dev, false)
	}
	if _, err := OpenStream(StreamConfig{Address: path, Listen: true}); err == nil {
		t.Error("two listen at one path")
	}
}

// sizesOf reads frames and returns their sizes.
func sizesOf(dev link.Device) <-chan int {
	sizes := make(chan int, 64)
	go func() {
		in := []link.Frame{{Buf: make([]byte, 2000)}}
		for {
			if _, err := dev.Queues()[0].Read(in); err != nil {
				return
			}
			sizes <- in[0].N
		}
	}()
	return sizes
}

// Who connects finds a peer that comes late, and again when it has gone.
func TestStreamReconnects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dev, err := OpenStream(StreamConfig{Address: path})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	sizesOf(dev)
	for range 3 {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		waitPeer(t, dev, true)
		if n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{make([]byte, 77)}}}); n != 1 || err != nil {
			t.Errorf("Write = %d, %v", n, err)
		}
		if got, _, err := (streamWire{c}).Recv(5 * time.Second); err != nil || len(got) != 77 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		l.Close()
		c.Close()
		waitPeer(t, dev, false)
	}
}

// What makes no sense ends the connection, not the Device; what is merely wrong is counted.
func TestHostileLengths(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dev, err := OpenStream(StreamConfig{Address: path, Listen: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	sizes := sizesOf(dev)
	c := peer(t, path)
	for _, n := range []int{0, 1, 13, 60, 2001, 61} {
		if err := (streamWire{c}).Send(make([]byte, n), link.Offload{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{60, 61} {
		if n := <-sizes; n != want {
			t.Errorf("%d bytes, want %d", n, want)
		}
	}
	for i, n := range []uint32{link.MaxFrame + lengthLen + 1, 1 << 31, 1<<32 - 1} {
		c.Write(binary.BigEndian.AppendUint32(nil, n))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("length %d: the connection goes on", n)
		}
		c = peer(t, path)
		waitPeer(t, dev, true)
		(streamWire{c}).Send(make([]byte, 70+i), link.Offload{})
		if got := <-sizes; got != 70+i {
			t.Errorf("%d bytes, want %d", got, 70+i)
		}
	}
	if got, want := fmt.Sprint(dev.Stats().Drops), "map[rx_error:3 rx_oversize:1 rx_short:3]"; got != want {
		t.Errorf("drops %s, want %s", got, want)
	}
}

// A peer that takes no frames for a while loses none that there is room for.
func TestBackPressure(t *testing.T) {
	for name, open := range map[string]func(testing.TB) (link.Device, linktest.Wire){
		"stream": func(t testing.TB) (link.Device, linktest.Wire) {
			near, far := sockets(t, unix.SOCK_STREAM)
			dev, err := OpenStream(StreamConfig{Conn: connOf(t, near), Name: "pair"})
			if err != nil {
				t.Fatal(err)
			}
			return dev, streamWire{connOf(t, far)}
		},
		"dgram": func(t testing.TB) (link.Device, linktest.Wire) {
			near, far := sockets(t, unix.SOCK_DGRAM)
			fd, err := unix.FcntlInt(near.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			near.Close()
			if err != nil {
				t.Fatal(err)
			}
			dev, err := OpenPackets(PacketsConfig{FD: fd, Name: "fd"})
			if err != nil {
				t.Fatal(err)
			}
			return dev, packetWire{f: far, stays: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dev, wire := open(t)
			defer wire.Close()
			defer dev.Close()
			frame := make([]byte, 1500)
			write := func(i int) bool {
				binary.BigEndian.PutUint32(frame[14:], uint32(i))
				n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{frame}}})
				if err != nil {
					t.Fatal(err)
				}
				return n == 1
			}
			sent := 0
			for write(sent) {
				sent++
			}
			if sent*1500 < DefaultBuffer {
				t.Errorf("%d frames taken: less than the queue holds", sent)
			}
			for i := range sent {
				f, _, err := wire.Recv(5 * time.Second)
				if err != nil || int(binary.BigEndian.Uint32(f[14:])) != i {
					t.Fatalf("frame %d of %d: %v", i, sent, err)
				}
			}
			if !write(sent) {
				t.Error("it does not resume")
			}
			if f, _, err := wire.Recv(5 * time.Second); err != nil || int(binary.BigEndian.Uint32(f[14:])) != sent {
				t.Errorf("after it resumed: %v", err)
			}
		})
	}
}

// FuzzParse feeds a stream that means nothing.
func FuzzParse(f *testing.F) {
	f.Add([]byte{0, 0, 0, 14}, byte(1))
	f.Add(framed(make([]byte, 60)), byte(3))
	f.Add(append(framed(make([]byte, 13)), framed(make([]byte, 70))...), byte(2))
	f.Add([]byte{255, 255, 255, 255, 1}, byte(0))
	f.Fuzz(func(t *testing.T, b []byte, n byte) {
		d := &stream{buf: make([]byte, inBuffer)}
		if err := d.init("stream", "fuzz", 0, nil); err != nil {
			t.Fatal(err)
		}
		frames := make([]link.Frame, n%8+1)
		for i := range frames {
			frames[i].Buf = make([]byte, 64)
		}
		d.to = copy(d.buf, b)
		for {
			at := d.at
			got, err := d.parse(frames)
			for _, f := range frames[:got] {
				if f.N < link.HeaderLen || f.N > len(f.Buf) {
					t.Fatalf("a frame of %d bytes", f.N)
				}
			}
			if err != nil || d.at == at {
				return
			}
		}
	})
}
