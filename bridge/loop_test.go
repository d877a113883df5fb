package bridge

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

// join connects the far ends of two ports, as a cable that should not be there.
func join(t *testing.T, x, y *host) {
	for _, pair := range [][2]*host{{x, y}, {y, x}} {
		go func() {
			in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
			for {
				n, err := pair[0].dev.Queues()[0].Read(in)
				if err != nil {
					return
				}
				if _, err := pair[1].dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{in[0].Buf[:in[0].N]}}}); n != 1 || err != nil {
					return
				}
			}
		}()
	}
}

func TestLoopOfTwoPorts(t *testing.T) {
	b := newBridge(t, Config{})
	x := plug(t, b, 1, link.PipeConfig{}, PortConfig{}).listen()
	y := plug(t, b, 2, link.PipeConfig{}, PortConfig{})
	z := plug(t, b, 3, link.PipeConfig{}, PortConfig{})
	join(t, y, z)
	x.send(everybody, "into the loop")
	eventually(t, "the later port is shut", func() bool { return z.port.Stats().Shut != "" })
	if why := z.port.Stats().Shut; !strings.Contains(why, "p2") && !strings.Contains(why, "p3") {
		t.Errorf("why: %q", why)
	}
	if x.port.Stats().Shut != "" || y.port.Stats().Shut != "" {
		t.Error("another port is shut, too")
	}
	// It is quiet then: what was under way has ended.
	eventually(t, "nothing circulates", func() bool {
		before := y.port.Stats().RxFrames
		time.Sleep(20 * time.Millisecond)
		return y.port.Stats().RxFrames == before
	})
}

func TestLoopOfOnePort(t *testing.T) {
	b := newBridge(t, Config{LoopHold: time.Second})
	x := plug(t, b, 1, link.PipeConfig{}, PortConfig{}).listen()
	y := plug(t, b, 2, link.PipeConfig{}, PortConfig{})
	stop := make(chan struct{})
	go func() { // Everything comes back as it was sent.
		in := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
		for {
			if _, err := y.dev.Queues()[0].Read(in); err != nil {
				return
			}
			select {
			case <-stop:
				continue
			default:
			}
			if _, err := y.dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{in[0].Buf[:in[0].N]}}}); err != nil {
				return
			}
		}
	}()
	for i := 0; y.port.Stats().Shut == ""; i++ {
		x.raw(frameOf(everybody, [6]byte{2, 0, 0, 0, 1, byte(i)}, "echo"))
		x.raw(frameOf(everybody, [6]byte{2, 0, 0, 0, 1, byte(i)}, "echo"))
		if time.Sleep(time.Millisecond); i > 5000 {
			t.Fatal("the echoing port is not shut")
		}
	}
	close(stop)
	eventually(t, "it is tried again", func() bool { return y.port.Stats().Shut == "" })
}

// A forged probe shuts nobody: who does not see a port's probes does not know its token, and who
// does can shut nothing but where he is.
func TestForgedProbe(t *testing.T) {
	b := newBridge(t, Config{})
	x, y, z := three(t, b)
	forge := func(port uint32, token []byte) []byte {
		group := probeGroup.bytes()
		f := make([]byte, probeLen)
		copy(f, group[:])
		copy(f[6:], x.mac[:])
		binary.BigEndian.PutUint16(f[12:], probeType)
		copy(f[probeToken:], token)
		binary.BigEndian.PutUint32(f[probePort:], port)
		return f
	}
	for id := range uint32(5) {
		x.raw(forge(id, make([]byte, tokenLen)))
		x.raw(forge(id, bytes.Repeat([]byte{7}, tokenLen)))
	}
	b.probe()
	seen := func(h *host) []byte {
		for {
			if f := <-h.in; bytes.Equal(f[6:12], b.loops.source[:]) {
				return f[probeToken:probePort]
			}
		}
	}
	token := seen(x)
	seen(y)
	for _, h := range []*host{y, z} {
		x.raw(forge(h.port.id, token))
	}
	x.raw(forge(1<<31, token))
	x.send(everybody, "end")
	for f := range y.in {
		if string(f[14:]) == "end" {
			break
		}
	}
	for _, h := range []*host{x, y, z} {
		if why := h.port.Stats().Shut; why != "" {
			t.Errorf("%s is shut: %s", h.port.Name(), why)
		}
	}
	x.raw(forge(x.port.id, token))
	eventually(t, "who shows that his own probe came back is shut", func() bool { return x.port.Stats().Shut != "" })
}
