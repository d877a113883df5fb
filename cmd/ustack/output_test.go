package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
)

// fixture is what a small stack answers, with hostile text where a peer or
// another user could put it.
func fixture() control.Status {
	return control.Status{
		Version: "1.2.3", PID: 42, Uptime: 3*time.Minute + 12*time.Second,
		Links: []control.Link{
			{
				Name: "tap0", Spec: "tap:tap0,queues=2", Kind: "tap", Driver: "tun", HardwareAddr: "02:00:00:00:00:04", MTU: 1500,
				State: "up", Queues: 2, OffloadsRX: "csum,tso4", OffloadsTX: "none",
				RxFrames: 1200, RxBytes: 3 << 20, TxFrames: 7, TxBytes: 420,
				Drops: map[string]uint64{"rx_short": 2, "tx_down": 11},
			},
			{Name: "lo", Kind: "loopback", MTU: 65535, State: "up"},
		},
		Addrs: []control.Addr{
			{Link: "tap0", Prefix: netip.MustParsePrefix("10.0.0.4/24"), Origin: "dhcp", State: "assigned", ValidUntil: time.Now().Add(time.Hour + 30*time.Second)},
			{Link: "tap0", Prefix: netip.MustParsePrefix("fe80::4/64"), Origin: "link-local", State: "tentative"},
			{Link: "lo", Prefix: netip.MustParsePrefix("127.0.0.1/8"), Origin: "loopback", State: "assigned"},
		},
		Routes: []control.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: netip.MustParseAddr("10.0.0.5"), Link: "tap0", Origin: "dhcp"},
			{Dst: netip.MustParsePrefix("10.0.0.0/24"), Link: "tap0", Origin: "connected"},
			{Dst: netip.MustParsePrefix("::/0"), Link: "tap0", Origin: "static"},
		},
		DNS: []string{"192.0.2.53:53"}, Search: []string{"lab.example"},
		Warnings: []string{"address 10.0.0.4 is taken by 02:00:00:00:00:09\x1b[2J"},
		Sockets:  3, Flows: 1,
	}
}

func TestTexts(t *testing.T) {
	st := fixture()
	for _, tt := range []struct {
		name  string
		write func(*strings.Builder) error
		want  string
	}{
		{"status", func(b *strings.Builder) error { return writeStatus(b, st) }, `
ustack   1.2.3, pid 42, up 3m12s
link     tap0 UP, tap (tun), 02:00:00:00:00:04, mtu 1500, rx 1200 frames 3.0 MiB, tx 7 frames 420 B, 13 dropped
addr     10.0.0.4/24, dhcp, assigned, valid 1h0m
addr     fe80::4/64, link-local, tentative
route    default via 10.0.0.5 dev tap0 proto dhcp
route    ::/0 dev tap0 proto static
dns      192.0.2.53:53; search lab.example
sockets  3, 1 held by flows
warning  address 10.0.0.4 is taken by 02:00:00:00:00:09?[2J
`},
		{"link", func(b *strings.Builder) error { return writeLinks(b, st.Links) }, `
1: tap0: UP mtu 1500 tap (tun) lladdr 02:00:00:00:00:04 queues 2 offloads rx csum,tso4 tx none spec tap:tap0,queues=2
         frames    bytes  dropped
     RX    1200  3145728        2
     TX       7      420       11
     drop  rx_short   2
     drop  tx_down   11
2: lo: UP mtu 65535 loopback
         frames  bytes  dropped
     RX       0      0        0
     TX       0      0        0
`},
		{"addr", func(b *strings.Builder) error { return writeAddrs(b, st.Addrs) }, `
tap0  10.0.0.4/24  dhcp        assigned   valid 1h0m
tap0  fe80::4/64   link-local  tentative
lo    127.0.0.1/8  loopback    assigned
`},
		{"route", func(b *strings.Builder) error { return writeRoutes(b, st.Routes) }, `
default via 10.0.0.5 dev tap0 proto dhcp
10.0.0.0/24 dev tap0 proto connected
::/0 dev tap0 proto static
`},
		{"neigh", func(b *strings.Builder) error {
			return writeNeighbours(b, []control.Neighbour{
				{Link: "tap0", IP: netip.MustParseAddr("10.0.0.5"), HardwareAddr: "02:00:00:00:00:05", State: "reachable"},
				{Link: "tap0", IP: netip.MustParseAddr("10.0.0.9"), State: "failed"},
			})
		}, `
10.0.0.5 dev tap0 lladdr 02:00:00:00:00:05 REACHABLE
10.0.0.9 dev tap0 FAILED
`},
		{"ss", func(b *strings.Builder) error {
			return writeSockets(b, []control.SocketInfo{
				{Network: "tcp", State: "LISTEN", Local: "10.0.0.4:80", Owner: "pid 7 (nc\n)"},
				{Network: "tcp", State: "ESTAB", Local: "10.0.0.4:40000", Remote: "192.0.2.1:443", RecvQ: 12, SendQ: 34567, Owner: "pid 9 (curl)"},
			})
		}, `
Netid  State   Recv-Q  Send-Q  Local Address:Port  Peer Address:Port  Process
tcp    LISTEN       0       0  10.0.0.4:80         *:*                pid 7 (nc?)
tcp    ESTAB       12   34567  10.0.0.4:40000      192.0.2.1:443      pid 9 (curl)
`},
		{"stats", func(b *strings.Builder) error {
			return writeStats(b, control.Stats{
				Counters:   map[string]uint64{"tcp.retransmits": 3, "ip.packets_received": 12345},
				Goroutines: 20, Descriptors: 12, RSS: 1 << 20, Flows: 2,
			}, nil)
		}, `
ip.packets_received    12345
tcp.retransmits            3
process.goroutines        20
process.descriptors       12
process.rss_bytes    1048576
process.flows              2
`},
		{"stats with a prefix", func(b *strings.Builder) error {
			return writeStats(b, control.Stats{Counters: map[string]uint64{"tcp.retransmits": 3, "ip.packets_received": 1}}, []string{"tcp."})
		}, "\ntcp.retransmits  3\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b strings.Builder
			if err := tt.write(&b); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + b.String(); got != tt.want {
				t.Errorf("got:%s\nwant:%s", got, tt.want)
			}
		})
	}
}

func TestStatsPrefixThatMatchesNothing(t *testing.T) {
	var b strings.Builder
	if err := writeStats(&b, control.Stats{}, []string{"sctp."}); err == nil || !strings.Contains(err.Error(), "sctp.") {
		t.Errorf("got %v, want an error that names the prefix", err)
	}
}

func TestAgeAndSize(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m1s", 25 * time.Hour: "1d1h", 90 * time.Minute: "1h30m",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 1 << 30: "1.0 GiB", 1<<64 - 1: "16384.0 PiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
}
