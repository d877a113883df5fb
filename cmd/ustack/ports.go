package main

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/ustack/ustack/bridge"
	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/hostnet"
	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/link/spec"
)

// A portSpec is a --port: the SPEC of a wire, with what the switch is to know of it among the
// options.
type portSpec struct {
	text            string // as given
	spec            spec.Spec
	hostIf          string // the host's interface behind it, or ""
	isolated        bool
	storm, stations int // 0: no bound, the default
}

// portOptions are the options of a SPEC that are for the switch.
const portOptions = "isolated, storm=FRAMES, stations=N"

func parsePort(text string) (p portSpec, err error) {
	p.text = text
	parts := strings.Split(text, ",")
	wire := parts[:1]
	for _, part := range parts[1:] {
		name, value, hasValue := strings.Cut(part, "=")
		switch name {
		case "isolated":
			if hasValue {
				return p, fmt.Errorf("link %q: option isolated takes no value", text)
			}
			p.isolated = true
		case "storm", "stations":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > 1e9 {
				return p, fmt.Errorf("link %q: option %s: %q is not a number from 1 to 1000000000", text, name, value)
			}
			if name == "storm" {
				p.storm = n
			} else {
				p.stations = n
			}
		default:
			wire = append(wire, part)
		}
	}
	if p.spec, p.hostIf, err = parseLink(strings.Join(wire, ","), 0); err != nil {
		return p, fmt.Errorf("%w; of the switch: %s", err, portOptions)
	}
	return p, nil
}

func parsePorts(texts []string) ([]portSpec, error) {
	var all []portSpec
	for _, text := range texts {
		p, err := parsePort(text)
		if err != nil {
			return nil, usagef("--port: %w", err)
		}
		all = append(all, p)
	}
	return all, nil
}

// A fabric is a switch and the wires that it joins.
type fabric struct {
	*bridge.Bridge
	points *points
	ports  []*fabricPort
	hosts  []*hostnet.Host
}

type fabricPort struct {
	spec portSpec
	*bridge.Port
}

// newFabric opens every wire, brings the host's interface behind it up and joins them, with a
// point of capture at each. What was opened is released if that does not work.
func newFabric(cfg bridge.Config, ports []portSpec, stateDir string, at *points) (_ *fabric, err error) {
	f := &fabric{Bridge: bridge.New(cfg), points: at}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	for _, p := range ports {
		if err := f.add(p, cfg.Logger, stateDir); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func (f *fabric) add(p portSpec, log *slog.Logger, stateDir string) error {
	dev, err := openLink(p.spec, log)
	if err != nil {
		return err
	}
	if p.hostIf != "" {
		host, err := hostnet.Setup(hostnet.Config{Tap: dev.Info().Name, StateDir: stateDir, Logger: log})
		if err != nil {
			dev.Close()
			return err
		}
		f.hosts = append(f.hosts, host)
	}
	port, err := f.AddPort(bridge.PortConfig{
		Device: f.points.add(dev), Isolated: p.isolated, Storm: p.storm, MaxStations: p.stations,
	})
	if err != nil {
		return err
	}
	f.ports = append(f.ports, &fabricPort{p, port})
	return nil
}

// stackPort returns the Device of a stack that is one more port.
func (f *fabric) stackPort() (link.Device, error) {
	mtu := link.MaxMTU
	for _, p := range f.ports {
		mtu = min(mtu, p.Info().MTU)
	}
	const all = link.OffloadCsum | link.OffloadTSO4 | link.OffloadTSO6 | link.OffloadECN
	inside, stack := link.Pipe(link.PipeConfig{
		Names: [2]string{"stack", "bridge"}, MTU: mtu, Offloads: all, Depth: stackPortDepth,
	})
	port, err := f.AddPort(bridge.PortConfig{Device: inside, Inside: true})
	if err != nil {
		return nil, err
	}
	f.ports = append(f.ports, &fabricPort{Port: port})
	return stack, nil
}

// stackPortDepth is how many frames, or super-frames, wait between switch and stack.
const stackPortDepth = 1024

// Close closes the wires and undoes what was changed on the host.
func (f *fabric) Close() error {
	errs := []error{f.Bridge.Close()}
	for _, h := range slices.Backward(f.hosts) {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}

// states returns the ports as the control socket shows them.
func (f *fabric) states() []control.Port {
	var all []control.Port
	for _, p := range f.ports {
		info, s := p.Info(), p.Stats()
		out := control.Port{
			Name: p.Name(), Spec: p.spec.text, Kind: info.Kind, Driver: info.Driver, MTU: info.MTU,
			State: "forwarding", Isolated: p.spec.isolated,
			RxFrames: s.RxFrames, RxBytes: s.RxBytes, TxFrames: s.TxFrames, TxBytes: s.TxBytes,
			Drops: s.Drops, Flooded: s.Flooded, Stations: s.Stations, Moves: s.Moves, Unlearned: s.Unlearned,
		}
		for why, n := range s.Dropped {
			if out.Drops == nil {
				out.Drops = make(map[string]uint64)
			}
			out.Drops[bridge.DropPrefix+why] = n
		}
		switch err := p.Err(); {
		case err != nil:
			out.State, out.Why = "gone", err.Error()
		case s.Shut != "":
			out.State, out.Why = "looping", s.Shut
		case s.Waiting != "":
			out.State, out.Why = "waiting", s.Waiting
		}
		all = append(all, out)
	}
	return all
}

// FDB returns the tables as the control socket shows them.
func (f *fabric) FDB() control.FDB {
	fdb := control.FDB{Ports: f.states()}
	for _, s := range f.Stations() {
		mac := s.HardwareAddr
		fdb.Stations = append(fdb.Stations, control.Station{
			HardwareAddr: fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]),
			Port:         s.Port.Name(), Age: s.Age,
		})
	}
	return fdb
}

// names lists the ports for people.
func (f *fabric) names() string {
	var all []string
	for _, p := range f.ports {
		all = append(all, p.Name())
	}
	return strings.Join(all, ", ")
}
