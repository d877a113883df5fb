package kernel

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"

	"github.com/ustack/ustack/trace/key"
)

// Key returns the key of the packet; false where too little of it is known.
func (e *Event) Key() (key.Key, bool) {
	if e.NoEth {
		return key.OfNetwork(e.Proto, e.Head)
	}
	return key.Of(e.Head)
}

// A Follower recognises a packet at all its steps, on each device. The zero value is
// ready. It is for one goroutine, and wants the events in the order of Read.
type Follower struct {
	// Packets numbers the packets. Whoever sees them elsewhere, too, asks it there.
	Packets key.Packets

	now, before map[uint64]passage // by buffer
}

// passage is where a buffer was last.
type passage struct {
	key   key.Key
	step  string
	netns uint64
	index int
}

// Packet returns the number of an event's packet. It is known by its Key; by its
// buffer where the Key is not known, as with tracefs, so that copies are then others; and
// by both where a host forwards it with other addresses.
func (f *Follower) Packet(e Event) uint64 {
	k, ok := e.Key()
	last, known := f.now[e.Skb]
	if !known {
		last, known = f.before[e.Skb]
	}
	switch {
	case !ok && known:
		k = last.key
	case !ok:
		k = bufferKey(e)
	case known && e.Step == Queue && last.step == Receive &&
		e.InIndex != 0 && e.InIndex == last.index && e.NetNS == last.netns:
		// The kernel keeps in the buffer where it came in: this is no buffer used anew.
		f.Packets.Join(k, last.key)
	}
	if e.Step == Drop || e.Step == Consume {
		delete(f.now, e.Skb)
		delete(f.before, e.Skb)
	} else {
		if f.now == nil || len(f.now) >= maxKnown {
			f.now, f.before = make(map[uint64]passage), f.now
		}
		f.now[e.Skb] = passage{k, e.Step, e.NetNS, e.IfIndex}
	}
	return f.Packets.See(e.Mono, k, e.place())
}

// place is where a packet passes once only; "" for steps that may be repeated.
func (e *Event) place() string {
	switch e.Step {
	case Queue, NetifRx, Receive:
		return fmt.Sprint(e.Step, " ", e.NetNS, " ", e.IfIndex, " ", e.Dev)
	}
	return ""
}

// bufferKey makes a key for a buffer whose packet is not known.
func bufferKey(e Event) key.Key {
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, e.Skb), uint64(e.Mono)))
	return key.Key(h.Sum64())
}

// Text says in words what the step is. What is between brackets is the kernel's own
// name for it.
func (e *Event) Text() string {
	dev := e.Dev
	if dev == "" {
		dev = "an unknown device"
	}
	where := ""
	if e.Where != "" {
		where = " at " + e.Where
	}
	switch e.Step {
	case Queue:
		return "queued on " + dev
	case StartXmit:
		return "handed to the driver of " + dev
	case Xmit:
		if e.RC != 0 {
			return fmt.Sprintf("refused by the driver of %s [%s]", dev, xmitCode(e.RC))
		}
		return "taken by the driver of " + dev
	case NetifRx:
		return "arrives at " + dev
	case GRO:
		return "given to GRO of " + dev
	case Receive:
		return "received on " + dev
	case Drop:
		reason := e.Reason
		if reason == "" {
			reason = "no reason given"
		}
		return fmt.Sprintf("dropped on %s [%s]%s", dev, reason, where)
	case Consume:
		return e.consumed(dev) + where
	case CopyOut:
		if e.Socket {
			return fmt.Sprintf("read from its socket by process %d (%s)", e.PID, e.Comm)
		}
		return fmt.Sprintf("read from %s by process %d (%s)", dev, e.PID, e.Comm)
	case Ready:
		return fmt.Sprintf("queued for the UDP socket at port %d", e.Port)
	case TCPTake:
		return "taken by its TCP connection"
	case ICMPSend:
		return fmt.Sprintf("answered with ICMP type %d code %d", e.ICMPType, e.ICMPCode)
	case TCPReset:
		return fmt.Sprintf("answered with a TCP reset [%s]", e.Reason)
	}
	return e.Step
}

func (e *Event) consumed(dev string) string {
	switch {
	case e.Where != "arp_rcv":
		return "taken in on " + dev
	case e.PktType == ToOther:
		return "ignored by ARP, for it is to another host,"
	case e.Head == nil: // tracefs does not tell whom it was for
		return "ignored by ARP, for " + dev + " is NOARP or it is to another host,"
	}
	return "ignored by ARP, for " + dev + " is NOARP,"
}

// xmitCode names what a driver returns (linux/netdevice.h).
func xmitCode(rc int) string {
	switch rc {
	case 1:
		return "NET_XMIT_DROP"
	case 2:
		return "NET_XMIT_CN"
	case 0x10:
		return "NETDEV_TX_BUSY"
	}
	return fmt.Sprint(rc)
}
