package doctor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// nlaTypeMask leaves out the flags of an attribute's type (NLA_TYPE_MASK of
// include/uapi/linux/netlink.h).
const nlaTypeMask = 1<<14 - 1

// A Network is what the host does with packets and frames around the tap.
type Network struct {
	// Sysctl holds settings by their path below /proc/sys/net, such as "ipv4/ip_forward".
	Sysctl map[string]string
	// Ports are the ports of the tap's bridge, by the interface's name.
	Ports map[string]BridgePort
	// Filtering says that the bridge looks at VLANs, and OwnVLANs are those that it takes
	// part in itself.
	Filtering bool
	OwnVLANs  []uint16
	// Chains are the base chains of nf_tables, with what they drop and translate.
	Chains    []Chain
	Conntrack Conntrack
	// Qdiscs are the kinds of the queueing disciplines at the root of interfaces, by name. The
	// kernel lists none where it has not attached one yet.
	Qdiscs map[string]string
}

// A BridgePort is what a Linux bridge makes of one of its ports (IFLA_BRPORT_* of
// include/uapi/linux/if_link.h).
type BridgePort struct {
	State    uint8 // BR_STATE_* of include/uapi/linux/if_bridge.h
	Isolated bool
	Locked   bool
	// GroupForward has a bit set for each address 01:80:c2:00:00:0X that is forwarded when it
	// comes in here, together with that of the bridge.
	GroupForward uint16
	// VLANs are those that the port takes part in, PVID is that of frames without a tag; 0 is
	// none. They count only where the bridge filters.
	VLANs []uint16
	PVID  uint16
}

// A Chain is a base chain of nf_tables, with what lies in the chains that it leads to.
type Chain struct {
	Family, Table, Name string
	// Hook is "prerouting", "input", "forward", "output" or "postrouting".
	Hook string
	// DropsRest says that its policy is drop.
	DropsRest bool
	// Drops is how many rules drop or reject, and Dropped how many packets those of them
	// with a counter have.
	Drops   int
	Dropped uint64
	// Translates says that a rule changes source addresses.
	Translates bool
}

func (c *Chain) String() string { return c.Family + " " + c.Table + " " + c.Name }

// A Conntrack is the state of the kernel's table of connections.
type Conntrack struct {
	Count, Max uint64 // Max is 0 where there is none
	// Dropped is how many packets were, as the table was full.
	Dropped uint64
}

// gatherHostNetwork takes the host's side of what lies beyond the tap's interface.
func gatherHostNetwork(_ context.Context, _ *Config, env *Environment) {
	n := &env.Network
	n.Sysctl = readSysctls("/proc/sys/net", env.Links)
	n.Conntrack = readConntrack("/proc")
	var err error
	if n.Chains, err = listChains(); err != nil {
		env.notef("the rules of nf_tables: %v: run this as root", err)
	}
	n.Qdiscs = map[string]string{}
	if list, err := netlink.QdiscList(nil); err == nil {
		for _, q := range list {
			if q.Attrs().Parent == netlink.HANDLE_ROOT {
				n.Qdiscs[env.nameOf(q.Attrs().LinkIndex)] = q.Type()
			}
		}
	}
	gatherPorts(env)
}

// readSysctls reads the settings that checks look at.
func readSysctls(root string, links []netlink.Link) map[string]string {
	all := map[string]string{}
	read := func(key string) {
		if b, err := os.ReadFile(filepath.Join(root, key)); err == nil {
			all[key] = strings.TrimSpace(string(b))
		}
	}
	read("ipv4/ip_forward")
	read("ipv6/conf/all/forwarding")
	read("ipv4/conf/all/rp_filter")
	for _, l := range links {
		conf := "ipv4/conf/" + l.Attrs().Name
		read(conf + "/rp_filter")
		read(conf + "/forwarding")
	}
	return all
}

// writeSysctl sets one in the namespace of the calling thread.
func writeSysctl(key, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys/net", key), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// sysctlStep is the step that sets a key.
func sysctlStep(key, value string) Step {
	words := strings.Split(key, "/")
	for i, w := range words {
		words[i] = strings.ReplaceAll(w, ".", "/") // as sysctl(8) wants it
	}
	return Step{fmt.Sprintf("sysctl -w net.%s=%s", strings.Join(words, "."), value), func() error { return writeSysctl(key, value) }}
}

// readConntrack reads the state of the table of connections, of the network namespace
// of the calling thread. The columns of stat are hexadecimal, a line a processor.
func readConntrack(proc string) (c Conntrack) {
	number := func(name string) uint64 {
		b, _ := os.ReadFile(filepath.Join(proc, "sys/net/netfilter", name))
		v, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
		return v
	}
	c.Count, c.Max = number("nf_conntrack_count"), number("nf_conntrack_max")
	b, _ := os.ReadFile(filepath.Join(proc, "thread-self/net/stat/nf_conntrack"))
	column := -1
	for line := range strings.Lines(string(b)) {
		words := strings.Fields(line)
		if column < 0 {
			if column = slices.Index(words, "drop"); column < 0 {
				return c
			}
			continue
		}
		if column < len(words) {
			v, _ := strconv.ParseUint(words[column], 16, 64)
			c.Dropped += v
		}
	}
	return c
}

// readNetstat reads /proc/net/netstat: pairs of lines, names and values.
func readNetstat(path string) map[string]uint64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	all := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		names := strings.Fields(lines.Text())
		if !lines.Scan() {
			break
		}
		for i, value := range strings.Fields(lines.Text()) {
			if v, err := strconv.ParseUint(value, 10, 64); err == nil && i < len(names) {
				all[names[i]] = v
			}
		}
	}
	return all
}

// gatherPorts takes the state of the ports of the tap's bridge.
func gatherPorts(env *Environment) {
	n := &env.Network
	n.Ports, n.OwnVLANs = nil, nil
	br, ok := env.Master().(*netlink.Bridge)
	if !ok {
		return
	}
	n.Filtering = br.VlanFiltering != nil && *br.VlanFiltering
	var shared uint16
	if br.GroupFwdMask != nil {
		shared = *br.GroupFwdMask
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		env.notef("the ports of %s: %v", br.Name, err)
		return
	}
	n.Ports = map[string]BridgePort{}
	for _, m := range msgs {
		if len(m) < unix.SizeofIfInfomsg {
			continue
		}
		info := nl.DeserializeIfInfomsg(m)
		l := env.ByIndex(int(info.Index))
		if l == nil || l.Attrs().MasterIndex != br.Index {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[info.Len():])
		if err != nil {
			continue
		}
		for _, a := range attrs {
			if a.Attr.Type&nlaTypeMask == unix.IFLA_PROTINFO {
				port := parsePort(a.Value)
				port.GroupForward |= shared
				n.Ports[l.Attrs().Name] = port
			}
		}
	}
	vlans, err := netlink.BridgeVlanList()
	if err != nil {
		n.Filtering = false // what it filters is not known
		return
	}
	for index, list := range vlans {
		l := env.ByIndex(int(index))
		if l == nil {
			continue
		}
		port, isPort := n.Ports[l.Attrs().Name]
		for _, v := range list {
			switch {
			case int(index) == br.Index:
				n.OwnVLANs = append(n.OwnVLANs, v.Vid)
			case isPort:
				port.VLANs = append(port.VLANs, v.Vid)
				if v.PortVID() {
					port.PVID = v.Vid
				}
			}
		}
		if isPort {
			n.Ports[l.Attrs().Name] = port
		}
	}
}

// parsePort reads the attributes in IFLA_PROTINFO of a bridge's port.
func parsePort(b []byte) (p BridgePort) {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return p
	}
	for _, a := range attrs {
		if len(a.Value) == 0 {
			continue
		}
		switch a.Attr.Type & nlaTypeMask {
		case nl.IFLA_BRPORT_STATE:
			p.State = a.Value[0]
		case nl.IFLA_BRPORT_ISOLATED:
			p.Isolated = a.Value[0] != 0
		case nl.IFLA_BRPORT_LOCKED:
			p.Locked = a.Value[0] != 0
		case nl.IFLA_BRPORT_GROUP_FWD_MASK:
			if len(a.Value) >= 2 {
				p.GroupForward = binary.NativeEndian.Uint16(a.Value)
			}
		}
	}
	return p
}

// setPortState sets the STP state of a bridge's port, as `bridge link set` does.
func setPortState(l netlink.Link, state uint8) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	info.AddRtAttr(nl.IFLA_BRPORT_STATE, []byte{state})
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// listChains lists the base chains of nf_tables, iptables' among them where that is
// made of nf_tables.
func listChains() ([]Chain, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, err
	}
	var all []Chain
	for _, c := range chains {
		if c.Table == nil || c.Hooknum == nil {
			continue
		}
		hook := hookName(c.Table.Family, *c.Hooknum)
		if hook == "" {
			continue
		}
		out := Chain{
			Family: familyName(c.Table.Family), Table: c.Table.Name, Name: c.Name, Hook: hook,
			DropsRest: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop,
		}
		reached := map[string]bool{c.Name: true}
		for todo := []string{c.Name}; len(todo) > 0; todo = todo[1:] {
			rules, err := conn.GetRules(c.Table, &nftables.Chain{Name: todo[0], Table: c.Table})
			if err != nil {
				continue // it may be gone
			}
			for _, r := range rules {
				for _, next := range out.add(r.Exprs) {
					if !reached[next] {
						reached[next] = true
						todo = append(todo, next)
					}
				}
			}
		}
		all = append(all, out)
	}
	return all, nil
}

// add takes up what a rule does, and returns the chains that it leads to.
func (c *Chain) add(exprs []expr.Any) (next []string) {
	var packets uint64
	for _, e := range exprs {
		drops := false
		switch e := e.(type) {
		case *expr.Counter:
			packets = e.Packets
		case *expr.Reject:
			drops = true
		case *expr.Masq:
			c.Translates = true
		case *expr.NAT:
			c.Translates = c.Translates || e.Type == expr.NATTypeSourceNAT
		case *expr.Target:
			drops = e.Name == "REJECT" || e.Name == "DROP"
			c.Translates = c.Translates || e.Name == "MASQUERADE" || e.Name == "SNAT"
		case *expr.Verdict:
			drops = e.Kind == expr.VerdictDrop
			if e.Kind == expr.VerdictJump || e.Kind == expr.VerdictGoto {
				next = append(next, e.Chain)
			}
		}
		if drops {
			c.Drops++
			c.Dropped += packets
		}
	}
	return next
}

// familyName is nft(8)'s word.
func familyName(f nftables.TableFamily) string {
	return map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet", nftables.TableFamilyBridge: "bridge",
		nftables.TableFamilyARP: "arp",
	}[f]
}

// hookName is nft(8)'s word for where a chain sees packets, "" for the chains of one
// device. ARP's hooks have numbers of their own (include/uapi/linux/netfilter_arp.h).
func hookName(f nftables.TableFamily, h nftables.ChainHook) string {
	switch {
	case familyName(f) == "":
		return ""
	case f == nftables.TableFamilyARP:
		return map[nftables.ChainHook]string{0: "input", 1: "output"}[h]
	}
	return map[nftables.ChainHook]string{
		unix.NF_INET_PRE_ROUTING: "prerouting", unix.NF_INET_LOCAL_IN: "input", unix.NF_INET_FORWARD: "forward",
		unix.NF_INET_LOCAL_OUT: "output", unix.NF_INET_POST_ROUTING: "postrouting",
	}[h]
}

// sysctl returns a setting as a number, and whether it is known.
func (n *Network) sysctl(key string) (int, bool) {
	v, err := strconv.Atoi(n.Sysctl[key])
	return v, err == nil
}

// otherPorts returns the names of a bridge's ports but one.
func (n *Network) otherPorts(name string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(n.Ports)), func(s string) bool { return s == name })
}
