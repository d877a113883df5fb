package link

import (
	"slices"
	"sync/atomic"
)

// A Drop says why a Device did not pass a frame on. Every frame that reaches a
// Device is either counted as passed or under exactly one Drop.
type Drop uint8

// The reasons, received first. Their names are those of Stats.Drops.
const (
	DropRxShort    Drop = iota // shorter than an Ethernet header
	DropRxOversize             // longer than the reader's buffer
	DropRxOffload              // virtio header malformed or not within the frame
	DropRxError                // any other error of the wire
	DropRxLost                 // lost on purpose, see Impair
	DropRxLimit                // the queue of an impaired wire is full
	DropRxForeign              // of another network on the same wire: another VNI, another I-SID
	DropRxFull                 // the kernel's queue for us is full: we read too slowly
	DropTxShort                // shorter than an Ethernet header
	DropTxOversize             // longer than the MTU (no GSO type) or than MaxFrame
	DropTxOffload              // offload metadata invalid or not taken by the device
	DropTxDown                 // the interface is down (EIO)
	DropTxFull                 // the wire's queue is full (EAGAIN, ENOBUFS)
	DropTxError                // any other error of the wire
	DropTxLost                 // lost on purpose, see Impair
	DropTxLimit                // the queue of an impaired wire is full
	numDrops
)

var dropNames = [numDrops]string{
	"rx_short", "rx_oversize", "rx_offload", "rx_error", "rx_lost", "rx_limit", "rx_foreign", "rx_full",
	"tx_short", "tx_oversize", "tx_offload", "tx_down", "tx_full", "tx_error",
	"tx_lost", "tx_limit",
}

// String returns the reason as it is named in Stats.Drops: "tx_down".
func (d Drop) String() string {
	if d >= numDrops {
		return "unknown"
	}
	return dropNames[d]
}

// DropReasons returns the names of all Drops, as in Stats.Drops.
func DropReasons() []string { return slices.Clone(dropNames[:]) }

// Stats are a Device's counters since it was opened. RX is towards the reader.
type Stats struct {
	RxFrames uint64 `json:"rx_frames"`
	RxBytes  uint64 `json:"rx_bytes"` // Ethernet header included
	TxFrames uint64 `json:"tx_frames"`
	TxBytes  uint64 `json:"tx_bytes"`
	// Drops holds the reasons that occurred.
	Drops map[string]uint64 `json:"drops,omitempty"`
	// Waiting says why nothing gets through for now, of a Device that waits for its far end to come
	// or to come again; "" where it is there, or nothing can be known of it.
	Waiting string `json:"waiting,omitempty"`
}

// Counters are the live form of Stats, for drivers to embed. The zero value is
// ready; all methods may be called concurrently.
type Counters struct {
	rxFrames, rxBytes, txFrames, txBytes atomic.Uint64
	drops                                [numDrops]atomic.Uint64
	told                                 atomic.Pointer[func(Drop, []byte)]
}

// Rx counts frames read, and their bytes.
func (c *Counters) Rx(frames, bytes int) {
	c.rxFrames.Add(uint64(frames))
	c.rxBytes.Add(uint64(bytes))
}

// Tx counts frames that the wire took, and their bytes.
func (c *Counters) Tx(frames, bytes int) {
	c.txFrames.Add(uint64(frames))
	c.txBytes.Add(uint64(bytes))
}

// Drop counts one frame that was not passed on.
func (c *Counters) Drop(why Drop) { c.drops[why].Add(1) }

// DropFrame is Drop for a frame on its way to the reader whose bytes are there, or as many as
// are: whoever asked by TellDrops is told.
func (c *Counters) DropFrame(why Drop, frame []byte) {
	c.Drop(why)
	if f := c.told.Load(); f != nil {
		(*f)(why, frame)
	}
}

// TellDrops implements DropTeller.
func (c *Counters) TellDrops(f func(why Drop, frame []byte)) {
	if f == nil {
		c.told.Store(nil)
		return
	}
	c.told.Store(&f)
}

// A DropTeller is a Device that tells of the frames which it drops on their way to the
// reader.
type DropTeller interface {
	// TellDrops has f called for each such frame, as far as its bytes are known: what did
	// not fit the reader's buffer is missing. f is called by goroutines that read,
	// several at once, must not wait for anything, and may use frame until it returns. A
	// nil f ends it, except for calls that are under way. There is one f at a time.
	TellDrops(f func(why Drop, frame []byte))
}

// tellDrops passes a request on to a Device within another.
func tellDrops(dev Device, f func(why Drop, frame []byte)) {
	if t, ok := dev.(DropTeller); ok {
		t.TellDrops(f)
	}
}

// Stats returns the counters' values.
func (c *Counters) Stats() Stats {
	s := Stats{
		RxFrames: c.rxFrames.Load(), RxBytes: c.rxBytes.Load(),
		TxFrames: c.txFrames.Load(), TxBytes: c.txBytes.Load(),
	}
	for i := range c.drops {
		if n := c.drops[i].Load(); n > 0 {
			if s.Drops == nil {
				s.Drops = make(map[string]uint64)
			}
			s.Drops[Drop(i).String()] = n
		}
	}
	return s
}
