package hostnet

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const testHeader = `{"format":"ustack-hostnet-1","pid":12,"start":34,"boot":"b","netns":56,"cookie":78,"tap":"tap0"}` + "\n"

// every kind of change there is.
var everyChange = []change{
	{N: 1, Op: opUp, Link: "tap0", Index: 3},
	{N: 2, Op: opMTU, Link: "tap0", Index: 3, Old: "1500", New: "1400"},
	{N: 3, Op: opAddr, Link: "tap0", Index: 3, Addr: "10.0.0.5/24"},
	{N: 4, Op: opRoute, Link: "tap0", Index: 3, Addr: "fd00::/64"},
	{N: 5, Op: opMaster, Link: "tap0", Index: 3, Master: "br0", MasterIndex: 4},
	{N: 6, Op: opSysctl, Key: keyForward4, Old: "0", New: "1", Side: map[string]string{"eth0.7/forwarding": "1", "all/accept_redirects": "0"}},
	{N: 7, Op: opSysctl, Key: keyForward6, Old: "0", New: "1"},
	{N: 8, Op: opSysctl, Key: keyAcceptRA, Link: "eth0.7", Index: 2, Old: "1", New: "2"},
	{N: 9, Op: opTable, Table: "ustack_tap0", Owned: true},
}

func encode(t testing.TB, changes ...change) string {
	var b strings.Builder
	b.WriteString(testHeader)
	for _, c := range changes {
		line, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
	}
	return b.String()
}

func TestDecodeJournal(t *testing.T) {
	text := encode(t, everyChange...)
	head, changes, err := decodeJournal([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if want := (header{Format: journalFormat, PID: 12, Start: 34, Boot: "b", NetNS: 56, Cookie: 78, Tap: "tap0"}); head != want {
		t.Errorf("header %+v", head)
	}
	if !reflect.DeepEqual(changes, everyChange) {
		t.Errorf("changes %+v", changes)
	}
	// Undone ones are gone, and so is a line that was cut short.
	text = encode(t, everyChange[0], everyChange[1], change{Op: opUndone, N: 1}) + `{"n":3,"op":"up"`
	_, changes, err = decodeJournal([]byte(text))
	if err != nil || !reflect.DeepEqual(changes, everyChange[1:2]) {
		t.Errorf("%+v, %v", changes, err)
	}
}

func TestDecodeJournalRefuses(t *testing.T) {
	for _, line := range []string{
		`{"n":1,"op":"exec","link":"tap0","index":3}`,
		`{"n":1,"op":"up","link":"tap0","index":3,"extra":1}`,
		`{"n":1,"op":"up","link":"tap0","index":3}{}`,
		`{"n":1,"op":"up","link":"tap0"}`,
		`{"n":0,"op":"up","link":"tap0","index":3}`,
		`{"n":1,"op":"up","link":"../tap0","index":3}`,
		`{"n":1,"op":"mtu","link":"tap0","index":3,"old":"x","new":"1"}`,
		`{"n":1,"op":"addr","link":"tap0","index":3,"addr":"10.0.0.5"}`,
		`{"n":1,"op":"master","link":"tap0","index":3,"master":"br0"}`,
		`{"n":1,"op":"sysctl","key":"kernel.core_pattern","old":"0","new":"1"}`,
		`{"n":1,"op":"sysctl","key":"net.ipv4.ip_forward","old":"|x","new":"1"}`,
		`{"n":1,"op":"sysctl","key":"net.ipv4.ip_forward","old":"0","new":"1","side":{"../../kernel/forwarding":"1"}}`,
		`{"n":1,"op":"sysctl","key":"net.ipv4.ip_forward","old":"0","new":"1","side":{"eth0/proxy_arp":"1"}}`,
		`{"n":1,"op":"sysctl","key":"net.ipv6.conf.LINK.accept_ra","old":"1","new":"2","link":"..","index":2}`,
		`{"n":1,"op":"table","table":"filter"}`,
		`{"n":1,"op":"undone"}`,
		`{"n":1,"op":"up","link":"tap0","index":3}` + "\n" + `{"n":1,"op":"up","link":"tap0","index":3}`,
		`null`, `[]`, `"`, ``,
	} {
		_, changes, err := decodeJournal([]byte(testHeader + line + "\n"))
		if err == nil {
			t.Errorf("%s: accepted as %+v", line, changes)
		}
	}
	for _, head := range []string{
		"", "{}\n", `{"format":"ustack-hostnet-2","pid":12,"start":34,"boot":"b","netns":56,"cookie":78,"tap":"tap0"}` + "\n",
		strings.Replace(testHeader, "12", "-1", 1), strings.Replace(testHeader, "tap0", "/", 1),
	} {
		if _, _, err := decodeJournal([]byte(head)); err == nil {
			t.Errorf("header %q: accepted", head)
		}
	}
	long := testHeader + strings.Repeat(" ", maxLine+1) + "\n"
	many := testHeader + strings.Repeat(`{"n":1,"op":"table","table":"ustack_"}`+"\n"+`{"n":1,"op":"undone"}`+"\n", maxLines/2)
	for _, text := range []string{long, many, strings.Repeat("x", maxFile+1)} {
		if _, _, err := decodeJournal([]byte(text)); err == nil {
			t.Errorf("%d bytes: accepted", len(text))
		}
	}
}

func FuzzDecodeJournal(f *testing.F) {
	f.Add([]byte(encode(f, everyChange...)))
	f.Add([]byte(encode(f, everyChange[0], change{Op: opUndone, N: 1}, everyChange[5]) + `{"n":3`))
	f.Add([]byte(testHeader + `{"n":1,"op":"sysctl","key":"net.ipv4.ip_forward","old":"0","new":"1","side":{"../x/forwarding":"1"}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, changes, err := decodeJournal(b)
		if err != nil {
			return
		}
		seen := map[int]bool{}
		for _, c := range changes {
			if seen[c.N] || c.Op == opUndone || c.validate() != nil {
				t.Errorf("%+v", c)
			}
			seen[c.N] = true
			if c.Op != opSysctl {
				continue
			}
			for _, path := range append([]string{c.path()}, sidePaths(c)...) {
				if !strings.HasPrefix(path, sysctlRoot+"/ipv") || strings.Contains(path, "/../") {
					t.Errorf("%+v leads to %s", c, path)
				}
			}
		}
	})
}

func sidePaths(c change) []string {
	var out []string
	for k := range c.Side {
		out = append(out, fmt.Sprintf("%s/conf/%s", c.family(), k))
	}
	return out
}

// A change is shown as the command that makes it.
func TestChangeString(t *testing.T) {
	want := []string{
		"ip link set tap0 up", "ip link set tap0 mtu 1400", "ip addr add 10.0.0.5/24 dev tap0",
		"ip route add fd00::/64 dev tap0", "ip link set tap0 master br0", "sysctl -w net.ipv4.ip_forward=1",
		"sysctl -w net.ipv6.conf.all.forwarding=1", "sysctl -w net.ipv6.conf.eth0/7.accept_ra=2", "nft add table inet ustack_tap0",
	}
	for i, c := range everyChange {
		if got := c.String(); got != want[i] {
			t.Errorf("%q, want %q", got, want[i])
		}
	}
}
