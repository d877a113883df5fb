// Package ping is the ping program: ICMP echo through a ustack daemon, with the
// output and the exit codes of iputils' ping. It is the body of apps/ping and of
// "ustack ping".
//
// Unlike iputils it never looks up names for addresses, and it lets anybody flood:
// the stack belongs to whoever may open its socket.
package ping

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/ustack/ustack/control"
)

// Exit codes.
const (
	exitReplies = 0
	exitNone    = 1
	exitOther   = 2
)

// A Network is what ping needs of a stack.
type Network interface {
	// LookupNetIP resolves a name; network is "ip", "ip4" or "ip6".
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	// ListenICMP opens an ICMP socket; network is "ip4" or "ip6".
	ListenICMP(ctx context.Context, network string) (control.ICMPConn, error)
}

// Env is what surrounds a run of ping.
type Env struct {
	Stdin          io.Reader // not read
	Stdout, Stderr io.Writer
	// Network is the stack to ping from; nil means the daemon at --socket.
	Network Network
	// Signals delivers SIGINT, which ends the run with its summary, and SIGQUIT,
	// which shows it and goes on; nil means those of the process.
	Signals <-chan os.Signal
}

// Main runs ping with args, which do not include the program's name, and returns the
// exit code: 0 when replies came, 1 when none did (or with -w fewer than -c asks
// for), 2 otherwise. When ctx ends, so does the run, with its summary.
func Main(ctx context.Context, args []string, env Env) int {
	o, err := parseOptions(args)
	if err != nil {
		fmt.Fprintf(env.Stderr, "ping: %v\nping: see ping --help\n", err)
		return exitOther
	}
	switch {
	case o.help:
		io.WriteString(env.Stdout, usage)
		return exitReplies
	case o.version:
		fmt.Fprintf(env.Stdout, "ping from ustack %s\n", version())
		return exitReplies
	}
	ctx, cancel := context.WithCancel(ctx)
	interrupt := cancel
	if env.Signals == nil {
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT)
		defer signal.Stop(signals)
		env.Signals = signals
		// A second one kills, should the summary find nobody to read it.
		interrupt = func() { signal.Stop(signals); cancel() }
	}
	status := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() { watch(ctx, interrupt, env.Signals, status) })
	defer wg.Wait()
	defer cancel()
	if env.Network == nil {
		client := &control.Client{Path: control.SocketPath(o.socket)}
		defer client.Close()
		env.Network = client
	}
	code, err := (&program{o: o, env: env, status: status}).ping(ctx)
	if daemon := daemonError(err); daemon != nil {
		err = daemon
	}
	if err != nil {
		fmt.Fprintf(env.Stderr, "ping: %v\n", err)
	}
	return code
}

// watch turns SIGQUIT into a status line and any other signal into the end of ctx.
func watch(ctx context.Context, interrupt func(), signals <-chan os.Signal, status chan<- struct{}) {
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGQUIT {
				interrupt()
				return
			}
			select {
			case status <- struct{}{}:
			default: // one is under way
			}
		case <-ctx.Done():
			return
		}
	}
}

// A program is one run, for all addresses of a host.
type program struct {
	o      *options
	env    Env
	status <-chan struct{} // asks for a status line
}

// ping pings the host's first address that has a route. An error means that it did
// not begin.
func (p *program) ping(ctx context.Context) (code int, err error) {
	addrs, err := p.resolve(ctx)
	if err != nil {
		return exitOther, err
	}
	if p.o.pattern != nil && !p.o.quiet {
		fmt.Fprintf(p.env.Stdout, "PATTERN: 0x%x\n", p.o.pattern)
	}
	for i, to := range addrs {
		code, err = p.pingAddr(ctx, to)
		if err == nil || !unreachable(err) || i == len(addrs)-1 {
			break
		}
	}
	return code, err
}

// resolve returns the addresses to try, at least one.
func (p *program) resolve(ctx context.Context) ([]netip.Addr, error) {
	o := p.o
	if ip, err := netip.ParseAddr(o.host); err == nil {
		ip = ip.Unmap()
		if o.network == "ip4" && !ip.Is4() || o.network == "ip6" && !ip.Is6() {
			return nil, fmt.Errorf("%s: Address family for hostname not supported", o.host)
		}
		return []netip.Addr{ip}, nil
	}
	addrs, err := p.env.Network.LookupNetIP(ctx, o.network, o.host)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: interrupted while resolving the name", o.host)
	}
	if err != nil {
		return nil, nameError(o.host, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s: No address associated with hostname", o.host)
	}
	for i, ip := range addrs {
		addrs[i] = ip.Unmap()
	}
	return addrs, nil
}

// nameError says in getaddrinfo's words why a name has no address.
func nameError(host string, err error) error {
	var dns *net.DNSError
	if !errors.As(err, &dns) {
		return err
	}
	switch {
	case dns.IsNotFound:
		return fmt.Errorf("%s: Name or service not known", host)
	case dns.Server != "":
		return fmt.Errorf("%s: Temporary failure in name resolution (%s: %s)", host, dns.Server, dns.Err)
	}
	return fmt.Errorf("%s: Temporary failure in name resolution (%s)", host, dns.Err)
}

// pingAddr pings one address. An error means that it did not begin.
func (p *program) pingAddr(ctx context.Context, to netip.Addr) (int, error) {
	if to == netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !p.o.broadcast {
		return exitOther, errBroadcast
	}
	network := "ip4"
	if to.Is6() {
		network = "ip6"
	}
	conn, err := p.env.Network.ListenICMP(ctx, network)
	if err != nil {
		return exitOther, err
	}
	r := newPinger(p, conn, to)
	if err := r.configure(); err != nil {
		conn.Close()
		return exitOther, err
	}
	return r.run(ctx)
}

// A refusal is an error in iputils' words.
type refusal string

func (r refusal) Error() string { return string(r) }

const errBroadcast refusal = "Do you want to ping broadcast? Then -b. If not, check your local firewall rules"

// unreachable reports whether another address of the host may do better.
func unreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// errText is what an error of the control socket says, or the text of the errno in
// err as strerror(3) writes it, or else of err.
func errText(err error) string {
	if daemon := daemonError(err); daemon != nil {
		return daemon.Error()
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

// named shows an error by its errno's text alone.
type named struct{ error }

func (n named) Error() string { return errText(n.error) }
func (n named) Unwrap() error { return n.error }

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
