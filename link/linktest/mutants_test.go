package linktest

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/link"
)

// Drivers that are wrong in one way each, and the checks that must notice.
var mutants = []struct {
	name  string
	spoil func(*mutant)
	noted string
}{
	{"states no MTU", func(m *mutant) { m.info = func(i link.Info) link.Info { i.MTU = 0; return i } }, "Info"},
	{"states TSO without checksums", func(m *mutant) { m.info = func(i link.Info) link.Info { i.RX = link.OffloadTSO4; return i } }, "Info"},
	{"lends its hardware address", func(m *mutant) {
		mac := []byte{2, 0, 0, 0, 0, 1}
		m.info = func(i link.Info) link.Info { i.HardwareAddr = mac; return i }
	}, "Info"},
	{"has no queue", func(m *mutant) { m.q = nil }, "Info"},
	{"reads a batch backwards", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			n, err := q.Read(in)
			for i, j := 0, n-1; i < j; i, j = i+1, j-1 {
				in[i], in[j] = in[j], in[i]
			}
			return n, err
		}
	}), "ReadSeveral"},
	{"reads only the first of a batch", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			n, err := q.Read(in)
			return min(n, 1), err
		}
	}), "ReadSeveral"},
	{"loses the 50th frame read", reading(func() readFunc {
		var n atomic.Int64
		return func(q link.Queue, in []link.Frame) (int, error) {
			for {
				got, err := q.Read(in[:min(1, len(in))])
				if err != nil || got == 0 || n.Add(1) != 50 {
					return got, err
				}
			}
		}
	}), "Order"},
	{"returns 0 frames and no error", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			if _, err := q.Read(in); err != nil {
				return 0, err
			}
			return 0, nil
		}
	}), "Order"},
	{"writes a batch backwards", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			var back []link.OutFrame
			for i := range out {
				back = append(back, out[len(out)-1-i])
			}
			return q.Write(back)
		}
	}), "OrderOut"},
	{"counts frames as written that were dropped", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			_, err := q.Write(out)
			return len(out), err
		}
	}), "ShortOut"},
	{"stops a batch at a bad frame", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			for i := range out {
				if n, err := q.Write(out[i : i+1]); n != 1 {
					return i, err
				}
			}
			return len(out), nil
		}
	}), "ShortOut"},
	{"Read of no frames waits", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			if len(in) == 0 {
				in = []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
			}
			return q.Read(in)
		}
	}), "ReadNone"},
	{"loses the last byte read", perRead(func(f *link.Frame) { f.N-- }), "Sizes"},
	{"pads to 60 bytes", perRead(func(f *link.Frame) {
		for f.N < min(60, len(f.Buf)) {
			f.Buf[f.N] = 0
			f.N++
		}
	}), "Sizes"},
	{"pads what it writes", perFrame(func(f *link.OutFrame) {
		if n := f.Len(); n >= link.HeaderLen && n < 60 {
			*f = whole(*f)
			f.Pieces = append(f.Pieces, make([]byte, 60-n))
		}
	}), "Sizes"},
	{"refuses a frame of exactly the MTU", perFrame(func(f *link.OutFrame) {
		if f.Len() == 1514 {
			f.Pieces = nil
		}
	}), "Sizes"},
	{"refuses a VLAN tag", perFrame(func(f *link.OutFrame) {
		if f.Len() == 1518 {
			f.Pieces = nil
		}
	}), "Sizes"},
	{"pads short frames into valid ones", perFrame(func(f *link.OutFrame) {
		if n := f.Len(); n < link.HeaderLen {
			f.Pieces = append(f.Pieces, make([]byte, 60-n))
		}
	}), "ShortOut"},
	{"cuts off what is over the MTU", perFrame(func(f *link.OutFrame) {
		if n := f.Len(); n > 1518 && f.Offload.GSOType == 0 {
			*f = whole(*f)
			f.Pieces[0] = f.Pieces[0][:1514]
		}
	}), "OversizeOut"},
	{"cuts off what is longer than the buffer", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			big := []link.Frame{{Buf: make([]byte, link.MaxFrame)}}
			n, err := q.Read(big[:min(1, len(in))])
			if n == 1 {
				in[0].N, in[0].Offload = copy(in[0].Buf, big[0].Buf[:big[0].N]), big[0].Offload
			}
			return n, err
		}
	}), "OversizeIn"},
	{"does not wait without a buffer", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			if len(in) > 0 && len(in[0].Buf) == 0 {
				return 0, io.ErrShortBuffer
			}
			return q.Read(in)
		}
	}), "NoBuffer"},
	{"writes the first piece only", perFrame(func(f *link.OutFrame) { f.Pieces = f.Pieces[:min(1, len(f.Pieces))] }), "Pieces"},
	{"stops at an empty piece", perFrame(func(f *link.OutFrame) {
		for i, p := range f.Pieces {
			if len(p) == 0 && i > 0 {
				f.Pieces = f.Pieces[:i]
				return
			}
		}
	}), "Pieces"},
	{"drops frames of more than 1024 pieces", perFrame(func(f *link.OutFrame) {
		if len(f.Pieces) > 1024 {
			f.Pieces = nil
		}
	}), "Pieces"},
	{"keeps the pieces and writes them later", keeper, "Scribble"},
	{"loses frames of concurrent writers", writing(func() writeFunc {
		var mu sync.Mutex
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			if !mu.TryLock() {
				return len(out), nil
			}
			defer mu.Unlock()
			time.Sleep(time.Millisecond)
			return q.Write(out)
		}
	}), "ConcurrentWriters"},
	{"writes only while it reads nothing", writing(func() writeFunc {
		var n atomic.Int64
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			if n.Add(1) > 100 {
				return len(out), nil
			}
			return q.Write(out)
		}
	}), "BothWays"},
	{"deals frames out to queues in turn", dealer, "FlowKeepsQueue"},
	{"waits for a reader when full", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			for i := range out {
				for {
					n, err := q.Write(out[i : i+1])
					if err != nil {
						return i, err
					}
					if n == 1 {
						break
					}
					time.Sleep(time.Millisecond)
				}
			}
			return len(out), nil
		}
	}), "NeverWaits"},
	{"answers an error when full", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			n, err := q.Write(out)
			if n == 0 && len(out) > 0 && err == nil {
				err = io.ErrShortWrite
			}
			return n, err
		}
	}), "NeverWaits"},
	{"does not count what a full wire drops", func(m *mutant) {
		m.st = func(s link.Stats) link.Stats { delete(s.Drops, "tx_full"); return s }
	}, "NeverWaits"},
	{"counts bytes without the Ethernet header", func(m *mutant) {
		m.st = func(s link.Stats) link.Stats { s.TxBytes -= 14 * s.TxFrames; return s }
	}, "StatsAddUp"},
	{"counts frames read twice", func(m *mutant) {
		m.st = func(s link.Stats) link.Stats { s.RxFrames *= 2; return s }
	}, "StatsAddUp"},
	{"counts no drops", func(m *mutant) {
		m.st = func(s link.Stats) link.Stats { s.Drops = nil; return s }
	}, "OversizeIn"},
	{"counts drops under another reason", func(m *mutant) {
		m.st = func(s link.Stats) link.Stats {
			if n := s.Drops["tx_short"]; n > 0 {
				s.Drops["tx_error"] = n
				delete(s.Drops, "tx_short")
			}
			return s
		}
	}, "ShortOut"},
	{"forgets the offloads of frames written", perFrame(func(f *link.OutFrame) {
		if f.Offload.GSOType == 0 {
			f.Offload = link.Offload{}
		}
	}), "OffloadOut"},
	{"takes offloads it does not state", func(m *mutant) {
		m.info = func(i link.Info) link.Info { i.TX &^= link.OffloadTSO6 | link.OffloadECN; return i }
	}, "OffloadOut"},
	{"forgets the offloads of frames read", perRead(func(f *link.Frame) { f.Offload = link.Offload{} }), "OffloadIn"},
	{"mixes up the byte order", perRead(func(f *link.Frame) { f.Offload.GSOSize = f.Offload.GSOSize<<8 | f.Offload.GSOSize>>8 }), "OffloadIn"},
	{"leaves old offloads in a Frame", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			old := make([]link.Offload, len(in))
			for i := range in {
				old[i] = in[i].Offload
			}
			n, err := q.Read(in)
			for i := range n {
				if in[i].Offload == (link.Offload{}) {
					in[i].Offload = old[i]
				}
			}
			return n, err
		}
	}), "OffloadReset"},
	{"passes offloads that do not fit", perFrame(func(f *link.OutFrame) {
		if f.Offload.Validate(f.Len()) != nil {
			f.Offload = link.Offload{}
		}
	}), "OffloadRefused"},
	{"Close leaves a Read waiting", func(m *mutant) {
		m.end = func(link.Device) error { return nil }
	}, "CloseUnblocksRead"},
	{"Close answers Reads with EOF", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			n, err := q.Read(in)
			if err != nil {
				err = io.EOF
			}
			return n, err
		}
	}), "CloseUnblocksRead"},
	{"Close answers Writes with EPIPE", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			n, err := q.Write(out)
			if err != nil {
				err = io.ErrClosedPipe
			}
			return n, err
		}
	}), "CloseUnderWrite"},
	{"a second Close is an error", func(m *mutant) {
		var n atomic.Int64
		m.end = func(d link.Device) error {
			if n.Add(1) > 1 {
				return os.ErrClosed
			}
			return d.Close()
		}
	}, "CloseTwice"},
	{"a concurrent Close returns too early", func(m *mutant) {
		var n atomic.Int64
		m.end = func(d link.Device) error {
			if n.Add(1) > 1 {
				return nil
			}
			time.Sleep(50 * time.Millisecond)
			return d.Close()
		}
	}, "CloseAtOnce"},
	{"Close deadlocks with another Close", func(m *mutant) {
		var n atomic.Int64
		m.end = func(d link.Device) error {
			if n.Add(1) == 2 {
				select {}
			}
			return d.Close()
		}
	}, "CloseTwice"},
	{"Writes after Close seem to work", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			n, err := q.Write(out)
			if errors.Is(err, link.ErrClosed) {
				return len(out), nil
			}
			return n, err
		}
	}), "AfterClose"},
	{"a wire that is gone is called closed", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			n, err := q.Read(in)
			if errors.Is(err, link.ErrGone) {
				err = link.ErrClosed
			}
			return n, err
		}
	}), "Gone"},
	{"a wire that is gone is waited for", reading(func() readFunc {
		return func(q link.Queue, in []link.Frame) (int, error) {
			n, err := q.Read(in)
			for errors.Is(err, link.ErrGone) {
				time.Sleep(time.Millisecond)
				n, err = q.Read(in)
			}
			return n, err
		}
	}), "Gone"},
	{"Writes to a wire that is gone only drop", writing(func() writeFunc {
		return func(q link.Queue, out []link.OutFrame) (int, error) {
			n, err := q.Write(out)
			if errors.Is(err, link.ErrGone) {
				err = nil
			}
			return n, err
		}
	}), "Gone"},
	{"leaves a goroutine", func(m *mutant) {
		stop := time.After(3 * time.Second)
		go func() { <-stop }()
	}, "NothingLeft"},
	{"leaves a descriptor", leaveDescriptor, "NothingLeft"},
}
