package e2e

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// Every frame on the tap has a whole Ethernet header with the right addresses and a
// protocol that the stack speaks.
func TestEveryFrameHasAnEthernetHeader(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, natUplink)
			// The tap is there before the daemon, so that its first frame is seen too.
			prepareTap(t, l.host, drv.spec, -1)
			seen := l.host.Capture(t, "tap0")
			d := up(t, l.host, static(drv.spec, "--uplink", "eth0", "--mac", "02:00:00:00:00:04")...)
			big := filepath.Join(l.dir, "www", "big")
			bulk := strings.Repeat("0123456789abcdef", 1<<16)
			writeFile(t, big, bulk)
			d.ok(t, "ping", "-c", "2", "-i", "0.1", "-s", "4000", host4)
			d.ok(t, "ping", "-6", "-c", "2", "-i", "0.1", "-s", "4000", host6)
			d.ok(t, "ping", "-6", "-c", "2", "-i", "0.1", web)
			kernelPing(t, l.host, stack6, "-s", "4000")
			if out := d.ok(t, "curl", "-sS", "http://"+web+"/big"); out != bulk {
				t.Errorf("fetched %d bytes", len(out))
			}
			d.ok(t, "curl", "-sS", "-f", "-T", big, "http://"+web+"/up/big")
			mac, host := stackMAC(t, show[[]control.Link](t, d, "link")), l.host.MAC(t, "tap0").String()
			if mac != "02:00:00:00:00:04" {
				t.Errorf("the stack's hardware address is %s", mac)
			}
			d.terminate(t)
			seen.Stop()

			names := map[uint16]string{0x0800: "IPv4", 0x0806: "ARP", 0x86dd: "IPv6"}
			count := make(map[string]int)
			for _, f := range seen.Frames() {
				name := names[f.EtherType()]
				dir, from, to := "from the stack", mac, host
				if f.Out {
					dir, from, to = "from the kernel", host, mac
				}
				switch {
				case f.Len < 14 || name == "":
					t.Errorf("%s: % x", dir, f.Data)
				case f.Src().String() != from:
					t.Errorf("%s: %s comes from %s, want %s: % x", dir, name, f.Src(), from, f.Data[:min(len(f.Data), 100)])
				case f.Dst().String() != to && !group(f, name):
					t.Errorf("%s: %s is for %s, want %s: % x", dir, name, f.Dst(), to, f.Data[:min(len(f.Data), 100)])
				}
				count[dir+" "+name]++
			}
			t.Log(count)
			for _, dir := range []string{"from the stack ", "from the kernel "} {
				for _, name := range names {
					if count[dir+name] == 0 {
						t.Errorf("no %s%s", dir, name)
					}
				}
			}
		})
	}
}

// group reports whether a frame goes to a group that its protocol uses: everybody for
// ARP and IPv4, 01:00:5e (RFC 1112 section 6.4) or 33:33 (RFC 2464 section 7).
func group(f netlab.Frame, protocol string) bool {
	dst := f.Dst()
	switch protocol {
	case "IPv6":
		return bytes.HasPrefix(dst, []byte{0x33, 0x33}) && len(f.Data) > 14+24 && f.Data[14+24] == 0xff
	case "IPv4":
		return bytes.HasPrefix(dst, []byte{0x01, 0x00, 0x5e}) || bytes.Equal(dst, broadcast)
	}
	return bytes.Equal(dst, broadcast)
}

var broadcast = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
