package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/ustack/ustack/stack"
)

// upFlags are the settings of up as they were written, on the command line or in
// the configuration file; settings are what they mean.
type upFlags struct {
	config                          string
	link                            string
	ports                           []string
	addr, gateway, dns, search      []string
	mac                             string
	mtu                             int
	dhcp, slaac                     bool
	hostAddr                        []string
	uplink, bridge                  string
	socket, socketGroup, socketMode string
	metrics                         string
	stateDir                        string
	congestion, lossDetection       string
	memory                          string
	logLevel                        string
	verbose                         bool
}

// The defaults of up: the addresses of level-ip.
const (
	defaultLink       = "tap:tap0"
	defaultAddr       = "10.0.0.4/24"
	defaultHostAddr   = "10.0.0.5/24"
	defaultSocketMode = "0600"
	defaultLogLevel   = "info"
)

// register adds the flags to fs. --socket is a flag of every command and comes
// with it.
func (f *upFlags) register(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVar(&f.link, "link", defaultLink, "wire to use, as `SPEC` KIND:NAME[,option[=value]]...")
	fs.StringArrayVar(&f.ports, "port", nil, "wire to join by a switch of which the stack is one more port, as `SPEC`, instead of --link; repeatable, see 'ustack bridge'")
	fs.StringSliceVar(&f.addr, "addr", nil, "address of the stack, as `CIDR`; repeatable (default "+defaultAddr+" where no other flag says how the stack gets one)")
	fs.StringSliceVar(&f.gateway, "gateway", nil, "default gateway `IP`, one for each address family (default: the --host-addr in the network of an --addr)")
	fs.StringSliceVar(&f.dns, "dns", nil, "DNS server `IP[:PORT]`; repeatable (default: those of /etc/resolv.conf, or what DHCP or a router says)")
	fs.StringSliceVar(&f.search, "search", nil, "`DOMAIN` to try for names without a dot; repeatable (default: those of /etc/resolv.conf, where its servers are used)")
	fs.StringVar(&f.mac, "mac", "", "hardware address `MAC` of the stack (default: one that stays the same for this machine and link)")
	fs.IntVar(&f.mtu, "mtu", 0, "largest payload of a frame in `BYTES` (default: the link's own)")
	fs.BoolVar(&f.dhcp, "dhcp", false, "get an IPv4 address, gateway and DNS servers by DHCP")
	fs.BoolVar(&f.slaac, "slaac", false, "get IPv6 addresses, gateway and DNS servers from router advertisements")
	fs.StringSliceVar(&f.hostAddr, "host-addr", nil, "address of the host's side of a tap, as `CIDR`; repeatable (default "+defaultHostAddr+" with the default --addr)")
	fs.StringVar(&f.uplink, "uplink", "", "forward and masquerade what the stack sends through the host's interface `IF`; auto is that of its default route")
	fs.StringVar(&f.bridge, "bridge", "", "put the tap into the host's bridge `BR` instead of giving it an address")
	fs.StringVar(&f.congestion, "congestion-control", stack.DefaultCongestionControl, "TCP congestion control `NAME`: "+strings.Join(stack.CongestionControls, ", "))
	fs.StringVar(&f.lossDetection, "loss-detection", stack.DefaultLossDetection, "TCP loss detection `NAME`: "+strings.Join(stack.LossDetections, ", "))
	fs.StringVar(&f.memory, "memory", "", "most that the buffers of all sockets hold together, as `SIZE` in bytes or with K, M or G (default: an eighth of the machine's memory, within 64M and 1G)")
	fs.StringVar(&f.socketGroup, "socket-group", "", "`GROUP` that may use the control socket")
	fs.StringVar(&f.socketMode, "socket-mode", "", "permissions `MODE` of the control socket, in octal (default "+defaultSocketMode+", 0660 with --socket-group)")
	fs.StringVar(&f.metrics, "metrics", "", "offer metrics for Prometheus at http://`HOST:PORT`/metrics of the host, to whoever can reach it (default: on the control socket alone)")
	fs.StringVar(&f.stateDir, "state-dir", "", "`DIR` for the record of what was changed on the host (default /run/ustack as root, else $XDG_RUNTIME_DIR/ustack)")
	fs.StringVar(&f.config, "config", "", "TOML `FILE` with the same names as these flags; a flag wins over the file")
	fs.StringVar(&f.logLevel, "log-level", defaultLogLevel, "least `LEVEL` to log on standard error: debug, info, warn, error")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "short for --log-level debug")
}
