package tap

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// An existing is what the kernel says of an interface before we attach to it: the
// attributes IFLA_TUN_* of rtnetlink (include/uapi/linux/if_link.h).
type existing struct {
	kind string // IFLA_INFO_KIND, such as "tun" or "macvtap"; "" for a card
	// tap is false for anything but a TAP interface: a TUN one, or a card.
	tap bool
	// owner is the user it was made for, or -1.
	owner               int
	persist, multiQueue bool
	// info says that each frame has packet information before it (struct tun_pi).
	info bool
	// queues is the number of attached descriptors of a multi-queue tap. Of a
	// single-queue one the kernel does not tell; there it answers EBUSY itself.
	queues int
}

// lookup finds an interface by name in the thread's network namespace. It returns
// nil if there is none, or if the kernel does not answer: what follows then fails
// or not, only with a poorer message.
func lookup(name string) *existing {
	rib, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil
	}
	msgs, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if msgs[i].Header.Type != unix.RTM_NEWLINK {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&msgs[i])
		if err != nil {
			continue
		}
		var info []byte
		found := false
		for _, a := range attrs {
			switch a.Attr.Type &^ unix.NLA_F_NESTED {
			case unix.IFLA_IFNAME:
				found = cString(a.Value) == name
			case unix.IFLA_LINKINFO:
				info = a.Value
			}
		}
		if found {
			return parseLinkInfo(info)
		}
	}
	return nil
}

// kindOf returns the kind of an interface, or "".
func kindOf(name string) string {
	if e := lookup(name); e != nil {
		return e.kind
	}
	return ""
}

// parseLinkInfo reads the attribute IFLA_LINKINFO.
func parseLinkInfo(b []byte) *existing {
	e := &existing{owner: -1}
	kind, data := "", []byte(nil)
	eachAttr(b, func(t uint16, v []byte) {
		switch t {
		case unix.IFLA_INFO_KIND:
			kind = cString(v)
		case unix.IFLA_INFO_DATA:
			data = v
		}
	})
	if e.kind = kind; kind != "tun" {
		return e
	}
	eachAttr(data, func(t uint16, v []byte) {
		switch {
		case len(v) >= 4 && t == unix.IFLA_TUN_OWNER:
			e.owner = int(binary.NativeEndian.Uint32(v))
		case len(v) >= 4 && t == unix.IFLA_TUN_NUM_QUEUES:
			e.queues = int(binary.NativeEndian.Uint32(v))
		case len(v) >= 1 && t == unix.IFLA_TUN_TYPE:
			e.tap = v[0] == unix.IFF_TAP
		case len(v) >= 1 && t == unix.IFLA_TUN_PI:
			e.info = v[0] != 0
		case len(v) >= 1 && t == unix.IFLA_TUN_PERSIST:
			e.persist = v[0] != 0
		case len(v) >= 1 && t == unix.IFLA_TUN_MULTI_QUEUE:
			e.multiQueue = v[0] != 0
		}
	})
	return e
}

// eachAttr walks nested attributes (struct nlattr, aligned to 4 bytes) and stops
// at the first that does not fit.
func eachAttr(b []byte, f func(t uint16, v []byte)) {
	for len(b) >= 4 {
		n := int(binary.NativeEndian.Uint16(b))
		if n < 4 || n > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}
