package spec

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/tap"
)

// tapKind is a TAP interface of the kernel.
func tapKind() kind {
	return kind{
		name: "tap",
		bare: func(s string) bool { return strings.HasPrefix(s, "tap") },
		options: []option{
			{"queues", "N", number(1, tap.MaxQueues)},
			{"driver", tap.DriverNative + "|" + tap.DriverWater, word(tap.DriverNative, tap.DriverWater)},
			{"offload", tap.OffloadAuto + "|" + tap.OffloadOff, word(tap.OffloadAuto, tap.OffloadOff)},
			{"sndbuf", "BYTES", number(1, 1<<31-1)},
			{"mtu", "BYTES", number(link.MinMTU, tap.MaxMTU)},
			{"persist", "", nil},
			{"owner", "USER", func(s string) error { _, err := userID(s); return err }},
			{"group", "GROUP", func(s string) error { _, err := groupID(s); return err }},
			{"speed", "MBIT", number(1, 1<<31-1)},
			{"duplex", "full|half", word("full", "half")},
		},
		check: func(s Spec) error {
			if s.Name == "" {
				return errors.New(`a name is missing: use tap:tap0, or tap:tap%d for the first free number`)
			}
			cfg := s.tap(Env{})
			return cfg.Check()
		},
		open: func(s Spec, env Env) (link.Device, error) { return tap.Open(s.tap(env)) },
	}
}

// tap returns the Config a checked Spec means.
func (s Spec) tap(env Env) tap.Config {
	cfg := tap.Config{Name: s.Name, Logger: env.Logger}
	cfg.Driver, _ = s.lookup("driver")
	cfg.Offload, _ = s.lookup("offload")
	cfg.Queues = s.number("queues")
	cfg.SndBuf = s.number("sndbuf")
	cfg.MTU = s.number("mtu")
	_, cfg.Persist = s.lookup("persist")
	if v, ok := s.lookup("owner"); ok {
		if id, err := userID(v); err == nil {
			cfg.Owner = &id
		}
	}
	if v, ok := s.lookup("group"); ok {
		if id, err := groupID(v); err == nil {
			cfg.Group = &id
		}
	}
	cfg.Speed = s.number("speed")
	cfg.Duplex, _ = s.lookup("duplex")
	return cfg
}

// userID and groupID return the number of a name, or of a number.
func userID(s string) (int, error) {
	u, err := user.Lookup(s)
	if err == nil {
		s = u.Uid
	}
	return idNumber("user", s)
}

func groupID(s string) (int, error) {
	g, err := user.LookupGroup(s)
	if err == nil {
		s = g.Gid
	}
	return idNumber("group", s)
}

func idNumber(what, s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("there is no %s %q: use a name or a number", what, s)
	}
	return int(n), nil
}

// chardevKind is a character device that carries frames.
func chardevKind() kind {
	return kind{
		name: "chardev",
		bare: func(s string) bool { return strings.HasPrefix(s, "/dev/") },
		options: []option{
			{"dev", "IF", func(s string) error { return checkInterface("chardev", s) }},
			{"offload", tap.OffloadAuto + "|" + tap.OffloadOff, word(tap.OffloadAuto, tap.OffloadOff)},
			{"mtu", "BYTES", number(link.MinMTU, tap.MaxMTU)},
			{"once", "", nil},
		},
		check: func(s Spec) error {
			if s.Name == "" {
				return errors.New("a path is missing: use chardev:/dev/xtun, with ,dev=xtun to name the interface behind it")
			}
			return nil
		},
		open: func(s Spec, env Env) (link.Device, error) { return tap.OpenChar(s.char(env)) },
	}
}

// char returns the CharConfig a checked Spec means.
func (s Spec) char(env Env) tap.CharConfig {
	cfg := tap.CharConfig{Path: s.Name, MTU: s.number("mtu"), Logger: env.Logger}
	cfg.Interface, _ = s.lookup("dev")
	cfg.Offload, _ = s.lookup("offload")
	_, cfg.Once = s.lookup("once")
	return cfg
}

// pipeKind is a wire in memory. It has two ends in one program, so that it is of
// no use to a daemon: the one who opens it must want the other end.
func pipeKind() kind {
	return kind{
		name: "pipe",
		bare: func(s string) bool { return s == "pipe" },
		options: []option{
			{"queues", "N", number(1, tap.MaxQueues)},
			{"mtu", "BYTES", number(link.MinMTU, link.MaxMTU)},
		},
		check: func(s Spec) error {
			if s.Name != "" {
				return errors.New("a pipe has no name: leave out what follows the colon")
			}
			return nil
		},
		open: func(s Spec, env Env) (link.Device, error) {
			if env.Pipe == nil {
				return nil, fmt.Errorf("link %q: nothing in this program is at the pipe's other end: use tap:tap0", s)
			}
			near, far := link.Pipe(link.PipeConfig{Queues: s.number("queues"), MTU: s.number("mtu")})
			env.Pipe(far)
			return near, nil
		},
	}
}

// number returns the value of a checked option, 0 where it is not given.
func (s Spec) number(name string) int {
	v, _ := s.lookup(name)
	n, _ := strconv.Atoi(v)
	return n
}

// number returns a check for decimal numbers.
func number(low, high int) func(string) error {
	return func(s string) error {
		n, err := strconv.Atoi(s)
		if err != nil || n < low || n > high || s != strconv.Itoa(n) {
			return fmt.Errorf("%q is not a number from %d to %d", s, low, high)
		}
		return nil
	}
}

// word returns a check for one of some words.
func word(words ...string) func(string) error {
	return func(s string) error {
		for _, w := range words {
			if s == w {
				return nil
			}
		}
		return fmt.Errorf("unknown value %q%s: use one of %s", s, nearest(s, words), strings.Join(words, ", "))
	}
}
