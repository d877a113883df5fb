// Package nc is netcat on a ustack daemon's stack: the body of "ustack nc". Flags
// are those of OpenBSD's nc, except that the end of standard input half-closes a TCP
// connection unless -q -1 is given; the usage text has the rules.
package nc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"golang.org/x/term"

	"github.com/ustack/ustack/control"
)

// Exit codes.
const (
	exitOK    = 0
	exitFail  = 1
	exitUsage = 2
)

// A Network is what nc needs of a stack. *control.Client is one.
type Network interface {
	// LookupNetIP resolves a name; network is "ip", "ip4" or "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	// DialFlow connects, from cfg.Local if that is valid.
	DialFlow(ctx context.Context, network, address string, cfg control.DialConfig) (net.Conn, error)
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
}

// Env is what surrounds a run of nc.
type Env struct {
	// Stdin is read in a goroutine of its own. Unless it has SetReadDeadline, as a
	// pipe or a socket has, a read that is under way when Main returns stays.
	Stdin io.Reader
	// Stdout is closed when the peer has ended, if it is an io.Closer: who reads it
	// need not wait for the rest of nc.
	Stdout io.Writer
	Stderr io.Writer
	// Network is the stack to use; nil means the daemon at --socket.
	Network Network
}

// netcat is one run.
type netcat struct {
	*options
	env Env
	// stdin is nil with -d.
	stdin *source
	// interactive says that standard input is a terminal.
	interactive bool
}

// Main runs nc with args, which do not include the program's name, and returns the
// exit code: 0 done, 1 it did not work, 2 wrong usage. When ctx ends, connections are
// closed and the code is 1.
func Main(ctx context.Context, args []string, env Env) int {
	o, err := parseOptions(args)
	if err != nil {
		fmt.Fprintf(env.Stderr, "nc: %v\nnc: see nc --help\n", err)
		return exitUsage
	}
	if o.help {
		io.WriteString(env.Stdout, usage)
		return exitOK
	}
	if env.Network == nil {
		client := &control.Client{Path: control.SocketPath(o.socket)}
		defer client.Close()
		env.Network = client
	}
	n := &netcat{options: o, env: env}
	if f, ok := env.Stdin.(*os.File); ok {
		n.interactive = term.IsTerminal(int(f.Fd()))
	}
	if !o.noStdin && !o.scan && env.Stdin != nil {
		size := bufferSize
		if o.udp {
			size = maxDatagram
		}
		n.stdin = newSource(env.Stdin, size)
		defer n.stdin.close()
	}
	switch {
	case o.listen && o.udp:
		err = n.listenUDP(ctx)
	case o.listen:
		err = n.listenTCP(ctx)
	default:
		err = n.connect(ctx)
	}
	if err == nil {
		return exitOK
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintf(env.Stderr, "nc: %v\n", err)
	}
	return exitFail
}

// errReported is the error of a run whose errors have been shown.
var errReported = errors.New("reported")

// addrs resolves a host, at least to one address.
func (n *netcat) addrs(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		ip = ip.Unmap()
		if n.family == "4" && !ip.Is4() || n.family == "6" && !ip.Is6() {
			return nil, fmt.Errorf("%s: Address family for hostname not supported with -%s", host, n.family)
		}
		return []netip.Addr{ip}, nil
	}
	if n.numeric {
		return nil, fmt.Errorf("%s: with -n, HOST must be an IP address", host)
	}
	addrs, err := n.env.Network.LookupNetIP(ctx, "ip"+n.family, host)
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%s: no answer to the name lookup within %v", host, n.timeout)
	case errors.As(err, &dns) && dns.IsNotFound:
		return nil, fmt.Errorf("%s: Name or service not known", host)
	case errors.As(err, &dns) && (dns.IsTimeout || dns.IsTemporary):
		return nil, fmt.Errorf("%s: Temporary failure in name resolution (%s)", host, dns.Err)
	case err != nil:
		return nil, err
	case len(addrs) == 0:
		return nil, fmt.Errorf("%s: No address associated with hostname", host)
	}
	for i, ip := range addrs {
		addrs[i] = ip.Unmap()
	}
	return addrs, nil
}

func (n *netcat) logf(format string, args ...any) {
	if n.verbose {
		fmt.Fprintf(n.env.Stderr, format+"\n", args...)
	}
}

// errText is what an error of the control socket says, or the text of the errno in
// err as strerror(3) writes it, or else of err.
func errText(err error) string {
	if daemon := daemonError(err); daemon != nil {
		return daemon.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = syscall.ETIMEDOUT
	}
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

// daemonError returns the error of the control socket in err, or nil.
func daemonError(err error) error {
	var daemon *control.DaemonError
	if errors.As(err, &daemon) {
		return daemon
	}
	return nil
}

// named shows an error by errText alone.
type named struct{ error }

func (n named) Error() string { return errText(n.error) }
func (n named) Unwrap() error { return n.error }
