package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netns"
)

// The subjects, in the order in which they take turns and are shown.
const (
	vethOn   = "veth"
	vethOff  = "veth-off"
	native   = "ustack"
	daemon   = "ustack-daemon"
	underRun = "ustack-run"
	water    = "ustack-water"
	pasta    = "pasta"
	slirp    = "slirp4netns"
	naiveTap = "naive"

	// Over an impaired link only.
	kernelReno  = "kernel-reno"
	kernelCubic = "kernel-cubic"

	// The stack with other settings than its own, over an impaired link only.
	nativeRACK      = "ustack-rack"
	nativeRTO       = "ustack-rto200"
	nativeCubic     = "ustack-cubic"
	nativeCubicRACK = "ustack-cubic-rack"
	nativeCeiling   = "ustack-64m"
)

// settings are those of package stack for its subjects, as openNetwork takes them.
var settings = map[string]string{
	native:          "",
	nativeRACK:      "/rack/rto=200ms",
	nativeRTO:       "/rto=200ms",
	nativeCubic:     "/cubic",
	nativeCubicRACK: "/cubic/rack/rto=200ms",
	nativeCeiling:   "/memory=67108864",
}

// about says what a subject is.
var about = map[string]string{
	vethOn:      "kernel sockets over a veth pair with its offloads",
	vethOff:     "the same with checksum, segmentation and receive offloads off on both ends",
	native:      "package stack in the application's process, on a TAP with offloads",
	daemon:      "the application as a client of `ustack up` on a TAP with offloads",
	underRun:    "the application with kernel sockets, under `ustack run -v` beside such a daemon",
	water:       "package stack in the application's process, on a TAP by the water driver: no offloads",
	pasta:       "pasta of the package passt, MTU 1500: kernel on the TAP's side, application's kernel sockets on the other",
	slirp:       "slirp4netns, MTU 1500, the same way",
	kernelReno:  "kernel sockets over two TAPs whose frames a process passes on, with the same impairments by the same code; reno set for each socket",
	kernelCubic: "the same with cubic",
	nativeRACK:  "ustack with --loss-detection rack and a retransmission timeout of at least 200 ms, as netstack has them of itself",
	nativeRTO:   "ustack with a retransmission timeout of at least 200 ms",
	nativeCubic: "ustack with --congestion-control cubic",

	nativeCeiling:   "ustack with `--memory 64M`, a ceiling over the buffers of all sockets",
	nativeCubicRACK: "both of ustack-rack's, and cubic",

	linuxBridge:   "kernel sockets in two namespaces, each with a veth pair to a Linux bridge in a third",
	ustackBridge:  "kernel sockets in two namespaces, each with a TAP with offloads that is a port of package bridge, in one process",
	bridgeDrained: "the same with a third port, QEMU's framing over a unix socket, whose peer reads; a fourth port sends 5,000 frames of 1000 bytes a second, by turns to everybody and to a station that nobody knows",
	bridgeStalled: "the same with a peer of the third port that never reads",
	ustackFrames:  "`ustack bridge --port stream:A,listen --port stream:B,listen` between two processes with unix sockets",
	vsockFrames:   "the switch of gvisor-tap-vsock by itself, the same way",
	lookupFew:     "package bridge with 10 ports and 1,000 stations; one port sends to all others at random",
	lookupMany:    "the same with 10 ports and 100,000 stations",
	lookupAll:     "the same with 1,000 ports and 100,000 stations",

	naiveTap: "netstack with gVisor's fdbased endpoint and gonet on a plain TAP, all defaults",
}

// Addresses: the kernel's side dials the stack's.
var (
	stackPrefix  = netip.MustParsePrefix("10.0.0.4/24")
	kernelPrefix = netip.MustParsePrefix("10.0.0.5/24")
)

const tapName = "tap0"

// An instance is one subject at work: the kernel's side that dials, the server on the
// stack, and whatever is between.
type instance struct {
	subject string
	addr    string // the server's, as the kernel's side dials it
	dial    *process
	beside  *process // a second process of the kernel's side, for load beside
	serve   *process
	between []*process // daemon, pasta …: of the stack's side

	outward outward // of a subject under whose daemon programs run

	spaces []*netns.NS
	dir    string
	peers  string // folder of the peers' programs
}

// A lab makes instances.
type lab struct {
	ustack string // path of the ustack program
	vsock  string // path of the switch of gvisor-tap-vsock; "": it is not there
	peers  string // folder of the peers' programs
	dir    string // for files of instances
	made   int
}

// kernelSettings are set in every namespace: a namespace inherits some from the
// machine. IPv6 is off because gVisor's fdbased endpoint stops for good at the first
// frame that is not for it.
var kernelSettings = [][2]string{
	{"net.ipv4.tcp_congestion_control", "reno"},
	{"net.ipv6.conf.all.disable_ipv6", "1"},
	{"net.ipv6.conf.default.disable_ipv6", "1"},
	{"net.core.somaxconn", "4096"},
	{"net.ipv4.ip_forward", "0"},
	{"net.ipv4.conf.all.rp_filter", "0"},
}

// errMissing is what a subject's program that is not there is.
var errMissing = errors.New("is not there: run `make peers`")

// make makes an instance of a subject. If pinned, the kernel's side runs on processor 0
// and everything of the stack's side on processor 1. path impairs the tap, as options
// of a SPEC; "" does not.
func (l *lab) make(ctx context.Context, subject string, pinned bool, path string) (in *instance, err error) {
	l.made++
	in = &instance{subject: subject, addr: stackPrefix.Addr().String(), dir: filepath.Join(l.dir, fmt.Sprint(l.made))}
	in.peers = l.peers
	defer func() {
		if err != nil {
			in.close()
			in, err = nil, fmt.Errorf("set %s up: %w", subject, err)
		}
	}()
	if err := os.MkdirAll(in.dir, 0o755); err != nil { // pasta drops its privilege
		return in, err
	}
	var dialCPU, serveCPU []int
	if pinned {
		dialCPU, serveCPU = []int{0}, []int{1}
	}
	k, err := in.space("kernel")
	if err != nil {
		return in, err
	}
	switch subject {
	case vethOn, vethOff:
		err = in.overVeth(ctx, k, subject == vethOff, serveCPU)
	case kernelReno, kernelCubic:
		err = in.overBridge(ctx, k, "bridge", "tap:"+tapName+path)
	case ustackBridge, bridgeDrained, bridgeStalled:
		err = in.overBridge(ctx, k, "switch", strings.TrimLeft(strings.TrimPrefix(subject, ustackBridge), "-"))
	case linuxBridge:
		err = in.overLinuxBridge(ctx, k)
	case ustackFrames, vsockFrames:
		return in, in.throughSwitch(ctx, k, l)
	case lookupFew, lookupMany, lookupAll:
		in.serve, err = startProcess(ctx, k, nil, nil, "lookup", subject)
		return in, err
	case native, nativeRACK, nativeRTO, nativeCubic, nativeCubicRACK, nativeCeiling:
		err = in.overTap(ctx, k, "ustack"+settings[subject]+":tap:"+tapName+path, serveCPU)
	case water:
		err = in.overTap(ctx, k, "ustack:tap:"+tapName+",driver=water"+path, serveCPU)
	case naiveTap:
		err = in.overTap(ctx, k, "naive:"+tapName, serveCPU)
	case daemon:
		err = in.throughDaemon(ctx, k, l.ustack, serveCPU)
	case underRun:
		err = in.underRun(ctx, k, l.ustack, serveCPU)
	case pasta, slirp:
		err = in.throughPeer(ctx, k, filepath.Join(l.peers, subject), serveCPU)
	default:
		err = errors.New("there is no such subject")
	}
	if err != nil {
		return in, err
	}
	for _, p := range []**process{&in.dial, &in.beside} {
		if *p, err = startProcess(ctx, k, dialCPU, nil, "dial"); err != nil {
			return in, err
		}
	}
	// The first exchange finds the neighbours and shows that the way is open.
	_, err = in.dial.do(ctx, job{Do: "echo", Addr: in.addr, Time: time.Millisecond})
	return in, err
}

// close ends everything of the instance.
func (in *instance) close() {
	var done sync.WaitGroup
	for _, p := range []*process{in.dial, in.beside, in.serve, in.outward.dial, in.outward.serve} {
		if p != nil {
			done.Go(p.stop)
		}
	}
	done.Wait()
	for _, p := range in.between { // what the others use
		p.stop()
	}
	for _, ns := range in.spaces {
		ns.Close()
	}
	os.RemoveAll(in.dir)
}

func (in *instance) space(name string) (*netns.NS, error) {
	ns, err := netns.New(in.subject + " " + name)
	if err != nil {
		return nil, err
	}
	in.spaces = append(in.spaces, ns)
	for _, kv := range kernelSettings {
		if err := ns.Sysctl(kv[0], kv[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return ns, nil
}

func (in *instance) overVeth(ctx context.Context, k *netns.NS, offloadsOff bool, cpu []int) error {
	s, err := in.space("stack")
	if err != nil {
		return err
	}
	if err := netns.Veth(k, "eth0", s, "eth0"); err != nil {
		return err
	}
	for _, end := range []struct {
		ns   *netns.NS
		addr netip.Prefix
	}{{k, kernelPrefix}, {s, stackPrefix}} {
		if err := end.ns.Addr("eth0", end.addr.String()); err != nil {
			return err
		}
		if offloadsOff {
			if err := end.ns.NoOffloads("eth0"); err != nil {
				return err
			}
		}
	}
	in.serve, err = startProcess(ctx, s, cpu, nil, "serve", "kernel")
	return err
}

// overTap runs a stack in the server's process, on a tap of the kernel's namespace.
func (in *instance) overTap(ctx context.Context, k *netns.NS, network string, cpu []int) error {
	var err error
	if in.serve, err = startProcess(ctx, k, cpu, nil, "serve", network); err != nil {
		return err
	}
	return errors.Join(k.Addr(tapName, kernelPrefix.String()), k.Up(tapName))
}

// overBridge joins two kernels by taps, which a process in that role passes frames between.
func (in *instance) overBridge(ctx context.Context, k *netns.NS, role ...string) error {
	s, err := in.space("stack")
	if err != nil {
		return err
	}
	b, err := startProcess(ctx, k, nil, []*os.File{s.File()}, role...)
	if err != nil {
		return err
	}
	in.between = append(in.between, b)
	for _, end := range []struct {
		ns   *netns.NS
		addr netip.Prefix
	}{{k, kernelPrefix}, {s, stackPrefix}} {
		if err := errors.Join(end.ns.Addr(tapName, end.addr.String()), end.ns.Up(tapName)); err != nil {
			return err
		}
	}
	in.serve, err = startProcess(ctx, s, nil, nil, "serve", "kernel")
	return err
}

func (in *instance) throughDaemon(ctx context.Context, k *netns.NS, program string, cpu []int) error {
	socket, err := in.startDaemon(ctx, k, program, cpu)
	if err == nil {
		in.serve, err = startProcess(ctx, k, cpu, nil, "serve", "daemon:"+socket)
	}
	return err
}

// startDaemon starts `ustack up` on a tap of the kernel's namespace and returns its socket.
func (in *instance) startDaemon(ctx context.Context, k *netns.NS, program string, cpu []int) (socket string, err error) {
	socket = filepath.Join(in.dir, "ustack.sock")
	p, err := start(k, cpu, nil, program, "up", "--socket", socket, "--state-dir", in.dir,
		"--addr", stackPrefix.String(), "--host-addr", kernelPrefix.String(), "--dns", "192.0.2.53")
	if err != nil {
		return "", err
	}
	in.between = append(in.between, p)
	client := &control.Client{Path: socket}
	defer client.Close()
	return socket, p.await(ctx, "its socket", func() bool {
		_, err := client.Status(ctx)
		return err == nil
	})
}

// throughPeer lets pasta or slirp4netns terminate what the kernel's side dials, and
// dial the server's kernel socket in a namespace of its own.
func (in *instance) throughPeer(ctx context.Context, k *netns.NS, program string, cpu []int) error {
	if _, err := os.Stat(program); err != nil {
		return errMissing
	}
	s, err := in.space("stack")
	if err != nil {
		return err
	}
	// pasta takes its addresses from the interface of the default route: a cable that
	// leads nowhere.
	const gateway = "10.0.0.1"
	if err := netns.Veth(s, "eth0", s, "eth1"); err != nil {
		return err
	}
	if err := s.Addr("eth0", stackPrefix.String()); err != nil {
		return err
	}
	if err := s.DefaultRoute(gateway); err != nil {
		return err
	}
	if in.serve, err = startProcess(ctx, s, cpu, nil, "serve", "kernel"); err != nil {
		return err
	}
	// pasta may not look into the descriptors of other processes, but has its own.
	const space = "/proc/self/fd/3"
	args := []string{"--foreground", "--config-net", "--runas", "0", "-t", "none", "-u", "none", "-T", "none", "-U", "none",
		"--mtu", "1500", "--ns-ifname", tapName, "--no-netns-quit", "--netns", space}
	in.addr = gateway // stands for the server's loopback
	if in.subject == slirp {
		args = []string{"--configure", "--mtu=1500", "--netns-type=path", space, tapName}
		in.addr = "10.0.2.2" // the same
	}
	p, err := start(s, cpu, []*os.File{k.File()}, program, args...)
	if err != nil {
		return err
	}
	in.between = append(in.between, p)
	return p.await(ctx, "its interface", func() bool { return k.Has(tapName) })
}

// await polls for what gives no event to wait for.
func (p *process) await(ctx context.Context, what string, cond func() bool) error {
	over := time.NewTimer(10 * time.Second)
	defer over.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended (%v)%s", p.title, p.cmd.ProcessState, p.said)
		case <-over.C:
			return fmt.Errorf("%s: waited 10 s for %s%s", p.title, what, p.said)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}

// stackTime is the processor time of the stack's side: server, and what is between.
func (in *instance) stackTime() (time.Duration, error) {
	return total(append([]*process{in.serve}, in.between...))
}

// allTime is the processor time of both sides.
func (in *instance) allTime() (time.Duration, error) {
	s, err := in.stackTime()
	k, kerr := total([]*process{in.dial, in.beside})
	return s + k, errors.Join(err, kerr)
}

func total(ps []*process) (sum time.Duration, err error) {
	for _, p := range ps {
		t, perr := p.cpuTime()
		sum += t
		err = errors.Join(err, perr)
	}
	return sum, err
}
