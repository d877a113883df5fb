package kernel

import (
	"bytes"
	"encoding/binary"
	"time"
)

// decoder turns records into events.
type decoder struct {
	layout  *layout
	symbols *symbols
	snap    int
}

// decode reads one record; false if it is none.
func (d *decoder) decode(b []byte) (Event, bool) {
	all := probes()
	if len(b) < recFrame+d.snap || int(b[recStep]) >= len(all) {
		return Event{}, false
	}
	u16 := func(at int) uint16 { return binary.NativeEndian.Uint16(b[at:]) }
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(b[at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(b[at:]) }
	be16 := func(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }

	e := Event{
		Mono:    time.Duration(u64(recMono)),
		CPU:     int(u32(recCPU)),
		Step:    all[b[recStep]].name,
		Dev:     cString(b[recDev : recDev+nameLen]),
		IfIndex: int(u32(recIndex)),
		NetNS:   uint64(u32(recInum)),
		Skb:     u64(recSkb),
		Len:     int(u32(recLen)),
		PID:     int(u32(recPID)),
		Comm:    cString(b[recComm : recComm+nameLen]),
	}
	if e.Step == Xmit {
		e.RC = int(int32(u32(recValue)))
		return e, true
	}
	if e.Step == Ready {
		e.Port = u16(recValue)
		return e, true
	}
	e.Proto = be16(recProto)
	e.PktType = PktType(d.layout.skb.pktType.of(b[recPktType]))
	e.IPSummed = d.layout.skb.ipSummed.of(b[recIPSummed])
	e.GSOSize, e.GSOSegs = int(u16(recGSOSize)), int(u16(recGSOSegs))
	if !d.layout.skb.hasVLANPresent || d.layout.skb.vlanPresent.of(b[recVLANFlag]) != 0 {
		e.VLANProto, e.VLAN = be16(recVLANProto), u16(recVLANTCI)
	}
	e.InIndex = int(u32(recIIF))
	e.Socket = e.Step == CopyOut && e.IfIndex == 0
	if e.Dev == "" && e.IfIndex == 0 {
		e.IfIndex = e.InIndex
	}
	start, network := u16(recStart), u16(recNetwork)
	if start == noHeader {
		e.NoEth = true
	} else {
		// Only with both headers set their distance tells whether there is a MAC header.
		e.NoEth = start == network || u16(recMAC) != start
		// The kernel counts from skb->data, which moves as headers are taken off.
		e.Len += int(int64(u64(recData)-u64(recHead)) - int64(start))
	}
	if e.Len < 0 {
		e.Len = 0
	}
	e.Head = bytes.Clone(b[recFrame : recFrame+min(int(u16(recHeadLen)), d.snap)])
	e.Where = d.symbols.name(u64(recLocation))
	switch value := u32(recValue); e.Step {
	case Drop:
		if len(d.layout.drops) > 0 {
			e.Reason = d.layout.dropReason(value)
		}
	case TCPReset:
		if len(d.layout.rejects) > 0 {
			e.Reason = d.layout.rejectReason(value)
		}
	case ICMPSend:
		e.ICMPType, e.ICMPCode = uint8(value), uint8(u32(recValue2))
	}
	return e, true
}

// cString returns b up to its first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
