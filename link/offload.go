package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Offloads is a set of the things that one side of a wire may leave to the other.
type Offloads uint8

// The members of Offloads.
const (
	// OffloadCsum: frames may carry a partial checksum (Offload.NeedsCsum).
	OffloadCsum Offloads = 1 << iota
	// OffloadTSO4, OffloadTSO6: TCP super-frames over IPv4 or IPv6. They imply
	// OffloadCsum.
	OffloadTSO4
	OffloadTSO6
	// OffloadECN: super-frames may have CWR set (GSO_ECN).
	OffloadECN
)

// Has reports whether every member of want is in o.
func (o Offloads) Has(want Offloads) bool { return o&want == want }

// String lists the members as ethtool abbreviates them: "csum,tso4,tso6,ecn", or "none".
func (o Offloads) String() string {
	if o == 0 {
		return "none"
	}
	var names []string
	for i, name := range []string{"csum", "tso4", "tso6", "ecn"} {
		if o&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// GSOType says how a super-frame is to be segmented (virtio 1.2, section 5.1.6,
// VIRTIO_NET_HDR_GSO_*).
type GSOType uint8

// The GSO types a Device may carry.
const (
	GSONone  GSOType = 0
	GSOTCPv4 GSOType = 1
	GSOTCPv6 GSOType = 4
)

// gsoECN is VIRTIO_NET_HDR_GSO_ECN, or'ed into the type on the wire.
const gsoECN = 0x80

// An Offload is what is known about a frame's checksum and segmentation: the
// meaning of struct virtio_net_hdr (include/uapi/linux/virtio_net.h). The zero
// value means an ordinary frame: all checksums are in place and nobody has
// verified them.
type Offload struct {
	// NeedsCsum: the checksum at CsumStart+CsumOffset holds only the
	// pseudo-header's sum; the Internet checksum from CsumStart to the end of the
	// frame is still to be put there. On a frame read it also means that the
	// content never crossed a wire that could damage it.
	NeedsCsum bool
	// DataValid: whoever handed the frame over has verified its checksums.
	DataValid bool
	// ECN: the segments of this super-frame need CWR on the first one only.
	ECN bool
	// GSOType is GSONone for an ordinary frame.
	GSOType GSOType
	// HdrLen is the length of all headers of a super-frame in bytes: a hint that
	// no reader may trust.
	HdrLen uint16
	// GSOSize is the payload of each segment of a super-frame, in bytes.
	GSOSize uint16
	// CsumStart and CsumOffset place the checksum, in bytes from the first byte
	// of the Ethernet header and from CsumStart.
	CsumStart, CsumOffset uint16
}

// Vouched reports whether the checksums of a frame read need no verification.
func (o *Offload) Vouched() bool { return o.NeedsCsum || o.DataValid }

// Errors of Validate and DecodeVirtio.
var (
	ErrOffload = errors.New("link: offload metadata does not fit the frame")
	errVirtio  = errors.New("link: virtio header is truncated")
)

// Validate reports whether o fits a frame of n bytes: every offset is inside of
// the frame, a super-frame has a segment size and only one has ECN. The error wraps ErrOffload.
func (o *Offload) Validate(n int) error {
	if o.NeedsCsum {
		if int(o.CsumStart) < HeaderLen || int(o.CsumStart)+int(o.CsumOffset)+2 > n {
			return fmt.Errorf("%w: checksum at %d+%d in %d bytes", ErrOffload, o.CsumStart, o.CsumOffset, n)
		}
	}
	switch o.GSOType {
	case GSONone:
		if o.ECN {
			return fmt.Errorf("%w: ECN without a GSO type", ErrOffload)
		}
	case GSOTCPv4, GSOTCPv6:
		if o.GSOSize == 0 {
			return fmt.Errorf("%w: GSO type %d with segment size 0", ErrOffload, o.GSOType)
		}
	default:
		return fmt.Errorf("%w: unknown GSO type %d", ErrOffload, o.GSOType)
	}
	return nil
}

// VirtioLen is the length in bytes of the virtio_net_hdr that EncodeVirtio and
// DecodeVirtio deal with: without num_buffers, as TUNSETVNETHDRSZ defaults to.
const VirtioLen = 10

// The bits of virtio_net_hdr.flags.
const (
	virtioNeedsCsum = 1
	virtioDataValid = 2
)

// EncodeVirtio writes o as a virtio_net_hdr in the given byte order (the
// machine's own for a TAP, little-endian after TUNSETVNETLE) to b[:VirtioLen].
func (o *Offload) EncodeVirtio(b []byte, order binary.ByteOrder) {
	_ = b[VirtioLen-1]
	b[0], b[1] = 0, byte(o.GSOType)
	if o.NeedsCsum {
		b[0] |= virtioNeedsCsum
	}
	if o.DataValid {
		b[0] |= virtioDataValid
	}
	if o.ECN {
		b[1] |= gsoECN
	}
	order.PutUint16(b[2:], o.HdrLen)
	order.PutUint16(b[4:], o.GSOSize)
	order.PutUint16(b[6:], o.CsumStart)
	order.PutUint16(b[8:], o.CsumOffset)
}

// DecodeVirtio reads a virtio_net_hdr from b, which must hold VirtioLen bytes.
// The result is not yet checked against a frame: call Validate.
func DecodeVirtio(b []byte, order binary.ByteOrder) (Offload, error) {
	if len(b) < VirtioLen {
		return Offload{}, errVirtio
	}
	o := Offload{
		NeedsCsum: b[0]&virtioNeedsCsum != 0,
		DataValid: b[0]&virtioDataValid != 0,
		ECN:       b[1]&gsoECN != 0,
		GSOType:   GSOType(b[1] &^ gsoECN),
		HdrLen:    order.Uint16(b[2:]),
		GSOSize:   order.Uint16(b[4:]),
	}
	if o.NeedsCsum {
		o.CsumStart, o.CsumOffset = order.Uint16(b[6:]), order.Uint16(b[8:])
	}
	if o.GSOType == GSONone {
		o.ECN, o.GSOSize = false, 0
	}
	return o, nil
}
