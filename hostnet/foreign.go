package hostnet

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// A way is what the forward hook sees of the stack's packets.
type way struct {
	in, out string // interfaces, there and back
	v4, v6  bool
}

// warnForeignDrop names the chains of others that drop what the stack sends
// through the host. An accept in our table does not help against them: a packet
// has to pass every chain of the forward hook.
func (h *Host) warnForeignDrop(w way) {
	conn, err := nftables.New()
	if err != nil {
		return
	}
	chains, err := conn.ListChains()
	if err != nil {
		h.warn("whether another firewall drops what is forwarded is not known: %v", err)
		return
	}
	for _, c := range chains {
		if c.Table == nil || c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
			continue
		}
		if !w.meets(c.Table.Family) || strings.HasPrefix(c.Table.Name, tablePrefix) {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			rules = nil
		}
		how := ""
		switch {
		case c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop:
			how = "has policy drop"
		case len(rules) > 0 && dropsAll(rules[len(rules)-1].Exprs):
			how = "ends by refusing everything"
		default:
			continue
		}
		siblings := siblingsOf(c, chains)
		if letsPass(conn, siblings, w.in) {
			continue
		}
		h.warn("chain %s of nftables table %s %s %s and may stop what %s sends through %s; as root: %s",
			c.Name, familyName(c.Table.Family), c.Table.Name, how, h.cfg.Tap, w.out, w.remedy(c, siblings))
	}
	for _, command := range legacyDrops(w.v4, w.v6) {
		h.warn("chain FORWARD of %s-legacy has policy drop and may stop what %s sends through %s; as root: %s",
			command, h.cfg.Tap, w.out, w.iptables(command+"-legacy", "FORWARD"))
	}
}

// meets returns whether a table of this family sees the packets.
func (w way) meets(f nftables.TableFamily) bool {
	switch f {
	case nftables.TableFamilyIPv4:
		return w.v4
	case nftables.TableFamilyIPv6:
		return w.v6
	}
	return f == nftables.TableFamilyINet
}

func siblingsOf(c *nftables.Chain, chains []*nftables.Chain) []*nftables.Chain {
	var out []*nftables.Chain
	for _, o := range chains {
		if o.Table != nil && o.Table.Name == c.Table.Name && o.Table.Family == c.Table.Family {
			out = append(out, o)
		}
	}
	return out
}

// dropsAll returns whether a rule refuses every packet: it has no match.
func dropsAll(exprs []expr.Any) bool {
	for i, e := range exprs {
		last := i == len(exprs)-1
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return last
		case *expr.Verdict:
			return last && e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return false
}

// letsPass returns whether the table has rules that accept by the interface's name
// in both directions, as after following our advice. It looks no closer than that.
func letsPass(conn *nftables.Conn, chains []*nftables.Chain, name string) bool {
	var in, out bool
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			continue
		}
		for _, r := range rules {
			i, o := acceptsLink(r.Exprs, name)
			in, out = in || i, out || o
		}
	}
	return in && out
}

// acceptsLink returns whether a rule accepts packets that come in, or go out,
// through the interface.
func acceptsLink(exprs []expr.Any, name string) (in, out bool) {
	var key expr.MetaKey
	var i, o bool
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			key = e.Key
		case *expr.Cmp:
			if e.Op == expr.CmpOpEq && string(bytes.TrimRight(e.Data, "\x00")) == name {
				i = i || key == expr.MetaKeyIIFNAME
				o = o || key == expr.MetaKeyOIFNAME
			}
		case *expr.Verdict:
			if e.Kind == expr.VerdictAccept {
				return i, o
			}
		}
	}
	return false, false
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "inet"
}

// remedy returns the commands of whoever owns the chain.
func (w way) remedy(c *nftables.Chain, siblings []*nftables.Chain) string {
	family := familyName(c.Table.Family)
	if c.Table.Name == "firewalld" {
		return "firewall-cmd --zone=trusted --add-interface=" + w.in
	}
	if c.Table.Name == "filter" && c.Name == "FORWARD" && family != "inet" {
		command, chain := "iptables", "FORWARD"
		if c.Table.Family == nftables.TableFamilyIPv6 {
			command = "ip6tables"
		}
		for _, s := range siblings {
			switch {
			case strings.HasPrefix(s.Name, "ufw"):
				return fmt.Sprintf("ufw route allow in on %s out on %s", w.in, w.out)
			case s.Name == "DOCKER-USER":
				chain = s.Name
			}
		}
		return w.iptables(command, chain)
	}
	at := fmt.Sprintf("nft insert rule %s %s %s", family, c.Table.Name, c.Name)
	return fmt.Sprintf("%s iifname %s accept; %s oifname %s ct state established,related accept", at, w.in, at, w.in)
}

func (w way) iptables(command, chain string) string {
	there := fmt.Sprintf("%s -I %s -i %s -o %s -j ACCEPT", command, chain, w.in, w.out)
	if w.in == w.out {
		return there
	}
	return fmt.Sprintf("%s; %s -I %s -i %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", there, command, chain, w.out, w.in)
}
