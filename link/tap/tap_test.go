package tap

import (
	"testing"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/linktest"
)

// quietNS is a namespace whose kernel sends nothing by itself.
func quietNS(t testing.TB) *netlab.NS {
	t.Helper()
	ns := netlab.New(t, "tap")
	ns.Sysctl(t, "net.ipv6.conf.all.disable_ipv6", "1")
	ns.Sysctl(t, "net.ipv6.conf.default.disable_ipv6", "1")
	return ns
}

// openIn opens a tap in a namespace and fails the test when that does not work.
func openIn(t testing.TB, ns *netlab.NS, cfg Config) link.Device {
	t.Helper()
	var dev link.Device
	var err error
	ns.Do(t, func() { dev, err = Open(cfg) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	return dev
}

// openErr opens a tap that cannot be opened.
func openErr(t testing.TB, ns *netlab.NS, cfg Config) error {
	t.Helper()
	var dev link.Device
	var err error
	ns.Do(t, func() { dev, err = Open(cfg) })
	if err == nil {
		dev.Close()
		t.Fatalf("%+v: opened, want an error", cfg)
	}
	return err
}

func TestDevice(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  Config
	}{
		{"native", Config{}},
		{"native without offloads", Config{Offload: OffloadOff}},
		{"native with 2 queues", Config{Queues: 2}},
		{"native with MTU 9000", Config{MTU: 9000}},
		{"water", Config{Driver: DriverWater}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := quietNS(t)
			linktest.TestDevice(t, func(t testing.TB) (link.Device, linktest.Wire) {
				cfg := c.cfg
				cfg.Name = "tap%d"
				dev := openIn(t, ns, cfg)
				return dev, newWire(t, ns, dev.Info().Name)
			})
		})
	}
}
