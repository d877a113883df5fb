package curl

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func parse(t *testing.T, args ...string) *config {
	t.Helper()
	c, err := parseArgs(args, eofReader{})
	if err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return c
}

func TestParseTargets(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []target
	}{
		{"a", []target{{url: "a", hasURL: true}}},
		{"a b", []target{{url: "a", hasURL: true}, {url: "b", hasURL: true}}},
		{"a 80", []target{{url: "http://a:80", hasURL: true}}},
		{"a -o x 80", []target{{url: "http://a:80", hasURL: true, out: "x", hasOut: true}}},
		{"-o x -O a b", []target{{url: "a", hasURL: true, out: "x", hasOut: true}, {url: "b", hasURL: true, remote: true}}},
		{"-T f a", []target{{url: "a", hasURL: true, upload: "f", hasUpload: true}}},
		{"a b 80", []target{{url: "a", hasURL: true}, {url: "b", hasURL: true}, {url: "80", hasURL: true}}},
		{"-- -a 80", []target{{url: "http://-a:80", hasURL: true}}},
		{"::1 80", nil},
		{"[::1] 80", []target{{url: "http://[::1]:80", hasURL: true}}},
	} {
		c, err := parseArgs(strings.Fields(tt.args), eofReader{})
		if tt.want == nil {
			if err == nil {
				t.Errorf("%q is accepted", tt.args)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(c.targets, tt.want) {
			t.Errorf("%q: %+v, %v, want %+v", tt.args, c, err, tt.want)
		}
	}
}

func TestParseForms(t *testing.T) {
	c := parse(t, "-sSLXPUT", "--max-time=1.5", "--no-silent", "-vm2", "--limit-rate", "2k", "u", "-C5")
	if c.silent || !c.showError || !c.location || c.method != "PUT" || !c.verbose || c.maxTime != 2*time.Second || c.limitRate != 2048 || c.resumeAt != 5 {
		t.Fatalf("%+v", c)
	}
	for v, want := range map[string]int64{"0": 0, "12": 12, "1k": 1024, "3M": 3 << 20, "1G": 1 << 30, "5b": 5} {
		if got, err := byteCount(v); err != nil || got != want {
			t.Errorf("%q: %d, %v", v, got, err)
		}
	}
	for _, v := range []string{"", "k", "-1", "1kk", "9223372036854775807k", "1.5k"} {
		if n, err := byteCount(v); err == nil {
			t.Errorf("%q is %d", v, n)
		}
	}
}

// No two options share a name.
func TestOptionTable(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range options() {
		for _, n := range []string{"-" + string(o.short), "--" + o.long} {
			if n != "-\x00" && n != "--" && seen[n] {
				t.Errorf("%s is there twice", n)
			}
			seen[n] = true
		}
	}
	for n := range refused() {
		if seen["--"+n] || seen[n] {
			t.Errorf("%s is refused and an option", n)
		}
	}
}

func FuzzArgs(f *testing.F) {
	for _, s := range []string{
		"http://a/", "a 80", "-sSLo f http://a", "--data x --get a", "-F a=b;type=c;filename=\"d\" u", "-H a:b -H c; u",
		"--resolve a:80:1.2.3.4,::1 u", "--connect-to ::a: u", "--connect-to [::1]:80:[::2]:81 u", "-m 1e400 u", "-w %{x} u", "-- -o",
		"--no-no-silent u", "--limit-rate 9999999999999g u", "-C - u", "http://[::1%25eth0]:80/ 80", "-X", "-", "--", "---", "--=", "http://h/%zz%",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "@") || strings.Contains(line, "<") {
			return // would read files
		}
		c, err := parseArgs(strings.Split(line, " "), eofReader{})
		if err != nil {
			var e *exitError
			if !errors.As(err, &e) || e.code == 0 || e.msg == "" {
				t.Fatalf("%q: %#v", line, err)
			}
			return
		}
		for i := range c.targets {
			if u, err := c.requestURL(&c.targets[i]); err == nil && u.Host == "" {
				t.Fatalf("%q: a URL without host: %v", line, u)
			}
		}
	})
}

func FuzzHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody"), uint8(3))
	f.Add([]byte("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\n\n"), uint8(1))
	f.Add([]byte("\r\n"), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		h := head{response: true}
		for rest := b; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			h.feed(rest[:n])
			rest = rest[n:]
		}
		whole := head{response: true}
		whole.feed(b)
		if h.done != whole.done || string(h.raw) != string(whole.raw) || !strings.HasPrefix(string(b), string(h.raw)) {
			t.Fatalf("in steps %q %v, at once %q %v", h.raw, h.done, whole.raw, whole.done)
		}
	})
}
