package trace

import (
	"time"

	"golang.org/x/sys/unix"
)

// A Record is one step of a frame, or of the bytes of a socket, as it is streamed: one
// JSON object a line.
type Record struct {
	// Time is CLOCK_MONOTONIC of the machine, in nanoseconds.
	Time int64 `json:"t"`
	// Frame numbers the frames of one stack; 0 for a step of a socket's bytes.
	Frame uint64 `json:"frame,omitempty"`
	// Dir is "in" for a frame that the stack reads, "out" for one that it sends.
	Dir string `json:"dir,omitempty"`
	// Side is "user" or "kernel".
	Side string `json:"side"`
	// Step is what happened. User side: "begin", which is a trace's first and of no frame, with
	// the stack's link, its MAC in Src and the daemon's namespace; "read", "filter", "network", "socket",
	// "write", "sent", and "end", which each frame has exactly once and last of these;
	// "device" of frames that the device has dropped before they were read;
	// "socket_read", "socket_write", "client_in", "client_out" of bytes. Kernel side: the
	// tracepoint's name.
	Step string `json:"step"`
	// Dev is the device.
	Dev string `json:"dev,omitempty"`
	// Len is bytes: of a frame with its Ethernet header, or of what passed a socket.
	Len int `json:"len,omitempty"`
	// Text says the step in words.
	Text string `json:"text,omitempty"`

	// Of a frame's first step, and of a kernel's: its addresses, its beginning (at most
	// HeadLen bytes, in base64), and what it is in one line.
	Src     string `json:"src,omitempty"`
	Dst     string `json:"dst,omitempty"`
	Head    []byte `json:"head,omitempty"`
	Summary string `json:"summary,omitempty"`

	// Socket is "tcp LOCAL > REMOTE" or "udp LOCAL", Owner who holds it.
	Socket string `json:"socket,omitempty"`
	Owner  string `json:"owner,omitempty"`

	// Of the step "end". End is one of the constants below; Reason says why, Counter under
	// which name `ustack stats` or `ustack link` counts it ("" where nothing does), By what
	// answered, and Other the number of the frame that is the answer, that was forwarded, or
	// that completed a datagram. Of a frame sent, Other is the one that it answers.
	End     string `json:"end,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Counter string `json:"counter,omitempty"`
	By      string `json:"by,omitempty"`
	Other   uint64 `json:"other,omitempty"`

	// Of a kernel's step. Packet numbers packets that no stack told of, Reason is the kernel's for
	// a drop, Where the function, NetNS the inode of the namespace.
	Packet uint64 `json:"packet,omitempty"`
	Where  string `json:"where,omitempty"`
	NetNS  uint64 `json:"netns,omitempty"`

	// Lost is how many records were lost before this one, because the reader was slow.
	Lost uint64 `json:"lost,omitempty"`
}

// HeadLen is how many bytes of a frame a Record has at most.
const HeadLen = 128

// What becomes of a frame.
const (
	EndDelivered = "delivered" // to a socket, or to a table of the stack's own
	EndAnswered  = "answered"  // by the stack itself
	EndForwarded = "forwarded" // to another station
	EndSent      = "sent"      // taken by the wire
	EndDropped   = "dropped"   // for Reason, counted under Counter
	EndQueued    = "queued"    // to a socket that had not looked at it in time
	EndUnknown   = "unknown"   // nothing told
)

// A clock tells CLOCK_MONOTONIC of times that have a monotonic reading, which in Go is
// that clock's with another beginning.
type clock struct {
	at   time.Time
	mono int64
}

func newClock() clock {
	var ts unix.Timespec
	before := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return clock{at: before} // cannot fail; without it there is still an order
	}
	return clock{at: before.Add(time.Since(before) / 2), mono: ts.Nano()}
}

func (c *clock) of(t time.Time) int64 { return c.mono + int64(t.Sub(c.at)) }

// Now returns what Record.Time is now.
func Now() int64 {
	c := newClock()
	return c.mono
}
