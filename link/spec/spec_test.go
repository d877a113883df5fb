package spec

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/internal/netlab"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/tap"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]Spec{
		"tap:tap0":  {Kind: "tap", Name: "tap0"},
		"tap:tap%d": {Kind: "tap", Name: "tap%d"},
		"tap:tap0,queues=2,persist": {Kind: "tap", Name: "tap0", Options: []Option{
			{"queues", "2"}, {"persist", ""},
		}},
		"tap:x.y,offload=off,driver=water,mtu=9000": {Kind: "tap", Name: "x.y", Options: []Option{
			{"offload", "off"}, {"driver", "water"}, {"mtu", "9000"},
		}},
		"macinmac:eth0,ethertype=0x88b5,header=10,remote=02:00:00:00:00:01": {Kind: "macinmac", Name: "eth0", Options: []Option{{"ethertype", "0x88b5"}, {"header", "10"}, {"remote", "02:00:00:00:00:01"}}},
		"vxlan:2001:db8::7,vni=42,dev=eth0":                                 {Kind: "vxlan", Name: "2001:db8::7", Options: []Option{{"vni", "42"}, {"dev", "eth0"}}},
		"stream:/run/q.sock":                                                {Kind: "stream", Name: "/run/q.sock"},
		"stream:[::1]:7777,listen":                                          {Kind: "stream", Name: "[::1]:7777", Options: []Option{{"listen", ""}}},
		"dgram:local=/run/a,remote=/run/b":                                  {Kind: "dgram", Options: []Option{{"local", "/run/a"}, {"remote", "/run/b"}}},
		"fd:3,mtu=9000":                                                     {Kind: "fd", Name: "3", Options: []Option{{"mtu", "9000"}}},
		"pipe:":                                                             {Kind: "pipe"},
		"pipe:,queues=2,mtu=576":                                            {Kind: "pipe", Options: []Option{{"queues", "2"}, {"mtu", "576"}}},
	} {
		got, err := Parse(s)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q) = %+v, %v, want %+v", s, got, err, want)
		}
		if back := got.String(); back != s {
			t.Errorf("%q came back as %q", s, back)
		}
	}
}

// Every error says what is wrong, with what, and what would be right.
func TestParseErrors(t *testing.T) {
	for s, words := range map[string]string{
		"":                                    `"" | kind is missing | tap:tap0`,
		"tap0":                                `"tap0" | use tap:tap0`,
		"tap7,queues=2":                       `use tap:tap7,queues=2`,
		"tap":                                 `kind is missing`,
		"pipe":                                `use pipe:`,
		"eth0":                                `kind is missing | tap, `,
		"tap7,queue=2":                        `kind is missing`,
		":":                                   `unknown kind "" | tap, `,
		"tpa:tap0":                            `unknown kind "tpa" | tap, `,
		"tab:tap0":                            `unknown kind "tab" | nearest: "tap" | tap, `,
		"TAP:tap0":                            `unknown kind "TAP"`,
		"pip:":                                `nearest: "pipe"`,
		"tap:":                                `name is missing | tap:tap0`,
		"tap:,queues=2":                       `name is missing`,
		"tap:a/b":                             `'/'`,
		"tap:a b":                             `' '`,
		"tap:tap:0":                           `':'`,
		"tap:..":                              `not an interface name`,
		"tap:sixteen--letters":                `at most 15`,
		"tap:tap0,":                           `option is empty | queues=N`,
		"tap:tap0,,persist":                   `option is empty`,
		"tap:tap0,=2":                         `option is empty`,
		"tap:tap0,queue=2":                    `no option "queue" | nearest: "queues" | queues=N, driver=tun|water`,
		"tap:tap0,drivr=water":                `nearest: "driver"`,
		"tap:tap0,color=blue":                 `no option "color" | use queues=N`,
		"tap:tap0,queues":                     `queues needs a value | queues=N`,
		"tap:tap0,queues=":                    `queues needs a value`,
		"tap:tap0,queues=0":                   `"0" is not a number from 1 to 256`,
		"tap:tap0,queues=257":                 `1 to 256`,
		"tap:tap0,queues=-1":                  `1 to 256`,
		"tap:tap0,queues=+2":                  `1 to 256`,
		"tap:tap0,queues=02":                  `1 to 256`,
		"tap:tap0,queues=two":                 `"two" is not a number`,
		"tap:tap0,queues=1=2":                 `"1=2" is not a number`,
		"tap:tap0,mtu=67":                     `68 to 65521`,
		"tap:tap0,sndbuf=9999999999":          `1 to 2147483647`,
		"tap:tap0,persist=yes":                `persist takes no value`,
		"tap:tap0,persist=":                   `persist takes no value`,
		"tap:tap0,driver=wather":              `"wather" | nearest: "water" | tun, water`,
		"tap:tap0,offload=on":                 `auto, off`,
		"tap:tap0,queues=2,queues=3":          `queues is given twice`,
		"tap:tap0,driver=water,queues=2":      `driver water has one queue | driver=tun`,
		"tap:tap0,driver=water,offload=auto":  `has no offloads`,
		"tap:tap0,driver=water,sndbuf=1":      `has no send buffer`,
		"stream:":                             `address is missing`,
		"stream:q.sock":                       `neither a path with a / nor HOST:PORT`,
		"stream::7777":                        `host is missing`,
		"stream:localhost:99999":              `not a port`,
		"stream:/" + strings.Repeat("x", 110): `too long for a socket`,
		"/dev/xtun":                           `use chardev:/dev/xtun`,
		"chardev:":                            `path is missing | chardev:/dev/xtun`,
		"chardev:/dev/x,dev=sixteen--letters": `at most 15`,
		"tap:tap0,owner=no-such-user":         `no user "no-such-user"`,
		"tap:tap0,duplex=both":                `full, half`,
		"tap:tap0,speed=0":                    `1 to`,
		"tap:tap0,driver=water,owner=0":       `neither owner`,
		"/run/q.sock":                         `use stream:/run/q.sock`,
		"dgram:":                              `both ends are needed`,
		"dgram:local=/a":                      `both ends are needed`,
		"dgram:/a":                            `no option "/a" | local=PATH`,
		"dgram:local=/a,remote=127.0.0.1:5":   `both paths, or both`,
		"dgram:local=/a,remote=/a":            `are the same`,
		"fd:":                                 `"" is not a number`,
		"fd:x":                                `descriptor that was inherited`,
		"fd:2":                                `3 to`,
		"pipe:x":                              `no name | leave out`,
		"pipe:,persist":                       `pipe has no option "persist" | queues=N, mtu=BYTES`,
		"tap:" + strings.Repeat("x", 9000):    `bytes are too long`,
	} {
		got, err := Parse(s)
		if err == nil {
			t.Errorf("Parse(%q) = %+v, want an error with %q", s, got, words)
			continue
		}
		for word := range strings.SplitSeq(words, " | ") {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("Parse(%.40q): %q does not say %q", s, err, word)
			}
		}
		if strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 500 {
			t.Errorf("Parse(%.40q): the error is not one readable line: %q", s, err)
		}
		if !reflect.DeepEqual(got, Spec{}) {
			t.Errorf("Parse(%.40q) returned %+v with an error", s, got)
		}
	}
}

func TestOpenPipe(t *testing.T) {
	s, err := Parse("pipe:,queues=2,mtu=9000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(s, Env{}); err == nil || !strings.Contains(err.Error(), "other end") || !strings.Contains(err.Error(), "use tap:tap0") {
		t.Errorf("Open of a pipe that nobody wants: %v", err)
	}
	var far link.Device
	near, err := Open(s, Env{Pipe: func(d link.Device) { far = d }})
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	defer far.Close()
	if i := near.Info(); i.MTU != 9000 || len(near.Queues()) != 2 || i.Kind != "pipe" {
		t.Errorf("Info %+v, %d queues", i, len(near.Queues()))
	}
	if n, err := near.Queues()[1].Write([]link.OutFrame{{Pieces: [][]byte{make([]byte, 100)}}}); n != 1 || err != nil {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if n, err := far.Queues()[1].Read([]link.Frame{{Buf: make([]byte, 100)}}); n != 1 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
}

// A Spec made in Go is held to the same rules.
func TestOpenChecks(t *testing.T) {
	for _, s := range []Spec{
		{}, {Kind: "tap"}, {Kind: "tap", Name: "a,persist"}, {Kind: "nothing", Name: "x"},
		{Kind: "tap", Name: "a b"},
		{Kind: "tap", Name: "tap0", Options: []Option{{"queues", "0"}}},
	} {
		if dev, err := Open(s, Env{}); err == nil {
			dev.Close()
			t.Errorf("Open(%+v): no error", s)
		}
	}
}

func TestOpenTap(t *testing.T) {
	ns := netlab.New(t, "spec")
	for s, want := range map[string]struct {
		driver string
		queues int
		mtu    int
		stays  bool
	}{
		"tap:lab0":                            {tap.DriverNative, 1, 1500, false},
		"tap:lab%d,queues=2,mtu=1400,persist": {tap.DriverNative, 2, 1400, true},
		"tap:lab0,driver=water":               {tap.DriverWater, 1, 1500, false},
		"tap:lab0,offload=off,sndbuf=100000":  {tap.DriverNative, 1, 1500, false},
	} {
		spec, err := Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		var dev link.Device
		ns.Do(t, func() { dev, err = Open(spec, Env{}) })
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if i := dev.Info(); i.Name != "lab0" || i.Driver != want.driver || i.MTU != want.mtu || len(dev.Queues()) != want.queues {
			t.Errorf("%s: Info %+v, %d queues", s, i, len(dev.Queues()))
		}
		if off := strings.Contains(s, "off"); off && dev.Info().RX != 0 {
			t.Errorf("%s: offloads %v", s, dev.Info().RX)
		}
		dev.Close()
		if stays := ns.HasLink("lab0"); stays != want.stays {
			t.Errorf("%s: there after Close: %v", s, stays)
		} else if stays {
			ns.Run(t, "ip", "link", "del", "lab0")
		}
	}
	var err error
	ns.Do(t, func() { _, err = Open(Spec{Kind: "tap", Name: "lo"}, Env{}) })
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "not a tap") {
		t.Errorf("Open of lo: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", ":", "tap", "tap0", "tap:", "tap:tap0", "tap:tap%d,queues=2,persist", "tap:tap0,driver=water",
		"tap:tap0,offload=off,sndbuf=1,mtu=1500", "pipe:", "pipe:,mtu=68", "tap:tap0,,", "tap:tap0,=", "tap:tap0,persist=",
		"tap:a\x00b", "tap:tap0,queues=99999999999999999999", "unknown:x", "tap:täp", "pipe", "pipe,mtu=70",
		"tap:tap0,delay=20ms,jitter=2ms,loss=1%,duplicate=0.1%,reorder=1%,corrupt=0.1%,rate=1gbit,limit=1000,seed=7",
		"pipe:,delay=.5s", "pipe:,delay=9999999999999999999s", "pipe:,rate=1e9bit", "pipe:,loss=%", "pipe:,loss=1%%", "pipe:,reorder=1%",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := Parse(s)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the error is not one line: %q", err)
			}
			return
		}
		if back := spec.String(); back != s {
			t.Errorf("%q came back as %q", s, back)
		}
		again, err := Parse(spec.String())
		if err != nil || !reflect.DeepEqual(again, spec) {
			t.Errorf("%+v came back as %+v, %v", spec, again, err)
		}
	})
}

func TestNearest(t *testing.T) {
	for _, c := range []struct {
		a, b string
		n    int
	}{{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"kitten", "sitting", 3}, {"queue", "queues", 1}, {"ab", "ba", 2}} {
		if n := edits(c.a, c.b); n != c.n {
			t.Errorf("edits(%q, %q) = %d, want %d", c.a, c.b, n, c.n)
		}
		if n := edits(c.b, c.a); n != c.n {
			t.Errorf("edits(%q, %q) = %d, want %d", c.b, c.a, n, c.n)
		}
	}
	if got := nearest("entirely different", []string{"tap", "pipe"}); got != "" {
		t.Errorf("nearest = %q", got)
	}
}
