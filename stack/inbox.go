package stack

import (
	"encoding/binary"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// An inbox holds the datagrams that a socket's reader has not taken. They are taken from
// netstack when they arrive: its own queue counts nothing but payload, so empty datagrams
// would be queued without end, and each holds 740 bytes of memory at least. Here they lie
// one after another in one ring, with a header of letterHead bytes each, so that an inbox
// holds what it counts.
type inbox struct {
	mu     sync.Mutex
	ring   []byte // grows with what waits
	head   int    // offset of the oldest
	used   int    // bytes of all, headers included
	closed bool
	// How many datagrams were queued so far, and taken.
	arrived, left uint64
	err           tcpip.Error // an error that came along, until somebody asks

	// While one is received:
	limit   int
	partial int  // bytes of it so far, with its header
	over    bool // there is no room for it

	// The ring is given back if after so many times empty it was never used.
	emptied, peak int
}

// letterHead is the length of the header before each datagram: 4 bytes of payload length,
// 2 of the sender's port, 1 of TTL, 1 of TOS, 1 each of the length of the sender's address
// and the one it was sent to, 2 of nothing, and 16 each of these addresses.
const letterHead = 44

const (
	firstRing   = 2 << 10 // bytes
	emptyRounds = 256
)

// receive takes everything out of ep that waits there, and counts what it has no room
// for: limit bytes, but one datagram always. It calls seen, unless that is nil, with each
// datagram and its number, which is 0 where there was no room for it.
func (in *inbox) receive(ep tcpip.Endpoint, limit int, lost *tcpip.StatCounter, seen func(m UDPMessage, number uint64)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.limit = limit
	for errs := 0; !in.closed && errs < 2; { // netstack tells an error once
		in.partial, in.over = letterHead, in.used > 0 && in.used+letterHead > limit
		res, terr := ep.Read(in, tcpip.ReadOptions{NeedRemoteAddr: true})
		switch terr.(type) {
		case nil:
			m := message(res)
			m.N = res.Count
			if in.over {
				lost.Increment()
			} else {
				in.commit(m)
			}
			if seen != nil && in.over {
				seen(m, 0)
			} else if seen != nil {
				seen(m, in.arrived)
			}
		case *tcpip.ErrWouldBlock, *tcpip.ErrClosedForReceive:
			return
		default:
			errs++
			in.err = terr
		}
	}
}

// Write appends to the datagram that is being received. It is for receive only.
func (in *inbox) Write(p []byte) (int, error) {
	if need := in.used + in.partial + len(p); in.over || in.used > 0 && need > in.limit {
		in.over = true
	} else {
		in.reserve(need)
		in.put(in.used+in.partial, p)
		in.partial += len(p)
	}
	return len(p), nil
}

// message returns what netstack tells of a datagram.
func message(res tcpip.ReadResult) UDPMessage {
	m := UDPMessage{From: fromFull(res.RemoteAddr, 0)}
	cm := &res.ControlMessages
	switch {
	case cm.HasIPv6PacketInfo:
		m.To = fromAddress(cm.IPv6PacketInfo.Addr).Unmap()
	case cm.HasIPPacketInfo:
		m.To = fromAddress(cm.PacketInfo.DestinationAddr)
	}
	switch {
	case cm.HasHopLimit:
		m.TTL = int(cm.HopLimit)
	case cm.HasTTL:
		m.TTL = int(cm.TTL)
	}
	switch {
	case cm.HasTClass:
		m.TOS = int(cm.TClass)
	case cm.HasTOS:
		m.TOS = int(cm.TOS)
	}
	return m
}

// commit ends a datagram that was received.
func (in *inbox) commit(m UDPMessage) {
	in.reserve(in.used + in.partial)
	var h [letterHead]byte
	binary.LittleEndian.PutUint32(h[:], uint32(in.partial-letterHead))
	binary.LittleEndian.PutUint16(h[4:], m.From.Port())
	h[6], h[7] = byte(m.TTL), byte(m.TOS)
	h[8], h[9] = putAddr(h[12:28], m.From.Addr()), putAddr(h[28:44], m.To)
	in.put(in.used, h[:])
	in.used += in.partial
	in.arrived++
	in.peak = max(in.peak, in.used)
}

// putAddr writes an address and returns its length, and getAddr reads one.
func putAddr(dst []byte, a netip.Addr) byte {
	switch {
	case a.Is4():
		b := a.As4()
		return byte(copy(dst, b[:]))
	case a.IsValid():
		b := a.As16()
		return byte(copy(dst, b[:]))
	}
	return 0
}

func getAddr(src []byte, n byte) netip.Addr {
	a, _ := netip.AddrFromSlice(src[:n])
	return a
}

// reserve makes room for need bytes in all.
func (in *inbox) reserve(need int) {
	if need <= len(in.ring) {
		return
	}
	in.resize(max(need, min(max(2*len(in.ring), firstRing), in.limit)))
}

// resize replaces the ring by one of so many bytes.
func (in *inbox) resize(size int) {
	var ring []byte
	if size > 0 {
		ring = make([]byte, size)
		// What is being received comes along.
		in.get(0, ring[:min(in.used+in.partial, len(in.ring))])
	}
	in.ring, in.head = ring, 0
}

// put copies p to the offset at behind head, and get from there.
func (in *inbox) put(at int, p []byte) {
	if len(p) == 0 {
		return
	}
	at = (in.head + at) % len(in.ring)
	n := copy(in.ring[at:], p)
	copy(in.ring, p[n:])
}

func (in *inbox) get(at int, p []byte) {
	if len(p) == 0 {
		return
	}
	at = (in.head + at) % len(in.ring)
	n := copy(p, in.ring[at:])
	copy(p[n:], in.ring)
}

// take copies the oldest datagram into b, as far as it fits. An error that came along is
// first, as in Linux; without either it is ErrWouldBlock.
func (in *inbox) take(b []byte) (m UDPMessage, err tcpip.Error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.err != nil {
		err, in.err = in.err, nil
		return m, err
	}
	if in.used == 0 {
		return m, &tcpip.ErrWouldBlock{}
	}
	var h [letterHead]byte
	in.get(0, h[:])
	size := int(binary.LittleEndian.Uint32(h[:]))
	m = UDPMessage{
		N:    min(size, len(b)),
		From: netip.AddrPortFrom(getAddr(h[12:28], h[8]), binary.LittleEndian.Uint16(h[4:])),
		To:   getAddr(h[28:44], h[9]), TTL: int(h[6]), TOS: int(h[7]),
	}
	in.get(letterHead, b[:m.N])
	in.head = (in.head + letterHead + size) % len(in.ring)
	in.used -= letterHead + size
	in.left++
	if in.used == 0 {
		in.empty()
	}
	return m, nil
}

// taken returns how many datagrams were taken so far.
func (in *inbox) taken() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.left
}

// empty gives a ring back that has been too large for some time.
func (in *inbox) empty() {
	in.head = 0
	if in.emptied++; in.emptied < emptyRounds {
		return
	}
	if len(in.ring) > firstRing && in.peak < len(in.ring)/4 {
		in.ring = nil
	}
	in.emptied, in.peak = 0, 0
}

// takeErr returns the error that came along, once.
func (in *inbox) takeErr() tcpip.Error {
	in.mu.Lock()
	defer in.mu.Unlock()
	err := in.err
	in.err = nil
	return err
}

// shrink gives back what is above so many bytes and not in use.
func (in *inbox) shrink(bytes int64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.partial = 0; int64(len(in.ring)) > bytes {
		in.resize(in.used)
	}
}

// queued returns how many bytes wait, headers included.
func (in *inbox) queued() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.used
}

func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed, in.ring, in.head, in.used = true, nil, 0, 0
}

// An arrival runs a function when something happens to an endpoint, on the goroutine that
// delivers it.
type arrival struct {
	waiter.Entry
	f func()
}

func (a *arrival) watch(wq *waiter.Queue, f func()) {
	a.f = f
	a.Init(a, waiter.ReadableEvents|waiter.EventErr|waiter.EventHUp)
	wq.EventRegister(&a.Entry)
}

// NotifyEvent implements waiter.EventListener. Netstack may hold the endpoint's lock when
// it tells that the endpoint has ended.
func (a *arrival) NotifyEvent(mask waiter.EventMask) {
	if mask&waiter.EventHUp == 0 {
		a.f()
	}
}
