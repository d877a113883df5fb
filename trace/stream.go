package trace

import (
	"time"

	"github.com/ustack/ustack/link"
)

// A stream is what was written to a connection, by where its bytes are in it. That can be known
// of connections whose SYN was sent while the trace lasts.
type stream struct {
	begun  bool
	first  uint32 // sequence number of the first byte
	next   uint64 // bytes that were sent so far
	writes []write
	client link.Event // the last that a program wrote and that was not handed over yet
}

// A write is what was handed to a connection at once, and when.
type write struct {
	offset, end uint64
	at, client  time.Time // client is zero if no program wrote it
	owner       string
}

// maxWrites is how many writes are remembered that were not sent.
const maxWrites = 1024

// depart is told of bytes that were written, and reports whether their frames can be found.
func (s *stream) depart(ev *link.Event) bool {
	if !s.begun {
		return false
	}
	if ev.Step == link.StepClientOut {
		s.client = *ev
		return true
	}
	w := write{offset: ev.Offset, end: ev.Offset + uint64(ev.Bytes), at: ev.At}
	if s.client.Bytes == ev.Bytes {
		w.client, w.owner = s.client.At, s.client.Owner
	}
	s.client = link.Event{}
	// What was not taken of the last write is not part of the stream.
	for n := len(s.writes); n > 0 && s.writes[n-1].end > w.offset; n-- {
		if s.writes[n-1].end = w.offset; s.writes[n-1].offset < w.offset {
			break
		}
		s.writes = s.writes[:n-1]
	}
	if len(s.writes) >= maxWrites {
		s.writes = s.writes[1:]
	}
	s.writes = append(s.writes, w)
	return true
}

// send is told of a segment that is sent, and returns whose bytes it has; again says that all of
// them were sent before.
func (s *stream) send(p *packet) (from []write, again bool) {
	if p.flags&tcpSYN != 0 {
		*s = stream{begun: true, first: p.seq + 1}
		return nil, false
	}
	n := uint64(p.payload())
	if !s.begun || n == 0 {
		return nil, false
	}
	// The sequence number has the lower 32 bits of the offset (RFC 9293 section 3.4).
	offset := s.next + uint64(int64(int32(p.seq-s.first-uint32(s.next))))
	end := offset + n
	if int64(offset) < 0 {
		return nil, false
	}
	if end <= s.next {
		return nil, true
	}
	s.next = end
	for len(s.writes) > 0 && s.writes[0].end <= offset {
		s.writes = s.writes[1:]
	}
	for _, w := range s.writes {
		if w.offset < end {
			from = append(from, w)
		}
	}
	return from, false
}

// fromStream tells whose bytes a segment has, and when they were written.
func (t *tracer) fromStream(fl *flow, f *flight, r *Record) {
	fl.traced = fl.traced || f.chosen
	from, again := fl.stream.send(&f.pkt)
	if again {
		r.Text += ", sent before"
	}
	name := socketName("tcp", f.pkt.source(), f.pkt.destination())
	for _, w := range from {
		n := int(w.end - w.offset)
		if !w.client.IsZero() {
			t.tell(f, w.client, Record{
				Step: link.StepClientOut.String(), Len: n, Text: "written by " + orWord(w.owner, "a program"), Socket: name, Owner: w.owner,
			})
		}
		t.tell(f, w.at, Record{
			Step: link.StepSocketWrite.String(), Len: n, Text: "handed to the socket", Socket: name,
			Owner: t.owner("tcp", f.pkt.source(), f.pkt.destination()),
		})
	}
}
