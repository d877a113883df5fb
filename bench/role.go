package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runRole is the main function of a process that the runner starts: "serve NETWORK",
// "bridge SPEC", "switch MODE", "lookup SUBJECT", "frames", "web" or "dial". It takes jobs from r, one JSON object a line, and answers each, until r
// ends. The first answer comes unasked, when it is ready.
func runRole(args []string, r io.Reader, w io.Writer) int {
	enc := json.NewEncoder(w)
	handle, done, err := startRole(args)
	if err != nil {
		enc.Encode(result{Error: err.Error()})
		return 1
	}
	defer done()
	if dir := os.Getenv(profileEnv); dir != "" && len(args) == 2 && args[0] != "bridge" {
		stop, err := profile(dir, args[0]+"-"+args[1])
		if err != nil {
			enc.Encode(result{Error: err.Error()})
			return 1
		}
		defer stop()
	}
	if enc.Encode(result{}) != nil {
		return 1
	}
	in := bufio.NewScanner(r)
	for in.Scan() {
		var j job
		err := json.Unmarshal(in.Bytes(), &j)
		var res result
		if err == nil {
			res, err = handle(j)
		}
		if err != nil {
			res.Error = err.Error()
		}
		if enc.Encode(res) != nil {
			return 1
		}
	}
	return 0
}

// profileEnv names the folder for profiles of the servers.
const profileEnv = "USTACK_BENCH_PROFILE"

// profile begins a processor profile of this process, one file for each; stop writes one
// of what it has allocated beside it.
func profile(dir, name string) (stop func(), err error) {
	name = strings.NewReplacer("/", "-", ":", "-", ",", "-").Replace(name)
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.pprof", name, os.Getpid())))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		f.Close()
		if heap, err := os.Create(strings.TrimSuffix(f.Name(), ".pprof") + ".heap"); err == nil {
			pprof.Lookup("allocs").WriteTo(heap, 0)
			heap.Close()
		}
	}, nil
}

func startRole(args []string) (handle func(job) (result, error), done func(), err error) {
	switch {
	case len(args) == 2 && args[0] == "serve":
		n, err := openNetwork(args[1])
		if err != nil {
			return nil, nil, err
		}
		s, err := newServer(n)
		if err != nil {
			n.Close()
			return nil, nil, err
		}
		return s.do, func() { s.close(); n.Close() }, nil
	case len(args) == 2 && args[0] == "bridge":
		b, err := newBridge(args[1])
		if err != nil {
			return nil, nil, err
		}
		return func(j job) (result, error) { return result{}, fmt.Errorf("no job of a bridge is called %q", j.Do) }, b.close, nil
	case len(args) == 2 && args[0] == "switch":
		stop, err := newSwitch(args[1])
		if err != nil {
			return nil, nil, err
		}
		return func(j job) (result, error) { return result{}, fmt.Errorf("no job of a switch is called %q", j.Do) }, stop, nil
	case len(args) == 2 && args[0] == "lookup":
		size, ok := map[string][2]int{lookupFew: {10, 1000}, lookupMany: {10, 100_000}, lookupAll: {1000, 100_000}}[args[1]]
		if !ok {
			return nil, nil, fmt.Errorf("no switch is called %q", args[1])
		}
		m, err := newMill(size[0], size[1])
		if err != nil {
			return nil, nil, err
		}
		return m.do, m.close, nil
	case len(args) == 1 && args[0] == "frames":
		return frames, func() {}, nil
	case len(args) == 1 && args[0] == "web":
		stop, err := startWeb()
		if err != nil {
			return nil, nil, err
		}
		return func(j job) (result, error) { return result{}, fmt.Errorf("no job of a web server is called %q", j.Do) }, stop, nil
	case len(args) == 1 && args[0] == "dial":
		c := &client{}
		return c.do, func() {}, nil
	}
	return nil, nil, fmt.Errorf("no role is called %q", args)
}

func (s *server) do(j job) (result, error) {
	switch j.Do {
	case "packets":
		r := result{Count: int(s.packets.Load())}
		if err := s.failed.Swap(nil); err != nil {
			r.First = (*err).Error()
		}
		return r, nil
	case "counters":
		n, ok := s.network.(counter)
		if !ok {
			return result{}, errors.New("this network has no counters")
		}
		all, err := n.Counters()
		return result{Counters: all}, err
	case "free":
		debug.FreeOSMemory()
		return result{}, nil
	}
	return result{}, fmt.Errorf("no job of a server is called %q", j.Do)
}

// setCongestion sets the congestion control of a kernel socket (tcp(7)).
func setCongestion(c syscall.Conn, name string) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) {
		serr = os.NewSyscallError("setsockopt TCP_CONGESTION "+name, unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, name))
	}); err != nil {
		return err
	}
	return serr
}
