package hostnet

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

// newInternet is, with kernels only and a cable in place of the tap:
//
//	stack          host                      outside
//	st0 ---------- tap0   up0 -------------- out0
//	10.0.0.4/24    by Setup 203.0.113.1/24   203.0.113.2/24, no route back
//	fd00::4/64              2001:db8::1/64   2001:db8::2/64
func newInternet(t *testing.T) (stack, host, outside *netlab.NS) {
	t.Helper()
	stack, host, outside = netlab.New(t, "stack"), netlab.New(t, "host"), netlab.New(t, "outside")
	for _, ns := range []*netlab.NS{stack, host, outside} {
		ns.Sysctl(t, "net.ipv6.conf.default.accept_dad", "0")
		ns.Sysctl(t, "net.ipv6.conf.all.accept_dad", "0")
	}
	netlab.Veth(t, stack, "st0", host, "tap0")
	netlab.Veth(t, host, "up0", outside, "out0")
	stack.Addr(t, "st0", "10.0.0.4/24")
	stack.Addr(t, "st0", "fd00::4/64")
	host.Addr(t, "up0", "203.0.113.1/24")
	host.Addr(t, "up0", "2001:db8::1/64")
	outside.Addr(t, "out0", "203.0.113.2/24")
	outside.Addr(t, "out0", "2001:db8::2/64")
	for ns, addr := range map[*netlab.NS]string{host: "2001:db8::1/128", outside: "2001:db8::2/128"} {
		netlab.WaitFor(t, 5*time.Second, addr+" to be usable", func() bool {
			return slices.ContainsFunc(snapshot(t, ns), func(l string) bool { return strings.Contains(l, "Dst: "+addr) })
		})
	}
	stack.Route(t, "0.0.0.0/0", "10.0.0.5")
	stack.Route(t, "::/0", "fd00::5")
	return stack, host, outside
}

// exchange sends a line from one namespace to a listener in another and returns
// the address that the listener saw it come from.
func exchange(t *testing.T, from, to *netlab.NS, addr string, timeout time.Duration) (netip.Addr, error) {
	t.Helper()
	var l net.Listener
	var err error
	to.Do(t, func() { l, err = net.Listen("tcp", net.JoinHostPort(addr, "0")) })
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan netip.Addr, 1)
	go func() {
		defer close(seen)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
		seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
	}()
	defer func() {
		l.Close()
		for range seen {
		}
	}()
	var c net.Conn
	from.Do(t, func() { c, err = net.DialTimeout("tcp", l.Addr().String(), timeout) })
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return netip.Addr{}, err
	}
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil {
		return netip.Addr{}, err
	}
	if string(b) != "hello\n" {
		return netip.Addr{}, fmt.Errorf("got %q", b)
	}
	return (<-seen).Unmap(), nil
}

func TestMasquerade(t *testing.T) {
	stack, host, outside := newInternet(t)
	cfg := Config{
		Tap: "tap0", Addrs: prefixes("10.0.0.5/24", "fd00::5/64"), StateDir: t.TempDir(),
		Uplink: "up0", Networks: prefixes("10.0.0.4/24", "fd00::4/64"),
	}
	h := mustSetup(t, host, cfg)
	if w := h.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	for _, tt := range []struct{ to, as string }{
		{"203.0.113.2", "203.0.113.1"},
		{"2001:db8::2", "2001:db8::1"},
	} {
		from, err := exchange(t, stack, outside, tt.to, 5*time.Second)
		if err != nil {
			t.Errorf("%s: %v", tt.to, err)
		} else if from.String() != tt.as {
			t.Errorf("%s sees %v, want %s", tt.to, from, tt.as)
		}
	}

	// The owner flag is there: nobody else can delete it.
	host.Do(t, func() {
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		conn.DelTable(&nftables.Table{Name: "ustack_tap0", Family: nftables.TableFamilyINet})
		if err := conn.Flush(); err == nil {
			t.Error("another socket can delete the table")
		}
	})
	// Another one for the same tap is told so.
	if _, err := setupIn(t, host, cfg); err == nil {
		t.Error("a second masquerade for the tap")
	} else {
		containsAll(t, err.Error(), "ustack_tap0", "exists already")
	}
	mustClose(t, h)
	if _, err := exchange(t, stack, outside, "203.0.113.2", 200*time.Millisecond); err == nil {
		t.Error("the stack gets outside after Close")
	}
}

// addForward makes a table with a forward chain of somebody else's.
func addForward(t *testing.T, ns *netlab.NS, family nftables.TableFamily, table, chain string, policy nftables.ChainPolicy, rules ...[]expr.Any) {
	t.Helper()
	ns.Do(t, func() {
		conn, err := nftables.New()
		if err != nil {
			t.Fatal(err)
		}
		tab := conn.AddTable(&nftables.Table{Name: table, Family: family})
		c := conn.AddChain(&nftables.Chain{
			Name: chain, Table: tab, Type: nftables.ChainTypeFilter, Policy: &policy,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		})
		for _, exprs := range rules {
			conn.AddRule(&nftables.Rule{Table: tab, Chain: c, Exprs: exprs})
		}
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestForeignDrop(t *testing.T) {
	counter, drop := &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	v4 := prefixes("10.0.0.4/24")
	for _, tt := range []struct {
		name     string
		family   nftables.TableFamily
		table    string
		chain    string
		policy   nftables.ChainPolicy
		rules    [][]expr.Any
		networks []netip.Prefix
		want     []string // of the one warning; nil for none
		passes   bool
	}{
		{
			name: "drop", family: nftables.TableFamilyINet, table: "fw", chain: "fwd", policy: nftables.ChainPolicyDrop, networks: v4,
			want: []string{"chain fwd of nftables table inet fw has policy drop", "nft insert rule inet fw fwd iifname tap0 accept"},
		},
		{
			name: "iptables", family: nftables.TableFamilyIPv4, table: "filter", chain: "FORWARD", policy: nftables.ChainPolicyDrop, networks: v4,
			want: []string{"table ip filter has policy drop", "iptables -I FORWARD -i tap0 -o up0 -j ACCEPT"},
		},
		{
			name: "ip6tables without IPv6 network", family: nftables.TableFamilyIPv6, table: "filter", chain: "FORWARD", policy: nftables.ChainPolicyDrop, networks: v4,
			passes: true,
		},
		{
			name: "ip6tables", family: nftables.TableFamilyIPv6, table: "filter", chain: "FORWARD", policy: nftables.ChainPolicyDrop, networks: prefixes("10.0.0.4/24", "fd00::4/64"),
			want: []string{"ip6tables -I FORWARD"}, passes: true,
		},
		{
			name: "refusing at the end", family: nftables.TableFamilyINet, table: "firewalld", chain: "filter_FORWARD", policy: nftables.ChainPolicyAccept,
			rules: [][]expr.Any{{counter, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}}, networks: v4,
			want: []string{"ends by refusing", "firewall-cmd --zone=trusted --add-interface=tap0"},
		},
		{
			name: "dropping something", family: nftables.TableFamilyINet, table: "fw", chain: "fwd", policy: nftables.ChainPolicyAccept,
			rules: [][]expr.Any{append(matchLink(expr.MetaKeyIIFNAME, "eth7"), drop)}, networks: v4,
			passes: true,
		},
		{
			name: "drop with our advice taken", family: nftables.TableFamilyINet, table: "fw", chain: "fwd", policy: nftables.ChainPolicyDrop,
			rules: [][]expr.Any{
				append(matchLink(expr.MetaKeyIIFNAME, "tap0"), accept), append(matchLink(expr.MetaKeyOIFNAME, "tap0"), accept),
			}, networks: v4,
			passes: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stack, host, outside := newInternet(t)
			addForward(t, host, tt.family, tt.table, tt.chain, tt.policy, tt.rules...)
			before := snapshot(t, host)
			h := mustSetup(t, host, Config{
				Tap: "tap0", Addrs: prefixes("10.0.0.5/24", "fd00::5/64"), StateDir: t.TempDir(), Uplink: "up0", Networks: tt.networks,
			})
			if tt.want == nil {
				if w := h.Warnings(); len(w) > 0 {
					t.Errorf("warnings: %q", w)
				}
			} else {
				onlyOne(t, h.Warnings(), tt.want...)
			}
			// That is so: the kernel drops, or does not.
			timeout := 5 * time.Second
			if !tt.passes {
				timeout = 200 * time.Millisecond
			}
			if _, err := exchange(t, stack, outside, "203.0.113.2", timeout); (err == nil) != tt.passes {
				t.Errorf("passes %v, want %v: %v", err == nil, tt.passes, err)
			}
			mustClose(t, h)
			sameState(t, before, snapshot(t, host))
		})
	}
}

func TestTableName(t *testing.T) {
	for _, tt := range []struct{ tap, want string }{
		{"tap0", "ustack_tap0"},
		{"eth0.100", "ustack_eth0.100"},
		{"tap-0", "ustack_tap_0_7"},
		{"tap\"; é", "ustack_tap_____7"},
	} {
		got := tableName(tt.tap, 7)
		if got != tt.want {
			t.Errorf("tableName(%q) = %q, want %q", tt.tap, got, tt.want)
		}
		if c := (change{N: 1, Op: opTable, Table: got}); c.validate() != nil {
			t.Errorf("%q is refused by the journal", got)
		}
	}
}

// entries of a legacy table as the kernel lays them out.
func TestPolicyDrops(t *testing.T) {
	const match = 112 // sizeof(struct ipt_entry)
	entry := func(verdict int32) []byte {
		b := make([]byte, match+40)
		binary.NativeEndian.PutUint16(b[88:], match)
		binary.NativeEndian.PutUint32(b[match+xtTargetLen:], uint32(verdict))
		return b
	}
	b := append(entry(-2), entry(-1)...)
	for _, tt := range []struct {
		name      string
		b         []byte
		underflow uint32
		want      bool
	}{
		{"accept", b, 0, false},
		{"drop", b, match + 40, true},
		{"beyond", b, uint32(len(b)), false},
		{"far beyond", b, 1<<32 - 1, false},
		{"cut", b[:match+40+match], match + 40, false},
		{"empty", nil, 0, false},
	} {
		if got := policyDrops(tt.b, tt.underflow, 88); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if xtInfoLen != 84 || xtEntriesHead != 40 || xtUnderflow != 56 || xtSize != 80 {
		t.Error("not the layout of linux/netfilter_ipv4/ip_tables.h", xtInfoLen, xtEntriesHead, xtUnderflow, xtSize)
	}
}

func TestRemedyNames(t *testing.T) {
	filter := &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}
	c := &nftables.Chain{Name: "FORWARD", Table: filter}
	for _, tt := range []struct{ other, want string }{
		{"DOCKER-USER", "iptables -I DOCKER-USER -i tap0 -o up0"},
		{"ufw-before-forward", "ufw route allow in on tap0 out on up0"},
		{"x", "iptables -I FORWARD -i tap0 -o up0"},
	} {
		got := way{in: "tap0", out: "up0"}.remedy(c, []*nftables.Chain{c, {Name: tt.other, Table: filter}})
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("with chain %s: %s", tt.other, got)
		}
	}
}
