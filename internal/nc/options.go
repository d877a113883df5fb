package nc

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/ustack/ustack/internal/getopt"
)

const usage = `usage: nc [options] HOST PORT[-PORT]...
       nc -l [options] [HOST] PORT

Carries standard input and output over a TCP or UDP connection of the ustack
daemon. Ports are numbers or names of /etc/services.

  -4, -6      use IPv4 or IPv6 only
  -d          do not read standard input
  -h, --help  this text
  -k          with -l: after a connection, wait for the next
  -l          listen for a connection (-u: for the first datagram's sender)
  -n          no name lookups: HOST is an address
  -N          shut the sending side down at the end of standard input (the default)
  -p PORT     the local port
  -q SECONDS  end this long after the end of standard input; -1: keep sending side
              and connection open, as OpenBSD's nc does without -N
  -s ADDR     the local address
  -u          UDP: each read of standard input is one datagram
  -v          say what happens on standard error; twice is the same
  -w SECONDS  give up connecting, and end an idle connection, after this time
  -z          only see whether something listens
  --socket PATH
              the daemon's control socket (default $USTACK_SOCKET, then
              $XDG_RUNTIME_DIR/ustack.sock, then /run/ustack.sock)

A TCP connection ends when both directions have: the end of standard input is
passed on as a half-close, and the peer's end closes standard output. If standard
input is a terminal, the peer's end is enough. So these end by themselves:
    printf 'GET / HTTP/1.0\r\n\r\n' | ustack nc www.example.org 80
    echo hi | ustack nc -l 8000
    ssh -o ProxyCommand='ustack nc %h %p' HOST
UDP has no end: use -w or -q.
Exit: 0 done, 1 it did not work, 2 wrong usage.
`

// options are the flags of one run.
type options struct {
	family    string // "", "4" or "6"
	noStdin   bool
	help      bool
	keep      bool
	listen    bool
	numeric   bool
	localPort uint16
	localAddr string
	// quit is how long to go on after the end of standard input; negative: keep
	// everything open; nil: half-close and wait for the peer.
	quit    *time.Duration
	udp     bool
	verbose bool
	timeout time.Duration // 0: none
	scan    bool
	socket  string

	host  string
	ports []uint16
}

func (o *options) proto() string {
	if o.udp {
		return "udp"
	}
	return "tcp"
}

// network is the name that package net has for the flags.
func (o *options) network() string { return o.proto() + o.family }

// parseOptions reads the command line without the program's name.
func parseOptions(args []string) (*options, error) {
	o := &options{}
	flags, operands, err := getopt.Parse(args, "46dhklnNp:q:s:uvw:z", map[string]bool{"help": false, "socket": true})
	if err != nil {
		return nil, err
	}
	for _, f := range flags {
		if err := o.set(f); err != nil {
			return nil, err
		}
	}
	if o.help {
		return o, nil
	}
	switch {
	case o.keep && !o.listen:
		return nil, errors.New("-k needs -l")
	case o.scan && o.listen:
		return nil, errors.New("-z and -l exclude each other")
	case o.listen && o.localAddr != "":
		return nil, errors.New("-s and -l exclude each other: nc -l ADDR PORT")
	}
	if o.listen {
		return o, o.listenOperands(operands)
	}
	return o, o.connectOperands(operands)
}

func (o *options) listenOperands(operands []string) error {
	switch {
	case o.localPort != 0 && len(operands) <= 1:
		if len(operands) == 1 {
			o.host = operands[0]
		}
		o.ports = []uint16{o.localPort}
		return nil
	case o.localPort != 0:
		return errors.New("with -l -p PORT only an address may follow")
	case len(operands) == 1:
	case len(operands) == 2:
		o.host = operands[0]
	default:
		return errors.New("-l takes [HOST] PORT")
	}
	// Port 0 lets the stack choose; -v shows it.
	port, err := parsePort(o.proto(), operands[len(operands)-1], 0)
	o.ports = []uint16{port}
	return err
}

func (o *options) connectOperands(operands []string) error {
	if len(operands) < 2 {
		return errors.New("HOST and PORT are needed")
	}
	o.host = operands[0]
	if o.host == "" {
		return errors.New("HOST is empty")
	}
	for _, s := range operands[1:] {
		ports, err := parsePorts(o.proto(), s)
		if err != nil {
			return err
		}
		o.ports = append(o.ports, ports...)
	}
	if len(o.ports) > 1 && o.localPort != 0 {
		return errors.New("-p takes one port to connect to")
	}
	return nil
}

func (o *options) set(f getopt.Option) (err error) {
	switch f.Name {
	case "4", "6":
		if o.family != "" && o.family != f.Name {
			return errors.New("only one of -4 and -6 may be given")
		}
		o.family = f.Name
	case "d":
		o.noStdin = true
	case "h", "help":
		o.help = true
	case "k":
		o.keep = true
	case "l":
		o.listen = true
	case "n":
		o.numeric = true
	case "N":
	case "p":
		o.localPort, err = parsePort("tcp", f.Value, 1)
	case "q":
		var d time.Duration
		if strings.HasPrefix(f.Value, "-") {
			if _, err := strconv.Atoi(f.Value); err != nil {
				return fmt.Errorf("option -q: %q is not a time in seconds", f.Value)
			}
			d = -1
		} else if d, err = seconds(f); err != nil {
			return err
		}
		o.quit = &d
	case "s":
		o.localAddr = f.Value
		if f.Value == "" {
			return errors.New("option -s: the address is empty")
		}
	case "u":
		o.udp = true
	case "v":
		o.verbose = true
	case "w":
		if o.timeout, err = seconds(f); err == nil && o.timeout == 0 {
			err = errors.New("option -w: the time must be above 0")
		}
	case "z":
		o.scan = true
	case "socket":
		if f.Value == "" {
			return errors.New("option --socket: the path is empty")
		}
		o.socket = f.Value
	}
	return err
}

func seconds(f getopt.Option) (time.Duration, error) {
	s, err := strconv.ParseFloat(f.Value, 64)
	// The comparison is false for NaN.
	if err != nil || !(s >= 0 && s < 1<<31) {
		return 0, fmt.Errorf("option -%s: %q is not a time in seconds", f.Name, f.Value)
	}
	return time.Duration(s * float64(time.Second)), nil
}

// parsePort reads a port number from low to 65535, or a service's name.
func parsePort(proto, s string, low int) (uint16, error) {
	n, err := strconv.Atoi(s)
	if err != nil && strings.Trim(s, "-+0123456789") != "" {
		n, err = net.LookupPort(proto, s)
	}
	if err != nil || n < low || n > 65535 {
		return 0, fmt.Errorf("port %q is neither a number from %d to 65535 nor a service", s, low)
	}
	return uint16(n), nil
}

// parsePorts reads a port or a range of them, "20-25".
func parsePorts(proto, s string) ([]uint16, error) {
	low, high, isRange := strings.Cut(s, "-")
	if isRange && low != "" && high != "" && strings.Trim(low+high, "0123456789") == "" {
		from, err := parsePort(proto, low, 1)
		if err != nil {
			return nil, err
		}
		to, err := parsePort(proto, high, 1)
		if err != nil {
			return nil, err
		}
		if from > to {
			from, to = to, from
		}
		var ports []uint16
		for p := int(from); p <= int(to); p++ {
			ports = append(ports, uint16(p))
		}
		return ports, nil
	}
	p, err := parsePort(proto, s, 1)
	return []uint16{p}, err
}
