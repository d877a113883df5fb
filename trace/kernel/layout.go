package kernel

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// A layout holds what the programs must know of the running kernel: byte offsets of
// fields, arguments of tracepoints, names of reasons.
type layout struct {
	skb struct {
		dev, sk, iif, head, data, tail, end  int16
		length, mac, network, protocol       int16
		vlanProto, vlanTCI, refdst           int16
		pktType, ipSummed, vlanPresent       bitField
		gsoSize, gsoSegs, gsoType            int16 // of skb_shared_info
		hasVLANPresent, hasRefdst, hasShared bool
	}
	dev struct{ name, index, typ, net int16 }
	ns  struct{ inum int16 }
	sk  struct{ net, family, protocol, port int16 }
	dst struct{ dev int16 }

	args    map[string][]string // tracepoint → types of its arguments
	drops   map[uint32]string   // enum skb_drop_reason
	subsys  map[uint32]string   // enum skb_drop_reason_subsys
	rejects map[uint32]string   // enum sk_rst_reason
}

// bitField is a bit field within one byte.
type bitField struct {
	at    int16
	shift uint8
	mask  uint8
}

func (b bitField) of(v uint8) uint8 { return v >> b.shift & b.mask }

// layoutOf reads the layout out of the kernel's BTF. bigEndian tells from which end
// the machine counts bits.
func layoutOf(spec *btf.Spec, bigEndian bool) (*layout, error) {
	l := new(layout)
	f := &finder{spec: spec, bigEndian: bigEndian}

	skb := f.structure("sk_buff")
	l.skb.dev = f.field(skb, "dev")
	l.skb.sk = f.field(skb, "sk")
	l.skb.iif = f.field(skb, "skb_iif")
	l.skb.head = f.field(skb, "head")
	l.skb.data = f.field(skb, "data")
	l.skb.tail = f.field(skb, "tail")
	l.skb.end = f.field(skb, "end")
	l.skb.length = f.field(skb, "len")
	l.skb.mac = f.field(skb, "mac_header")
	l.skb.network = f.field(skb, "network_header")
	l.skb.protocol = f.field(skb, "protocol")
	l.skb.vlanProto = f.field(skb, "vlan_proto")
	l.skb.vlanTCI = f.field(skb, "vlan_tci")
	l.skb.pktType = f.bitField(skb, "pkt_type")
	l.skb.ipSummed = f.bitField(skb, "ip_summed")
	if f.has(skb, "vlan_present") { // until Linux 6.2
		l.skb.hasVLANPresent = true
		l.skb.vlanPresent = f.bitField(skb, "vlan_present")
	}
	dst := f.structure("dst_entry")
	if f.has(skb, "_skb_refdst") && f.has(dst, "dev") {
		l.skb.hasRefdst = true
		l.skb.refdst = f.field(skb, "_skb_refdst")
		l.dst.dev = f.field(dst, "dev")
	}
	shared := f.structure("skb_shared_info")
	l.skb.gsoSize = f.field(shared, "gso_size")
	l.skb.gsoSegs = f.field(shared, "gso_segs")
	l.skb.gsoType = f.field(shared, "gso_type")

	dev := f.structure("net_device")
	l.dev.name = f.field(dev, "name")
	l.dev.index = f.field(dev, "ifindex")
	l.dev.typ = f.field(dev, "type")
	l.dev.net = f.field(dev, "nd_net.net")
	l.ns.inum = f.field(f.structure("net"), "ns.inum")
	sk := f.structure("sock")
	l.sk.net = f.field(sk, "__sk_common.skc_net.net")
	l.sk.family = f.field(sk, "__sk_common.skc_family")

	l.args = make(map[string][]string)
	for _, p := range probes() {
		if args := f.arguments(p.name); args != nil {
			l.args[p.name] = args
		}
	}
	if f.has(sk, "sk_protocol") && f.size(sk, "sk_protocol") == 2 { // a byte's bits until Linux 5.6
		l.sk.protocol = f.field(sk, "sk_protocol")
		l.sk.port = f.field(sk, "__sk_common.skc_num")
	} else {
		delete(l.args, Ready)
	}
	l.drops = f.enum("skb_drop_reason", "SKB_DROP_REASON_")
	l.subsys = f.enum("skb_drop_reason_subsys", "SKB_DROP_REASON_SUBSYS_")
	l.rejects = f.enum("sk_rst_reason", "SK_RST_REASON_")
	return l, f.err
}

// dropReason names a value of kfree_skb. The upper half is the subsystem it is of.
func (l *layout) dropReason(v uint32) string {
	if name, ok := l.drops[v]; ok {
		return name
	}
	if name, ok := l.subsys[v>>16]; ok && v>>16 != 0 {
		return fmt.Sprintf("%s:%d", name, v&0xffff)
	}
	return fmt.Sprintf("%d:%d", v>>16, v&0xffff)
}

// rejectReason names a value of tcp_send_reset.
func (l *layout) rejectReason(v uint32) string {
	if name, ok := l.rejects[v]; ok {
		return name
	}
	return fmt.Sprint(v)
}

// A finder looks types up and keeps the first error.
type finder struct {
	spec      *btf.Spec
	bigEndian bool
	err       error
}

func (f *finder) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *finder) structure(name string) *btf.Struct {
	var s *btf.Struct
	if err := f.spec.TypeByName(name, &s); err != nil {
		f.fail(fmt.Errorf("struct %s in the kernel's BTF: %w", name, err))
		return &btf.Struct{Name: name}
	}
	return s
}

// field returns the offset of a field; its path may lead through named members.
func (f *finder) field(s *btf.Struct, path string) int16 {
	m, offset, ok := walk(s, path)
	switch {
	case !ok:
		f.fail(fmt.Errorf("struct %s of this kernel has no field %s", s.Name, path))
	case m.BitfieldSize != 0 || offset%8 != 0 || offset/8 > math.MaxInt16:
		f.fail(fmt.Errorf("field %s of struct %s: not at a usable offset", path, s.Name))
	default:
		return int16(offset / 8)
	}
	return 0
}

func (f *finder) has(s *btf.Struct, path string) bool {
	_, _, ok := walk(s, path)
	return ok
}

// size returns the bytes of a field, 0 for a bit field.
func (f *finder) size(s *btf.Struct, path string) int {
	m, _, ok := walk(s, path)
	if !ok || m.BitfieldSize != 0 {
		return 0
	}
	n, err := btf.Sizeof(m.Type)
	if err != nil {
		return 0
	}
	return n
}

// bitField returns a bit field that lies within one byte.
func (f *finder) bitField(s *btf.Struct, path string) bitField {
	m, offset, ok := walk(s, path)
	size := uint32(m.BitfieldSize)
	if size == 0 {
		size = 8
	}
	first := offset % 8
	switch {
	case !ok:
		f.fail(fmt.Errorf("struct %s of this kernel has no field %s", s.Name, path))
		return bitField{}
	case first+size > 8 || offset/8 > math.MaxInt16:
		f.fail(fmt.Errorf("bit field %s of struct %s: not within a byte", path, s.Name))
		return bitField{}
	}
	b := bitField{at: int16(offset / 8), shift: uint8(first), mask: uint8(1<<size - 1)}
	if f.bigEndian {
		b.shift = uint8(8 - first - size)
	}
	return b
}

// walk finds a member by its path, through unnamed structures and unions, and its
// offset in bits.
func walk(t btf.Type, path string) (btf.Member, uint32, bool) {
	name, rest, deeper := strings.Cut(path, ".")
	for _, m := range membersOf(t) {
		switch {
		case m.Name == name && !deeper:
			return m, uint32(m.Offset), true
		case m.Name == name:
			found, offset, ok := walk(m.Type, rest)
			return found, uint32(m.Offset) + offset, ok
		case m.Name == "":
			if found, offset, ok := walk(m.Type, path); ok {
				return found, uint32(m.Offset) + offset, true
			}
		}
	}
	return btf.Member{}, 0, false
}

func membersOf(t btf.Type) []btf.Member {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		return t.Members
	case *btf.Union:
		return t.Members
	}
	return nil
}

// arguments returns the types of a tracepoint's arguments, by the function type that
// the kernel declares for its probes; nil where it has no such tracepoint.
func (f *finder) arguments(tracepoint string) []string {
	var def *btf.Typedef
	if err := f.spec.TypeByName("btf_trace_"+tracepoint, &def); err != nil {
		if !errors.Is(err, btf.ErrNotFound) {
			f.fail(fmt.Errorf("tracepoint %s in the kernel's BTF: %w", tracepoint, err))
		}
		return nil
	}
	ptr, ok := btf.UnderlyingType(def).(*btf.Pointer)
	if !ok {
		return nil
	}
	proto, ok := ptr.Target.(*btf.FuncProto)
	if !ok || len(proto.Params) == 0 {
		return nil
	}
	args := make([]string, 0, len(proto.Params)-1)
	for _, p := range proto.Params[1:] { // the first is the probe's own data
		args = append(args, typeName(p.Type))
	}
	return args
}

// typeName names what an argument is or points to.
func typeName(t btf.Type) string {
	t = btf.UnderlyingType(t)
	if p, ok := t.(*btf.Pointer); ok {
		t = btf.UnderlyingType(p.Target)
	}
	return t.TypeName()
}

// enum returns an enumeration's names without their prefix; none where the kernel
// has no such type.
func (f *finder) enum(name, prefix string) map[uint32]string {
	values := make(map[uint32]string)
	var e *btf.Enum
	if err := f.spec.TypeByName(name, &e); err != nil {
		return values
	}
	for _, v := range e.Values {
		if _, ok := values[uint32(v.Value)]; !ok {
			values[uint32(v.Value)] = strings.TrimPrefix(v.Name, prefix)
		}
	}
	return values
}
