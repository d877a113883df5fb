package tapendpoint

import (
	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/ustack/ustack/link"
)

// A loan is a piece of netstack's pooled memory that a frame is read into, so that
// a long one need not be copied. A driver that has one frame a Read, as a tap has,
// uses the first buffer only: that is the one that is lent.
type loan struct{ view *buffer.View }

// loanLen is the size of the loan in bytes: the largest chunk that netstack pools. It
// holds whatever Linux passes unsegmented, which is less than 64 KiB with the
// Ethernet header.
const loanLen = buffer.MaxChunkSize

// loanWorth is the least length in bytes of a frame that is handed over with its
// memory. A shorter one is copied: it would waste most of the chunk.
const loanWorth = loanLen * 3 / 4

// offer puts fresh memory into f.
func (l *loan) offer(f *link.Frame) {
	l.view = buffer.NewViewSize(loanLen)
	f.Buf = l.view.AsSlice()
}

// take delivers a frame that was read into the loan, if it is long enough, and
// offers fresh memory for the next.
func (l *loan) take(e *Endpoint, f *link.Frame) bool {
	if f.N < loanWorth {
		return false
	}
	in, drop := e.accept(f)
	if drop != "" {
		return true // counted; the memory can be used again
	}
	view := l.view
	view.CapLength(f.N)
	l.offer(f)
	e.deliverCopy(in, buffer.MakeWithView(view), f.Offload.Vouched())
	return true
}

func (l *loan) release() { l.view.Release() }
