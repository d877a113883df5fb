package control

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// icmpQueue is how many messages wait for ReadICMP; more are dropped.
const icmpQueue = 512

// A clientICMP is the client's ICMPConn. One goroutine reads the data socket and
// sorts what arrived from what became of the messages sent.
type clientICMP struct {
	clientFlow
	dl       deadline
	messages chan icmpMessage
	done     chan struct{} // closed when the reader has ended

	writeMu sync.Mutex
	seq     uint64
	status  chan icmpFrame // of the message sent last
	last    *[]byte        // behind the Data returned last
}

type icmpMessage struct {
	ICMPMessage
	buf *[]byte
	err error
}

// ListenICMP makes an ICMP socket; network is "ip4" or "ip6". WriteICMP waits until the stack
// has taken the message, so its errors are those of that message. When the reader is slow
// messages are dropped.
func (c *Client) ListenICMP(ctx context.Context, network string) (ICMPConn, error) {
	s, rep, ep, err := c.open(ctx, Request{Op: "icmp", Network: network}, unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, netError("listen", "icmp:"+network, "", err)
	}
	conn := &clientICMP{
		clientFlow: newClientFlow(s, rep, ep),
		messages:   make(chan icmpMessage, icmpQueue),
		done:       make(chan struct{}),
		status:     make(chan icmpFrame, 1),
	}
	go conn.reader()
	return conn, nil
}

func (c *clientICMP) reader() {
	defer close(c.done)
	for {
		p := datagramBuffers.Get().(*[]byte)
		n, err := c.ep.recv(func(fd int) (int, error) { return recvNow(fd, *p) })
		if err != nil || n == 0 {
			datagramBuffers.Put(p)
			return
		}
		f, data, err := parseICMPFrame((*p)[:n])
		m := icmpMessage{buf: p, ICMPMessage: ICMPMessage{Data: data, From: f.from, To: f.to, TTL: int(f.ttl), At: f.at}}
		switch {
		case err != nil:
			datagramBuffers.Put(p)
			continue
		case f.kind == frameError && f.seq != 0:
			datagramBuffers.Put(p)
			select {
			case c.status <- f:
			default: // nobody waits for it any more
			}
			continue
		case f.kind == frameError:
			m.err = f.errno
		}
		select {
		case c.messages <- m:
		default:
			datagramBuffers.Put(p)
		}
	}
}

func (c *clientICMP) opError(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "icmp", Err: err}
}

func (c *clientICMP) over() error {
	if why, ok := c.ended(); ok && why != nil {
		return why
	}
	return net.ErrClosed
}

func (c *clientICMP) ReadICMP() (ICMPMessage, error) {
	if c.last != nil {
		datagramBuffers.Put(c.last)
		c.last = nil
	}
	timeout := c.dl.passed()
	if isClosed(timeout) {
		return ICMPMessage{}, c.opError("read", os.ErrDeadlineExceeded)
	}
	var m icmpMessage
	select {
	case m = <-c.messages:
	default:
		select {
		case m = <-c.messages:
		case <-c.done:
			return ICMPMessage{}, c.opError("read", c.over())
		case <-timeout:
			return ICMPMessage{}, c.opError("read", os.ErrDeadlineExceeded)
		}
	}
	c.last = m.buf
	if m.err != nil {
		return ICMPMessage{}, c.opError("read", m.err)
	}
	return m.ICMPMessage, nil
}

func (c *clientICMP) WriteICMP(data []byte, to netip.Addr) error {
	if len(data) > maxDatagram {
		return c.opError("write", syscall.EMSGSIZE)
	}
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.seq++
	p := datagramBuffers.Get().(*[]byte)
	frame := append(icmpFrame{kind: frameData, seq: c.seq, to: to}.append((*p)[:0]), data...)
	err := c.ep.Send(frame)
	datagramBuffers.Put(p)
	if err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
			err = c.over()
		}
		return c.opError("write", err)
	}
	for {
		select {
		case f := <-c.status:
			if f.seq != c.seq {
				continue
			}
			if f.errno != 0 {
				return c.opError("write", f.errno)
			}
			return nil
		case <-c.done:
			return c.opError("write", c.over())
		}
	}
}

func (c *clientICMP) SetReadDeadline(t time.Time) error {
	c.dl.set(t)
	return nil
}

func (c *clientICMP) Close() error {
	err := c.close("close")
	<-c.done
	c.dl.stop()
	if err != nil {
		return c.opError("close", err)
	}
	return nil
}
