package tap

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

// forgedQueue returns a queue of the native driver with a socket in the place of the
// tap: the kernel never makes up metadata that does not fit, whoever is at the socket
// does.
func forgedQueue(t testing.TB) (q *queue, kernel int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := &device{errGone: link.ErrGone, info: link.Info{Name: "forged", MTU: 1500, RX: allOffloads, TX: allOffloads}}
	f := os.NewFile(uintptr(fds[0]), "forged tap")
	d.files = []*os.File{f}
	q, err = newQueue(d, f, &handle{fd: fds[0], vnet: true, order: binary.NativeEndian})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); unix.Close(fds[1]) })
	return q, fds[1]
}

const allOffloads = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN

// forged returns what a tap would give a reader: a virtio header, then the frame.
func forged(o link.Offload, frame []byte) []byte {
	b := make([]byte, link.VirtioLen, link.VirtioLen+len(frame))
	o.EncodeVirtio(b, binary.NativeEndian)
	return append(b, frame...)
}

// readForged writes one packet and then one that is right, and returns what is read
// until the latter comes.
func readForged(t testing.TB, q *queue, kernel int, packet []byte) (got []link.Frame) {
	t.Helper()
	last := bytes.Repeat([]byte{0xee}, 77)
	for _, p := range [][]byte{packet, forged(link.Offload{}, last)} {
		if len(p) == 0 {
			continue // nothing, which a socket takes for its end
		}
		if _, err := unix.Write(kernel, p); err != nil {
			t.Fatal(err)
		}
	}
	for {
		in := []link.Frame{{Buf: make([]byte, 4096)}}
		if _, err := q.Read(in); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(in[0].Buf[:in[0].N], last) {
			return got
		}
		got = append(got, in[0])
	}
}

func TestForgedMetadata(t *testing.T) {
	frame := make([]byte, 1000)
	good := link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: link.GSOTCPv4, GSOSize: 500, HdrLen: 54}
	for name, c := range map[string]struct {
		change func(*link.Offload)
		passes bool
	}{
		"right":            {func(*link.Offload) {}, true},
		"hdr_len 0":        {func(o *link.Offload) { o.HdrLen = 0 }, true}, // a hint
		"hdr_len 65535":    {func(o *link.Offload) { o.HdrLen = 65535 }, true},
		"gso_size 0":       {func(o *link.Offload) { o.GSOSize = 0 }, false},
		"csum_start 65535": {func(o *link.Offload) { o.CsumStart = 65535 }, false},
		"csum_start 13":    {func(o *link.Offload) { o.CsumStart = 13 }, false},
		"csum_start late":  {func(o *link.Offload) { o.CsumStart = 983 }, false},
		"csum_offset":      {func(o *link.Offload) { o.CsumOffset = 65535 }, false},
		"UFO":              {func(o *link.Offload) { o.GSOType = 3 }, false},
		"USO":              {func(o *link.Offload) { o.GSOType = 5 }, false},
	} {
		q, kernel := forgedQueue(t)
		o := good
		c.change(&o)
		got := readForged(t, q, kernel, forged(o, frame))
		drops := q.dev.Stats().Drops
		switch {
		case c.passes && (len(got) != 1 || len(drops) != 0 || got[0].N != len(frame) || got[0].Offload != o):
			t.Errorf("%s: %d frames, drops %v", name, len(got), drops)
		case !c.passes && (len(got) != 0 || drops["rx_offload"] != 1 || len(drops) != 1):
			t.Errorf("%s: %d frames, drops %v", name, len(got), drops)
		}
	}
}

func FuzzForgedMetadata(f *testing.F) {
	for _, n := range []int{0, 13, 14, 60, 1514} {
		f.Add(forged(link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16}, make([]byte, n)))
	}
	f.Add([]byte{1, 0x81, 0, 0, 1, 0, 14, 0, 0, 0, 1, 2, 3})
	f.Add([]byte{1})
	q, kernel := forgedQueue(f)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if len(packet) > 60000 {
			return
		}
		before := q.dev.Stats()
		got := readForged(t, q, kernel, packet)
		for _, g := range got {
			if g.N < link.HeaderLen || g.N > len(g.Buf) || g.Offload.Validate(g.N) != nil {
				t.Fatalf("Read returned %d bytes with %+v", g.N, g.Offload)
			}
			if !bytes.Equal(g.Buf[:g.N], packet[link.VirtioLen:]) {
				t.Fatal("another frame than the one sent")
			}
		}
		dropped := uint64(0)
		for why, n := range q.dev.Stats().Drops {
			dropped += n - before.Drops[why]
		}
		if want := min(len(packet), 1); uint64(len(got))+dropped != uint64(want) {
			t.Fatalf("%d frames read, %d dropped, want %d", len(got), dropped, want)
		}
	})
}
