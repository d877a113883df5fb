package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ustack/ustack/link"
)

const (
	// releaseTime is how long the connections of a client that vanished may take to
	// hand what it wrote to the stack.
	releaseTime = 700 * time.Millisecond
	// idleTime is how long a connection moves no byte before Shutdown counts it as idle.
	idleTime = time.Second

	defaultMaxFlows      = 16384
	defaultOrphanTimeout = time.Minute
)

// A ServerConfig says what a Server offers, and where.
type ServerConfig struct {
	Backend Backend
	// Path is where the socket is made; see ListenPath.
	Path string
	// DefaultPath says that nobody named Path: root under sudo then hands the socket
	// to the user who called sudo (SUDO_UID).
	DefaultPath bool
	// Mode of the socket file; 0 stands for 0600, with a Group for 0660.
	Mode os.FileMode
	// Group that the socket file is given to: a name or a number; "" keeps it.
	Group string
	// MaxFlows is how many flows and how many unanswered requests one connection may
	// have; 0 stands for 16384.
	MaxFlows int
	// OrphanTimeout is how long connections that a client closed in good order,
	// before it went, may take to hand what it wrote to the stack; 0 stands for a minute.
	OrphanTimeout time.Duration
	// Observers are told of what passes between programs and their sockets; nil is nobody.
	Observers *link.Observers
	// Metrics answers GET /metrics; nil offers none. What it writes is kept until it has
	// returned.
	Metrics http.Handler
	// Logger gets what no client can be told; nil discards.
	Logger *slog.Logger
}

// A Server offers a Backend on a unix socket. protocol.md describes what it speaks.
type Server struct {
	cfg ServerConfig
	log *slog.Logger
	// starting counts flows that their clients know of and that are not in drains yet.
	starting atomic.Int64
	// flows is what streams know of the flows beside them.
	flows company
	// What Counts tells.
	accepted atomic.Uint64
	requests requestCounts
	// ctx ends with Close; every connection's context comes from it.
	ctx    context.Context
	cancel context.CancelFunc
	// streamCtx is of the answers that have no end of their own; it ends before ctx.
	streamCtx context.Context
	endStream context.CancelFunc
	streams   sync.WaitGroup

	mu       sync.Mutex
	lis      *net.UnixListener
	lisID    fileID
	draining bool
	closed   bool
	conns    map[*clientConn]struct{}
	drains   map[drainer]struct{}
	owners   map[ownerKey]string
	wg       sync.WaitGroup // of connections and Serve
}

// A drainer is a data path that Shutdown ends.
type drainer interface {
	finish()
	kill(graceful bool)
	lastMoved() time.Time
}

// An ownerKey is a socket of the stack: network, and addresses as IP:PORT.
type ownerKey struct{ network, local, remote string }

// A clientConn is one accepted connection and who is at its other end.
type clientConn struct {
	srv *Server
	c   *net.UnixConn
	e   *endpoint
	who string // "pid 1234 (curl)"
}

func (cc *clientConn) observed() observed { return observed{cc.srv.cfg.Observers, cc.who} }

// NewServer returns a Server that does not listen yet.
func NewServer(cfg ServerConfig) *Server {
	if cfg.MaxFlows <= 0 {
		cfg.MaxFlows = defaultMaxFlows
	}
	if cfg.OrphanTimeout <= 0 {
		cfg.OrphanTimeout = defaultOrphanTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, requests: newRequestCounts(),
		conns:  make(map[*clientConn]struct{}),
		drains: make(map[drainer]struct{}),
		owners: make(map[ownerKey]string),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.streamCtx, s.endStream = context.WithCancel(s.ctx)
	return s
}

// Listen makes the socket. A dead socket file at its path is replaced; a live one
// is an error that names its holder, and anything else is left alone.
func (s *Server) Listen() error {
	l, id, err := listenUnix(s.cfg)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.lis != nil {
		l.Close()
		removeSocket(s.cfg.Path, id)
		return errors.New("control: server has been used already")
	}
	s.lis, s.lisID = l, id
	return nil
}

// Addr is the path of the socket.
func (s *Server) Addr() string { return s.cfg.Path }

// Serve answers clients until Shutdown or Close, and then returns nil.
func (s *Server) Serve() error {
	s.mu.Lock()
	l := s.lis
	if s.closed || s.draining {
		s.mu.Unlock()
		return nil
	}
	if l == nil {
		s.mu.Unlock()
		return errors.New("control: Serve before Listen")
	}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			s.mu.Lock()
			ending := s.draining || s.closed
			s.mu.Unlock()
			if ending {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("control: accept on %s: %w", s.cfg.Path, err)
			}
			// Out of descriptors or memory, or a client that left early: others may end.
			s.log.Warn("control: accept", "socket", s.cfg.Path, "err", err)
			select {
			case <-s.ctx.Done():
				return nil
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		s.start(c)
	}
}

func (s *Server) start(c *net.UnixConn) {
	e, err := newEndpoint(c)
	if err != nil {
		c.Close()
		return
	}
	cc := &clientConn{srv: s, c: c, e: e, who: peerName(e)}
	s.mu.Lock()
	if s.draining || s.closed {
		s.mu.Unlock()
		c.Close()
		return
	}
	s.conns[cc] = struct{}{}
	s.accepted.Add(1)
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		cc.serve()
		c.Close()
		s.mu.Lock()
		delete(s.conns, cc)
		s.mu.Unlock()
	}()
}

// peerName says who is at the other end of a unix socket.
func peerName(e *endpoint) string {
	var cred *unix.Ucred
	err := e.control(func(fd int) (err error) {
		cred, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		return err
	})
	if err != nil || cred.Pid <= 0 {
		return "unknown process"
	}
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cred.Pid))
	if err != nil {
		return fmt.Sprintf("pid %d", cred.Pid)
	}
	return fmt.Sprintf("pid %d (%s)", cred.Pid, strings.TrimSpace(string(comm)))
}

// Shutdown stops taking clients and requests and lets connections that move data
// go on until ctx ends; idle ones hand what was written to the stack and close.
// Then it does what Close does. It returns ctx's error if it cut something off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.closeListener()
	s.mu.Unlock()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	finished := make(map[drainer]struct{})
	for {
		starting := s.starting.Load() // first, or one might slip between the two
		left := s.drainers()
		for _, d := range left {
			if _, ok := finished[d]; !ok && time.Since(d.lastMoved()) >= idleTime {
				finished[d] = struct{}{}
				d.finish()
			}
		}
		if starting == 0 && len(left) == 0 {
			return s.Close()
		}
		select {
		case <-ctx.Done():
			s.Close()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// Close ends everything at once and waits for it.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.closeListener()
	s.mu.Unlock()
	s.endStreams()
	s.mu.Lock()
	s.cancel()
	conns := make([]*clientConn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, d := range s.drainers() {
		d.kill(true)
	}
	for _, c := range conns {
		c.c.Close()
	}
	s.wg.Wait()
	return nil
}

// closeListener is called with mu held.
func (s *Server) closeListener() {
	if s.lis == nil {
		return
	}
	removeSocket(s.cfg.Path, s.lisID)
	s.lis.Close()
	s.lis = nil
}

func (s *Server) drainers() []drainer {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]drainer, 0, len(s.drains))
	for d := range s.drains {
		all = append(all, d)
	}
	return all
}

// startPath registers a data path and runs it on a goroutine, which ended is the last act of.
func (s *Server) startPath(d drainer, run func(), ended func()) {
	s.mu.Lock()
	s.drains[d] = struct{}{}
	closed := s.closed
	s.mu.Unlock()
	if closed {
		d.kill(true)
	}
	go func() {
		run()
		s.mu.Lock()
		delete(s.drains, d)
		s.mu.Unlock()
		ended()
	}()
}

// accepting is nil unless the server ends.
func (s *Server) accepting() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || s.closed {
		return errShutdown()
	}
	return nil
}

func errShutdown() error {
	return &remoteError{text: "the daemon is shutting down", errno: syscall.ESHUTDOWN}
}

func (s *Server) flowCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.drains)
}

func (s *Server) setOwner(k ownerKey, who string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.owners[k] = who
}

func (s *Server) dropOwner(k ownerKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.owners, k)
}

// fillOwners names the owner of every socket that came through this server.
func (s *Server) fillOwners(infos []SocketInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range infos {
		in := &infos[i]
		if who, ok := s.owners[newOwnerKey(in.Network, in.Local, in.Remote)]; ok && in.Owner == "" {
			in.Owner = who
		}
	}
}
