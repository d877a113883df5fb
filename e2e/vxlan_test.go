package e2e

import (
	"path/filepath"
	"testing"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// A stack that meets the kernel's own vxlan device, over an outer network of each family.
func TestVXLAN(t *testing.T) {
	t.Parallel()
	for name, outer := range map[string][2]string{"IPv4": {"10.8.0.1", "10.8.0.2"}, "IPv6": {"fd00:8::1", "fd00:8::2"}} {
		t.Run(name, func(t *testing.T) {
			host, far := netlab.New(t, "host"), netlab.New(t, "far")
			netlab.Veth(t, host, "eth0", far, "eth0")
			bits, mtu := "/24", 1450
			if name == "IPv6" {
				bits, mtu = "/64", 1430
			}
			host.Addr(t, "eth0", outer[0]+bits)
			far.Addr(t, "eth0", outer[1]+bits)
			far.Run(t, "ip", "link", "add", "vx0", "type", "vxlan", "id", "42", "local", outer[1], "remote", outer[0], "dstport", "4789", "dev", "eth0")
			far.Addr(t, "vx0", "10.9.0.2/24")
			far.Up(t, "vx0")
			d := up(t, host, "--link", "vxlan:"+outer[1]+",vni=42,dev=eth0,local="+outer[0], "--addr", "10.9.0.4/24", "--dns", "10.9.0.2")
			kernelPing(t, far, "10.9.0.4")
			match(t, "ping", d.ok(t, "ping", "-c", "2", "-i", "0.1", "-s", "1402", "10.9.0.2"), ` 2 received`)
			url, hash := fileServer(t, far, "10.9.0.2")
			to := filepath.Join(scratch(t), "got")
			d.ok(t, "curl", "-sS", "-o", to, url)
			same(t, url, to, hash, 50<<20)
			// The other way, to a server on the stack.
			dir := scratch(t)
			hash = randomFile(t, filepath.Join(dir, "bulk"), 50<<20)
			server := d.apps.Command(filepath.Join(bin, "ustack"), "run", "python3", "-u", "-m", "http.server", "--directory", dir, "8000")
			server.Env = append(server.Environ(), "USTACK_SOCKET="+d.sock)
			d.apps.StartCmd(t, server).WaitOutput(t, "Serving HTTP", 20e9)
			fetch(t, far, "http://10.9.0.4:8000/bulk", hash)
			if l := show[[]control.Link](t, d, "link")[0]; l.MTU != mtu || l.Kind != "vxlan" || l.Name != "vxlan42" {
				t.Errorf("link: %+v", l)
			}
			d.terminate(t)
		})
	}
}
