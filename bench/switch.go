package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/bench/report"
	switching "github.com/ustack/ustack/bridge"
	"github.com/ustack/ustack/internal/netns"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/qemu"
	"github.com/ustack/ustack/link/tap"
)

// Switches, between two kernels or two sockets.
const (
	linuxBridge   = "linux-bridge"
	ustackBridge  = "ustack-bridge"
	bridgeDrained = "ustack-bridge-drained"
	bridgeStalled = "ustack-bridge-stalled"

	ustackFrames = "ustack-bridge-stream"
	vsockFrames  = "gvisor-tap-vsock"

	lookupFew  = "10-ports-1k"
	lookupMany = "10-ports-100k"
	lookupAll  = "1000-ports-100k"
)

// switchRows measure the switch: beside the kernel's and another one in user space, with many ports
// and stations, and with a port that is stuck.
func switchRows(s scale) []row {
	stream := streamRow(s, "bridge-stream", "one stream through a switch", []string{linuxBridge, ustackBridge}, job{Write: 128 << 10}, true,
		report.Goal{Subject: ustackBridge, Against: linuxBridge, Limit: 0.5})
	for i := range stream.metrics {
		stream.metrics[i].NoChart = true
		if i > 0 {
			stream.metrics[i].Goals = nil
		}
	}
	stalled := []string{bridgeDrained, bridgeStalled}
	rate := streamRow(s, "bridge-stalled", "one stream through a switch whose third port is flooded", stalled, job{Write: 128 << 10}, true,
		report.Goal{Subject: bridgeStalled, Against: bridgeDrained, Limit: 0.9})
	echo := echoRow(s, "bridge-stalled-echo", "1-byte round trip through a switch whose third port is flooded", stalled, nil, nil)
	echo.metrics[0].Goals = []report.Goal{{Subject: bridgeStalled, Against: bridgeDrained, Limit: 1.1}}
	for _, r := range []*row{&rate, &echo} {
		for i := range r.metrics {
			r.metrics[i].NoChart = true
			if i > 0 {
				r.metrics[i].Goals = nil
			}
		}
	}
	rate.verify = nil
	return []row{stream, rate, unpinned(echo), framesRow(s), lookupRow(s)}
}

// framesRow counts small frames from one port of a switch to another.
func framesRow(s scale) row {
	return row{
		id: "bridge-frames", subjects: []string{ustackFrames, vsockFrames},
		metrics: []report.Metric{
			{ID: "bridge-frames", Title: "64-byte frames through a switch, QEMU's framing over unix sockets", Unit: "/s", NoChart: true,
				Goals: []report.Goal{{Subject: ustackFrames, Against: vsockFrames, Limit: 3}}},
			{ID: "bridge-frames-cpu", Title: "64-byte frames through a switch: processor of the switch", Unit: "µs each", LowIsGood: true, NoChart: true},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			before, err := total(in.between)
			if err != nil {
				return nil, err
			}
			res, err := in.serve.do(ctx, job{Do: "frames", Addr: in.addr, Time: s.time})
			if err != nil {
				return nil, err
			}
			after, err := total(in.between)
			return map[string]float64{
				"bridge-frames":     float64(res.Count) / res.Time.Seconds(),
				"bridge-frames-cpu": micros(after-before) / float64(max(res.Count, 1)),
			}, err
		},
	}
}

// lookupRow times a frame's way through the switch among so many ports and stations.
func lookupRow(s scale) row {
	return row{
		id: "bridge-lookup", subjects: []string{lookupFew, lookupMany, lookupAll}, rounds: s.echoRounds,
		metrics: []report.Metric{
			{ID: "bridge-lookup", Title: "a frame's way through the switch, without its ports", Unit: "ns", LowIsGood: true, NoChart: true,
				Goals: []report.Goal{{Subject: lookupAll, Against: lookupFew, Limit: 1.5}, {Subject: lookupAll, Against: lookupMany, Limit: 1.5}}},
		},
		run: func(ctx context.Context, in *instance) (map[string]float64, error) {
			res, err := in.serve.do(ctx, job{Do: "lookup", Time: s.time / 2})
			if err != nil {
				return nil, err
			}
			return map[string]float64{"bridge-lookup": float64(res.Time.Nanoseconds()) / float64(max(res.Count, 1))}, nil
		},
	}
}

// overLinuxBridge joins two kernels by veth pairs and a bridge of the kernel's.
func (in *instance) overLinuxBridge(ctx context.Context, k *netns.NS) error {
	s, err := in.space("stack")
	if err != nil {
		return err
	}
	m, err := in.space("switch")
	if err != nil {
		return err
	}
	nl := m.Netlink()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := nl.LinkAdd(br); err != nil {
		return fmt.Errorf("add a bridge: %w", err)
	}
	for _, end := range []struct {
		ns   *netns.NS
		addr netip.Prefix
		port string
	}{{k, kernelPrefix, "p0"}, {s, stackPrefix, "p1"}} {
		if err := netns.Veth(end.ns, "eth0", m, end.port); err != nil {
			return err
		}
		port, err := nl.LinkByName(end.port)
		if err != nil {
			return err
		}
		if err := errors.Join(nl.LinkSetMaster(port, br), m.Up(end.port), end.ns.Addr("eth0", end.addr.String()), end.ns.Up("eth0")); err != nil {
			return err
		}
	}
	if err := m.Up("br0"); err != nil {
		return err
	}
	in.serve, err = startProcess(ctx, s, nil, nil, "serve", "kernel")
	return err
}

// throughSwitch lets frames pass between two sockets.
func (in *instance) throughSwitch(ctx context.Context, k *netns.NS, l *lab) error {
	var p *process
	var err error
	a, b := filepath.Join(in.dir, "a.sock"), filepath.Join(in.dir, "b.sock")
	if in.subject == vsockFrames {
		b = a
		if l.vsock == "" {
			return errMissing
		}
		p, err = start(k, nil, nil, l.vsock, a)
	} else {
		p, err = start(k, nil, nil, l.ustack, "bridge", "--socket", filepath.Join(in.dir, "ustack.sock"), "--state-dir", in.dir,
			"--port", "stream:"+a+",listen", "--port", "stream:"+b+",listen")
	}
	if err != nil {
		return err
	}
	in.between = append(in.between, p)
	in.addr = a + "," + b
	if err := p.await(ctx, "its sockets", func() bool { return isSocket(a) && isSocket(b) }); err != nil {
		return err
	}
	in.serve, err = startProcess(ctx, k, nil, nil, "frames")
	return err
}

func isSocket(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&os.ModeSocket != 0
}

// buildVsock builds the peer that has gvisor-tap-vsock's switch, a module of its own so that nobody
// else needs what it does. It returns "" if it cannot be had.
func buildVsock(ctx context.Context, root, dir string, progress io.Writer) string {
	program := filepath.Join(dir, "vsockswitch")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, ".")
	build.Dir, build.Env = filepath.Join(root, "bench", "vsockswitch"), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(progress, "no gvisor-tap-vsock: build ./bench/vsockswitch: %v\n%s", err, out)
		return ""
	}
	return program
}

// newSwitch joins a tap in the namespace of the process and one in the namespace that is open as descriptor
// 3. With a mode other than "" there is a third port, flooded by a fourth, whose peer takes
// all ("drained") or nothing ("stalled").
func newSwitch(mode string) (stop func(), err error) {
	b := switching.New(switching.Config{})
	near, err := tap.Open(tap.Config{Name: tapName})
	if err != nil {
		b.Close()
		return nil, err
	}
	add := func(dev link.Device, name string) {
		if err == nil {
			_, err = b.AddPort(switching.PortConfig{Device: dev, Name: name})
		}
	}
	add(near, "near")
	far, ferr := openFar(os.NewFile(3, "far namespace"), tap.OffloadAuto)
	if ferr == nil {
		add(far, "far")
	}
	if err = errors.Join(err, ferr); err != nil || mode == "" {
		return func() { b.Close() }, err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "peer")
		ends[i], err = net.FileConn(f)
		f.Close()
		if err != nil {
			return nil, err
		}
	}
	third, err := qemu.OpenStream(qemu.StreamConfig{Conn: ends[0], Name: "third"})
	if err != nil {
		return nil, err
	}
	add(third, "")
	if mode == "drained" {
		go io.Copy(io.Discard, ends[1])
	}
	inside, flood := link.Pipe(link.PipeConfig{Names: [2]string{"flood", "flooder"}})
	add(inside, "")
	if err != nil {
		return nil, err
	}
	go flooding(flood)
	return func() { flood.Close(); b.Close(); ends[1].Close() }, nil
}

// flooding sends 5,000 frames a second to everybody and to a station that nobody knows, by turns, until
// the Device ends.
func flooding(dev link.Device) {
	everybody, nobody := make([]byte, 1000), make([]byte, 1000)
	for i := range 6 {
		everybody[i] = 0xff
	}
	copy(nobody, []byte{2, 0, 0, 0, 0, 0x99})
	for _, f := range [][]byte{everybody, nobody} {
		copy(f[6:], []byte{2, 0, 0, 0, 0, 0x98, 0x88, 0xb5})
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		for i := range 10 {
			f := everybody
			if i%2 == 1 {
				f = nobody
			}
			if _, err := dev.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{f}}}); err != nil {
				return
			}
		}
	}
}
