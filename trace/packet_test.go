package trace

import "testing"

// FuzzParse: two frames of any content are parsed and compared without a panic, and what is
// said of them is within them.
func FuzzParse(f *testing.F) {
	v4 := []byte{2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 5, 8, 0,
		0x45, 0, 0, 84, 0, 1, 0, 0, 64, 1, 0, 0, 10, 0, 0, 5, 10, 0, 0, 4, 8, 0, 0, 0, 0, 7, 0, 1}
	v6 := append([]byte{2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 5, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 0, 64}, make([]byte, 72)...)
	unreachable := append(append([]byte(nil), v4[:34]...), append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, v4[14:]...)...)
	tagged := append(append(append([]byte(nil), v4[:12]...), 0x81, 0, 0, 7), v4[12:]...)
	for _, frame := range [][]byte{arpFrame(5, 4), v4, v6, unreachable, tagged, v4[:20], nil} {
		f.Add(frame, v4)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		p, q := parse(a), parse(b)
		for _, x := range []*packet{&p, &q} {
			if x.l3 > len(x.frame) || x.l4 > len(x.frame) || x.tcpHead > 60 || x.payload() < 0 {
				t.Errorf("%x: %+v", x.frame, x)
			}
			if about, ok := x.icmpError(); ok && about.l4 > len(x.frame) {
				t.Errorf("%x: its error is about %+v", x.frame, about)
			}
			malformedIP(x.frame, x)
			transportSum(x.frame, x)
			target6(x)
		}
		answers(&p, &q)
		p.same(&q)
		var s stream
		s.send(&p)
		s.send(&q)
	})
}

// TestAnswers: what answers what.
func TestAnswers(t *testing.T) {
	echo := []byte{2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 5, 8, 0,
		0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 10, 0, 0, 5, 10, 0, 0, 4, 8, 0, 0, 0, 0, 7, 0, 1}
	reply := append([]byte(nil), echo...)
	copy(reply[26:], echo[30:34])
	copy(reply[30:], echo[26:30])
	reply[34], reply[18] = 0, 9
	other := append([]byte(nil), reply...)
	other[41] = 2
	unreachable := append(append([]byte(nil), reply[:34]...), append([]byte{3, 1, 0, 0, 0, 0, 0, 0}, echo[14:]...)...)
	for _, c := range []struct {
		name string
		out  []byte
		how  string
		ok   bool
	}{
		{"reply", reply, "ICMP echo reply", true},
		{"reply to another", other, "", false},
		{"error", unreachable, "ICMP host unreachable", true},
		{"ARP", arpFrame(4, 5), "", false},
		{"itself", echo, "", false},
	} {
		in, out := parse(echo), parse(c.out)
		if how, ok := answers(&in, &out); ok != c.ok || ok && how != c.how {
			t.Errorf("%s: %q, %v", c.name, how, ok)
		}
	}
}
