package trace

import (
	"bytes"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/trace/kernel"
)

// An arpFrame is a request for 10.0.0.N.
func arpFrame(src byte, n byte) []byte {
	return []byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, src, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, src, 10, 0, 0, src, 0, 0, 0, 0, 0, 0, 10, 0, 0, n}
}

func at(us int) time.Duration { return time.Second + time.Duration(us)*time.Microsecond }

// drainMerge returns what comes out at once when everything is old enough.
func drainMerge(m *Merge) (all []Record) {
	for {
		r, ok := m.Next(at(0) + time.Minute)
		if !ok {
			return all
		}
		all = append(all, r)
	}
}

func TestMerge(t *testing.T) {
	m := Merge{Link: "tap0", MACs: []net.HardwareAddr{{2, 0, 0, 0, 0, 4}}}
	frame := arpFrame(5, 4)
	event := func(us int, step, dev string, head []byte) {
		m.Kernel(kernel.Event{Mono: at(us), Step: step, Dev: dev, Len: len(head), Head: head, IfIndex: len(dev)})
	}
	// They come in any order; the kernel's steps are before the frame is told of.
	m.User(Record{Time: int64(at(30)), Frame: 7, Dir: "in", Side: "user", Step: "read", Head: frame, Summary: "the frame"})
	event(20, kernel.Queue, "tap0", frame)
	event(10, kernel.Receive, "port0", frame)
	m.User(Record{Time: int64(at(40)), Frame: 7, Dir: "in", Side: "user", Step: "end", End: EndAnswered})
	// What the stack has not seen is left out, unless it is about the stack and was dropped.
	event(11, kernel.Queue, "port1", arpFrame(9, 8))
	event(12, kernel.Drop, "port1", arpFrame(9, 8))
	event(13, kernel.Queue, "tap0", arpFrame(9, 7))
	event(14, kernel.Queue, "tap0", arpFrame(9, 6))
	event(15, kernel.Drop, "tap0", arpFrame(9, 6))
	event(16, kernel.Drop, "port1", arpFrame(4, 1))

	if r, ok := m.Next(at(40)); ok {
		t.Errorf("%+v comes out before others could be there", r)
	}
	var got []string
	for _, r := range drainMerge(&m) {
		name := "frame"
		if r.Frame == 0 {
			name = "packet"
		}
		got = append(got, name+" "+r.Step+" "+r.Dev+" "+r.Dir)
	}
	want := []string{
		"frame netif_receive_skb port0 in", "packet net_dev_queue tap0 ", "packet kfree_skb tap0 ", "packet kfree_skb port1 ",
		"frame net_dev_queue tap0 in", "frame read  in", "frame end  in",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("the steps are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestMergeRepeated: the same request again is another frame, whose steps are its own.
func TestMergeRepeated(t *testing.T) {
	m := Merge{Link: "tap0"}
	frame := arpFrame(5, 4)
	for i := range 3 {
		t0 := i * 1_000_000
		m.Kernel(kernel.Event{Mono: at(t0), Step: kernel.Queue, Dev: "tap0", Head: frame, Len: len(frame)})
		m.User(Record{Time: int64(at(t0 + 50)), Frame: uint64(i + 1), Dir: "in", Side: "user", Step: "read", Head: frame})
	}
	var frames []uint64
	for _, r := range drainMerge(&m) {
		frames = append(frames, r.Frame)
	}
	want := []uint64{1, 1, 2, 2, 3, 3}
	if len(frames) != len(want) {
		t.Fatalf("frames %v", frames)
	}
	for i := range want {
		if frames[i] != want[i] {
			t.Fatalf("steps are of the frames %v, want %v", frames, want)
		}
	}
}

// TestMergeFilter: what only the kernel has seen is selected as the stack's frames are.
func TestMergeFilter(t *testing.T) {
	for expr, want := range map[string]int{"arp": 2, "arp and in": 1, "out and dropped": 1, "udp": 0, "arp and not dropped": 0} {
		f, err := filter.Parse(expr)
		if err != nil {
			t.Fatal(err)
		}
		m := Merge{Link: "tap0", MACs: []net.HardwareAddr{{2, 0, 0, 0, 0, 4}}, Filter: f}
		for i, src := range []byte{4, 5} {
			m.Kernel(kernel.Event{Mono: at(i), Step: kernel.Drop, Dev: "tap0", Head: arpFrame(src, 9), Len: 42})
		}
		if got := len(drainMerge(&m)); got != want {
			t.Errorf("%s: %d steps, want %d", expr, got, want)
		}
	}
}

func TestPrinter(t *testing.T) {
	var b bytes.Buffer
	p := NewPrinter(&b)
	for _, r := range []Record{
		{Time: 1000, Frame: 3, Dir: "in", Side: "kernel", Step: "net_dev_queue", Dev: "veth0", Src: "02:00:00:00:00:05", Dst: "02:00:00:00:00:04", Text: "queued on veth0", Summary: "a ping"},
		{Time: 13400, Frame: 3, Dir: "in", Side: "user", Step: "end", Dev: "tap0", Text: "answered by ICMP echo reply, frame 4", End: EndAnswered},
		{Time: 14000, Side: "user", Step: "client_in", Socket: "tcp 10.0.0.4:80 > 10.0.0.5:9", Len: 12, Text: "handed to pid 1 (evil\x1b[2J)"},
		{Step: "lost", Lost: 9},
	} {
		if err := p.Print(&r); err != nil {
			t.Fatal(err)
		}
	}
	want := `#3     in  a ping
#3           0.0  kernel net_dev_queue          veth0      02:00:00:00:00:05 -> 02:00:00:00:00:04 queued on veth0
#3          12.4  user   end                               answered by ICMP echo reply, frame 4
                  user   client_in              tcp 10.0.0.4:80 > 10.0.0.5:9, 12 bytes: handed to pid 1 (evil?[2J)
9 steps were lost here: they came faster than they were read
`
	if b.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", b.String(), want)
	}
}

func TestWriteJSON(t *testing.T) {
	var b bytes.Buffer
	in := Record{Time: 5, Frame: 1, Side: "user", Step: "read", Socket: "udp 10.0.0.4:7 > 10.0.0.5:9"}
	if err := WriteJSON(&b, &in); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "10.0.0.4:7 > 10.0.0.5:9") || strings.Count(b.String(), "\n") != 1 {
		t.Errorf("written as %q", b.String())
	}
	var out Record
	if err := json.Unmarshal(b.Bytes(), &out); err != nil || out.Socket != in.Socket {
		t.Errorf("read as %+v, %v", out, err)
	}
}
