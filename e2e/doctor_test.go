package e2e

import (
	"encoding/json"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ustack/ustack/doctor"
	"github.com/ustack/ustack/internal/netlab"
)

// diagnose runs doctor where the tap is, against the daemon if there is one, and
// returns what it found. The exit code has to say the same.
func diagnose(t testing.TB, ns *netlab.NS, d *daemon, args ...string) []doctor.Finding {
	t.Helper()
	r := runDoctor(t, ns, d, append([]string{"--json"}, args...)...)
	var found []doctor.Finding
	decode(t, "ustack doctor --json", r.stdout, &found)
	if want := min(len(found), 1); r.code != want || r.stderr != "" {
		t.Errorf("ustack doctor: want exit code %d for %d findings, and no error: %v", want, len(found), r)
	}
	for _, f := range found {
		if f.Title == "" || f.Link == "" || len(f.Evidence) == 0 || len(f.Remedy) == 0 {
			t.Errorf("a finding without title, link, evidence or remedy: %+v", f)
		}
	}
	return found
}

func runDoctor(t testing.TB, ns *netlab.NS, d *daemon, args ...string) result {
	t.Helper()
	sock := filepath.Join(stateDir, "no-daemon.sock")
	if d != nil {
		sock = d.sock
	}
	return runIn(t, ns, []string{"USTACK_SOCKET=" + sock}, filepath.Join(bin, "ustack"), append([]string{"doctor"}, args...)...)
}

// causes is diagnose with the causes alone.
func causes(t testing.TB, ns *netlab.NS, d *daemon, args ...string) (names []string) {
	t.Helper()
	for _, f := range diagnose(t, ns, d, args...) {
		names = append(names, f.Cause)
	}
	return names
}

// onlyCause fails the test unless doctor names the cause and no other. It returns the
// findings.
func onlyCause(t testing.TB, cause string, ns *netlab.NS, d *daemon, args ...string) []doctor.Finding {
	t.Helper()
	found := diagnose(t, ns, d, args...)
	if len(found) == 0 || slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Cause != cause }) {
		text, _ := json.MarshalIndent(found, "", "  ")
		t.Errorf("doctor names %s, want %s and no other\n%s", text, cause, runDoctor(t, ns, d, args...).stdout)
	}
	return found
}

// healthy fails the test if doctor finds anything.
func healthy(t testing.TB, ns *netlab.NS, d *daemon, args ...string) {
	t.Helper()
	if r := runDoctor(t, ns, d, args...); r.code != 0 || !strings.HasSuffix(r.stdout, "healthy: no findings\n") {
		t.Errorf("doctor of a healthy path: %v", r)
	}
}

// patient starts a daemon on a tap, with the host as its DNS server, which answers.
func patient(t testing.TB, host *netlab.NS, spec string, more ...string) *daemon {
	t.Helper()
	d := up(t, host, append([]string{
		"--link", spec, "--addr", stack4 + "/24", "--addr", stack6 + "/64",
		"--host-addr", host4 + "/24", "--host-addr", host6 + "/64", "--dns", host4,
	}, more...)...)
	answerDNS(t, host, host4+":53")
	return d
}

// answerDNS answers every question of UDP with what a server says that knows nothing.
func answerDNS(t testing.TB, ns *netlab.NS, address string) {
	t.Helper()
	serveUDP(t, ns, address, func(b []byte) { b[2] |= 0x80 }) // a response (RFC 1035 section 4.1.1)
}

// serveUDP makes of every question of DNS the answer; one that it leaves as it was gets none.
func serveUDP(t testing.TB, ns *netlab.NS, address string, answer func(b []byte)) {
	t.Helper()
	var pc net.PacketConn
	var err error
	ns.Do(t, func() { pc, err = net.ListenPacket("udp4", address) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if n < 12 {
				continue
			}
			if answer(buf[:n]); buf[2]&0x80 != 0 {
				pc.WriteTo(buf[:n], from)
			}
		}
	}()
	t.Cleanup(func() { pc.Close(); <-done })
}

func TestDoctorHealthy(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			d := patient(t, host, drv.spec)
			healthy(t, host, d)
			if found := causes(t, host, d, "--link", "tap:tap0"); len(found) > 0 {
				t.Errorf("with --link: %v", found)
			}
			d.terminate(t)
		})
		t.Run(drv.name+" without a daemon", func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			prepareTap(t, host, drv.spec, -1)
			host.Up(t, "tap0")
			host.Addr(t, "tap0", host4+"/24")
			healthy(t, host, nil, "--link", drv.spec)
		})
	}
}

func TestDoctorInterfaceDown(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			d := patient(t, host, drv.spec)
			host.Down(t, "tap0")
			onlyCause(t, doctor.CauseDown, host, d)
			r := runDoctor(t, host, d, "--fix")
			match(t, "doctor --fix", r.stdout, `FOUND  interface-down: .*fix    ip link set dev tap0 up: done.*healthy`)
			if r.code != 0 {
				t.Errorf("doctor --fix: %v", r)
			}
			d.terminate(t)
		})
		t.Run(drv.name+" without a daemon", func(t *testing.T) {
			t.Parallel()
			host := netlab.New(t, "host")
			prepareTap(t, host, drv.spec, -1)
			onlyCause(t, doctor.CauseDown, host, nil, "--link", drv.spec)
		})
	}
}

func TestDoctorNoTap(t *testing.T) {
	t.Parallel()
	host := netlab.New(t, "host")
	onlyCause(t, doctor.CauseMissing, host, nil)
	if host.HasLink("tap0") {
		t.Error("doctor has made a tap")
	}
	onlyCause(t, doctor.CauseNotTap, host, nil, "--link", "tap:lo")
	list := runDoctor(t, host, nil, "--list")
	match(t, "doctor --list", list.stdout, `^interface-down +the interface is up$`)
	if list.code != 0 || strings.Count(list.stdout, "\n") != len(doctor.Checks()) {
		t.Errorf("doctor --list: %v", list)
	}
	for _, args := range [][]string{{"--link", "pipe:"}, {"--link", "tap0"}, {"--addr", "x"}, {"more"}} {
		if r := runDoctor(t, host, nil, args...); r.code != 2 || r.stdout != "" {
			t.Errorf("doctor %v: want exit code 2: %v", args, r)
		}
	}
}
