package main

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/spec"
	"github.com/ustack/ustack/link/tap"
)

// kindTap is the kind of a SPEC that has an interface of this host behind it.
const kindTap = "tap"

// kindChar is the kind of a SPEC whose option dev names one.
const kindChar = "chardev"

// option returns the value of an option of a SPEC, or "".
func option(sp spec.Spec, name string) string {
	for _, o := range sp.Options {
		if o.Name == name {
			return o.Value
		}
	}
	return ""
}

// kindSwitch is the kind of a link that is the port of a switch in the same process. It has no SPEC.
const kindSwitch = "switch"

// parseLink checks --link, with --mtu put into it for a tap: a Device states its
// MTU once, when it is opened. It returns the name of the host's interface behind
// the link, or "" if there is none.
func parseLink(text string, mtu int) (sp spec.Spec, hostIf string, err error) {
	if sp, err = spec.Parse(text); err != nil {
		return sp, "", err
	}
	if sp.Kind == kindChar {
		return sp, option(sp, "dev"), nil
	}
	if sp.Kind != kindTap {
		return sp, "", nil
	}
	if mtu != 0 {
		i := slices.IndexFunc(sp.Options, func(o spec.Option) bool { return o.Name == "mtu" })
		if i >= 0 && sp.Options[i].Value != strconv.Itoa(mtu) {
			return sp, "", fmt.Errorf("link %q: --mtu %d says another MTU: leave one out", text, mtu)
		}
		if i < 0 {
			sp.Options = append(sp.Options, spec.Option{Name: "mtu", Value: strconv.Itoa(mtu)})
		}
	}
	return sp, sp.Name, nil
}

// specMTU returns the MTU that a tap's SPEC asks for, or 0.
func specMTU(sp spec.Spec) int {
	for _, o := range sp.Options {
		if sp.Kind == kindTap && o.Name == "mtu" {
			n, _ := strconv.Atoi(o.Value) // spec.Parse has checked it
			return n
		}
	}
	return 0
}

// maxMTU returns the largest MTU that the kind of link can have, in bytes.
func maxMTU(sp spec.Spec) int {
	if sp.Kind == kindTap {
		return tap.MaxMTU
	}
	return link.MaxMTU
}

func openLink(sp spec.Spec, log *slog.Logger) (link.Device, error) {
	return spec.Open(sp, spec.Env{Logger: log})
}

// withoutMTU returns the SPEC of a tap that is to keep the MTU it has.
func withoutMTU(sp spec.Spec) spec.Spec {
	sp.Options = slices.DeleteFunc(slices.Clone(sp.Options), func(o spec.Option) bool { return o.Name == "mtu" })
	return sp
}

// stableMAC makes a hardware address that stays the same from run to run, so that
// neighbours and DHCP servers know the stack again: from the machine, the network
// namespace and the link's name. It is unicast and locally administered (IEEE 802,
// clause 8.4).
func stableMAC(linkName string) net.HardwareAddr {
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil || len(strings.TrimSpace(string(machine))) == 0 {
		name, _ := os.Hostname() // "" still leaves the namespace and the link
		machine = []byte(name)
	}
	namespace, _ := os.Readlink("/proc/thread-self/ns/net")
	sum := sha256.Sum256(fmt.Appendf(nil, "ustack\x00%s\x00%s\x00%s", machine, namespace, linkName))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}
