package main

import (
	"bufio"
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// nameLimit bounds how many addresses are known by name, and nameTime the search for one.
	nameLimit = 4096
	nameTime  = 3 * time.Second
)

// names names hosts and ports. Whoever asks never waits: a host's name is looked up by the
// side, and is there when the host is next asked for.
type names struct {
	ports map[string]string // "80/tcp" → "http"

	mu      sync.Mutex
	known   map[netip.Addr]string // "" while it is looked up, and where there is none
	asked   chan netip.Addr
	cancel  context.CancelFunc
	working sync.WaitGroup
}

func newNames() *names {
	ctx, cancel := context.WithCancel(context.Background())
	n := &names{
		ports: services("/etc/services"), known: make(map[netip.Addr]string),
		asked: make(chan netip.Addr, 64), cancel: cancel,
	}
	n.working.Go(func() { n.look(ctx) })
	return n
}

func (n *names) close() {
	n.cancel()
	n.working.Wait()
}

// look looks up what is asked for.
func (n *names) look(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-n.asked:
			limited, cancel := context.WithTimeout(ctx, nameTime)
			found, err := net.DefaultResolver.LookupAddr(limited, a.String())
			cancel()
			if err == nil && len(found) > 0 {
				n.mu.Lock()
				n.known[a] = printable(strings.TrimSuffix(found[0], "."))
				n.mu.Unlock()
			}
		}
	}
}

// host returns the name of an address if that is known by now.
func (n *names) host(a netip.Addr) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	name, known := n.known[a]
	if !known && len(n.known) < nameLimit {
		select {
		case n.asked <- a:
			n.known[a] = ""
		default: // another time
		}
	}
	return name
}

func (n *names) port(proto string, port uint16) string {
	return n.ports[strconv.Itoa(int(port))+"/"+proto]
}

// services reads services(5).
func services(file string) map[string]string {
	all := make(map[string]string)
	f, err := os.Open(file)
	if err != nil {
		return all
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		text, _, _ := strings.Cut(s.Text(), "#")
		if fields := strings.Fields(text); len(fields) >= 2 && all[fields[1]] == "" {
			all[fields[1]] = fields[0]
		}
	}
	return all
}
