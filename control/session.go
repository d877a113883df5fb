package control

import (
	"bufio"
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxOut bounds the replies that a client has not read yet, in bytes.
const maxOut = 4 << 20

// A session is one flows connection. What it opened ends with it.
type session struct {
	cc  *clientConn
	srv *Server
	r   *fdReader
	br  *bufio.Reader
	ctx context.Context // ends with the connection

	mu      sync.Mutex
	flows   map[uint64]*flow
	lastID  uint64
	pending map[uint64]context.CancelFunc // by request ID
	dials   map[uint64]*dialing           // those of them that have Skip
	running int                           // requests under way, with and without an ID
	ended   bool

	out *outbox

	ops   sync.WaitGroup // requests under way
	paths sync.WaitGroup // data paths
}

func newSession(cc *clientConn, r *fdReader, br *bufio.Reader) *session {
	overrun := func() {
		cc.srv.log.Warn("control: client does not read its replies", "client", cc.who)
		cc.c.Close()
	}
	return &session{
		cc: cc, srv: cc.srv, r: r, br: br,
		flows:   make(map[uint64]*flow),
		pending: make(map[uint64]context.CancelFunc),
		dials:   make(map[uint64]*dialing),
		out:     newOutbox(cc.e, overrun, func() { cc.c.Close() }),
	}
}

// run serves the connection until it ends, then releases what it opened.
func (s *session) run() {
	ctx, cancel := context.WithCancel(s.srv.ctx)
	defer cancel()
	s.ctx = ctx
	over, writerDone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(writerDone)
		s.out.run(over)
	}()
	if err := s.reader(); err != nil {
		s.send(Reply{Event: "protocol", wireError: wireError{Text: err.Error(), Errno: errnoName(syscall.EPROTO)}})
	}
	cancel()
	s.release()
	s.cc.c.SetWriteDeadline(time.Now().Add(releaseTime))
	close(over)
	<-writerDone
}

// reader handles messages in order. Its error is what the client did wrong.
func (s *session) reader() error {
	for {
		line, err := s.br.ReadSlice('\n')
		switch {
		case err == bufio.ErrBufferFull:
			return errMessageTooLong
		case err == errTooManyFDs, err == errLostFDs:
			return err
		case err != nil:
			return nil
		}
		req, err := decodeRequest(line)
		if err != nil {
			return err
		}
		fd := -1
		if req.FD {
			if fd = s.r.next(); fd < 0 {
				return fmt.Errorf("message %d says it has a descriptor, and none came", req.ID)
			}
		}
		s.handle(req, fd)
		if s.br.Buffered() == 0 && len(s.r.fds) > 0 {
			return errTooManyFDs
		}
	}
}

// send sends a message. A client that reads none of them loses the connection.
func (s *session) send(r Reply) { s.out.send(r, false) }

// handle starts one request. Those that may take long run beside others.
func (s *session) handle(r Request, fd int) {
	var op func(ctx context.Context, r Request, fd int) result
	switch r.Op {
	case "dial":
		op = s.dial
	case "accept":
		s.accept(r, fd)
		return
	case "udp":
		op = s.udp
	case "listen":
		op = s.listen
	case "icmp":
		op = s.icmp
	case "resolve":
		op = s.resolve
	case "bind":
		op = s.bind
	case "connect":
		op = s.connect
	case "detach":
		op = s.detach
	case "send":
		op = s.sendOne
	case "join", "leave":
		op = s.join
	}
	if r.Op == "local" && r.Target != 0 {
		op = s.dialLocal
	}
	if op == nil {
		s.finish(r, s.quick(r, fd))
		return
	}
	ctx, done, err := s.begin(r.ID)
	if err != nil {
		closeFD(fd)
		s.finish(r, result{err: err})
		return
	}
	s.ops.Add(1)
	dialled := s.dialing(r)
	go func() {
		defer s.ops.Done()
		res := op(ctx, r, fd)
		dialled()
		done() // the id is free when its reply is there
		s.finish(r, res)
	}()
}

// A result is how a request ended. then starts what must come after its reply.
type result struct {
	reply Reply
	err   error
	then  func()
}

func (s *session) finish(r Request, res result) {
	s.srv.requests.add("flow", r.Op, res.err)
	if res.then != nil {
		s.srv.starting.Add(1)
		defer s.srv.starting.Add(-1)
	}
	if r.ID != 0 {
		rep := res.reply
		rep.ID = r.ID
		if res.err != nil {
			rep = Reply{ID: r.ID, wireError: toWire(res.err)}
		}
		s.send(rep)
	}
	if res.then != nil {
		res.then()
	}
}

// begin registers a request that may take long, so that it can be cancelled.
func (s *session) begin(id uint64) (ctx context.Context, done func(), err error) {
	if err := s.srv.accepting(); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running >= s.srv.cfg.MaxFlows {
		return nil, nil, &remoteError{text: fmt.Sprintf("%d requests of this connection are under way already", s.running), errno: syscall.ENOBUFS}
	}
	if _, ok := s.pending[id]; ok && id != 0 {
		return nil, nil, invalid(fmt.Sprintf("request id %d is in use", id))
	}
	ctx, cancel := context.WithCancel(s.ctx)
	s.running++
	if id != 0 {
		s.pending[id] = cancel
	}
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running--
		if id != 0 {
			delete(s.pending, id)
		}
	}, nil
}

// addFlow gives a flow its number.
func (s *session) addFlow(f *flow) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return syscall.ESHUTDOWN
	}
	if len(s.flows) >= s.srv.cfg.MaxFlows {
		return &remoteError{text: fmt.Sprintf("this connection has %d flows already", len(s.flows)), errno: syscall.EMFILE}
	}
	s.lastID++
	f.s, f.id = s, s.lastID
	s.flows[f.id] = f
	return nil
}

func (s *session) flow(id uint64) (*flow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.flows[id]; f != nil {
		return f, nil
	}
	return nil, &remoteError{text: fmt.Sprintf("no flow %d", id), errno: syscall.EBADF}
}

// forget takes a flow out of the table; its number does not come again. It says whether
// the flow was there.
func (s *session) forget(f *flow) bool {
	s.mu.Lock()
	_, ok := s.flows[f.id]
	delete(s.flows, f.id)
	s.mu.Unlock()
	f.dropOwner()
	return ok
}

// release ends all that the session opened, within releaseTime; only connections that
// the client had closed in good order may take longer to hand over what it wrote.
func (s *session) release() {
	s.mu.Lock()
	s.ended = true
	flows := make([]*flow, 0, len(s.flows))
	for _, f := range s.flows {
		flows = append(flows, f)
	}
	s.mu.Unlock()
	for _, f := range flows {
		f.clientGone()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.ops.Wait()
		s.paths.Wait()
	}()
	soon := time.NewTimer(releaseTime)
	defer soon.Stop()
	late := time.NewTimer(s.srv.cfg.OrphanTimeout)
	defer late.Stop()
	for {
		select {
		case <-done:
			return
		case <-soon.C:
			for _, f := range flows {
				f.kill(false)
			}
		case <-late.C:
			for _, f := range flows {
				f.kill(true)
			}
		case <-s.srv.ctx.Done(): // Close ends the data paths itself
			<-done
			return
		}
	}
}

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
