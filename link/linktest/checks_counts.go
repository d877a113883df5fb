package linktest

import (
	"errors"
	"os"

	"github.com/ustack/ustack/link"
)

// wantDrops wants n drops for one reason, and none for another, but those that only
// say what the rest of the world sent.
func (s *suite) wantDrops(dev link.Device, why link.Drop, n uint64) {
	s.Helper()
	for name, have := range dev.Stats().Drops {
		if name != why.String() && have != 0 {
			s.Errorf("%d frames are counted as %s, want none", have, name)
		}
	}
	if have := dev.Stats().Drops[why.String()]; have != n {
		s.Errorf("%d frames are counted as %s, want %d", have, why, n)
	}
}

// Nobody takes the frames from the wire: they are dropped and counted, and no Write
// waits.
func checkNeverWaits(s *suite) {
	const calls, batch = 500, 40
	dev, _ := s.open()
	frames := series(0, batch)
	out := make([]link.OutFrame, batch)
	for i := range out {
		out[i].Pieces = [][]byte{frames[i]}
	}
	taken := 0
	s.within("Write to a wire that nobody reads", func() {
		for range calls {
			n, err := dev.Queues()[0].Write(out)
			if err != nil {
				s.Errorf("Write = %d, %v: a full wire is not an error", n, err)
				return
			}
			taken += n
		}
	})
	stats := dev.Stats()
	total := stats.TxFrames
	for _, n := range stats.Drops {
		total += n
	}
	if stats.TxFrames != uint64(taken) || total != calls*batch {
		s.Errorf("of %d frames Write took %d; tx_frames=%d, %s", calls*batch, taken, stats.TxFrames, drops(dev))
	}
}

func checkStatsAddUp(s *suite) {
	dev, wire := s.open()
	if st := dev.Stats(); st.TxFrames != 0 || st.TxBytes != 0 || len(st.Drops) != 0 {
		s.Errorf("a new Device has counted %+v", st)
	}
	r := s.read(dev, 4, link.MaxFrame)
	in, out := series(0, 40), series(100, 30)
	s.send(wire, in...)
	r.want(in...)
	s.write(dev, len(out), out...)
	s.wantOut(wire, out...)
	s.write(dev, 0, make([]byte, 5))
	size := 0
	for _, f := range out {
		size += len(f)
	}
	st := dev.Stats()
	if st.TxFrames != uint64(len(out)) || st.TxBytes != uint64(size) {
		s.Errorf("stats have %d frames, %d bytes out, want %d, %d", st.TxFrames, st.TxBytes, len(out), size)
	}
	s.wantDrops(dev, link.DropTxShort, 1)
	dev.Close()
	r.wait("Read")
	frames, bytes := r.counts()
	if st = dev.Stats(); st.RxFrames != uint64(frames) || st.RxBytes != uint64(bytes) || frames < len(in) {
		s.Errorf("stats have %d frames, %d bytes in, want %d, %d", st.RxFrames, st.RxBytes, frames, bytes)
	}
}

// An offloaded is a frame that needs one offload or more.
type offloaded struct {
	name  string
	needs link.Offloads
	frame []byte
	o     link.Offload
}

func offloadedFrames() []offloaded {
	var all []offloaded
	add := func(name string, needs link.Offloads, v6 bool, payload int, gso uint16, ecn bool) {
		f, o := segment(v6, 1000, payload, gso, ecn)
		all = append(all, offloaded{name, needs, f, o})
	}
	add("csum over IPv4", link.OffloadCsum, false, 700, 0, false)
	add("csum over IPv6", link.OffloadCsum, true, 701, 0, false)
	add("tso4", link.OffloadCsum|link.OffloadTSO4, false, 5000, 1400, false)
	add("tso6", link.OffloadCsum|link.OffloadTSO6, true, 5000, 1380, false)
	// The longest that Linux passes to an interface unsegmented: shorter than its
	// gso_max_size of 65536, the Ethernet header included (gso_features_check).
	add("tso4 of 64 KiB", link.OffloadCsum|link.OffloadTSO4, false, 65535-54, 1448, false)
	add("tso4,ecn", link.OffloadCsum|link.OffloadTSO4|link.OffloadECN, false, 4000, 1000, true)
	add("tso6,ecn", link.OffloadCsum|link.OffloadTSO6|link.OffloadECN, true, 4000, 1000, true)
	return all
}

// sameOffload compares all but HdrLen, which is a hint, and DataValid, which whoever
// completes a checksum may add.
func (s *suite) sameOffload(what string, got, want link.Offload) {
	s.Helper()
	got.HdrLen, want.HdrLen = 0, 0
	got.DataValid, want.DataValid = false, false
	if got != want {
		s.Errorf("%s: offload %+v, want %+v", what, got, want)
	}
}

func checkOffloadOut(s *suite) {
	dev, wire := s.open()
	taken := dev.Info().TX
	refused := uint64(0)
	for _, c := range offloadedFrames() {
		// Headers and data in pieces of their own, as a stack has them.
		out := link.OutFrame{Pieces: [][]byte{c.frame[:14], c.frame[14:54], c.frame[54:]}, Offload: c.o}
		if !taken.Has(c.needs) {
			s.writeOut(dev, 0, out)
			refused++
			continue
		}
		s.writeOut(dev, 1, out)
		got, o := s.recv(wire)
		s.same(c.name, 0, got, c.frame)
		s.sameOffload(c.name, o, c.o)
	}
	s.wantDrops(dev, link.DropTxOffload, refused)
}

func checkOffloadIn(s *suite) {
	dev, wire := s.open()
	r := s.read(dev, 2, link.MaxFrame)
	for _, c := range offloadedFrames() {
		if !dev.Info().RX.Has(c.needs) {
			continue
		}
		if err := wire.Send(c.frame, c.o); err != nil {
			s.Fatalf("Send of %s: %v", c.name, err)
		}
		got := r.next()
		s.same(c.name, 0, got.frame, c.frame)
		s.sameOffload(c.name, got.offload, c.o)
		if err := got.offload.Validate(len(got.frame)); err != nil {
			s.Errorf("%s: Read returned what Validate refuses: %v", c.name, err)
		}
	}
}

// A frame without offloads has none, whatever the Frame held before.
func checkOffloadReset(s *suite) {
	dev, wire := s.open()
	s.send(wire, frame(1, 200), frame(2, 200))
	q := make(chan link.Frame, len(dev.Queues()))
	for _, lane := range dev.Queues() {
		go func() {
			in := []link.Frame{{
				Buf: make([]byte, link.MaxFrame), N: 77,
				Offload: link.Offload{NeedsCsum: true, ECN: true, GSOType: 9, GSOSize: 1, CsumStart: 65535, CsumOffset: 65535, HdrLen: 1},
			}}
			for {
				if n, err := lane.Read(in); err != nil || n != 1 {
					return
				}
				if f := in[0]; f.N <= len(f.Buf) && ours(f.Buf[:f.N]) {
					q <- f
					return
				}
			}
		}()
	}
	s.within("Read", func() {
		if f := <-q; f.Offload != (link.Offload{}) || f.N != 200 {
			s.Errorf("an ordinary frame of 200 bytes came as %d bytes with %+v", f.N, f.Offload)
		}
	})
}

func checkOffloadRefused(s *suite) {
	dev, wire := s.open()
	f, o := segment(false, 1000, 3000, 1000, false)
	mutate := func(change func(*link.Offload)) link.OutFrame {
		o := o
		change(&o)
		return link.OutFrame{Pieces: [][]byte{f}, Offload: o}
	}
	small := frame(5, 60)
	bad := []link.OutFrame{
		mutate(func(o *link.Offload) { o.GSOSize = 0 }),
		mutate(func(o *link.Offload) { o.GSOType = 9 }),
		mutate(func(o *link.Offload) { o.GSOType = 3 }), // UFO
		mutate(func(o *link.Offload) { o.GSOType |= 0x80 }),
		mutate(func(o *link.Offload) { o.CsumStart = 65535 }),
		mutate(func(o *link.Offload) { o.CsumStart, o.CsumOffset = uint16(len(f)-2), 1 }),
		mutate(func(o *link.Offload) { o.CsumStart = 13 }),
		{Pieces: [][]byte{small}, Offload: link.Offload{NeedsCsum: true, CsumStart: 34, CsumOffset: 25}},
		{Pieces: [][]byte{small}, Offload: link.Offload{ECN: true}},
	}
	good := series(0, 2)
	all := append([]link.OutFrame{{Pieces: good[:1]}}, bad...)
	s.writeOut(dev, 2, append(all, link.OutFrame{Pieces: good[1:]})...)
	s.wantOut(wire, good...)
	s.wantDrops(dev, link.DropTxOffload, uint64(len(bad)))
	if _, _, err := wire.Recv(0); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		s.Errorf("Recv: %v", err)
	}
}
