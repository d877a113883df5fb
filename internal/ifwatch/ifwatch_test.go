package ifwatch

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

func TestWatch(t *testing.T) {
	netlab.Require(t)
	a, b := netlab.New(t, "a"), netlab.New(t, "b")
	netlab.Veth(t, a, "v0", b, "v0")
	netlab.Veth(t, a, "v1", b, "v1")
	gone := make(chan string, 4)
	watch := func(name string) *Watcher {
		index := a.Link(t, name).Attrs().Index
		var w *Watcher
		var err error
		a.Do(t, func() { w, err = Watch(index, func() { gone <- name }) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Close)
		return w
	}
	watch("v0")
	watch("v1").Close()
	a.Down(t, "v0")
	a.Up(t, "v0")
	for _, name := range []string{"v1", "v0"} {
		if err := a.Netlink().LinkDel(a.Link(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case name := <-gone:
		if name != "v0" {
			t.Errorf("%s is told, whose watcher was closed", name)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the end of v0 is not told")
	}
}

func FuzzDeletes(f *testing.F) {
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], unix.RTM_DELLINK)
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+4:], 7)
	if !deletes(b, 7) || deletes(b, 8) || deletes(b[:20], 7) {
		f.Error("deletes")
	}
	f.Add(b)
	f.Add(append(b, b[:17]...))
	f.Fuzz(func(t *testing.T, b []byte) { deletes(b, 7) })
}
