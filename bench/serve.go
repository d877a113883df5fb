package main

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A datagrams is the part of a UDP socket that the server needs.
type datagrams interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	Close() error
}

// A network is what a server listens on: the subject.
type network interface {
	// ListenTCP and ListenUDP listen on a port of every address.
	ListenTCP(port int) (net.Listener, error)
	ListenUDP(port int) (datagrams, error)
	Close() error
}

// A counter is a network that tells the counters of its TCP.
type counter interface {
	Counters() (map[string]int64, error)
}

// A server does the subject's part in every row: the kernel's side orders.
type server struct {
	network   network
	listeners []net.Listener
	udp       datagrams
	packets   atomic.Uint64 // datagrams received
	failed    atomic.Pointer[error]
	done      sync.WaitGroup
}

func newServer(n network) (*server, error) {
	s := &server{network: n}
	for _, l := range []struct {
		port   int
		handle func(net.Conn)
	}{{streamPort, s.stream}, {connectPort, s.connect}} {
		ln, err := n.ListenTCP(l.port)
		if err != nil {
			s.close()
			return nil, err
		}
		s.listeners = append(s.listeners, ln)
		s.done.Go(func() { s.accept(ln, l.handle) })
	}
	var err error
	if s.udp, err = n.ListenUDP(udpPort); err != nil {
		s.close()
		return nil, err
	}
	s.done.Go(s.datagrams)
	return s, nil
}

// close ends the listeners; connections end with their peers or the network.
func (s *server) close() {
	for _, l := range s.listeners {
		l.Close()
	}
	if s.udp != nil {
		s.udp.Close()
	}
	s.done.Wait()
}

func (s *server) accept(l net.Listener, handle func(net.Conn)) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) || err != nil && c == nil && !temporary(err) {
			return
		}
		if err == nil {
			go handle(c)
		}
	}
}

// temporary reports whether a listener lives on: a connection that was reset before
// it was accepted is no end of it.
func temporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary()
}

func (s *server) connect(c net.Conn) {
	_, err := c.Write([]byte{1})
	if err = errors.Join(err, c.Close()); err != nil {
		s.failed.CompareAndSwap(nil, &err)
	}
}

func (s *server) stream(c net.Conn) {
	defer c.Close()
	o, err := readOrder(c)
	if err != nil {
		return
	}
	if k, ok := c.(*net.TCPConn); ok && o.congestion != "" {
		if err := setCongestion(k, o.congestion); err != nil {
			return
		}
	}
	switch o.op {
	case orderEcho:
		echo(c)
	case orderSource:
		send(c, o, nil)
		if o.total > 0 {
			io.Copy(io.Discard, c) // until the client has it all
		}
	case orderSink:
		got, err := receive(c, o)
		if err != nil {
			return
		}
		if _, err := c.Write(got.encode()); err == nil {
			drain(c)
		}
	}
}

// echo holds little: there may be 10,000 of it.
func echo(c net.Conn) {
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
		if _, err := c.Write(b[:]); err != nil {
			return
		}
	}
}

// drain reads on until the client ends the connection, so that the answer does not
// get lost in a reset.
func drain(c net.Conn) {
	block := readBlocks.Get().(*[readBlock]byte)
	defer readBlocks.Put(block)
	for {
		if _, err := c.Read(block[:]); err != nil {
			return
		}
	}
}

// What the first byte of a datagram says.
const (
	datagramCounted = 1 // count it
	datagramFlood   = 2 // send for so many milliseconds (2 bytes), so many a second (4; 0: as many as possible)
)

const datagramLen = 64

func (s *server) datagrams() {
	var flooding atomic.Bool
	b := make([]byte, 2048)
	for {
		n, from, err := s.udp.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return
		}
		if err != nil || n < 7 {
			continue
		}
		switch b[0] {
		case datagramCounted:
			s.packets.Add(1)
		case datagramFlood:
			if flooding.CompareAndSwap(false, true) {
				d := time.Duration(binary.BigEndian.Uint16(b[1:])) * time.Millisecond
				rate := int(binary.BigEndian.Uint32(b[3:]))
				s.done.Go(func() {
					defer flooding.Store(false)
					s.flood(from, d, rate)
				})
			}
		}
	}
}

// flood sends datagrams for a time, rate of them a second, and at the end, several times
// for it may get lost, how many they were.
func (s *server) flood(to netip.AddrPort, d time.Duration, rate int) {
	sent := uint64(0)
	var b [datagramLen]byte
	b[0] = datagramCounted
	pace(min(d, maxTime), rate, func() error {
		if _, err := s.udp.WriteToUDPAddrPort(b[:], to); err == nil {
			sent++
		}
		return nil
	})
	b[0] = datagramFlood
	for i := range 8 {
		b[1+i] = byte(sent >> (8 * i))
	}
	for range 5 {
		time.Sleep(20 * time.Millisecond)
		s.udp.WriteToUDPAddrPort(b[:], to)
	}
}
