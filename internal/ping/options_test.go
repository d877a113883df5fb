package ping

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"":                     "Destination address required",
		"-c 0 h":               `option -c: "0" is not a number from 1`,
		"-c h":                 `"h" is not a number`,
		"-c":                   "option -c needs a value",
		"-s 65508 h":           `"65508" is not a number from 0 to 65507`,
		"-s -1 h":              `"-1" is not`,
		"-t 0 h":               `"0" is not a number from 1 to 255`,
		"-t 256 h":             `"256" is not`,
		"-i nan h":             `"nan" is not a time`,
		"-i -1 h":              `"-1" is not a time`,
		"-i 1e300 h":           `"1e300" is not a time`,
		"-W inf h":             `"inf" is not a time`,
		"-w 0 h":               "must be above 0",
		"-4 -6 h":              "only one of -4 and -6",
		"-p xyz h":             "patterns must be specified as hex digits: xyz",
		"-M maybe h":           `"maybe" is none of do, want, dont, probe`,
		"-l 0 h":               `"0" is not a number from 1 to 65536`,
		"-Q 256 h":             `"256" is not`,
		"-I eth0 h":            "the stack chooses the source address",
		"-z h":                 "unknown option -z",
		"--nothing h":          "unknown option --nothing",
		"--socket":             "option --socket needs a value",
		"--socket= h":          "the path is empty",
		"--help=1 h":           "takes no value",
		"h1 h2":                "one destination, not 2",
		"-- -c 3":              "one destination, not 2",
		"-p " + hex(34) + " h": "1 to 32 hex digits, not 34",
	} {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), strings.Fields(args), Env{Stdout: &out, Stderr: &errOut, Network: &fakeNet{}})
		if code != 2 || out.Len() > 0 || !strings.Contains(errOut.String(), want) || !strings.HasPrefix(errOut.String(), "ping: ") {
			t.Errorf("%s: code %d, %q, want %q", args, code, errOut.String(), want)
		}
	}
}

func hex(n int) string { return strings.Repeat("a", n) }

func TestOptions(t *testing.T) {
	o, err := parseOptions(strings.Fields("-nqc3 www.x -i.002 -W 0.5 --socket=/run/x -w2 -s 0x10 -pff0"))
	if err != nil {
		t.Fatal(err)
	}
	if !o.quiet || o.count != 3 || o.host != "www.x" || o.interval != 2*time.Millisecond || o.linger != 500*time.Millisecond ||
		o.socket != "/run/x" || o.deadline != 2*time.Second || o.size != 16 || string(o.pattern) != "\xff\x00" {
		t.Errorf("%+v", o)
	}
	for args, want := range map[string]time.Duration{"-f h": 0, "-f -i 0.01 h": 10 * time.Millisecond, "-i 0 h": 0, "h": time.Second} {
		if o, err := parseOptions(strings.Fields(args)); err != nil || o.interval != want {
			t.Errorf("%s: interval %v, %v; want %v", args, o.interval, err, want)
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for args, want := range map[string]string{"-h": "usage: ping", "--help": "--socket", "-V": "ping from ustack "} {
		var out, errOut bytes.Buffer
		if code := Main(t.Context(), []string{args}, Env{Stdout: &out, Stderr: &errOut}); code != 0 || !strings.Contains(out.String(), want) || errOut.Len() > 0 {
			t.Errorf("%s: code %d, %q, %q", args, code, out.String(), errOut.String())
		}
	}
}

func TestRoundTrip(t *testing.T) {
	for us, want := range map[int64]string{
		0: "0.000", 45: "0.045", 999: "0.999", 1000: "1.00", 1234: "1.23", 9994: "9.99", 9995: "10.0",
		12345: "12.3", 99949: "99.9", 99950: "100", 123456: "123", 2003499: "2003",
	} {
		if got := roundTrip(us); got != want {
			t.Errorf("%d µs: %s, want %s", us, got, want)
		}
	}
}
