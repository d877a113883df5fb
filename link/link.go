// Package link is the frame contract of ustack: a Device carries whole Ethernet
// frames between a wire (a TAP interface, a pipe, a socket) and whoever reads and
// writes its queues.
//
// Every driver is held to the contract below by the behaviour suite in
// link/linktest. Tools that look at or disturb frames are Devices wrapped around
// Devices.
package link

import (
	"errors"
	"fmt"
	"net"
)

// Sizes, in bytes.
const (
	// HeaderLen is the length of an Ethernet header: destination, source and
	// EtherType (IEEE 802.3, clause 3.2). Every frame carries all of it.
	HeaderLen = 14

	// MaxFrame is the longest frame a Device may carry: an Ethernet header, an
	// IPv6 header and the largest IPv6 payload (RFC 8200 section 3). It bounds
	// super-frames as well as frames of a jumbo MTU. Buffers of this size never
	// truncate.
	MaxFrame = HeaderLen + 40 + 65535

	// MinMTU is the smallest MTU an IPv4 link may have (RFC 791 section 3.2);
	// IPv6 needs MinMTU6 (RFC 8200 section 5).
	MinMTU  = 68
	MinMTU6 = 1280

	// MaxMTU is the largest MTU a Device may state.
	MaxMTU = 65535
)

// Errors that end a Device. Both are final: every later call returns the same.
var (
	// ErrClosed is returned after Close. errors.Is(ErrClosed, net.ErrClosed) holds.
	ErrClosed error = closedError{}

	// ErrGone is returned when the wire itself went away under the Device: the
	// interface was deleted, the far end of a pipe was closed.
	ErrGone = errors.New("link: device is gone")
)

type closedError struct{}

func (closedError) Error() string        { return "link: device closed" }
func (closedError) Is(target error) bool { return target == net.ErrClosed }

// Info is what a Device states about itself, once: it does not change while the
// Device is open.
type Info struct {
	// Name is the wire's own name, such as "tap0".
	Name string
	// Kind is the driver's name in a SPEC, such as "tap" or "pipe".
	Kind string
	// HardwareAddr is the address of the host's interface at the other side of
	// the wire, 6 bytes, or nil where there is none. It is not the address of
	// whoever reads the Device: two stations need two addresses.
	HardwareAddr net.HardwareAddr
	// Station is the one address whose frames the wire delivers, beside those for groups, 6 bytes, or
	// nil where it delivers those of any: whoever reads the Device has to use it as its own.
	Station net.HardwareAddr
	// MTU is the largest payload of a frame in bytes, the 14 bytes of the header
	// not counted. A super-frame may be longer, see Offload.
	MTU int
	// RX are the offloads that frames read may carry, TX those that frames
	// written may carry. A reader that cannot deal with an offload in RX, and a
	// writer that needs one not in TX, must finish the frame in software.
	RX, TX Offloads
	// Driver says how the frames are moved, for people: "tun", "water", "memory".
	Driver string
}

// A Frame is one frame read: a buffer that the caller owns and offers, and what
// the Device put into it.
type Frame struct {
	// Buf is offered by the caller. A frame longer than len(Buf) is dropped and
	// counted as DropOversize; MaxFrame bytes are always enough.
	Buf []byte
	// N is the length of the frame, in Buf[:N], set by Read.
	N int
	// Offload is what the wire says of the frame's checksum and segmentation, set
	// by Read. It has passed Validate.
	Offload Offload
	// Drop is for the reader to set before its next Read, where it drops the frame: the
	// counter under which it did, such as "rx_otherhost". A Device that records frames
	// looks at it then, and clears it in those that it returns.
	Drop string
}

// An OutFrame is one frame to write, gathered from pieces.
type OutFrame struct {
	// Pieces is the frame in order, from the first byte of its Ethernet header.
	// Empty pieces are allowed.
	Pieces [][]byte
	// Offload is what the device is left to finish. It must be within Info.TX.
	Offload Offload
}

// Len returns the number of bytes of the frame.
func (f *OutFrame) Len() int {
	n := 0
	for _, p := range f.Pieces {
		n += len(p)
	}
	return n
}

// A Queue is one lane of a Device. Frames of one flow stay on one queue, so that
// their order is kept.
type Queue interface {
	// Read blocks until at least one frame is there, then fills as many of frames
	// as are ready without waiting for more, in wire order, and returns their
	// number. A driver may return one frame a call. With no frames it returns 0
	// at once. Only one goroutine reads a queue at a time. Frames that are
	// malformed, shorter than HeaderLen or longer than their buffer are dropped,
	// counted, and never returned.
	//
	// The error is ErrClosed after Close, or ErrGone (possibly wrapped) when the
	// wire is gone; n is then 0. No other condition of the wire is an error. What a
	// wire still holds of before it went may be read first, or be lost.
	Read(frames []Frame) (n int, err error)

	// Write puts frames on the wire in order and returns how many the wire took.
	// It never waits for a consumer: what a full or downed wire does not take is
	// dropped and counted, and the next frame is tried. It keeps no reference to
	// the pieces or the slice once it has returned. Any number of goroutines may
	// write one queue; the frames of one call stay in order.
	//
	// The error is ErrClosed or ErrGone (possibly wrapped), as for Read; n frames were
	// taken before it, and those after it are neither tried nor counted. A frame
	// shorter than HeaderLen, longer than MaxFrame, longer than the MTU allows
	// without a GSO type, or with an invalid Offload is dropped and counted.
	Write(frames []OutFrame) (n int, err error)
}

// A Device is a wire with its queues.
type Device interface {
	// Info returns what the Device states about itself.
	Info() Info
	// Queues returns the device's queues, at least one, always the same.
	Queues() []Queue
	// Stats returns the counters of all queues.
	Stats() Stats
	// Close releases the wire and unblocks every Read and Write. It is harmless
	// to call it twice, or from several goroutines; all calls return once the
	// wire is released.
	Close() error
}

// CheckMTU returns an error that names the allowed range if mtu, in bytes, is
// outside of it.
func CheckMTU(mtu int) error {
	if mtu < MinMTU || mtu > MaxMTU {
		return fmt.Errorf("MTU %d is out of range: use %d to %d bytes (IPv6 needs at least %d)", mtu, MinMTU, MaxMTU, MinMTU6)
	}
	return nil
}
