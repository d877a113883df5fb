// Sockprobe is a program for the end-to-end tests: a static one that makes system
// calls without a C library. It tells what sockets do, one observation a line, so that
// two systems can be compared; as "get" and "serve" it is a client and a server of HTTP.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "get":
		err = get(args)
	case "serve":
		err = serve(args)
	case "sections":
		for _, s := range sections {
			fmt.Println(s.name)
		}
	case "probe":
		if len(args) != 5 {
			usage()
		}
		err = observe(args[0], newWorld(args[1], args[2], args[3], args[4]))
	case "child":
		child(args)
	default:
		usage()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sockprobe:", err)
		os.Exit(1)
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, `usage: sockprobe get URL...
       sockprobe serve ADDR...
       sockprobe sections
       sockprobe probe SECTION PEER4 PEER6 OWN4 OWN6`)
	os.Exit(2)
}

// sections are what can be looked at. Each starts from nothing and leaves nothing.
var sections = []struct {
	name string
	f    func(*world)
}{
	{"fresh sockets", freshSockets},
	{"connect", connects},
	{"connect without waiting", nonBlocking},
	{"unreachable", unreachable},
	{"bind", binds},
	{"listen", listens},
	{"listen again", listensAgain},
	{"accept", accepts},
	{"epoll", epolls},
	{"half-close", halfCloses},
	{"reset", resets},
	{"flags", flags},
	{"shared", shares},
	{"details", details},
	{"udp", datagrams},
	{"udp errors", datagramErrors},
	{"udp in one piece", wholeDatagrams},
	{"ipv6", dualStack},
	{"options", options},
	{"loopback", loopback},
	{"icmp", pings},
}

// observe runs one section; a panic is an observation, too.
func observe(name string, w *world) (err error) {
	i := slices.IndexFunc(sections, func(s struct {
		name string
		f    func(*world)
	}) bool {
		return s.name == strings.ReplaceAll(name, "_", " ")
	})
	if i < 0 {
		return fmt.Errorf("there is no section %q", name)
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("stopped after %q: %v", w.last, r)
		}
	}()
	sections[i].f(w)
	return nil
}
