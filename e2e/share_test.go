package e2e

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// A program that is killed leaves no connection: not in the stack, not at its peer.
func TestKilledProgram(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	ln := listenIn(t, host, "tcp4", host4+":80")
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer c.Close()
		for buf := make([]byte, 1024); err == nil; {
			_, err = c.Read(buf)
		}
		ended <- nil
	}()
	p := d.apps.Start(t, filepath.Join(bin, "curl"), "--socket", d.sock, "-sS", "http://"+host4+"/")
	established := func() bool {
		return slices.ContainsFunc(show[[]control.SocketInfo](t, d, "ss"), func(s control.SocketInfo) bool {
			return s.State == "ESTAB" && s.Remote == host4+":80"
		})
	}
	netlab.WaitFor(t, 10*time.Second, "curl to connect", established)
	p.Kill(t)
	netlab.WaitFor(t, 5*time.Second, "the connection to go", func() bool { return !established() })
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the server still waits for the program")
	}
	d.terminate(t)
}

// Two daemons share the uplink: the end of one does not take the other's way out,
// and the last one leaves the host as it was.
func TestTwoDaemonsShareAnUplink(t *testing.T) {
	t.Parallel()
	l := newLab(t, natUplink)
	before := hostState(t, l.host)
	first := up(t, l.host, static("tap:tap0", "--uplink", "eth0")...)
	second := up(t, l.host, "--link", "tap:tap1", "--addr", "10.1.0.4/24", "--host-addr", "10.1.0.5/24", "--dns", dns4, "--uplink", "eth0")
	for _, d := range []*daemon{first, second} {
		if out := d.ok(t, "curl", "-sS", "-4", web); out != pageText {
			t.Errorf("fetched %q", out)
		}
	}
	first.terminate(t)
	if out := second.ok(t, "curl", "-sS", web); out != pageText {
		t.Errorf("fetched %q", out)
	}
	second.terminate(t)
	if after := hostState(t, l.host); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

// A firewall of somebody else that drops what is forwarded is named, not fought.
func TestForeignForwardPolicy(t *testing.T) {
	t.Parallel()
	l := newLab(t, natUplink)
	l.host.Run(t, "nft", "add table inet fence; add chain inet fence forward { type filter hook forward priority 0; policy drop; }")
	before := hostState(t, l.host)
	d := up(t, l.host, static("tap:tap0", "--uplink", "eth0")...)
	d.WaitOutput(t, `fence`, 10*time.Second)
	match(t, "ping to the host", d.ok(t, "ping", "-c", "1", host4), ` 1 received`)
	d.terminate(t)
	if after := hostState(t, l.host); after != before {
		t.Errorf("the host was\n%s\nand is\n%s", before, after)
	}
}

// While it runs, addresses, routes and neighbours change.
func TestChangeWhileRunning(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	d := up(t, host, static("tap:tap0")...)
	host.Addr(t, "tap0", "10.7.0.5/24")
	d.ok(t, "ustack", "addr", "add", "10.7.0.4/24")
	kernelPing(t, host, "10.7.0.4")
	match(t, "addr", d.ok(t, "ustack", "addr"), `10\.7\.0\.4/24`)
	if r := d.run(t, "ustack", "addr", "add", "10.7.0.4/24"); r.code != 1 {
		t.Errorf("the same address again: %v", r)
	}
	d.ok(t, "ustack", "route", "add", "198.51.100.0/24", "via", "10.7.0.5")
	host.Addr(t, "lo", "198.51.100.9/32")
	match(t, "ping through the new route", d.ok(t, "ping", "-c", "1", "198.51.100.9"), ` 1 received`)
	d.ok(t, "ustack", "route", "del", "198.51.100.0/24")
	mac := host.MAC(t, "tap0").String()
	d.ok(t, "ustack", "neigh", "add", "10.7.0.9", "lladdr", mac)
	match(t, "neigh", d.ok(t, "ustack", "neigh"), `10\.7\.0\.9.*`+mac)
	d.ok(t, "ustack", "neigh", "del", "10.7.0.9")
	d.ok(t, "ustack", "addr", "del", "10.7.0.4/24")
	if r := runIn(t, host, nil, netlab.Peer(t, "ping"), "-c", "1", "-W", "0.5", "10.7.0.4"); r.code == 0 {
		t.Errorf("the removed address answers: %v", r)
	}
	d.terminate(t)
}
