package control

import (
	"fmt"
	"maps"
	"slices"
	"syscall"
)

// quick answers the requests that do not wait for the network. They run in the order they
// came.
func (s *session) quick(r Request, fd int) result {
	if fd >= 0 && r.Op != "attach" {
		closeFD(fd)
		fd = -1
		if s.knows(r.Op) {
			return result{err: errNoDescriptor}
		}
	}
	switch r.Op {
	case "socket":
		return s.socket(r)
	case "cancel":
		s.mu.Lock()
		cancel := s.pending[r.Target]
		s.mu.Unlock()
		if cancel == nil {
			return result{err: syscall.ENOENT}
		}
		cancel()
		return result{}
	case "attach":
		return s.attach(r, fd)
	}
	if !s.knows(r.Op) {
		return result{err: &remoteError{text: fmt.Sprintf("unknown op %.40q", r.Op), errno: syscall.EOPNOTSUPP}}
	}
	f, err := s.flow(r.Flow)
	if err != nil {
		return result{err: err}
	}
	switch r.Op {
	case "close":
		f.close()
		return result{}
	case "abort":
		f.abort()
		return result{}
	case "shutdown":
		return result{err: f.shutdown(r.How)}
	case "local", "remote":
		rep := f.reply()
		if r.Op == "remote" && rep.Remote == "" {
			return result{err: syscall.ENOTCONN}
		}
		return result{reply: rep}
	case "setopt":
		return result{err: f.setAll(r)}
	default: // getopt
		o, err := f.options()
		if err != nil {
			return result{err: err}
		}
		v, err := o.Option(r.Name)
		return result{reply: Reply{Value: v}, err: err}
	}
}

func (s *session) knows(op string) bool {
	switch op {
	case "socket", "cancel", "attach", "close", "abort", "shutdown", "local", "remote", "setopt", "getopt":
		return true
	}
	return false
}

func (s *session) socket(r Request) result {
	if err := s.srv.accepting(); err != nil {
		return result{err: err}
	}
	if r.Network != "tcp4" && r.Network != "tcp6" {
		return result{err: invalid(fmt.Sprintf("network %q: socket takes tcp4 or tcp6", r.Network))}
	}
	sock, err := s.srv.cfg.Backend.Socket(r.Network)
	if err != nil {
		return result{err: err}
	}
	f := &flow{network: r.Network, sock: sock, hold: r.Hold}
	if v, ok := r.Options["so.linger"]; ok {
		f.linger0 = v == 0
	}
	if err = setOptions(sock, r.Options); err == nil {
		err = s.addFlow(f)
	}
	if err != nil {
		sock.Close()
		return result{err: err}
	}
	return result{reply: f.reply()}
}

// attach gives a flow its descriptor.
func (s *session) attach(r Request, fd int) result {
	if fd < 0 {
		return result{err: badDescriptor(syscall.EBADF, "is missing: attach takes one")}
	}
	f, err := s.flow(r.Flow)
	if err != nil {
		closeFD(fd)
		return result{err: err}
	}
	f.mu.Lock()
	stream := f.conn != nil && f.pump == nil
	pkt := f.pkt
	attached := f.pump != nil
	f.mu.Unlock()
	switch {
	case pkt != nil && !pkt.attached():
		return f.attachPacket(pkt, fd)
	case stream:
		ep, err := streamEnd(fd)
		if err != nil {
			return result{err: err}
		}
		return f.started(ep)
	}
	closeFD(fd)
	if attached || pkt != nil {
		return result{err: badDescriptor(syscall.EALREADY, "is there already")}
	}
	return result{err: syscall.ENOTCONN}
}

// setAll sets the options of a setopt. One that fails does not keep the others from being set;
// the first error counts.
func (f *flow) setAll(r Request) error {
	if r.Name == "" && len(r.Options) > 0 {
		var first error
		for _, name := range slices.Sorted(maps.Keys(r.Options)) {
			if err := f.setOption(name, r.Options[name]); err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	return f.setOption(r.Name, r.Value)
}

func (f *flow) setOption(name string, value int) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	if err := o.SetOption(name, value); err != nil {
		return err
	}
	if name == "so.linger" {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.linger0 = value == 0
		if f.pump != nil {
			f.pump.linger0.Store(value == 0)
		}
	}
	return nil
}

// shutdown is shutdown(2). With a descriptor attached, what the program wrote before goes out
// first.
func (f *flow) shutdown(how string) error {
	f.mu.Lock()
	conn, pump := f.conn, f.pump
	f.mu.Unlock()
	if how != "read" && how != "write" && how != "both" {
		return invalid(fmt.Sprintf("how %q: take read, write or both", how))
	}
	if conn == nil {
		return syscall.ENOTCONN
	}
	if how != "write" {
		if err := conn.CloseRead(); err != nil {
			return err
		}
	}
	switch {
	case how == "read":
		return nil
	case pump != nil:
		return pump.ep.CloseRead() // upstream drains, then closes for writing
	default:
		return conn.CloseWrite()
	}
}
