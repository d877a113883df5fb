// Package capture records the frames that cross a wire, with what became of them.
//
// A Point is a Device around a Device: as long as nobody captures, it costs one atomic
// load for each Read and Write. Each Capture of it has a filter and a bounded ring: a reader
// that is slow loses records, which are counted, and holds up no frame. Write stores
// records as pcapng, which tcpdump and Wireshark read.
package capture

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ustack/ustack/capture/filter"
	"github.com/ustack/ustack/link"
)

// Bounds of a Config.
const (
	// DefaultBuffer is the size of a ring in bytes. At 10 Gb/s it holds 25 ms.
	DefaultBuffer = 32 << 20
	// MinBuffer holds a few frames of any size.
	MinBuffer = 4 * link.MaxFrame
	MaxBuffer = 256 << 20
	// MaxCaptures is how many captures one Point serves at once.
	MaxCaptures = 16
)

// A Config says what to record.
type Config struct {
	// Filter selects frames; nil takes all.
	Filter *filter.Filter
	// SnapLen is how many bytes of a frame are kept; 0 keeps all.
	SnapLen int
	// Buffer is the size of the ring in bytes; 0 stands for DefaultBuffer.
	Buffer int
}

// A Record is one frame.
type Record struct {
	// Time is when the stack read the frame or was about to write it, by the realtime
	// clock.
	Time time.Time
	// Link is the index of the frame's Point among those captured, Queue the number of the
	// device's queue.
	Link, Queue int
	// In says that the frame was on its way to the stack. NoWay says that a file does not tell.
	In, NoWay bool
	// Len is the length of the frame in bytes, Data its beginning.
	Len  int
	Data []byte
	// Offload is what was left to do of it.
	Offload link.Offload
	// Drop is the counter under which it was dropped, such as "tx_down", or "".
	Drop string
	// Comments are others that a file has.
	Comments []string
}

// Counts are what a capture has seen.
type Counts struct {
	// Matched frames were selected by the filter, Dropped are those among them that the ring
	// had no room for.
	Matched, Dropped uint64
}

// A Capture is one capture under way. Read is for one goroutine; the other methods may
// be called by any.
type Capture struct {
	cfg    Config
	points []*Point
	ring   ring
	counts []counter // of each point
	stop   sync.Once
}

type counter struct{ matched, dropped atomic.Uint64 }

// Start begins to record what crosses the points.
func Start(cfg Config, points ...*Point) (*Capture, error) {
	switch {
	case len(points) == 0:
		return nil, errors.New("capture: no link to capture on")
	case cfg.SnapLen < 0 || cfg.SnapLen > link.MaxFrame:
		return nil, fmt.Errorf("capture: a snap length of %d bytes is out of range: use 1 to %d, or 0 for whole frames", cfg.SnapLen, link.MaxFrame)
	case cfg.Buffer == 0:
		cfg.Buffer = DefaultBuffer
	case cfg.Buffer < MinBuffer || cfg.Buffer > MaxBuffer:
		return nil, fmt.Errorf("capture: a buffer of %d bytes is out of range: use %d to %d", cfg.Buffer, MinBuffer, MaxBuffer)
	}
	if cfg.SnapLen == 0 {
		cfg.SnapLen = link.MaxFrame
	}
	c := &Capture{cfg: cfg, points: points, counts: make([]counter, len(points))}
	c.ring.init(cfg.Buffer)
	for i, p := range points {
		if err := p.add(&seat{c: c, link: i}); err != nil {
			c.Stop()
			return nil, err
		}
	}
	return c, nil
}

// Stop ends recording. What has been recorded can still be read. It is harmless to call
// it twice.
func (c *Capture) Stop() {
	c.stop.Do(func() {
		for _, p := range c.points {
			p.remove(c)
		}
		c.ring.close()
	})
}

// Read waits for records and returns as many as there are, up to len(recs). Their Data is
// valid until the next Read. The error is io.EOF when the capture was stopped and everything
// was read.
func (c *Capture) Read(recs []Record) (int, error) {
	for {
		n, ended, unsettled := c.ring.read(recs)
		switch {
		case n > 0:
			return n, nil
		case ended && !unsettled:
			return 0, io.EOF
		case ended:
			// A frame is still on its way through the stack, which may be about to end.
			t := time.NewTimer(settleTime)
			select {
			case <-c.ring.wake:
				t.Stop()
			case <-t.C:
				return 0, io.EOF
			}
		default:
			<-c.ring.wake
		}
	}
}

// settleTime is how long the end of a capture waits for what becomes of a frame.
const settleTime = 100 * time.Millisecond

// Empty reports whether Read would wait.
func (c *Capture) Empty() bool { return c.ring.empty() }

// Counts returns what was seen so far at a point.
func (c *Capture) Counts(point int) Counts {
	return Counts{Matched: c.counts[point].matched.Load(), Dropped: c.counts[point].dropped.Load()}
}
