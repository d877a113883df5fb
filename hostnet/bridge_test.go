package hostnet

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/ustack/ustack/internal/netlab"
)

// The stack is a station of the bridged network while the tap is a port, and a
// firewall in the way of that is named.
func TestBridge(t *testing.T) {
	for _, filtered := range []bool{false, true} {
		name := "open"
		if filtered {
			name = "filtered"
		}
		t.Run(name, func(t *testing.T) {
			stack, host, outside := netlab.New(t, "stack"), netlab.New(t, "host"), netlab.New(t, "outside")
			netlab.Veth(t, stack, "st0", host, "tap0")
			netlab.Veth(t, host, "port0", outside, "out0")
			stack.Addr(t, "st0", "192.0.2.1/24")
			outside.Addr(t, "out0", "192.0.2.2/24")
			host.Bridge(t, "br0", "port0")
			addForward(t, host, nftables.TableFamilyIPv4, "filter", "FORWARD", nftables.ChainPolicyDrop)
			value := "0"
			if filtered {
				value = "1"
			}
			host.Sysctl(t, "net.bridge.bridge-nf-call-iptables", value)
			host.Sysctl(t, "net.bridge.bridge-nf-call-ip6tables", "0")
			before := snapshot(t, host)

			h := mustSetup(t, host, Config{Tap: "tap0", Addrs: prefixes("10.0.0.5/24"), Bridge: "br0", StateDir: t.TempDir()})
			if slices.ContainsFunc(h.Changes(), func(c string) bool { return strings.Contains(c, "10.0.0.5") }) {
				t.Errorf("a bridge port got an address: %q", h.Changes())
			}
			timeout := 5 * time.Second
			if filtered {
				timeout = 200 * time.Millisecond
				onlyOne(t, h.Warnings(), "chain FORWARD of nftables table ip filter has policy drop", "iptables -I FORWARD -i br0 -o br0 -j ACCEPT")
			} else if w := h.Warnings(); len(w) > 0 {
				t.Errorf("warnings: %q", w)
			}
			if _, err := exchange(t, stack, outside, "192.0.2.2", timeout); (err != nil) != filtered {
				t.Errorf("filtered %v: %v", filtered, err)
			}
			mustClose(t, h)
			sameState(t, before, snapshot(t, host))
			if _, err := exchange(t, stack, outside, "192.0.2.2", 200*time.Millisecond); err == nil {
				t.Error("the stack gets outside after Close")
			}
		})
	}
}

// A bridge that is down is worth a word.
func TestBridgeDown(t *testing.T) {
	ns := newHost(t)
	ns.Bridge(t, "br0")
	ns.Down(t, "br0")
	h := mustSetup(t, ns, Config{Tap: "tap0", Bridge: "br0", StateDir: t.TempDir()})
	onlyOne(t, h.Warnings(), "bridge br0 is down", "ip link set br0 up")
	mustClose(t, h)
}

// TestBridgeKeepsItsAddress puts a tap with a low hardware address into a bridge,
// which takes the lowest of its ports' unless it was given one.
func TestBridgeKeepsItsAddress(t *testing.T) {
	ns, other := newHost(t), netlab.New(t, "outside")
	netlab.Veth(t, ns, "port0", other, "out0")
	ns.Bridge(t, "br0", "port0")
	tap := ns.Link(t, "tap0")
	low := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if err := ns.Netlink().LinkSetHardwareAddr(tap, low); err != nil {
		t.Fatal(err)
	}
	before := ns.MAC(t, "br0")
	h := mustSetup(t, ns, Config{Tap: "tap0", Bridge: "br0", StateDir: t.TempDir()})
	if after := ns.MAC(t, "br0"); after.String() != before.String() {
		t.Errorf("the bridge's address went from %v to %v", before, after)
	}
	if !slices.Contains(h.Changes(), "ip link set tap0 address fe:ff:ff:00:00:01") {
		t.Errorf("changes: %q", h.Changes())
	}
	mustClose(t, h)
	if mac := ns.MAC(t, "tap0"); mac.String() != low.String() {
		t.Errorf("the tap's address is %v afterwards, want %v", mac, low)
	}
}
