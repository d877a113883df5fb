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
	if env.Signals == nil {
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT)
		defer signal.Stop(signals)
		env.Signals = signals
	}
	if env.Network == nil {
		client := &control.Client{Path: control.SocketPath(o.socket)}
		defer client.Close()
		env.Network = client
	}
	addrs, err := resolve(ctx, o, env)
	if err != nil {
		fmt.Fprintf(env.Stderr, "ping: %v\n", err)
		return exitOther
	}
	if o.pattern != nil && !o.quiet {
		fmt.Fprintf(env.Stdout, "PATTERN: 0x%x\n", o.pattern)
	}
	code := exitOther
	for i, to := range addrs {
		code, err = pingAddr(ctx, o, env, to)
		if err == nil || !unreachable(err) || i == len(addrs)-1 {
			break
		}
	}
	if err != nil {
		fmt.Fprintf(env.Stderr, "ping: %v\n", err)
	}
	return code
}

// resolve returns the addresses to try, at least one. A signal ends a lookup that
// waits for a slow name server.
func resolve(ctx context.Context, o *options, env Env) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(o.host); err == nil {
		ip = ip.Unmap()
		if o.network == "ip4" && !ip.Is4() || o.network == "ip6" && !ip.Is6() {
			return nil, fmt.Errorf("%s: Address family for hostname not supported", o.host)
		}
		return []netip.Addr{ip}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		addrs []netip.Addr
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		addrs, err := env.Network.LookupNetIP(ctx, o.network, o.host)
		answers <- answer{addrs, err}
	}()
	for {
		select {
		case a := <-answers:
			if a.err != nil {
				return nil, nameError(o.host, a.err)
			}
			if len(a.addrs) == 0 {
				return nil, fmt.Errorf("%s: No address associated with hostname", o.host)
			}
			for i, ip := range a.addrs {
				a.addrs[i] = ip.Unmap()
			}
			return a.addrs, nil
		case s := <-env.Signals:
			if s != syscall.SIGQUIT {
				cancel()
				<-answers
				return nil, fmt.Errorf("%s: interrupted while resolving the name", o.host)
			}
		}
	}
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
	case dns.IsTimeout, dns.IsTemporary:
		if dns.Server != "" {
			return fmt.Errorf("%s: Temporary failure in name resolution (%s: %s)", host, dns.Server, dns.Err)
		}
		return fmt.Errorf("%s: Temporary failure in name resolution (%s)", host, dns.Err)
	}
	return fmt.Errorf("%s: %s", host, dns.Err)
}

// pingAddr pings one address. An error means that it did not begin.
func pingAddr(ctx context.Context, o *options, env Env, to netip.Addr) (int, error) {
	if to == netip.AddrFrom4([4]byte{255, 255, 255, 255}) && !o.broadcast {
		return exitOther, errBroadcast
	}
	network := "ip4"
	if to.Is6() {
		network = "ip6"
	}
	conn, err := env.Network.ListenICMP(ctx, network)
	if err != nil {
		return exitOther, err
	}
	p := newPinger(o, env, conn, to)
	if err := p.configure(); err != nil {
		conn.Close()
		return exitOther, err
	}
	return p.run(ctx)
}

var errBroadcast = errors.New("Do you want to ping broadcast? Then -b.")

// unreachable reports whether another address of the host may do better.
func unreachable(err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// errText is the text of the errno in err, as strerror(3) writes it, or else of err.
func errText(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err.Error()
	}
	s := errno.Error()
	return strings.ToUpper(s[:1]) + s[1:]
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
