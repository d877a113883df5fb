package runner

import (
	"encoding/binary"
	"net"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// An optionKey is an option as setsockopt names it.
type optionKey struct{ level, name int }

// An optionRule is how an integer option is passed on to the stack.
type optionRule struct {
	wire     string // its name in control's protocol.md
	min, max int    // what Linux takes; others are EINVAL
	// initial is what getsockopt answers before it is set.
	initial int
	// as, if set, turns the program's value into what is kept and passed on.
	as func(v int) int
}

func asSwitch(v int) int {
	if v != 0 {
		return 1
	}
	return 0
}

const maxInt32 = 1<<31 - 1

// intValue decodes the value of an integer option. Like the kernel's it may be longer; options of
// level IPPROTO_IP may be a byte.
func intValue(level int, value []byte) (int, syscall.Errno) {
	switch {
	case len(value) >= 4:
		return int(int32(binary.NativeEndian.Uint32(value))), 0
	case level == unix.IPPROTO_IP && len(value) >= 1:
		return int(value[0]), 0
	}
	return 0, unix.EINVAL
}

// intBytes encodes the value of an integer option.
func intBytes(v int) []byte {
	return binary.NativeEndian.AppendUint32(nil, uint32(int32(v)))
}

// nature answers what is the same for every socket of the stack: SO_TYPE, SO_DOMAIN and
// SO_PROTOCOL.
func (s *socket) nature(level, name int) (int, bool) {
	if level != unix.SOL_SOCKET {
		return 0, false
	}
	switch name {
	case unix.SO_TYPE:
		return s.typ, true
	case unix.SO_DOMAIN:
		return s.domain, true
	case unix.SO_PROTOCOL:
		return s.proto, true
	}
	return 0, false
}

// bindToDevice is SO_BINDTODEVICE: the stack has one link besides its loopback, so that a name which is
// there changes nothing.
func (s *socket) bindToDevice(c *call, value []byte) verdict {
	name, _, _ := strings.Cut(string(value), "\x00")
	if name == "" {
		return ret(0)
	}
	return c.later(func() verdict {
		links, err := s.sup.daemon.client.Links(s.sup.ctx)
		if err != nil {
			return fail(errnoOf(err))
		}
		if slices.ContainsFunc(links, func(l control.Link) bool { return l.Name == name }) {
			return ret(0)
		}
		if _, err := net.InterfaceByName(name); err == nil { // of the program's own namespace
			return ret(0)
		}
		return fail(unix.ENODEV)
	})
}
