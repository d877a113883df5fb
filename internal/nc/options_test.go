package nc

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"":               "HOST and PORT are needed",
		"h":              "HOST and PORT are needed",
		"h 0":            `port "0" is neither`,
		"h 65536":        `port "65536" is neither`,
		"h -z 99999-1":   `port "99999" is neither`,
		"h -- -1":        `port "-1" is neither`,
		"h 20-":          `port "20-" is neither`,
		"h nonsense":     `port "nonsense" is neither`,
		"-l":             "-l takes [HOST] PORT",
		"-l a b c":       "-l takes [HOST] PORT",
		"-l -p 80 a 90":  "only an address may follow",
		"-k h 80":        "-k needs -l",
		"-lz 80":         "-z and -l exclude each other",
		"-l -s ::1 80":   "-s and -l exclude each other",
		"-46 h 80":       "only one of -4 and -6",
		"-p 80 h 1 2":    "-p takes one port",
		"-p x h 1":       `port "x" is neither`,
		"-w 0 h 80":      "must be above 0",
		"-w nan h 80":    `"nan" is not a time`,
		"-q -x h 80":     `"-x" is not a time`,
		"-q 1e99 h 80":   `"1e99" is not a time`,
		"-T h 80":        "unknown option -T",
		"--socket= h 80": "the path is empty",
	} {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), strings.Fields(args), Env{Stdout: &out, Stderr: &errOut, Network: newNet()})
		if code != 2 || out.Len() > 0 || !strings.HasPrefix(errOut.String(), "nc: ") || !strings.Contains(errOut.String(), want) {
			t.Errorf("%s: code %d, %q, want %q", args, code, errOut.String(), want)
		}
	}
}

func TestOptions(t *testing.T) {
	for args, want := range map[string]struct {
		host  string
		ports []uint16
	}{
		"h 80":               {"h", []uint16{80}},
		"h 20-22 80":         {"h", []uint16{20, 21, 22, 80}},
		"h 22-20":            {"h", []uint16{20, 21, 22}},
		"-l 80":              {"", []uint16{80}},
		"-l ::1 80":          {"::1", []uint16{80}},
		"-l -p 80":           {"", []uint16{80}},
		"-lp80 127.0.0.1":    {"127.0.0.1", []uint16{80}},
		"h -w1.5 -q2 80 -vz": {"h", []uint16{80}},
	} {
		o, err := parseOptions(strings.Fields(args))
		if err != nil || o.host != want.host || len(o.ports) != len(want.ports) {
			t.Errorf("%s: %+v, %v", args, o, err)
			continue
		}
		for i := range o.ports {
			if o.ports[i] != want.ports[i] {
				t.Errorf("%s: ports %v, want %v", args, o.ports, want.ports)
			}
		}
	}
	o, err := parseOptions(strings.Fields("-uw1.5 -q2 --socket /x h 53"))
	if err != nil || o.timeout != 1500*time.Millisecond || *o.quit != 2*time.Second || o.network() != "udp" || o.socket != "/x" {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestHelp(t *testing.T) {
	var out, errOut bytes.Buffer
	if code := Main(t.Context(), []string{"--help"}, Env{Stdout: &out, Stderr: &errOut}); code != 0 || !strings.Contains(out.String(), "usage: nc") {
		t.Errorf("code %d, %q", code, out.String())
	}
}
