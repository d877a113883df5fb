package kernel

import (
	"slices"

	"github.com/cilium/ebpf/asm"
)

// A probe is a tracepoint to attach to.
type probe struct {
	name     string
	required bool // without it frames cannot be followed; the others came with later kernels
	// orphans: the buffer may have no device any more, so that the namespace is asked
	// of its socket or route.
	orphans bool
	// reader: a process reads what a tap or a socket had queued for it.
	reader bool
	// value is the type of the argument that is kept in the record, and of the one
	// behind it if it has the same type.
	value string
	// gone: the buffer may have been freed and must not be looked into.
	gone bool
	// socket: it tells a socket and no buffer; UDP's are told.
	socket bool
	// filter admits only buffers whose end at that place tells something.
	filter bool
}

func probes() []probe {
	return []probe{
		{name: Queue, required: true},
		{name: StartXmit, required: true},
		{name: Xmit, required: true, gone: true, value: "int"},
		{name: NetifRx, required: true},
		{name: GRO},
		{name: Receive, required: true},
		{name: Drop, required: true, orphans: true, value: "skb_drop_reason"},
		{name: Consume, filter: true},
		{name: CopyOut, orphans: true, reader: true},
		{name: ICMPSend, value: "int"},
		{name: TCPReset, orphans: true, value: "sk_rst_reason"},
		{name: TCPTake, orphans: true},
		{name: Ready, socket: true},
	}
}

// consumers are the functions whose consume_skb ends the way of a frame that was
// for this host: it was taken in, answered, or thrown away without being counted as
// a drop, as arp_rcv does on an interface that is NOARP.
func consumers() []string {
	return []string{"arp_rcv", "arp_process", "icmp_rcv", "icmpv6_rcv", "ndisc_rcv"}
}

// A span is a range of kernel addresses.
type span struct{ from, to uint64 }

// The record that the programs write. All values are in the machine's byte order
// but for those that the frame itself holds.
const (
	recMono      = 0
	recSkb       = 8
	recLocation  = 16
	recHead      = 24 // skb->head, with recData a base for the offsets
	recData      = 32
	recInum      = 40
	recIndex     = 44
	recLen       = 48
	recTail      = 52
	recEnd       = 56
	recValue     = 60
	recValue2    = 64
	recPID       = 68
	recCPU       = 72
	recGSOType   = 76
	recMAC       = 80
	recNetwork   = 82
	recProto     = 84
	recVLANProto = 86
	recVLANTCI   = 88
	recDevType   = 90
	recGSOSize   = 92
	recGSOSegs   = 94
	recHeadLen   = 96
	recStart     = 98 // offset from skb->head of the first byte copied
	recStep      = 100
	recIPSummed  = 101
	recPktType   = 102
	recVLANFlag  = 103
	recIIF       = 104
	recDev       = 112
	recComm      = 128
	recFrame     = 144

	nameLen = 16 // IFNAMSIZ, TASK_COMM_LEN
)

const noHeader = 0xffff // of mac_header and network_header that are not set

// Stack slots.
const (
	slotPtr  = -8
	slotInum = -16
	slotNum  = -24
	slotMono = -32
)

// Registers that survive calls.
const (
	ctx = asm.R6
	skb = asm.R7
	dev = asm.R8 // 0 without a device
	rec = asm.R9
)

// A program is assembled from what the kernel's layout says.
type program struct {
	l    *layout
	ins  asm.Instructions
	mark string // label of the next instruction
}

func (p *program) add(ins ...asm.Instruction) {
	for _, i := range ins {
		if p.mark != "" {
			i, p.mark = i.WithSymbol(p.mark), ""
		}
		p.ins = append(p.ins, i)
	}
}

func (p *program) label(name string) {
	if p.mark != "" { // two labels at one place
		p.add(asm.Mov.Imm(asm.R0, 0)) // R0 holds nothing where labels are
	}
	p.mark = name
}

// copy copies size bytes from a kernel address to memory of ours; R0 is 0 if that
// address could be read. Otherwise the memory is zeroed.
func (p *program) copy(to asm.Register, toOffset int16, size int32, from asm.Register, fromOffset int16) {
	p.add(
		asm.Mov.Reg(asm.R3, from),
		asm.Add.Imm(asm.R3, int32(fromOffset)),
		asm.Mov.Reg(asm.R1, to),
		asm.Add.Imm(asm.R1, int32(toOffset)),
		asm.Mov.Imm(asm.R2, size),
		asm.FnProbeReadKernel.Call(),
	)
}

// pointer loads the pointer at from+offset into to, and leaves to a label when it is
// nil or unreadable.
func (p *program) pointer(to, from asm.Register, offset int16, none string) {
	p.copy(asm.RFP, slotPtr, 8, from, offset)
	p.add(
		asm.JNE.Imm(asm.R0, 0, none),
		asm.LoadMem(to, asm.RFP, slotPtr, asm.DWord),
		asm.JEq.Imm(to, 0, none),
	)
}

// assemble builds the program of a probe.
func (l *layout) assemble(pr probe, step int, maps shared, netns []uint64, spans []span, snap int) asm.Instructions {
	p := &program{l: l}
	args := l.args[pr.name]
	arg := func(typ string) int { return slices.Index(args, typ) }

	p.add(asm.Mov.Reg(ctx, asm.R1))
	if pr.socket {
		p.socket(args)
	} else {
		p.add(asm.LoadMem(skb, ctx, int16(8*arg("sk_buff")), asm.DWord), asm.JEq.Imm(skb, 0, "out"))
		if pr.filter {
			p.admit(args, spans)
		}
		p.namespace(pr, args)
	}
	p.among(netns)
	p.reserve(maps, int32(recFrame+snap))
	p.describe(pr, args, step)
	switch {
	case pr.socket:
		p.add(asm.LoadMem(asm.R4, ctx, int16(8*arg("sock")), asm.DWord))
		p.copy(rec, recValue, 2, asm.R4, l.sk.port)
	case pr.gone:
		p.add(
			asm.LoadMem(asm.R1, ctx, int16(8*arg("unsigned int")), asm.DWord),
			asm.StoreMem(rec, recLen, asm.R1, asm.Word),
		)
	default:
		p.frame(snap)
	}
	p.add(
		asm.Mov.Reg(asm.R1, rec),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRingbufSubmit.Call(),
	)
	p.label("out")
	p.add(asm.Mov.Imm(asm.R0, 0), asm.Return())
	return p.ins
}

// admit goes on only for a buffer that ends in one of spans or, where the addresses
// are hidden, that is ARP's.
func (p *program) admit(args []string, spans []span) {
	location := slices.Index(args, "")
	if location < 0 || len(spans) == 0 {
		p.copy(asm.RFP, slotNum, 2, skb, p.l.skb.protocol)
		p.add(
			asm.LoadMem(asm.R1, asm.RFP, slotNum, asm.Half),
			asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.JNE.Imm(asm.R1, 0x0806, "out"),
		)
		return
	}
	p.add(asm.LoadMem(asm.R1, ctx, int16(8*location), asm.DWord))
	for i, s := range spans {
		// One unsigned comparison: an address below the span wraps round.
		p.add(
			asm.LoadImm(asm.R2, int64(s.from), asm.DWord),
			asm.Mov.Reg(asm.R3, asm.R1),
			asm.Sub.Reg(asm.R3, asm.R2),
			asm.LoadImm(asm.R2, int64(s.to-s.from), asm.DWord),
			asm.JLT.Reg(asm.R3, asm.R2, "admitted"),
		)
		if i == len(spans)-1 {
			p.add(asm.Ja.Label("out"))
		}
	}
	p.label("admitted")
}

// namespace leaves the device in dev and the inode of its namespace in slotInum.
func (p *program) namespace(pr probe, args []string) {
	if pr.reader { // what is a socket's, a sniffer's too, is known by that
		p.copy(asm.RFP, slotPtr, 8, skb, p.l.skb.sk)
		p.add(asm.LoadMem(asm.R1, asm.RFP, slotPtr, asm.DWord), asm.JNE.Imm(asm.R1, 0, "nodev"))
	}
	if i := slices.Index(args, "net_device"); i >= 0 {
		p.add(asm.LoadMem(dev, ctx, int16(8*i), asm.DWord), asm.JEq.Imm(dev, 0, "nodev"))
	} else {
		p.pointer(dev, skb, p.l.skb.dev, "nodev")
	}
	// The memory of skb->dev has other uses in a socket's queue; what cannot be
	// followed to a namespace was no device.
	p.pointer(asm.R4, dev, p.l.dev.net, "nodev")
	p.copy(asm.RFP, slotInum, 4, asm.R4, p.l.ns.inum)
	p.add(asm.JEq.Imm(asm.R0, 0, "found"))

	p.label("nodev")
	p.add(asm.Mov.Imm(dev, 0))
	if !pr.orphans {
		p.add(asm.Ja.Label("out"))
	} else {
		p.orphan(pr, args)
	}
	p.label("found")
}

// among goes on only if the namespace is one of netns, or netns is empty.
func (p *program) among(netns []uint64) {
	if len(netns) == 0 {
		return
	}
	p.add(asm.LoadMem(asm.R1, asm.RFP, slotInum, asm.Word))
	for _, n := range netns {
		p.add(asm.JEq.Imm32(asm.R1, int32(uint32(n)), "ours"))
	}
	p.add(asm.Ja.Label("out"))
	p.label("ours")
}

// Address families of sockets.
const (
	afUnspec = 0 // of a tap
	afInet   = 2
	afInet6  = 10
	afPacket = 17
)

// orphan finds the namespace of a buffer without a device by its socket or by the
// socket that is to receive it, else by its route. If there is none the event is left
// out.
func (p *program) orphan(pr probe, args []string) {
	families := []int32{afInet, afInet6, afPacket, afUnspec}
	if pr.reader {
		families = []int32{afInet, afInet6}
	}
	p.copy(asm.RFP, slotPtr, 8, skb, p.l.skb.sk)
	p.add(asm.LoadMem(asm.R4, asm.RFP, slotPtr, asm.DWord), asm.JNE.Imm(asm.R4, 0, "sk"))
	if i := slices.Index(args, "sock"); i >= 0 {
		p.add(asm.LoadMem(asm.R4, ctx, int16(8*i), asm.DWord), asm.StoreMem(asm.RFP, slotPtr, asm.R4, asm.DWord))
	}
	p.add(asm.JEq.Imm(asm.R4, 0, "nosk"))
	p.label("sk")
	p.socketNet(families)
	p.add(asm.Ja.Label("net"))

	p.label("nosk")
	switch {
	case pr.reader: // UDP's, which are copied in this way at times only
		p.add(asm.Ja.Label("out"))
	case p.l.skb.hasRefdst:
		p.pointer(asm.R4, skb, p.l.skb.refdst, "out")
		p.add(asm.And.Imm(asm.R4, ^7)) // the lowest bits are flags
		p.pointer(asm.R4, asm.R4, p.l.dst.dev, "out")
		p.pointer(asm.R4, asm.R4, p.l.dev.net, "out")
	default:
		p.add(asm.Ja.Label("out"))
	}
	p.label("net")
	p.inum()
}

// socketNet leaves the namespace of the socket in slotPtr in R4, and goes on only if it
// is of one of the families.
func (p *program) socketNet(families []int32) {
	p.add(asm.LoadMem(asm.R4, asm.RFP, slotPtr, asm.DWord))
	p.copy(asm.RFP, slotNum, 2, asm.R4, p.l.sk.family)
	p.add(
		asm.JNE.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R1, asm.RFP, slotNum, asm.Half),
		asm.LoadMem(asm.R4, asm.RFP, slotPtr, asm.DWord),
	)
	for _, family := range families {
		p.add(asm.JEq.Imm(asm.R1, family, "family"))
	}
	p.add(asm.Ja.Label("out"))
	p.label("family")
	p.pointer(asm.R4, asm.R4, p.l.sk.net, "out")
}

// inum leaves the inode of the namespace in R4 in slotInum.
func (p *program) inum() {
	p.copy(asm.RFP, slotInum, 4, asm.R4, p.l.ns.inum)
	p.add(asm.JNE.Imm(asm.R0, 0, "out"))
}

// socket goes on only for UDP's sockets, without a buffer or a device.
func (p *program) socket(args []string) {
	const udp = 17
	p.add(
		asm.Mov.Imm(skb, 0),
		asm.Mov.Imm(dev, 0),
		asm.LoadMem(asm.R4, ctx, int16(8*slices.Index(args, "sock")), asm.DWord),
		asm.StoreMem(asm.RFP, slotPtr, asm.R4, asm.DWord),
	)
	p.copy(asm.RFP, slotNum, 2, asm.R4, p.l.sk.protocol)
	p.add(asm.LoadMem(asm.R1, asm.RFP, slotNum, asm.Half), asm.JNE.Imm(asm.R1, udp, "out"))
	p.socketNet([]int32{afInet, afInet6})
	p.inum()
}

// reserve takes the time and a place in the ring, or counts the event as lost.
func (p *program) reserve(m shared, size int32) {
	p.add(
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.RFP, slotMono, asm.R0, asm.DWord),
		asm.LoadMapPtr(asm.R1, m.ring.FD()),
		asm.Mov.Imm(asm.R2, size),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnRingbufReserve.Call(),
		asm.JNE.Imm(asm.R0, 0, "reserved"),

		asm.StoreImm(asm.RFP, slotNum, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, m.lost.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, slotNum),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Ja.Label("out"),
	)
	p.label("reserved")
	p.add(asm.Mov.Reg(rec, asm.R0))
	// A place holds what was there before.
	p.add(asm.Mov.Imm(asm.R1, 0))
	for at := int16(0); at < recFrame; at += 8 {
		p.add(asm.StoreMem(rec, at, asm.R1, asm.DWord))
	}
}

// describe stores all but the frame itself.
func (p *program) describe(pr probe, args []string, step int) {
	p.add(
		asm.LoadMem(asm.R1, asm.RFP, slotMono, asm.DWord),
		asm.StoreMem(rec, recMono, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.RFP, slotInum, asm.Word),
		asm.StoreMem(rec, recInum, asm.R1, asm.Word),
		asm.StoreMem(rec, recSkb, skb, asm.DWord),
		asm.StoreImm(rec, recStep, int64(step), asm.Byte),
		asm.FnGetSmpProcessorId.Call(),
		asm.StoreMem(rec, recCPU, asm.R0, asm.Word),
	)
	if i := slices.Index(args, ""); i >= 0 {
		p.add(
			asm.LoadMem(asm.R1, ctx, int16(8*i), asm.DWord),
			asm.StoreMem(rec, recLocation, asm.R1, asm.DWord),
		)
	}
	if i := slices.Index(args, pr.value); i >= 0 && pr.value != "" {
		p.add(
			asm.LoadMem(asm.R1, ctx, int16(8*i), asm.DWord),
			asm.StoreMem(rec, recValue, asm.R1, asm.Word),
		)
		if i+1 < len(args) && args[i+1] == pr.value {
			p.add(
				asm.LoadMem(asm.R1, ctx, int16(8*i+8), asm.DWord),
				asm.StoreMem(rec, recValue2, asm.R1, asm.Word),
			)
		}
	}
	if pr.reader {
		p.add(
			asm.FnGetCurrentPidTgid.Call(),
			asm.RSh.Imm(asm.R0, 32),
			asm.StoreMem(rec, recPID, asm.R0, asm.Word),
			asm.Mov.Reg(asm.R1, rec),
			asm.Add.Imm(asm.R1, recComm),
			asm.Mov.Imm(asm.R2, nameLen),
			asm.FnGetCurrentComm.Call(),
		)
	}
	p.add(asm.JEq.Imm(dev, 0, "described"))
	p.copy(rec, recIndex, 4, dev, p.l.dev.index)
	p.copy(rec, recDevType, 2, dev, p.l.dev.typ)
	p.copy(rec, recDev, nameLen, dev, p.l.dev.name)
	p.label("described")
}

// frame stores what the buffer says and the head of the frame.
func (p *program) frame(snap int) {
	s := &p.l.skb
	for _, f := range []struct {
		to   int16
		size int32
		from int16
	}{
		{recHead, 8, s.head}, {recData, 8, s.data}, {recTail, 4, s.tail}, {recEnd, 4, s.end},
		{recLen, 4, s.length}, {recMAC, 2, s.mac}, {recNetwork, 2, s.network},
		{recProto, 2, s.protocol}, {recVLANProto, 2, s.vlanProto}, {recVLANTCI, 2, s.vlanTCI},
		{recIPSummed, 1, s.ipSummed.at}, {recPktType, 1, s.pktType.at}, {recIIF, 4, s.iif},
	} {
		p.copy(rec, f.to, f.size, skb, f.from)
	}
	if s.hasVLANPresent {
		p.copy(rec, recVLANFlag, 1, skb, s.vlanPresent.at)
	}
	for _, f := range []struct {
		to   int16
		size int32
		from int16
	}{{recGSOSize, 2, s.gsoSize}, {recGSOSegs, 2, s.gsoSegs}, {recGSOType, 4, s.gsoType}} {
		p.add(
			asm.LoadMem(asm.R4, rec, recHead, asm.DWord),
			asm.LoadMem(asm.R5, rec, recEnd, asm.Word),
			asm.Add.Reg(asm.R4, asm.R5),
		)
		p.copy(rec, f.to, f.size, asm.R4, f.from)
	}
	const arphrdEther, arphrdLoopback = 1, 772
	// From the MAC header if there is one, and the device's kind has an Ethernet header.
	p.add(
		asm.LoadMem(asm.R4, rec, recMAC, asm.Half),
		asm.JEq.Imm(asm.R4, noHeader, "network"),
		asm.LoadMem(asm.R1, rec, recDevType, asm.Half),
		asm.JEq.Imm(asm.R1, arphrdEther, "start"),
		asm.JEq.Imm(asm.R1, arphrdLoopback, "start"),
		asm.JEq.Imm(dev, 0, "start"),
	)
	p.label("network")
	p.add(asm.LoadMem(asm.R4, rec, recNetwork, asm.Half))
	p.label("start")
	p.add(
		asm.StoreMem(rec, recStart, asm.R4, asm.Half),
		asm.JEq.Imm(asm.R4, noHeader, "submit"),
		asm.LoadMem(asm.R2, rec, recTail, asm.Word),
		asm.JLE.Reg(asm.R2, asm.R4, "submit"),
		asm.Sub.Reg(asm.R2, asm.R4),
		asm.JLE.Imm(asm.R2, int32(snap), "fits"),
		asm.Mov.Imm(asm.R2, int32(snap)),
	)
	p.label("fits")
	p.add(
		asm.StoreMem(rec, recHeadLen, asm.R2, asm.Half),
		asm.LoadMem(asm.R3, rec, recHead, asm.DWord),
		asm.Add.Reg(asm.R3, asm.R4),
		asm.Mov.Reg(asm.R1, rec),
		asm.Add.Imm(asm.R1, recFrame),
		asm.FnProbeReadKernel.Call(),
		asm.JEq.Imm(asm.R0, 0, "submit"),
		asm.StoreImm(rec, recHeadLen, 0, asm.Half),
	)
	p.label("submit")
}
