package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ustack/ustack/control"
)

// fakeBackend answers what fixture says, and records changes.
type fakeBackend struct {
	control.Backend // nil: dialling is not what is tested here
	status          control.Status
	sockets         []control.SocketInfo
	neighbours      []control.Neighbour
	counters        map[string]uint64

	mu        sync.Mutex // guards what follows
	changes   []string
	changeErr error
}

func (b *fakeBackend) Status() control.Status          { return b.status }
func (b *fakeBackend) Links() []control.Link           { return b.status.Links }
func (b *fakeBackend) Addrs() []control.Addr           { return b.status.Addrs }
func (b *fakeBackend) Routes() []control.Route         { return b.status.Routes }
func (b *fakeBackend) Neighbours() []control.Neighbour { return b.neighbours }
func (b *fakeBackend) Sockets() []control.SocketInfo   { return slices.Clone(b.sockets) }
func (b *fakeBackend) Stats() control.Stats            { return control.Stats{Counters: b.counters} }
func (b *fakeBackend) change(format string, v ...any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes = append(b.changes, fmt.Sprintf(format, v...))
	return b.changeErr
}

func (b *fakeBackend) AddAddr(_ context.Context, a netip.Prefix) error { return b.change("add %v", a) }
func (b *fakeBackend) DelAddr(_ context.Context, a netip.Prefix) error { return b.change("del %v", a) }
func (b *fakeBackend) AddRoute(_ context.Context, r control.Route) error {
	return b.change("add %v via %v dev %q", r.Dst, r.Gateway, r.Link)
}
func (b *fakeBackend) DelRoute(_ context.Context, r control.Route) error {
	return b.change("del %v via %v dev %q", r.Dst, r.Gateway, r.Link)
}
func (b *fakeBackend) AddNeighbour(_ context.Context, n control.Neighbour) error {
	return b.change("add %v at %v", n.IP, n.HardwareAddr)
}
func (b *fakeBackend) DelNeighbour(_ context.Context, ip netip.Addr) error {
	return b.change("del %v", ip)
}
func (b *fakeBackend) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, syscall.ENETUNREACH
}

// serveFake offers a fake backend on a control socket.
func serveFake(t *testing.T, b *fakeBackend) (socket string) {
	t.Helper()
	socket = filepath.Join(socketDir(t), "u.sock")
	server := control.NewServer(control.ServerConfig{Backend: b, Path: socket})
	if err := server.Listen(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	t.Cleanup(func() {
		server.Close()
		<-served
	})
	return socket
}

func TestReadingCommands(t *testing.T) {
	b := &fakeBackend{
		status:     fixture(),
		sockets:    []control.SocketInfo{{Network: "tcp", State: "LISTEN", Local: "10.0.0.4:80"}, {Network: "udp", State: "ESTAB", Local: "10.0.0.4:53"}},
		neighbours: []control.Neighbour{{Link: "tap0", IP: netip.MustParseAddr("10.0.0.5"), State: "reachable"}},
		counters:   map[string]uint64{"tcp.retransmits": 3, "ip.packets_received": 7},
	}
	socket := serveFake(t, b)
	text := func(args ...string) string {
		t.Helper()
		stdout, stderr, code := try(t, append(args, "--socket", socket)...)
		if code != 0 || stderr != "" {
			t.Errorf("%q: code %d, %s", args, code, stderr)
		}
		return stdout
	}
	for args, want := range map[string]string{
		"status":         "\nwarning  ",
		"link":           "1: tap0: UP",
		"link show lo":   "1: lo: UP",
		"l ls":           "2: lo: UP",
		"addr":           "tap0  10.0.0.4/24",
		"a show":         "lo    127.0.0.1/8",
		"route list":     "default via 10.0.0.5 dev tap0 proto dhcp",
		"neigh":          "10.0.0.5 dev tap0 REACHABLE",
		"ss -tlnp":       "tcp    LISTEN",
		"ss -u":          "udp    ESTAB",
		"stats tcp. ip.": "tcp.retransmits      3",
	} {
		if got := text(strings.Fields(args)...); !strings.Contains(got, want) {
			t.Errorf("%s: no %q in\n%s", args, want, got)
		}
	}
	if got := text("ss", "-tln"); strings.Contains(got, "udp") {
		t.Errorf("ss -tl shows\n%s", got)
	}
	if _, stderr, code := try(t, "link", "show", "tap7", "--socket", socket); code != exitError || !strings.Contains(stderr, `"tap7"`) {
		t.Errorf("link show tap7: code %d, %s", code, stderr)
	}

	// JSON is control's types, whatever the text looks like.
	fromJSON := func(v any, args ...string) any {
		t.Helper()
		if err := json.Unmarshal([]byte(text(append(args, "--json")...)), v); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return reflect.ValueOf(v).Elem().Interface()
	}
	if got := fromJSON(&[]control.Link{}, "link"); !reflect.DeepEqual(got, b.status.Links) {
		t.Errorf("links %+v", got)
	}
	if got := fromJSON(&[]control.Route{}, "route"); !reflect.DeepEqual(got, b.status.Routes) {
		t.Errorf("routes %+v", got)
	}
	if got := fromJSON(&control.Status{}, "status").(control.Status); got.PID != 42 || len(got.Addrs) != 3 || len(got.Warnings) != 1 {
		t.Errorf("status %+v", got)
	}
	if got := fromJSON(&control.Stats{}, "stats", "tcp.").(control.Stats); len(got.Counters) != 1 {
		t.Errorf("stats %+v", got)
	}
	if got := fromJSON(&[]control.Neighbour{}, "neigh"); !reflect.DeepEqual(got, b.neighbours) {
		t.Errorf("neighbours %+v", got)
	}
}

func TestEmptyAnswersAreEmptyLists(t *testing.T) {
	socket := serveFake(t, &fakeBackend{})
	for _, command := range []string{"link", "addr", "route", "neigh", "ss"} {
		if stdout, stderr, code := try(t, command, "--json", "--socket", socket); code != 0 || stdout != "[]\n" {
			t.Errorf("%s --json: code %d, %q %q", command, code, stdout, stderr)
		}
	}
	if stdout, _, code := try(t, "stats", "--json", "--socket", socket); code != 0 || !strings.Contains(stdout, `"counters": {}`) {
		t.Errorf("stats --json: code %d, %q", code, stdout)
	}
}

func TestChangingCommands(t *testing.T) {
	b := &fakeBackend{}
	socket := serveFake(t, b)
	var want []string
	for _, step := range []struct{ args, change string }{
		{"addr add 10.0.0.9/24", "add 10.0.0.9/24"},
		{"a del 2001:db8::9/64", "del 2001:db8::9/64"},
		{"route add default via 10.0.0.5", `add 0.0.0.0/0 via 10.0.0.5 dev ""`},
		{"route del 192.0.2.0/24", `del 192.0.2.0/24 via invalid IP dev ""`},
		{"neigh add 10.0.0.9 lladdr 02-00-00-00-00-09", "add 10.0.0.9 at 02:00:00:00:00:09"},
		{"neighbour del 10.0.0.9", "del 10.0.0.9"},
	} {
		if _, stderr, code := try(t, append(strings.Fields(step.args), "--socket", socket)...); code != 0 {
			t.Errorf("%s: code %d, %s", step.args, code, stderr)
		}
		want = append(want, step.change)
	}
	b.mu.Lock()
	if !slices.Equal(b.changes, want) {
		t.Errorf("changes\n%q, want\n%q", b.changes, want)
	}
	b.changeErr = fmt.Errorf("stack: add address 10.0.0.9/24: %w", syscall.EEXIST)
	b.mu.Unlock()
	_, stderr, code := try(t, "addr", "add", "10.0.0.9/24", "--socket", socket)
	if code != exitError || !strings.HasPrefix(stderr, "ustack: ") || !strings.Contains(stderr, "file exists") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("code %d, %q", code, stderr)
	}
}
