package spec

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/packet"
)

// checkInterface returns what is wrong with the name of a host's interface.
func checkInterface(kind, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("an interface is missing: use %s:eth0", kind)
	case len(name) > 15:
		return fmt.Errorf("interface %q: a name has at most 15 bytes", name)
	}
	return nil
}

// packetKind is an interface of the host.
func packetKind() kind {
	return kind{
		name: "packet",
		bare: func(string) bool { return false },
		options: []option{
			{"promisc", "on|off", word("on", "off")},
			{"offload", "auto|off", word("auto", "off")},
			mtuOption,
		},
		check: func(s Spec) error { return checkInterface("packet", s.Name) },
		open: func(s Spec, env Env) (link.Device, error) {
			promisc, _ := s.lookup("promisc")
			offload, _ := s.lookup("offload")
			return packet.Open(packet.Config{
				Interface: s.Name, Quiet: promisc == "off", Plain: offload == "off", MTU: s.number("mtu"), Logger: env.Logger,
			})
		},
	}
}

// macinmacKind is frames inside of frames of an interface of the host.
func macinmacKind() kind {
	return kind{
		name: "macinmac",
		bare: func(string) bool { return false },
		options: []option{
			{"isid", "N", number(0, packet.MaxISID)},
			{"ethertype", "0xNNNN", func(s string) error { _, err := etherType(s); return err }},
			{"header", "BYTES", number(0, packet.MaxHeader)},
			{"remote", "MAC", func(s string) error {
				if mac, err := net.ParseMAC(s); err != nil || len(mac) != 6 {
					return fmt.Errorf("%q is not a hardware address such as 02:00:00:00:00:01", s)
				}
				return nil
			}},
			mtuOption,
		},
		check: func(s Spec) error {
			if err := checkInterface("macinmac", s.Name); err != nil {
				return err
			}
			_, isid := s.lookup("isid")
			_, kind := s.lookup("ethertype")
			_, header := s.lookup("header")
			switch {
			case isid == kind:
				return errors.New("one of isid=N (IEEE 802.1ah) and ethertype=0xNNNN (a header of your own) is needed, such as isid=42")
			case isid && header:
				return errors.New("with isid the header is IEEE 802.1ah's: leave out header")
			}
			return nil
		},
		open: func(s Spec, env Env) (link.Device, error) {
			e := &packet.Envelope{ISID: uint32(s.number("isid")), Header: s.number("header")}
			if v, ok := s.lookup("ethertype"); ok {
				e.EtherType, _ = etherType(v) // Parse has checked it
			}
			if v, ok := s.lookup("remote"); ok {
				e.Remote, _ = net.ParseMAC(v)
			}
			return packet.Open(packet.Config{Interface: s.Name, Envelope: e, MTU: s.number("mtu"), Logger: env.Logger})
		},
	}
}

// etherType reads an EtherType (IEEE 802.3, clause 3.2.6): 1536 or more.
func etherType(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil || n < 0x0600 {
		return 0, fmt.Errorf("%q is not an EtherType from 0x0600 to 0xffff, such as 0x88b5", s)
	}
	return uint16(n), nil
}
