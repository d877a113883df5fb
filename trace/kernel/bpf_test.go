package kernel

import (
	"errors"
	"net"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
)

// newFeed is a feed whose programs are not loaded yet, and whose layout may be changed.
func newFeed(t *testing.T) *bpfFeed {
	t.Helper()
	netlab.Require(t)
	f := new(bpfFeed)
	t.Cleanup(func() { f.Close() })
	if err := f.makeMaps(1 << 16); err != nil {
		netlab.Lack(t, err.Error())
	}
	l, err := kernelLayout()
	if err != nil {
		netlab.Lack(t, err.Error())
	}
	f.decoder = decoder{layout: l, snap: 128}
	return f
}

// The verifier takes what is assembled for other kernels and settings, too.
func TestPrograms(t *testing.T) {
	many := make([]uint64, maxNetNS)
	for i := range many {
		many[i] = 0xf0000000 + uint64(i)
	}
	spans := []span{{1 << 63, 1<<63 + 16}, {1<<63 + 64, 1<<63 + 80}}
	for name, test := range map[string]struct {
		change func(f *bpfFeed)
		netns  []uint64
		spans  []span
	}{
		"this kernel":             {netns: many[:1], spans: spans},
		"many namespaces":         {netns: many, spans: spans},
		"all namespaces":          {spans: spans},
		"addresses hidden":        {netns: many[:1]},
		"a short snap":            {change: func(f *bpfFeed) { f.decoder.snap = 8 }},
		"a long snap":             {change: func(f *bpfFeed) { f.decoder.snap = maxSnap }},
		"tags with a flag":        {change: func(f *bpfFeed) { f.decoder.layout.skb.hasVLANPresent = true }},
		"no routes":               {change: func(f *bpfFeed) { f.decoder.layout.skb.hasRefdst = false }},
		"no place of consume_skb": {spans: spans, change: func(f *bpfFeed) { f.decoder.layout.args[Consume] = []string{"sk_buff"} }},
		"no reasons": {change: func(f *bpfFeed) {
			f.decoder.layout.args[Drop] = []string{"sk_buff", ""}
			f.decoder.layout.args[TCPReset] = []string{"sock", "sk_buff"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeed(t)
			if test.change != nil {
				test.change(f)
			}
			for i, p := range probes() {
				if f.decoder.layout.args[p.name] == nil {
					continue
				}
				prog, err := f.load(p, i, test.netns, test.spans)
				if err != nil {
					t.Errorf("%+v", err)
					continue
				}
				prog.Close()
			}
		})
	}
}

// Where kallsyms hides its addresses, ARP's end without a drop is told still.
func TestHiddenAddresses(t *testing.T) {
	ns, tap := host(t)
	if err := ns.Netlink().LinkSetARPOff(ns.Link(t, tap0)); err != nil {
		t.Fatal(err)
	}
	f := newFeed(t)
	if err := f.attach(Config{NetNS: []uint64{inode(t, ns)}}, nil); err != nil {
		t.Fatal(err)
	}
	l := follow(t, &Source{via: ViaBPF, feed: f})
	send(t, tap, frame(all, guest, 0x0806, arp(1, guest, guestIP, make(net.HardwareAddr, 6), hostIP)))
	e := last(l.until(t, "the end of ARP's frame", func(e Event) bool { return e.Step == Consume }))
	if e.Dev != tap0 || e.Proto != 0x0806 || e.Where != "" {
		t.Errorf("%s", list([]Event{e}))
	}
}

// What the error of Open asks for is enough.
func TestLeastPrivileges(t *testing.T) {
	ns, tap := host(t)
	type result struct {
		s   *Source
		err error
	}
	results := make(chan result)
	go func() {
		ns.Do(t, func() {
			runtime.LockOSThread() // once more than is unlocked: the thread ends with its capabilities
			const needed = 1<<(unix.CAP_BPF-32) | 1<<(unix.CAP_PERFMON-32)
			some := [2]unix.CapUserData{1: {Effective: needed, Permitted: needed}}
			// To leave the namespace afterwards it stays permitted.
			some[0].Permitted = 1 << unix.CAP_SYS_ADMIN
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			if err := unix.Capset(&header, &some[0]); err != nil {
				results <- result{err: err}
				return
			}
			s, err := Open(Config{Via: ViaBPF})
			some[0].Effective = 1 << unix.CAP_SYS_ADMIN
			results <- result{s, errors.Join(err, unix.Capset(&header, &some[0]))}
		})
	}()
	r := <-results
	if r.err != nil {
		t.Fatal(r.err)
	}
	l := follow(t, r.s)
	send(t, tap, frame(other, guest, 0x0800, ipv4(guestIP, hostIP, 17, udp(1, 2, "x"))))
	e := last(l.until(t, "a drop", func(e Event) bool { return e.Step == Drop && e.Dev == tap0 }))
	if e.Reason != "OTHERHOST" {
		t.Errorf("%s", list([]Event{e}))
	}
	if n := r.s.Lost(); n != 0 {
		t.Errorf("%d lost", n)
	}
}
