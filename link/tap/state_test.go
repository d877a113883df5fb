package tap

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestLookup(t *testing.T) {
	ns := quietNS(t)
	ns.Run(t, "ip", "tuntap", "add", "dev", "multi", "mode", "tap", "multi_queue", "user", "7")
	ns.Run(t, "ip", "tuntap", "add", "dev", "layer3", "mode", "tun")
	openIn(t, ns, Config{Name: "tap0"})
	openIn(t, ns, Config{Name: "tap2", Queues: 2})
	ns.Do(t, func() {
		if e := lookup("nothing"); e != nil {
			t.Errorf("nothing: %+v", *e)
		}
		for name, want := range map[string]existing{
			"lo":     {owner: -1},
			"layer3": {kind: "tun", owner: -1, persist: true},
			"multi":  {kind: "tun", tap: true, owner: 7, persist: true, multiQueue: true},
			"tap0":   {kind: "tun", tap: true, owner: -1},
			"tap2":   {kind: "tun", tap: true, owner: -1, multiQueue: true, queues: 2},
		} {
			if e := lookup(name); e == nil || *e != want {
				t.Errorf("%s: %+v, want %+v", name, e, want)
			}
		}
	})
}

func FuzzLinkInfo(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 0, unix.IFLA_INFO_KIND, 0, 't', 'u', 'n', 0, 9, 0, unix.IFLA_INFO_DATA, 0, 5, 0, unix.IFLA_TUN_TYPE, 0, 2})
	f.Add([]byte{3, 0, 1, 0})
	f.Add([]byte{5, 0, 1, 0, 'x'})
	f.Add([]byte{0xff, 0xff, 1, 0, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if e := parseLinkInfo(b); e == nil {
			t.Error("nil")
		}
	})
}
