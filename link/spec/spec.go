// Package spec reads the description of a wire as it is given on a command line
// and opens the link.Device it means:
//
//	KIND:NAME[,option[=value]]...
//
//	tap:tap0                        a TAP interface, created or existing
//	tap:tap0,queues=2,persist       two queues; it stays when ustack ends
//	tap:tap%d,driver=water          the first free number, the portable driver
//	chardev:/dev/xtun,dev=xtun      a driver's character device, or a macvtap's /dev/tapN
//	packet:eth0                     an interface of the host, beside the host
//	macinmac:eth0,isid=42           Ethernet in Ethernet (IEEE 802.1ah)
//	macinmac:eth0,ethertype=0x88b5,header=10  the same with a header of one's own
//	vxlan:192.0.2.7,vni=42          frames over UDP (RFC 7348), several remotes with + between
//	stream:/run/q.sock              QEMU's -netdev stream, unix or HOST:PORT; ,listen waits for it
//	dgram:local=/run/a,remote=/run/b  QEMU's -netdev dgram, unix or UDP
//	fd:3                            an inherited descriptor: a tap, a socket of packets or a stream
//	pipe:                           one end of a wire in memory, see Env
//
// Every kind of wire can be impaired, in both directions alike, see
// link.ImpairConfig:
//
//	delay=20ms,jitter=2ms           times in us, ms or s
//	loss=1%,duplicate=0.1%          of all frames; also reorder and corrupt
//	rate=1gbit,limit=2000           bits per second: bit, kbit, mbit, gbit, in powers
//	                                of 1000; the limit is in frames
//	seed=7                          which accidents: the same ones in each run
package spec

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/ustack/ustack/link"
)

// A Spec is a parsed description. Two Specs of the same meaning may differ in the
// order of their options.
type Spec struct {
	// Kind is one of Kinds.
	Kind string
	// Name is the wire's name, such as "tap0"; a kind may have none.
	Name string
	// Options are in the order given, each name once.
	Options []Option
}

// An Option is one "name=value", or "name" for an option without a value.
type Option struct{ Name, Value string }

// String returns the Spec as Parse takes it: Parse(s.String()) is s
// for whatever Parse returned.
func (s Spec) String() string {
	var b strings.Builder
	b.WriteString(s.Kind + ":" + s.Name)
	for i, o := range s.Options {
		if i > 0 || s.Name != "" || !nameless(s.Kind) {
			b.WriteString(",")
		}
		b.WriteString(o.Name)
		if o.Value != "" {
			b.WriteString("=" + o.Value)
		}
	}
	return b.String()
}

// Env is what opening a Spec needs beside it. The zero value will do for all that
// has a place outside of the program.
type Env struct {
	// Logger is handed to drivers; nil discards.
	Logger *slog.Logger
	// Pipe is given the far end of a "pipe:", and owns it from then on. Where it is
	// nil, a pipe has nobody at its other end and cannot be opened.
	Pipe func(far link.Device)
}

// kinds is the registry. It is a function so that nothing can change it.
func kinds() []kind {
	all := []kind{tapKind(), chardevKind(), packetKind(), macinmacKind(), vxlanKind(), streamKind(), dgramKind(), fdKind(), pipeKind()}
	for i := range all {
		all[i].options = append(all[i].options, impairOptions()...)
	}
	return all
}

// nameless says that wires of a kind have options only: the first stands where others have a name.
func nameless(kind string) bool { return kind == "dgram" }

// A kind is a driver family as Specs know it.
type kind struct {
	name string
	// bare reports whether s, given without a kind, looks like one of these.
	bare func(s string) bool
	// options lists the options by name.
	options []option
	// check says what is wrong with the name or between the options.
	check func(Spec) error
	open  func(Spec, Env) (link.Device, error)
}

// An option is what a kind knows of one of its options.
type option struct {
	name string
	// value is a placeholder such as "N", or "" for an option that takes none.
	value string
	// check is nil when there is no value.
	check func(value string) error
}

// Kinds returns the names of all kinds.
func Kinds() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

// maxLen bounds a Spec in bytes; PATH_MAX fits.
const maxLen = 8192

// Parse reads a Spec and checks everything of it that can be checked without
// opening it. Errors are one line and name what would be valid.
func Parse(s string) (Spec, error) {
	if len(s) > maxLen {
		return Spec{}, fmt.Errorf("link %.20q...: %d bytes are too long: use at most %d", s, len(s), maxLen)
	}
	name, rest, found := strings.Cut(s, ":")
	if !found {
		return Spec{}, noKind(s)
	}
	k, err := findKind(s, name)
	if err != nil {
		return Spec{}, err
	}
	parts := strings.Split(rest, ",")
	spec := Spec{Kind: name, Name: parts[0]}
	if nameless(name) && spec.Name != "" { // dgram:local=A,remote=B
		spec.Name, parts = "", append([]string{""}, parts...)
	}
	for _, part := range parts[1:] {
		o, err := k.parseOption(s, part)
		if err != nil {
			return Spec{}, err
		}
		if _, again := spec.lookup(o.Name); again {
			return Spec{}, fmt.Errorf("link %q: option %s is given twice", s, o.Name)
		}
		spec.Options = append(spec.Options, o)
	}
	if err := k.check(spec); err != nil {
		return Spec{}, fmt.Errorf("link %q: %w", s, err)
	}
	impair := spec.impair()
	if err := impair.Check(); err != nil {
		return Spec{}, fmt.Errorf("link %q: %w", s, err)
	}
	return spec, nil
}

// Open opens what s describes. It checks s as Parse does, so that a Spec made in
// Go is held to the same rules.
func Open(s Spec, env Env) (link.Device, error) {
	p, err := Parse(s.String())
	if err != nil {
		return nil, err
	}
	if p.Kind != s.Kind || p.Name != s.Name || !slices.Equal(p.Options, s.Options) {
		return nil, fmt.Errorf("link %q: a name or an option's value holds one of the characters %q", s, ":,=")
	}
	k, err := findKind(s.String(), s.Kind)
	if err != nil {
		return nil, err
	}
	dev, err := k.open(s, env)
	if err != nil {
		return nil, err
	}
	impaired, err := link.Impair(dev, s.impair())
	if err != nil {
		dev.Close()
		return nil, err
	}
	return impaired, nil
}

// lookup returns the value of an option and whether it is there.
func (s Spec) lookup(name string) (value string, ok bool) {
	for _, o := range s.Options {
		if o.Name == name {
			return o.Value, true
		}
	}
	return "", false
}

func findKind(spec, name string) (kind, error) {
	var names []string
	for _, k := range kinds() {
		if k.name == name {
			return k, nil
		}
		names = append(names, k.name)
	}
	return kind{}, fmt.Errorf("link %q: unknown kind %q%s: use one of %s", spec, name, nearest(name, names), strings.Join(names, ", "))
}

// noKind explains a Spec without a colon, such as "tap0".
func noKind(s string) error {
	for _, k := range kinds() {
		name, _, _ := strings.Cut(s, ",")
		if k.bare(name) {
			want := k.name + ":" + s
			if name == k.name { // "pipe", "tap"
				want = k.name + ":" + s[len(name):]
			}
			if _, err := Parse(want); err == nil {
				return fmt.Errorf("link %q: the kind is missing: use %s", s, want)
			}
		}
	}
	return fmt.Errorf("link %q: the kind is missing: use KIND:NAME[,option[=value]]..., KIND one of %s, as in tap:tap0", s, strings.Join(Kinds(), ", "))
}

func (k *kind) parseOption(spec, part string) (Option, error) {
	name, value, hasValue := strings.Cut(part, "=")
	if name == "" {
		return Option{}, fmt.Errorf("link %q: an option is empty: use %s", spec, k.usage())
	}
	var names []string
	for _, o := range k.options {
		names = append(names, o.name)
		if o.name != name {
			continue
		}
		switch {
		case o.value == "" && hasValue:
			return Option{}, fmt.Errorf("link %q: option %s takes no value: use ,%s", spec, name, name)
		case o.value != "" && value == "":
			return Option{}, fmt.Errorf("link %q: option %s needs a value: use %s=%s", spec, name, name, o.value)
		case o.value != "":
			if err := o.check(value); err != nil {
				return Option{}, fmt.Errorf("link %q: option %s: %w", spec, name, err)
			}
		}
		return Option{Name: name, Value: value}, nil
	}
	return Option{}, fmt.Errorf("link %q: %s has no option %q%s: use %s", spec, k.name, name, nearest(name, names), k.usage())
}

// usage lists the options: "queues=N, persist".
func (k *kind) usage() string {
	var all []string
	for _, o := range k.options {
		if o.value != "" {
			all = append(all, o.name+"="+o.value)
		} else {
			all = append(all, o.name)
		}
	}
	return strings.Join(all, ", ")
}
