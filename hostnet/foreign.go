package hostnet

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// warnForeignDrop names the chains of others that drop what the stack sends
// through the host. An accept in our table does not help against them: a packet
// has to pass every chain of the forward hook.
func (h *Host) warnForeignDrop(tap, uplink string, v4, v6 bool) {
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
		switch c.Table.Family {
		case nftables.TableFamilyIPv4:
			if !v4 {
				continue
			}
		case nftables.TableFamilyIPv6:
			if !v6 {
				continue
			}
		case nftables.TableFamilyINet:
		default:
			continue
		}
		if c.Table.Name == tableName(tap, 0) || strings.HasPrefix(c.Table.Name, tablePrefix) {
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
		if h.letsPass(conn, siblings, tap) {
			continue
		}
		family := familyName(c.Table.Family)
		h.warn("chain %s of nftables table %s %s %s and may stop what %s sends through %s; as root: %s",
			c.Name, family, c.Table.Name, how, tap, uplink, remedy(c, siblings, tap, uplink))
	}
	for _, l := range legacyDrops(v4, v6) {
		h.warn("chain FORWARD of %s-legacy has policy drop and may stop what %s sends through %s; as root: %s",
			l, tap, uplink, iptablesRemedy(l+"-legacy", "FORWARD", tap, uplink))
	}
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

// letsPass returns whether the table has rules that accept by the tap's name in
// both directions, as after following our advice. It looks no closer than that.
func (h *Host) letsPass(conn *nftables.Conn, chains []*nftables.Chain, tap string) bool {
	var in, out bool
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			continue
		}
		for _, r := range rules {
			i, o := acceptsLink(r.Exprs, tap)
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
func remedy(c *nftables.Chain, siblings []*nftables.Chain, tap, uplink string) string {
	family := familyName(c.Table.Family)
	if c.Table.Name == "firewalld" {
		return fmt.Sprintf("firewall-cmd --zone=trusted --add-interface=%s", tap)
	}
	if c.Table.Name == "filter" && c.Name == "FORWARD" && family != "inet" {
		command, chain := "iptables", "FORWARD"
		if c.Table.Family == unix.NFPROTO_IPV6 {
			command = "ip6tables"
		}
		for _, s := range siblings {
			switch {
			case strings.HasPrefix(s.Name, "ufw"):
				return fmt.Sprintf("ufw route allow in on %s out on %s", tap, uplink)
			case s.Name == "DOCKER-USER":
				chain = s.Name
			}
		}
		return iptablesRemedy(command, chain, tap, uplink)
	}
	at := fmt.Sprintf("nft insert rule %s %s %s", family, c.Table.Name, c.Name)
	return fmt.Sprintf("%s iifname %s accept; %s oifname %s ct state established,related accept", at, tap, at, tap)
}

func iptablesRemedy(command, chain, tap, uplink string) string {
	return fmt.Sprintf("%s -I %s -i %s -o %s -j ACCEPT; %s -I %s -i %s -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
		command, chain, tap, uplink, command, chain, uplink, tap)
}
