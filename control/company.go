package control

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What a program has not read yet of a stream lies in its unix socket. Where it shares
// a processor with the daemon, or does one thing after another, all else waits until it has
// read that, so there is less of it while other flows exchange messages.
const (
	// socketBuffer is what is asked for as the send buffer of a data socket, in bytes,
	// and companyBuffer what a stream gets in company.
	socketBuffer  = 2 << 20
	companyBuffer = 64 << 10
	// smallWrite and bulkWrite are what one step of a copy has at most in a flow of
	// messages, and at least in a stream, in bytes.
	smallWrite = 4 << 10
	bulkWrite  = 32 << 10
	// messages in a row make a flow of messages; what it is counts for companyTime.
	messages    = 4
	companyTime = 50 * time.Millisecond
)

// A company knows when a flow of messages last had one, in Unix nanoseconds.
type company struct{ last atomic.Int64 }

// at reports whether there are flows of messages at the time now.
func (w *company) at(now int64) bool {
	since := now - w.last.Load()
	return since >= 0 && since < int64(companyTime)
}

// A traffic is what the steps of a flow to its program look like.
type traffic struct {
	with  *company
	small int   // steps of at most smallWrite in a row
	bulk  int64 // when there was one of bulkWrite last, in Unix nanoseconds
	less  bool  // the send buffer is companyBuffer
}

// step looks at one step of n bytes to ep, at the time now.
func (t *traffic) step(ep *endpoint, n int, now int64) {
	switch {
	case n >= bulkWrite:
		t.small, t.bulk = 0, now
		if less := t.with.at(now); less != t.less {
			t.less = less
			size := socketBuffer
			if less {
				size = companyBuffer
			}
			_ = ep.control(func(fd int) error {
				setSendBuffer(fd, size)
				return nil
			})
		}
	case n > smallWrite:
		t.small = 0
	case t.small < messages:
		t.small++
	case now-t.bulk > int64(companyTime):
		t.with.last.Store(now)
	}
}

// setSendBuffer asks for a send buffer; what the kernel grants is enough to work with.
func setSendBuffer(fd, size int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, size)
	}
}
