package e2e

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// A stack beside a host on the host's own interface.
func TestPacket(t *testing.T) {
	t.Parallel()
	for _, offload := range []string{"auto", "off"} {
		t.Run(offload, func(t *testing.T) {
			host, lan := netlab.New(t, "host"), netlab.New(t, "lan")
			netlab.Veth(t, host, "eth0", lan, "eth0")
			host.Addr(t, "eth0", "10.9.0.1/24")
			lan.Addr(t, "eth0", "10.9.0.2/24")
			lan.Addr(t, "eth0", "fd00:9::2/64")
			d := up(t, host, "--link", "packet:eth0,offload="+offload, "--addr", "10.9.0.4/24", "--addr", "fd00:9::4/64", "--dns", "10.9.0.2")
			kernelPing(t, lan, "10.9.0.4")
			kernelPing(t, lan, "fd00:9::4")
			kernelPing(t, lan, "10.9.0.1") // the host goes on
			kernelPing(t, host, "10.9.0.2")
			match(t, "ping", d.ok(t, "ping", "-c", "2", "-i", "0.1", "10.9.0.2"), ` 2 received`)
			url, hash := fileServer(t, lan, "10.9.0.2")
			to := filepath.Join(scratch(t), "got")
			d.ok(t, "curl", "-sS", "-o", to, url)
			same(t, url, to, hash, 50<<20)
			l := show[[]control.Link](t, d, "link")[0]
			if l.Kind != "packet" || l.Driver != "af_packet" || l.Drops["rx_full"] != 0 {
				t.Errorf("link: %+v", l)
			}
			d.terminate(t)
		})
	}
}

// Two taps are one wire, whose frames cross another one inside of its frames:
//
//	 a                                                     b
//	┌──────────────────────────────┐      ┌──────────────────────────────┐
//	│tap0 ── ustack forward ── eth0├──────┤eth0 ── ustack forward ── tap0│
//	│.1                            │      │                            .2│
//	└──────────────────────────────┘      └──────────────────────────────┘
//	10.9.0.0/24
func TestEthernetInEthernet(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]string{
		"802.1ah": "macinmac:eth0,isid=4660",
		"private": "macinmac:eth0,ethertype=0x88b5,header=10",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := netlab.New(t, "a"), netlab.New(t, "b")
			netlab.Veth(t, a, "eth0", b, "eth0")
			for _, ns := range []*netlab.NS{a, b} {
				if err := ns.Netlink().LinkSetMTU(ns.Link(t, "eth0"), 1600); err != nil {
					t.Fatal(err)
				}
				joined(t, ns, "forward", spec+",mtu=1500", "tap:tap0")
			}
			a.Addr(t, "tap0", "10.9.0.1/24")
			b.Addr(t, "tap0", "10.9.0.2/24")
			see := b.Capture(t, "eth0")
			kernelPing(t, a, "10.9.0.2", "-s", "1472")
			outer := see.Frames()
			see.Stop()
			inside := 0
			for _, f := range outer {
				switch f.EtherType() {
				case 0x88e7:
					if name == "802.1ah" && string(f.Data[14:18]) == "\x00\x00\x12\x34" && f.Dst().String() == "01:1e:83:00:12:34" {
						inside++
					}
				case 0x88b5:
					if name == "private" && string(f.Data[14:24]) == "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" {
						inside++
					}
				}
			}
			if inside < 6 {
				t.Errorf("%d of %d frames are outer ones", inside, len(outer))
			}
			if name == "802.1ah" {
				dissected(t, outer)
			}
			url, hash := fileServer(t, a, "10.9.0.1")
			to := filepath.Join(scratch(t), "got")
			get := b.StartCmd(t, b.Command("curl", "-sS", "-o", to, "--max-time", "60", "--limit-rate", "60M", url))
			netlab.WaitFor(t, 20e9, "the transfer is under way", func() bool {
				fi, err := os.Stat(to)
				return err == nil && fi.Size() > 1<<20
			})
			// The tap that the transfer comes in by is taken down and up meanwhile.
			b.Down(t, "tap0")
			b.Up(t, "tap0")
			if code := get.Wait(t, 60e9); code != 0 {
				t.Fatalf("curl: exit code %d\n%s", code, get.Output())
			}
			same(t, url, to, hash, 50<<20)
		})
	}
}

// dissected has tshark find IEEE 802.1ah, the I-SID and the ping inside.
func dissected(t *testing.T, frames []netlab.Frame) {
	t.Helper()
	// The format of pcap (draft-ietf-opsawg-pcap, section 4): a header, and one before each frame.
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint16(le.AppendUint16(b, 2), 4)
	b = append(b, make([]byte, 8)...)
	b = le.AppendUint32(le.AppendUint32(b, 65535), 1) // Ethernet
	for i, f := range frames {
		n := uint32(len(f.Data))
		b = le.AppendUint32(le.AppendUint32(b, uint32(i)), 0)
		b = append(le.AppendUint32(le.AppendUint32(b, n), n), f.Data...)
	}
	file := filepath.Join(scratch(t), "outer.pcap")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	fields, err := exec.Command(netlab.Peer(t, "tshark"), "-n", "-r", file, "-Y", "icmp", "-T", "fields",
		"-e", "frame.protocols", "-e", "ieee8021ah.isid", "-e", "ip.src", "-e", "ip.dst", "-e", "_ws.col.Info").Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	match(t, "tshark's fields", string(fields),
		`(?m)^eth:ethertype:ieee8021ah:\S*eth\S*:ip:icmp:data\t(0x0*1234|4660)\t10\.9\.0\.1\t10\.9\.0\.2\tEcho \(ping\) request `)
	match(t, "tshark's fields", string(fields), `(?m)\t10\.9\.0\.2\t10\.9\.0\.1\tEcho \(ping\) reply `)
}
