package ping

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/ustack/ustack/internal/getopt"
)

const (
	// maxSize is the largest IPv4 datagram (65535) without its header and the ICMP header.
	maxSize     = 65507
	defaultSize = 56
	// timestampSize is what iputils keeps for its struct timeval at the head of the
	// data; a request with less carries no time, and its reply shows none.
	timestampSize = 16
	// idleInterval is how long a flood waits for an answer before it sends again.
	idleInterval  = 10 * time.Millisecond
	defaultLinger = 10 * time.Second
	maxSeconds    = 1 << 31
	maxPreload    = 65536
)

const usage = `usage: ping [options] HOST

Sends ICMP echo requests through the ustack daemon and shows what comes back.
Addresses are not resolved to names (-n is always in effect).

  -4, -6        use IPv4 or IPv6 only
  -a            ring the bell for every reply
  -A            adapt the interval to the round-trip time
  -b            allow a broadcast destination
  -c COUNT      stop after COUNT replies or errors
  -D            print the time before each line
  -f            flood: a dot for each request, taken back by its reply
  -h, --help    this text
  -i SECONDS    interval between requests, fractions allowed (default 1); 0 sends
                with every reply, 100 a second without
  -l COUNT      send COUNT requests at once at the start
  -M do|want|dont|probe
                path MTU discovery, as far as the stack has it
  -n            no names for addresses (always so)
  -O            report requests that have no answer when the next is sent
  -p HEX        fill the data with this pattern, up to 16 bytes
  -q            only the summary
  -Q TOS        the type of service or traffic class, 0 to 255
  -s BYTES      bytes of data, 0 to 65507 (default 56)
  -t TTL        time to live or hop limit, 1 to 255
  -v            also show other ICMP messages
  -V            version
  -w SECONDS    end after this time, whatever was sent or received
  -W SECONDS    how long to wait for the last reply when none came at all
                (default 10; otherwise two round-trip times)
  --socket PATH the daemon's control socket (default $USTACK_SOCKET, then
                $XDG_RUNTIME_DIR/ustack.sock, then /run/ustack.sock)

There is no -I: the stack chooses the source address by its routes.
Ctrl-C ends with the summary, Ctrl-\ shows it in one line and goes on.
Exit: 0 replies came, 1 none (or with -w and -c fewer than COUNT), 2 anything else.
`

// options are the flags of one run.
type options struct {
	host      string
	network   string // "ip", "ip4" or "ip6"
	audible   bool
	adaptive  bool
	broadcast bool
	count     int // 0: no end
	timestamp bool
	flood     bool
	interval  time.Duration
	preload   int
	pmtu      int // IP_PMTUDISC_*, or -1
	missing   bool
	pattern   []byte
	quiet     bool
	tos       int // or -1
	size      int
	ttl       int // 0: the stack's default
	verbose   bool
	version   bool
	help      bool
	deadline  time.Duration // 0: none
	linger    time.Duration
	socket    string
}

// parseOptions reads the command line without the program's name.
func parseOptions(args []string) (*options, error) {
	o := &options{
		network: "ip", interval: time.Second, preload: 1, pmtu: -1, tos: -1,
		size: defaultSize, linger: defaultLinger,
	}
	flags, operands, err := getopt.Parse(args, "46aAbc:Dfhi:I:l:M:nOp:qQ:s:t:vVw:W:",
		map[string]bool{"help": false, "version": false, "socket": true})
	if err != nil {
		return nil, err
	}
	intervalSet := false
	for _, f := range flags {
		if f.Name == "i" {
			intervalSet = true
		}
		if err := o.set(f); err != nil {
			return nil, err
		}
	}
	if o.flood && !intervalSet {
		o.interval = 0
	}
	if o.help || o.version {
		return o, nil
	}
	switch {
	case len(operands) == 0:
		return nil, errors.New("usage error: Destination address required")
	case len(operands) > 1:
		return nil, fmt.Errorf("usage error: one destination, not %d (%s and %s)", len(operands), operands[0], operands[1])
	case operands[0] == "":
		return nil, errors.New("usage error: the destination is empty")
	}
	o.host = operands[0]
	return o, nil
}

func (o *options) set(f getopt.Option) (err error) {
	switch f.Name {
	case "4", "6":
		want := "ip" + f.Name
		if o.network != "ip" && o.network != want {
			return errors.New("only one of -4 and -6 may be given")
		}
		o.network = want
	case "a":
		o.audible = true
	case "A":
		o.adaptive = true
	case "b":
		o.broadcast = true
	case "c":
		o.count, err = number(f, 1, math.MaxInt32)
	case "D":
		o.timestamp = true
	case "f":
		o.flood = true
	case "h", "help":
		o.help = true
	case "i":
		o.interval, err = seconds(f)
	case "I":
		return errors.New("option -I: the stack chooses the source address by its routes (see ustack addr, ustack route)")
	case "l":
		o.preload, err = number(f, 1, maxPreload)
	case "M":
		pmtu, known := map[string]int{"dont": 0, "want": 1, "do": 2, "probe": 3}[f.Value]
		if !known {
			return fmt.Errorf("option -M: %q is none of do, want, dont, probe", f.Value)
		}
		o.pmtu = pmtu
	case "n":
	case "O":
		o.missing = true
	case "p":
		o.pattern, err = parsePattern(f.Value)
	case "q":
		o.quiet = true
	case "Q":
		o.tos, err = number(f, 0, 255)
	case "s":
		o.size, err = number(f, 0, maxSize)
	case "t":
		o.ttl, err = number(f, 1, 255)
	case "v":
		o.verbose = true
	case "V", "version":
		o.version = true
	case "w":
		if o.deadline, err = seconds(f); err == nil && o.deadline == 0 {
			err = errors.New("option -w: the time must be above 0")
		}
	case "W":
		o.linger, err = seconds(f)
	case "socket":
		if f.Value == "" {
			return errors.New("option --socket: the path is empty")
		}
		o.socket = f.Value
	}
	return err
}

func number(f getopt.Option, low, high int) (int, error) {
	n, err := strconv.ParseInt(f.Value, 0, 64)
	if err != nil || n < int64(low) || n > int64(high) {
		return 0, fmt.Errorf("invalid argument: option -%s: %q is not a number from %d to %d", f.Name, f.Value, low, high)
	}
	return int(n), nil
}

func seconds(f getopt.Option) (time.Duration, error) {
	s, err := strconv.ParseFloat(f.Value, 64)
	// The comparison is false for NaN.
	if err != nil || !(s >= 0 && s < maxSeconds) {
		return 0, fmt.Errorf("invalid argument: option -%s: %q is not a time in seconds", f.Name, f.Value)
	}
	return time.Duration(s * float64(time.Second)), nil
}

func parsePattern(s string) ([]byte, error) {
	if s == "" || len(s) > 32 {
		return nil, fmt.Errorf("option -p: a pattern is 1 to 32 hex digits, not %d", len(s))
	}
	var p []byte
	for i := 0; i < len(s); i += 2 {
		b, err := strconv.ParseUint(s[i:min(i+2, len(s))], 16, 8)
		if err != nil {
			return nil, fmt.Errorf("patterns must be specified as hex digits: %s", s[i:])
		}
		p = append(p, byte(b))
	}
	return p, nil
}
