package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/vxlan"
)

// vxlanKind is frames over UDP to other endpoints.
func vxlanKind() kind {
	return kind{
		name: "vxlan",
		bare: func(string) bool { return false },
		options: []option{
			{"vni", "N", number(0, vxlan.MaxVNI)},
			{"dev", "IF", func(s string) error { return checkInterface("vxlan", s) }},
			{"local", "IP", func(s string) error { _, err := netip.ParseAddr(s); return err }},
			{"port", "N", number(1, 65535)},
			{"remoteport", "N", number(1, 65535)},
			mtuOption,
		},
		check: func(s Spec) error {
			if s.Name == "" {
				return errors.New("an endpoint is missing: use vxlan:IP,vni=N, several as IP+IP")
			}
			if _, ok := s.lookup("vni"); !ok {
				return errors.New("the network is missing: use vni=N")
			}
			cfg, err := s.vxlan(Env{})
			if err != nil {
				return err
			}
			return cfg.Check()
		},
		open: func(s Spec, env Env) (link.Device, error) {
			cfg, err := s.vxlan(env)
			if err != nil {
				return nil, err
			}
			return vxlan.Open(cfg)
		},
	}
}

// vxlan returns the Config a Spec means.
func (s Spec) vxlan(env Env) (cfg vxlan.Config, err error) {
	cfg = vxlan.Config{
		VNI: uint32(s.number("vni")), Port: uint16(s.number("port")), RemotePort: uint16(s.number("remoteport")),
		MTU: s.number("mtu"), Logger: env.Logger,
	}
	for text := range strings.SplitSeq(s.Name, "+") {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return cfg, fmt.Errorf("remote %q is not an IP address", text)
		}
		cfg.Remotes = append(cfg.Remotes, a)
	}
	cfg.Interface, _ = s.lookup("dev")
	if v, ok := s.lookup("local"); ok {
		cfg.Local, err = netip.ParseAddr(v)
	}
	return cfg, err
}
