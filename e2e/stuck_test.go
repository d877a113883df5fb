package e2e

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// A peer of a switch by QEMU's framing.
type streamPeer struct {
	t *testing.T
	net.Conn
}

func connectPeer(t *testing.T, path string) streamPeer {
	t.Helper()
	var c net.Conn
	netlab.WaitFor(t, 5*time.Second, "the switch listens at "+path, func() (ok bool) {
		var err error
		c, err = net.Dial("unix", path)
		return err == nil
	})
	t.Cleanup(func() { c.Close() })
	return streamPeer{t, c}
}

func (p streamPeer) send(dst, src byte, n int) {
	p.t.Helper()
	f := binary.BigEndian.AppendUint32(nil, uint32(n))
	f = append(f, make([]byte, n)...)
	mac := f[4:]
	for i := range 6 {
		mac[i] = dst
	}
	copy(mac[6:], []byte{2, 0, 0, 0, 0, src, 0x88, 0xb5})
	p.SetWriteDeadline(time.Now().Add(20 * time.Second))
	if _, err := p.Write(f); err != nil {
		p.t.Error(err)
	}
}

// recv returns the length of the next frame.
func (p streamPeer) recv() int {
	p.t.Helper()
	var head [4]byte
	p.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(p, head[:]); err != nil {
		p.t.Fatal(err)
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(p, make([]byte, n)); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// A peer that reads nothing, one that comes twice, a runt, a length that is none: each is counted and
// named in the log, the others go on, and the end comes in time.
func TestSwitchWithBadPeers(t *testing.T) {
	t.Parallel()
	sw, dir := netlab.New(t, "sw"), scratch(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	d := joined(t, sw, "bridge", "--port", "stream:"+at("a")+",listen", "--port", "stream:"+at("b")+",listen", "--port", "stream:"+at("c")+",listen")
	a, b, c := connectPeer(t, at("a")), connectPeer(t, at("b")), connectPeer(t, at("c"))
	netlab.WaitFor(t, 5*time.Second, "all are there", func() bool {
		a.send(0xff, 1, 60)
		b.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, err := b.Read(make([]byte, 64))
		return err == nil
	})
	c.send(0xff, 3, 60) // and then c reads nothing
	b.recv()
	const flood = 6000
	go func() {
		for range flood {
			a.send(0xff, 1, 1000)
		}
		a.send(0xff, 1, 99)
	}()
	for b.recv() != 99 {
	}
	ports := show[control.FDB](t, d, "fdb").Ports
	if n := ports[2].Drops["tx_full"]; n < flood/2 {
		t.Errorf("%d of %d frames are dropped at the port that is stuck", n, flood)
	}
	if second := connectPeer(t, at("b")); true {
		second.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := second.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the second peer: %v", err)
		}
	}
	a.Write([]byte{0, 0, 0, 5, 1, 2, 3, 4, 5})
	a.Write([]byte{0xff, 0xff, 0xff, 0xff})
	a.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, a); err != nil {
		t.Errorf("the peer whose length made no sense: %v", err)
	}
	for _, text := range []string{
		`level=WARN msg="frames dropped" port=\S+/c .*tx_full=\d+`,
		`level=WARN msg="frames dropped" port=\S+/a .*rx_short=1`,
		`level=WARN msg="frames dropped" port=\S+/a .*rx_error=1`,
		`msg="a second peer was turned away" link=\S+/b`,
		`msg="the peer's length is no frame's: connection ended" link=\S+/a length=4294967295`,
	} {
		netlab.WaitFor(t, 5*time.Second, "the log has "+text, func() bool { return regexp.MustCompile(text).MatchString(d.Output()) })
	}
	connectPeer(t, at("a")).send(0xff, 1, 77)
	for b.recv() != 77 {
	}
	began := time.Now()
	d.Signal(t, syscall.SIGTERM)
	if code := d.Wait(t, 5*time.Second); code != 0 {
		t.Errorf("exit code %d after %v:\n%s", code, time.Since(began), d.Output())
	}
}
