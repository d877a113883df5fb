package linktest

import (
	"bytes"
	"sync"

	"github.com/ustack/ustack/link"
)

func checkInfo(s *suite) {
	dev, _ := s.open()
	i := dev.Info()
	if i.Name == "" || i.Kind == "" || i.Driver == "" {
		s.Errorf("Info %+v: name, kind and driver must be stated", i)
	}
	if err := link.CheckMTU(i.MTU); err != nil {
		s.Errorf("Info: %v", err)
	}
	if n := len(i.HardwareAddr); n != 0 && n != 6 {
		s.Errorf("Info: a hardware address of %d bytes", n)
	}
	const tso = link.OffloadTSO4 | link.OffloadTSO6
	for _, o := range []link.Offloads{i.RX, i.TX} {
		if o&tso != 0 && !o.Has(link.OffloadCsum) {
			s.Errorf("Info: offloads %v: segmentation implies checksums", o)
		}
	}
	for j := range i.HardwareAddr {
		i.HardwareAddr[j] ^= 0xff
	}
	again := dev.Info()
	if len(i.HardwareAddr) > 0 && bytes.Equal(i.HardwareAddr, again.HardwareAddr) {
		s.Error("a caller can change the Device's hardware address")
	}
	if again.Name != i.Name || again.MTU != i.MTU || again.RX != i.RX || again.TX != i.TX {
		s.Errorf("Info changed from %+v to %+v", i, again)
	}
	one, two := dev.Queues(), dev.Queues()
	if len(one) == 0 || len(one) != len(two) {
		s.Fatalf("Queues returned %d, then %d", len(one), len(two))
	}
	for j := range one {
		if one[j] != two[j] {
			s.Errorf("queue %d is another one the second time", j)
		}
	}
}

func checkOrder(s *suite) {
	dev, wire := s.open()
	r := s.read(dev, 1, link.MaxFrame)
	for round := range 4 {
		frames := series(round*64, 64)
		s.send(wire, frames...)
		r.want(frames...)
	}
}

func checkOrderOut(s *suite) {
	dev, wire := s.open()
	at := 0
	for _, batch := range []int{1, 2, 31, 64, 1, 64} {
		frames := series(at, batch)
		s.write(dev, batch, frames...)
		s.wantOut(wire, frames...)
		at += batch
	}
}

func checkReadSeveral(s *suite) {
	dev, wire := s.open()
	frames := series(0, 100)
	s.send(wire, frames...)
	r := s.read(dev, 8, link.MaxFrame)
	r.want(frames...)
}

func checkReadNone(s *suite) {
	dev, _ := s.open()
	for i, q := range dev.Queues() {
		for _, none := range [][]link.Frame{nil, {}} {
			var n int
			var err error
			s.within("Read of no frames", func() { n, err = q.Read(none) })
			if n != 0 || err != nil {
				s.Errorf("queue %d: Read of no frames = %d, %v, want 0, nil", i, n, err)
			}
		}
		if n, err := q.Write(nil); n != 0 || err != nil {
			s.Errorf("queue %d: Write of no frames = %d, %v, want 0, nil", i, n, err)
		}
	}
}

func checkSizes(s *suite) {
	dev, wire := s.open()
	mtu := dev.Info().MTU
	r := s.read(dev, 2, mtu+link.HeaderLen) // no byte to spare
	for i, n := range []int{link.HeaderLen, link.HeaderLen + 1, 59, 60, 64, 1000, mtu + link.HeaderLen - 1, mtu + link.HeaderLen} {
		f := frame(uint32(i), n)
		s.send(wire, f)
		r.want(f)
		s.write(dev, 1, f)
		s.wantOut(wire, f)
	}
	// A VLAN tag is not part of the MTU.
	tagged := frame(99, mtu+link.HeaderLen)
	tagged = append(append(tagged[:12:12], 0x81, 0x00, 0x00, 0x05), tagged[12:]...)
	s.write(dev, 1, tagged)
}

func checkShortOut(s *suite) {
	dev, wire := s.open()
	good := series(0, 2)
	s.write(dev, 2, good[0], nil, make([]byte, 1), frame(7, link.HeaderLen)[:link.HeaderLen-1], good[1])
	s.wantOut(wire, good...)
	s.wantDrops(dev, link.DropTxShort, 3)
}

func checkOversizeOut(s *suite) {
	dev, wire := s.open()
	i := dev.Info()
	good := series(0, 2)
	const tag = 4
	big := link.OutFrame{
		Pieces:  [][]byte{frame(8, link.MaxFrame), {1}},
		Offload: link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 16, GSOType: link.GSOTCPv4, GSOSize: 1000},
	}
	s.writeOut(dev, 2,
		link.OutFrame{Pieces: good[:1]},
		link.OutFrame{Pieces: [][]byte{frame(7, i.MTU+link.HeaderLen+tag+1)}},
		big,
		link.OutFrame{Pieces: good[1:]})
	s.wantOut(wire, good...)
	s.wantDrops(dev, link.DropTxOversize, 2)
}

func checkOversizeIn(s *suite) {
	dev, wire := s.open()
	long, fits, good := frame(1, 501), frame(2, 500), frame(3, 60)
	s.send(wire, long, fits, long, good)
	s.read(dev, 3, 500).want(fits, good)
	s.wantDrops(dev, link.DropRxOversize, 2)
}

// A reader without any buffer loses every frame and still waits, and ends.
func checkNoBuffer(s *suite) {
	dev, wire := s.open()
	r := s.read(dev, 1, 0)
	s.send(wire, series(0, 3)...)
	s.eventually("3 frames are counted as "+link.DropRxOversize.String(), func() bool {
		return dev.Stats().Drops[link.DropRxOversize.String()] >= 3
	})
	dev.Close()
	r.wait("Read without a buffer, after Close,")
}

func checkPieces(s *suite) {
	dev, wire := s.open()
	whole := frame(1, 1400)
	one := func(b []byte) (pieces [][]byte) {
		for i := range b {
			pieces = append(pieces, b[i:i+1])
		}
		return pieces
	}
	for _, pieces := range [][][]byte{
		{whole},
		{nil, whole, {}},
		{whole[:14], whole[14:]},
		{whole[:3], nil, whole[3:14], {}, {}, whole[14:15], whole[15:1399], whole[1399:], nil},
		{whole[:0], whole[:7], whole[7:7], whole[7:]},
		append(one(whole[:100]), whole[100:]),
		one(whole), // more than an IOV_MAX of 1024
		append([][]byte{whole}, make([][]byte, 2000)...),
	} {
		s.writeOut(dev, 1, link.OutFrame{Pieces: pieces})
		s.wantOut(wire, whole)
	}
	s.writeOut(dev, 0, link.OutFrame{Pieces: make([][]byte, 3)})
	s.wantDrops(dev, link.DropTxShort, 1)
}

func checkScribble(s *suite) {
	dev, wire := s.open()
	want := series(0, 16)
	out := make([]link.OutFrame, len(want))
	for i, f := range want {
		f = bytes.Clone(f)
		out[i].Pieces = [][]byte{f[:20], f[20:]}
	}
	s.writeOut(dev, len(out), out...)
	for i := range out {
		for _, p := range out[i].Pieces {
			for k := range p {
				p[k] ^= 0xff
			}
		}
	}
	last := frame(99, 60)
	s.write(dev, 1, last) // a driver that kept something may use it now
	s.wantOut(wire, append(want, last)...)
}

func checkConcurrentWriters(s *suite) {
	const writers, calls, batch = 4, 8, 3
	dev, wire := s.open()
	q := dev.Queues()[0]
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for c := range calls {
				var out []link.OutFrame
				for b := range batch {
					f := frame(uint32(w<<16|c*batch+b), 300+w)
					out = append(out, link.OutFrame{Pieces: [][]byte{f[:100], f[100:]}})
				}
				if n, err := q.Write(out); n != batch || err != nil {
					s.Errorf("Write of %d frames = %d, %v", batch, n, err)
				}
			}
		})
	}
	s.within("concurrent Writes", wg.Wait)
	var next [writers]uint32
	for i := range writers * calls * batch {
		f, _ := s.recv(wire)
		w := seqOf(f) >> 16
		if w >= writers {
			s.Fatalf("frame out %d: %s is of no writer", i, brief(f))
		}
		s.same("frame out", i, f, frame(w<<16|next[w], 300+int(w)))
		next[w]++
	}
}

// Frames pass in both directions at once.
func checkBothWays(s *suite) {
	dev, wire := s.open()
	r := s.read(dev, 4, link.MaxFrame)
	in, out := series(0, 300), series(1000, 300)
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64) // as many frames as a Wire must hold
	wg.Go(func() {
		for _, f := range out {
			gate <- struct{}{}
			if n, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{f}}}); n != 1 || err != nil {
				s.Errorf("Write = %d, %v", n, err)
			}
		}
	})
	for i := range in {
		s.send(wire, in[i])
		r.want(in[i])
		got, _ := s.recv(wire)
		s.same("frame out", i, got, out[i])
		<-gate
	}
	s.within("Write", wg.Wait)
}

func checkFlowKeepsQueue(s *suite) {
	const flows, rounds = 8, 12
	dev, wire := s.open()
	r := s.read(dev, 4, link.MaxFrame)
	for round := range rounds {
		for flow := range flows {
			f, o := segment(false, uint16(2000+flow), 100+round, 0, false)
			finish(f, o)
			s.send(wire, f)
		}
	}
	queue, next := make(map[byte]int), make(map[byte]int)
	for range flows * rounds {
		got := r.next()
		flow := got.frame[11] // the low byte of its number, see segment
		if q, known := queue[flow]; known && q != got.queue {
			s.Fatalf("flow %d moved from queue %d to %d", flow, q, got.queue)
		}
		queue[flow] = got.queue
		if have := len(got.frame) - 54 - 100; have != next[flow] {
			s.Fatalf("flow %d: frame %d came, want %d", flow, have, next[flow])
		}
		next[flow]++
	}
}

// finish puts the checksum of a segment in place.
func finish(f []byte, o link.Offload) {
	at := int(o.CsumStart)
	body := f[at:]
	if len(body)%2 != 0 {
		body = append(bytes.Clone(body), 0)
	}
	c := ^fold(sum(body))
	f[at+int(o.CsumOffset)], f[at+int(o.CsumOffset)+1] = byte(c>>8), byte(c)
}
