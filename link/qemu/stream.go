package qemu

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/ustack/ustack/link"
)

// lengthLen is the length in bytes of what is before each frame.
const lengthLen = 4

// Times between attempts to connect.
const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 2 * time.Second
)

// A StreamConfig describes a stream. Address or Conn is required.
type StreamConfig struct {
	// Address is a path, or HOST:PORT for TCP.
	Address string
	// Listen waits for the peer at Address; else it is connected to. One peer is served at a time:
	// another is turned away as long as there is one.
	Listen bool
	// Once makes the end of the first connection the end of the Device, and a peer that cannot be
	// reached at first an error. Else a peer that is gone is waited for, or tried again with growing
	// pauses from 50 ms to 2 s; frames are dropped meanwhile (link.DropTxDown).
	Once bool
	// Conn is used instead of Address. It implies Once, and is owned by the Device.
	Conn net.Conn
	// Name is what the Device calls itself; "" means Address.
	Name string
	// MTU is in bytes; 0 means link.DefaultMTU.
	MTU int
	// Buffer bounds what waits for a peer that takes no more, in bytes beyond what the kernel
	// takes; 0 means DefaultBuffer.
	Buffer int
	// Logger may be nil.
	Logger *slog.Logger
}

// A stream is a Device over stream sockets, one at a time.
type stream struct {
	common
	cfg      StreamConfig
	network  string
	listener net.Listener // nil unless Listen
	cancel   context.CancelFunc

	// Guarded by common.mu.
	now  *session // nil while there is no peer
	why  error    // of the last attempt to connect
	come sync.Cond

	// Of the one reader.
	in  *session // whose bytes these are
	buf []byte
	at  int // where the next frame's length is
	to  int // where the bytes end
}

// inBuffer is how much is read at once, in bytes: a frame of the greatest length and its own
// length at least.
const inBuffer = 256 << 10

// OpenStream opens a stream.
func OpenStream(cfg StreamConfig) (link.Device, error) {
	d := &stream{cfg: cfg, network: network(cfg.Address, "tcp"), buf: make([]byte, inBuffer)}
	if cfg.Buffer == 0 {
		d.cfg.Buffer = DefaultBuffer
	}
	name := cfg.Name
	if name == "" {
		name = cfg.Address
	}
	if err := d.init("stream", name, cfg.MTU, cfg.Logger); err != nil {
		return nil, err
	}
	d.come.L = &d.mu
	ctx, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	var err error
	switch {
	case cfg.Conn != nil:
		d.cfg.Once = true
		if _, ok := cfg.Conn.(syscall.Conn); !ok {
			err = errors.New("the connection has no descriptor")
			break
		}
		d.enter(cfg.Conn)
	case cfg.Listen:
		err = d.listen(ctx)
	case cfg.Once:
		var c net.Conn
		if c, err = (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, d.network, cfg.Address); err == nil {
			d.enter(c)
		}
	default:
		d.work.Go(func() { d.connect(ctx) })
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("qemu: stream %s: %w", name, err)
	}
	return d, nil
}

// Queues implements link.Device.
func (d *stream) Queues() []link.Queue { return []link.Queue{d} }

// Stats implements link.Device.
func (d *stream) Stats() link.Stats {
	s := d.Counters.Stats()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.now != nil || d.ended != nil:
	case d.listener != nil:
		s.Waiting = "nobody is connected to " + d.cfg.Address
	case d.why != nil:
		s.Waiting = "no connection: " + d.why.Error()
	default:
		s.Waiting = "no connection yet"
	}
	return s
}

// Close implements link.Device.
func (d *stream) Close() error {
	d.end(link.ErrClosed)
	d.cancel()
	d.closed.Do(func() {
		if d.listener != nil {
			d.listener.Close()
		}
		d.mu.Lock()
		s := d.now
		d.come.Broadcast()
		d.mu.Unlock()
		if s != nil {
			s.end()
		}
		d.work.Wait()
	})
	d.work.Wait()
	return nil
}

// listen begins to wait for peers. A socket's file that nobody listens at any more is removed.
func (d *stream) listen(ctx context.Context) error {
	if d.network == "unix" {
		if err := removeDead(d.cfg.Address, "unix"); err != nil {
			return err
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, d.network, d.cfg.Address)
	if err != nil {
		return err
	}
	d.listener = l
	d.work.Go(d.accept)
	return nil
}

// removeDead removes the file of a unix socket that has no owner any more.
func removeDead(path, network string) error {
	fi, err := os.Lstat(path)
	if err != nil || fi.Mode()&os.ModeSocket == 0 {
		return nil // bind says what is wrong with other files
	}
	c, err := net.Dial(network, path)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s: another process is there: end it, or use another path", path)
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return os.Remove(path)
	}
	return nil
}

func (d *stream) accept() {
	for pause := backoffMin; ; {
		c, err := d.listener.Accept()
		if err != nil {
			if d.over() != nil {
				return
			}
			// Descriptors are short, or the peer has gone already.
			d.warn("accept", "err", err)
			if !d.pause(&pause) {
				return
			}
			continue
		}
		pause = backoffMin
		if !d.enter(c) {
			d.warn("a second peer was turned away", "peer", c.RemoteAddr())
			c.Close()
		}
	}
}

// connect keeps a connection to the peer.
func (d *stream) connect(ctx context.Context) {
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	for pause := backoffMin; ; {
		c, err := dialer.DialContext(ctx, d.network, d.cfg.Address)
		d.mu.Lock()
		d.why = err
		d.mu.Unlock()
		if err == nil {
			began := time.Now()
			d.enter(c)
			d.mu.Lock()
			for d.now != nil && d.ended == nil {
				d.come.Wait()
			}
			d.mu.Unlock()
			if time.Since(began) > backoffMax {
				pause = backoffMin
			}
		} else if d.over() == nil {
			d.warn("no peer yet", "err", err)
		}
		if !d.pause(&pause) {
			return
		}
	}
}

// pause waits, longer each time. It returns false when the Device has ended.
func (d *stream) pause(t *time.Duration) bool {
	timer := time.NewTimer(*t)
	defer timer.Stop()
	*t = min(2**t, backoffMax)
	select {
	case <-timer.C:
		return true
	case <-d.done:
		return false
	}
}

// enter makes c the connection, unless there is one or the Device has ended.
func (d *stream) enter(c net.Conn) bool {
	s, err := newSession(d, c)
	if err != nil {
		d.warn("connection", "err", err)
		return false
	}
	d.mu.Lock()
	ok := d.now == nil && d.ended == nil
	if ok {
		d.now = s
		d.work.Go(s.flush)
		d.come.Broadcast()
	}
	d.mu.Unlock()
	if ok && !d.cfg.Once {
		d.log.Info("peer connected", "peer", peerOf(c))
	}
	return ok
}

func peerOf(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil && a.String() != "" {
		return a.String()
	}
	return "local"
}

// leave ends a connection because of err.
func (d *stream) leave(s *session, err error) {
	// A peer that sees the end may be back at once, and is then no second one.
	defer s.end()
	d.mu.Lock()
	was := d.now == s
	if was {
		d.now = nil
		if d.cfg.Once {
			d.endLocked(fmt.Errorf("%w: %v", link.ErrGone, err))
		}
		d.come.Broadcast()
	}
	d.mu.Unlock()
	if was && !d.cfg.Once && d.over() == nil {
		d.log.Info("peer is gone", "err", err)
	}
}

// current waits for a connection.
func (d *stream) current() (*session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.now == nil && d.ended == nil {
		d.come.Wait()
	}
	return d.now, d.ended
}

// Read implements link.Queue.
func (d *stream) Read(frames []link.Frame) (int, error) {
	if len(frames) == 0 {
		return 0, d.over()
	}
	for {
		s, err := d.current()
		if err != nil {
			return 0, err
		}
		if s != d.in {
			d.in, d.at, d.to = s, 0, 0
		}
		n, err := d.parse(frames)
		if n > 0 {
			return n, nil
		}
		if err == nil {
			err = d.fill()
		}
		if err != nil {
			d.leave(s, err)
		}
	}
}

// parse takes the whole frames out of what was read. An error means that the stream makes no
// sense any more.
func (d *stream) parse(frames []link.Frame) (int, error) {
	got, size := 0, 0
	defer func() {
		if got > 0 {
			d.Rx(got, size)
		}
	}()
	for got < len(frames) && d.to-d.at >= lengthLen {
		n := binary.BigEndian.Uint32(d.buf[d.at:])
		if n > link.MaxFrame+lengthLen { // with a tag
			if got > 0 {
				return got, nil // for the next time
			}
			d.Drop(link.DropRxError)
			d.warn("the peer's length is no frame's: connection ended", "length", n)
			return 0, fmt.Errorf("a frame of %d bytes", n)
		}
		end := d.at + lengthLen + int(n)
		if end > d.to {
			break
		}
		frame := d.buf[d.at+lengthLen : end]
		d.at = end
		out := &frames[got]
		switch {
		case len(frame) < link.HeaderLen:
			d.Drop(link.DropRxShort)
		case len(frame) > len(out.Buf):
			d.Drop(link.DropRxOversize)
		default:
			out.N, out.Offload = copy(out.Buf, frame), link.Offload{}
			got, size = got+1, size+len(frame)
		}
	}
	return got, nil
}

// fill reads more behind what is there.
func (d *stream) fill() error {
	if d.at > 0 {
		d.to = copy(d.buf, d.buf[d.at:d.to])
		d.at = 0
	}
	n, err := d.in.conn.Read(d.buf[d.to:])
	d.to += n
	if n > 0 {
		return nil
	}
	if err == io.EOF {
		return errors.New("the peer closed the connection")
	}
	return err
}

// Write implements link.Queue.
func (d *stream) Write(frames []link.OutFrame) (int, error) {
	d.mu.Lock()
	s, err := d.now, d.ended
	d.mu.Unlock()
	if err != nil || len(frames) == 0 {
		return 0, err
	}
	if s == nil {
		for i := range frames {
			if _, why, ok := d.info.CheckOut(&frames[i]); !ok {
				d.Drop(why)
			} else {
				d.Drop(link.DropTxDown)
			}
		}
		return 0, nil
	}
	n, size := s.write(frames)
	d.Tx(n, size)
	return n, nil
}
