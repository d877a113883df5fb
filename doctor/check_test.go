package doctor

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/control"
)

// fixture is a healthy tap with a daemon on it.
func fixture() *Environment {
	tap := &netlink.Tuntap{Mode: netlink.TUNTAP_MODE_TAP, LinkAttrs: netlink.LinkAttrs{
		Index: 2, Name: "tap0", MTU: 1500, TxQLen: 1000, Statistics: &netlink.LinkStatistics{},
		RawFlags: unix.IFF_UP | unix.IFF_LOWER_UP | unix.IFF_RUNNING | unix.IFF_BROADCAST | unix.IFF_MULTICAST,
	}}
	return &Environment{
		Link: "tap0", Mode: ModeDaemon, Links: []netlink.Link{tap},
		Ethtool: map[string]Ethtool{"tap0": {Known: true, Speed: 10000, Duplex: "full"}},
		Stack:   &Stack{PID: 7, Link: control.Link{Name: "tap0", Kind: "tap", MTU: 1500, HardwareAddr: "02:00:00:00:00:04"}},
	}
}

func (e *Environment) tapAttrs() *netlink.LinkAttrs { return e.Interface("tap0").Attrs() }

func judged(env *Environment) (causes []string) {
	for _, f := range Judge(env).Findings() {
		causes = append(causes, f.Cause)
	}
	return causes
}

func TestChecks(t *testing.T) {
	for _, c := range []struct {
		cause string // "" is healthy
		spoil func(*Environment)
	}{
		{"", func(*Environment) {}},
		{CauseMissing, func(e *Environment) { e.Links = nil }},
		{CauseNotTap, func(e *Environment) { e.Links[0].(*netlink.Tuntap).Mode = netlink.TUNTAP_MODE_TUN }},
		{CauseDown, func(e *Environment) { e.tapAttrs().RawFlags &^= unix.IFF_UP }},
		{CauseDown, func(e *Environment) {
			e.tapAttrs().MasterIndex = 3
			e.Links = append(e.Links, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Index: 3, Name: "br0"}})
		}},
	} {
		env := fixture()
		c.spoil(env)
		var want []string
		if c.cause != "" {
			want = []string{c.cause}
		}
		if got := judged(env); !slices.Equal(got, want) {
			t.Errorf("found %v, want %v", got, want)
		}
	}
}

// Every check has a name of its own, and is masked only by checks before it: else what
// it is masked by is not known yet.
func TestChecksAreInOrder(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range Checks() {
		if c.Cause == "" || c.About == "" || c.Find == nil || seen[c.Cause] {
			t.Errorf("check %q is incomplete or there twice", c.Cause)
		}
		for _, cause := range c.After {
			if !seen[cause] {
				t.Errorf("%s comes after %s, which is no check before it", c.Cause, cause)
			}
		}
		seen[c.Cause] = true
	}
}

func TestReport(t *testing.T) {
	env := fixture()
	env.tapAttrs().RawFlags &^= unix.IFF_UP
	env.notef("a note with a\tcontrol character")
	r := Judge(env)
	var text, list bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"tap0, held by the ustack daemon, pid 7; ", "\nok     the interface exists\n",
		"\nFOUND  interface-down: tap0 is down", "\n         seen: the flags", "\n         do:   ip link set dev tap0 up\n",
		"\nnote   a note with a?control character\n", "\n1 finding\n",
	} {
		if !strings.Contains("\n"+text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if err := r.WriteJSON(&list); err != nil {
		t.Fatal(err)
	}
	var findings []Finding
	if err := json.Unmarshal(list.Bytes(), &findings); err != nil || len(findings) != 1 || findings[0].Link != "tap0" {
		t.Errorf("%v %v\n%s", err, findings, list.String())
	}
	list.Reset()
	if err := Judge(fixture()).WriteJSON(&list); err != nil || list.String() != "[]\n" {
		t.Errorf("%v: healthy is %q", err, list.String())
	}
}
