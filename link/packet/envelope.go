package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"

	"github.com/ustack/ustack/link"
)

// The EtherType of an I-TAG (IEEE 802.1Q-2018, table 9-1), and the bytes of its tag control
// information before the inner addresses (clause 9.7).
const (
	etherITAG = 0x88e7
	tciLen    = 4
)

// MaxISID is the largest backbone service instance identifier (IEEE 802.1Q-2018, clause 9.7).
const MaxISID = 1<<24 - 1

// MaxHeader is the longest private header, in bytes.
const MaxHeader = 256

// An Envelope is a frame around each frame: Ethernet in Ethernet. With ISID it is that of a provider
// backbone bridge ("MAC in MAC", IEEE 802.1ah); with EtherType one of a private kind.
type Envelope struct {
	// ISID is the service instance whose frames these are. It is used unless EtherType is set.
	ISID uint32
	// EtherType is that of the outer frames, 0x0600 or more; behind it come Header bytes that mean
	// nothing here, sent as zeros, and then the inner frame.
	EtherType uint16
	// Header is the number of those bytes.
	Header int
	// Remote is where outer frames are sent. nil is the group of the service instance,
	// 01:1e:83 and the I-SID (IEEE 802.1Q-2018, table 26-1), or everybody for a private kind.
	Remote net.HardwareAddr

	out []byte // what is before each frame sent
}

// prepare checks the Envelope and makes what is before each frame.
func (e *Envelope) prepare(src net.HardwareAddr) error {
	dst := e.Remote
	switch {
	case dst != nil && len(dst) != 6:
		return fmt.Errorf("remote %q is not a hardware address of 6 bytes", dst)
	case e.EtherType != 0 && e.EtherType < 0x0600:
		return fmt.Errorf("EtherType %#04x is a length: use 0x0600 or more, such as 0x88b5", e.EtherType)
	case e.EtherType == 0 && e.Header != 0:
		return errors.New("a header of another length needs an EtherType of its own")
	case e.Header < 0 || e.Header > MaxHeader:
		return fmt.Errorf("a header of %d bytes: use 0 to %d", e.Header, MaxHeader)
	case e.ISID > MaxISID:
		return fmt.Errorf("I-SID %d is more than %d", e.ISID, MaxISID)
	}
	if dst == nil {
		dst = net.HardwareAddr{255, 255, 255, 255, 255, 255}
		if e.EtherType == 0 {
			dst = net.HardwareAddr{0x01, 0x1e, 0x83, byte(e.ISID >> 16), byte(e.ISID >> 8), byte(e.ISID)}
		}
	}
	e.out = append(append(append([]byte{}, dst...), src...), 0, 0)
	binary.BigEndian.PutUint16(e.out[12:], e.etherType())
	if e.EtherType == 0 {
		e.out = binary.BigEndian.AppendUint32(e.out, e.ISID)
	} else {
		e.out = append(e.out, make([]byte, e.Header)...)
	}
	return nil
}

func (e *Envelope) etherType() uint16 {
	if e.EtherType == 0 {
		return etherITAG
	}
	return e.EtherType
}

// overhead is how much less the inner MTU is than the outer one, in bytes. An inner frame that has a tag
// beside its MTU needs 4 more.
func (e *Envelope) overhead() int { return len(e.out) }

// open says whether the outer header of a frame, as long as ours is, belongs to what this Envelope
// carries.
func (e *Envelope) open(outer []byte) (link.Drop, bool) {
	if e.EtherType != 0 {
		return 0, true // the socket is bound to the type
	}
	// Priority, drop eligibility and use of customer addresses are in the first byte.
	if binary.BigEndian.Uint32(outer[link.HeaderLen:])&MaxISID != e.ISID {
		return link.DropRxForeign, false
	}
	return 0, true
}
