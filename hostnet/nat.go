package hostnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdlnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// tablePrefix begins the names of our tables, the tap's name ends them.
	tablePrefix = "ustack_"

	// tableOwner is NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h: the table
	// belongs to the netlink socket that made it, goes when that is closed, and
	// nobody else can change it (Linux 5.12).
	tableOwner = 0x2
)

// tableName is a word that nft(8) takes without quotes.
func tableName(tap string, index int) string {
	clean := strings.Map(func(r rune) rune {
		if r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '_'
	}, tap)
	if clean != tap {
		return fmt.Sprintf("%s%s_%d", tablePrefix, clean, index)
	}
	return tablePrefix + clean
}

// masquerade makes our table: source NAT for networks out of the uplink, and
// consent to forwarding between the two interfaces.
func (h *Host) masquerade(tap string, index int, uplink string, networks []netip.Prefix) error {
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName(tap, index)}
	what := fmt.Sprintf("masquerade behind %s (nftables table inet %s)", uplink, table.Name)
	c := change{Op: opTable, Table: table.Name, Owned: true}
	err := h.do(c, func() error { return h.makeTable(table, tap, uplink, networks, tableOwner) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		c.Owned = false
		err = h.do(c, func() error { return h.makeTable(table, tap, uplink, networks, 0) })
	}
	switch {
	// The kernel does not tell a table of another owner from one not permitted.
	case errors.Is(err, unix.EEXIST), isPermission(err) && tableExists(table):
		return fmt.Errorf("%s: the table exists already: end the other ustack on %s or, if there is none: nft delete table inet %s: %w", what, tap, table.Name, unix.EEXIST)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%s: the kernel lacks nf_tables with NAT: modprobe nf_tables nft_chain_nat nft_masq: %w", what, err)
	case isPermission(err):
		return fmt.Errorf("%s: %w: CAP_NET_ADMIN is needed; as root make the masquerade yourself and leave the uplink out: nft add table ip nat; nft 'add chain ip nat post { type nat hook postrouting priority srcnat; }'; nft add rule ip nat post oifname %s ip saddr %v masquerade", what, err, uplink, networks[0])
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func tableExists(table *nftables.Table) bool {
	conn, err := nftables.New()
	if err != nil {
		return false
	}
	tables, err := conn.ListTablesOfFamily(table.Family)
	return err == nil && slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == table.Name })
}

// makeTable makes and fills the table over a netlink socket that h then keeps.
func (h *Host) makeTable(table *nftables.Table, tap, uplink string, networks []netip.Prefix, flags uint32) (err error) {
	var sock *mdlnetlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *mdlnetlink.Conn) error {
		sock = c
		return nil
	}))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			conn.CloseLasting()
		}
	}()
	if err := newTable(sock, table, flags); err != nil {
		return err
	}
	nat := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, p := range networks {
		exprs := append(matchLink(expr.MetaKeyOIFNAME, uplink), matchSource(p)...)
		conn.AddRule(&nftables.Rule{Table: table, Chain: nat, Exprs: append(exprs, &expr.Counter{}, &expr.Masq{})})
	}
	accept := nftables.ChainPolicyAccept
	forward := conn.AddChain(&nftables.Chain{
		Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	for _, way := range [][2]string{{tap, uplink}, {uplink, tap}} {
		exprs := append(matchLink(expr.MetaKeyIIFNAME, way[0]), matchLink(expr.MetaKeyOIFNAME, way[1])...)
		exprs = append(exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept})
		conn.AddRule(&nftables.Rule{Table: table, Chain: forward, Exprs: exprs})
	}
	if err := conn.Flush(); err != nil {
		if flags&tableOwner == 0 {
			conn.DelTable(table)
			conn.Flush()
		}
		return err
	}
	h.nft, h.table = conn, table
	return nil
}

// newTable sends the one message that the library cannot: it always sends flags
// 0. Owned is what the very socket makes that goes on to fill the table.
func newTable(sock *mdlnetlink.Conn, table *nftables.Table, flags uint32) error {
	attrs, err := mdlnetlink.MarshalAttributes([]mdlnetlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: append([]byte(table.Name), 0)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: binary.BigEndian.AppendUint32(nil, flags)},
	})
	if err != nil {
		return err
	}
	_, err = sock.SendMessages([]mdlnetlink.Message{
		{
			Header: mdlnetlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: mdlnetlink.Request},
			Data:   nfgenmsg(unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		},
		{
			Header: mdlnetlink.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_NEWTABLE,
				Flags: mdlnetlink.Request | mdlnetlink.Acknowledge | mdlnetlink.Create | mdlnetlink.Excl,
			},
			Data: append(nfgenmsg(uint8(table.Family), 0), attrs...),
		},
		{
			Header: mdlnetlink.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: mdlnetlink.Request},
			Data:   nfgenmsg(unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		},
	})
	if err != nil {
		return err
	}
	// The acknowledgement, or the error that refused the batch.
	_, err = sock.Receive()
	return err
}

// nfgenmsg is struct nfgenmsg of linux/netfilter/nfnetlink.h: family, version 0,
// and the resource in network byte order.
func nfgenmsg(family uint8, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

// linkName is a name as meta iifname and oifname load it.
func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func matchLink(key expr.MetaKey, name string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: linkName(name)},
	}
}

// matchSource matches packets from p: source addresses are at byte 12 of an IPv4
// header (RFC 791 section 3.1) and at byte 8 of an IPv6 one (RFC 8200 section 3).
func matchSource(p netip.Prefix) []expr.Any {
	proto, offset, size := byte(unix.NFPROTO_IPV4), uint32(12), uint32(4)
	if p.Addr().Is6() {
		proto, offset, size = unix.NFPROTO_IPV6, 8, 16
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: size,
			Mask: net.CIDRMask(p.Bits(), int(size)*8), Xor: make([]byte, size),
		},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
	}
}
